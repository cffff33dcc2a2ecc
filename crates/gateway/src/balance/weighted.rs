//! Smooth weighted round robin, nginx's (its change "Upstream: smooth weighted round-robin balancing" of May 2012, `ngx_http_upstream_round_robin.c`): at each turn every member's current
//! weight grows by its weight, the highest is picked and pays the sum of all weights. Weights 5, 1, 1 give `a a b a c a a`: nobody gets its
//! turns in one lump.
//!
//! The sequence repeats after the sum of the weights (by their greatest common divisor), so it is computed once for a set and a pick is one
//! step of a cursor, without nginx's lock. Sums beyond [`SCHEDULE_MAX`] turns are scaled down; everybody keeps at least one turn, and a share
//! is then off by at most half a turn.

/// Most turns of a schedule.
const SCHEDULE_MAX: u64 = 16_384;

/// Most steps that a schedule may cost to compute (turns times members): a few milliseconds.
const STEPS_MAX: u64 = 4 << 20;

/// The turns of members with these weights, as indexes into `weights`. A weight of zero has no turn.
pub(super) fn schedule(weights: &[u32]) -> Box<[u16]> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let members = weights.len().max(1) as u64;
    let turns_max = SCHEDULE_MAX.min((STEPS_MAX / members).max(2 * members)) as i64;
    let total: i64 = weights.iter().sum();
    if total > turns_max {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = ((*weight * turns_max + total / 2) / total).max(1);
        }
    }
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            let mut best = 0;
            for at in 0..weights.len() {
                current[at] += weights[at];
                if current[at] > current[best] {
                    best = at;
                }
            }
            current[best] -= total;
            best as u16
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn letters(weights: &[u32]) -> String {
        schedule(weights).iter().map(|at| char::from(b'a' + *at as u8)).collect()
    }

    #[test]
    fn the_sequence_of_nginx() {
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        assert_eq!(letters(&[1, 1, 1]), "abc");
        assert_eq!(letters(&[10, 20]), "bab", "by the common divisor");
        assert_eq!(letters(&[2, 0, 1]), "aca");
        assert_eq!(letters(&[0, 0]), "");
        assert_eq!(letters(&[]), "");
    }

    #[test]
    fn a_thousand_members_have_a_schedule_that_is_quick_to_make() {
        let weights: Vec<u32> = (0..1024).map(|at| 1 + at * 37 % 1000).collect();
        let turns = schedule(&weights);
        assert!(turns.len() <= 4096 + 1024, "{}", turns.len());
        let mut counts = vec![0u32; weights.len()];
        turns.iter().for_each(|at| counts[usize::from(*at)] += 1);
        assert!(counts.iter().all(|count| *count >= 1));
    }

    proptest! {
        #[test]
        fn everybody_gets_exactly_its_weight_and_never_lags_by_a_whole_share(weights in proptest::collection::vec(0u32..40, 1..12)) {
            let divisor = weights.iter().copied().fold(0, gcd).max(1);
            let weights: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
            let total: u32 = weights.iter().sum();
            let turns = schedule(&weights);
            prop_assert_eq!(turns.len(), total as usize);
            let mut counts = vec![0i64; weights.len()];
            for (passed, at) in turns.iter().enumerate() {
                counts[usize::from(*at)] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = f64::from(*weight) * (passed + 1) as f64 / f64::from(total);
                    // Smooth: at no moment is anybody far from what is due to it.
                    prop_assert!((*count as f64 - due).abs() < weights.len() as f64, "{count} of {due}");
                }
            }
            prop_assert!(counts.iter().zip(&weights).all(|(count, weight)| *count == i64::from(*weight)));
        }
    }
}

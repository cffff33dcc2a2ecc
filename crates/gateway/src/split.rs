//! Which of a route's targets a request goes to: canary, blue-green.
//!
//! Without a key each request is drawn by weight. With one, a user stays: each target scores `-ln(u) / weight` with `u` in (0, 1] from a
//! hash of the user and the target's name, and the lowest wins (weighted rendezvous: Schindelhauer and Schomaker, "Weighted Distributed Hash
//! Tables", 2005). Shares are as the weights say, and changing one weight changes one score: growing it moves users *to* this target only,
//! shrinking it moves users *away* from it only, to the others by their weights. Intervals of `[0, 1)` laid end to end cannot promise
//! that for more than two targets: whoever stands between two that changed places moves too.
//!
//! Nothing but the names of user and target is hashed: every node, and every route with the same targets, decides alike.

use base::Rng;

use crate::balance::HashKey;
use crate::route::Share;

/// The place in `shares` of the target of a request, by the hash of its user if there is one.
pub fn choose(shares: &[Share], user: Option<u64>, rng: &mut Rng) -> usize {
    if shares.len() <= 1 {
        return 0;
    }
    let Some(user) = user else {
        let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        let mut left = rng.below(total.max(1));
        let drawn = shares.iter().position(|share| {
            let weight = u64::from(share.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        });
        return drawn.unwrap_or(0);
    };
    let score = |share: &Share| {
        let mut word = [0; 16];
        word[..8].copy_from_slice(&user.to_le_bytes());
        word[8..].copy_from_slice(&share.salt.to_le_bytes());
        // From 1 to 2^53, as a part of 2^53: never zero.
        let u = ((HashKey::SHARED.hash(&word) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -u.ln() / f64::from(share.weight)
    };
    let candidates = shares.iter().enumerate().filter(|(_, share)| share.weight > 0);
    let best = candidates.map(|(at, share)| (score(share), at)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(0, |(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::{Share, choose};
    use crate::balance::HashKey;
    use base::Rng as Draw;
    use proptest::prelude::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        weights.iter().enumerate().map(|(at, weight)| Share::new(&format!("target{at}"), *weight)).collect()
    }

    fn user(at: u64) -> u64 {
        HashKey::SHARED.hash(&at.to_le_bytes())
    }

    #[test]
    fn shares_are_as_the_weights_say_with_and_without_a_key() {
        let shares = shares(&[90, 0, 10]);
        let mut rng = Draw::new(3);
        let mut keyed = [0; 3];
        let mut drawn = [0; 3];
        for at in 0..20_000 {
            keyed[choose(&shares, Some(user(at)), &mut rng)] += 1;
            drawn[choose(&shares, None, &mut rng)] += 1;
        }
        for counts in [keyed, drawn] {
            assert!((17_700..18_300).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn growing_a_weight_moves_users_to_it_only_and_shrinking_it_away_from_it_only(
            weights in proptest::collection::vec(0u32..100, 2..6),
            changed in 0usize..6,
            to in 0u32..200,
            from in 0u64..1_000_000,
        ) {
            let changed = changed % weights.len();
            let mut after = weights.clone();
            after[changed] = to;
            prop_assume!(weights.iter().any(|w| *w > 0) && after.iter().any(|w| *w > 0));
            let (before, after) = (shares(&weights), shares(&after));
            let mut rng = Draw::new(0);
            for at in from..from + 200 {
                let was = choose(&before, Some(user(at)), &mut rng);
                let is = choose(&after, Some(user(at)), &mut rng);
                prop_assert_eq!(was, choose(&before, Some(user(at)), &mut rng), "stays where it was");
                if was != is {
                    let grown = to > weights[changed];
                    prop_assert_eq!(if grown { is } else { was }, changed);
                }
            }
        }
    }
}

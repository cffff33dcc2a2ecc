//! Weighted random draws in constant time: Walker's alias method in Vose's form (M. D. Vose, "A linear algorithm for generating random
//! numbers with a given distribution", IEEE TSE 17(9), 1991). Every policy that draws candidates draws them here.

use base::Rng;

/// A distribution over `0..len`.
#[derive(Clone, Debug, Default)]
pub(super) struct Alias {
    /// For each column: below which 32-bit fraction the column itself is meant, and what is meant above it.
    columns: Box<[(u32, u16)]>,
    /// All weights are equal: one multiplication is enough.
    uniform: bool,
}

impl Alias {
    /// The distribution that gives `i` the share `weights[i]` of the sum. Empty where no weight is positive; at most 65,536 weights.
    pub(super) fn new(weights: &[f64]) -> Alias {
        assert!(weights.len() <= usize::from(u16::MAX) + 1, "an index fits into 16 bits");
        let total: f64 = weights.iter().sum();
        if total <= 0.0 || !total.is_finite() {
            return Alias::default();
        }
        let mut scaled: Vec<f64> = weights.iter().map(|weight| weight * weights.len() as f64 / total).collect();
        let mut columns: Vec<(u32, u16)> = (0..weights.len()).map(|at| (u32::MAX, at as u16)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|at| scaled[*at] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            columns[less] = ((scaled[less] * 4_294_967_296.0) as u32, more as u16);
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        let uniform = weights.iter().all(|weight| *weight == weights[0]);
        Alias { columns: columns.into(), uniform }
    }

    /// One draw; nothing where the distribution is empty.
    pub(super) fn draw(&self, rng: &mut Rng) -> Option<usize> {
        if self.columns.is_empty() {
            return None;
        }
        let column = rng.index(self.columns.len());
        if self.uniform {
            return Some(column);
        }
        let (below, other) = self.columns[column];
        Some(if (rng.next_u64() >> 32) as u32 <= below { column } else { usize::from(other) })
    }
}

/// How many draws may be thrown away before the members are walked in order.
const DRAWS_MAX: usize = 8;

/// A weighted draw among those that `accept`. Costs a few draws, or one walk where almost nobody is accepted.
pub(super) fn pick(
    alias: &Alias,
    len: usize,
    rng: &mut Rng,
    mut accept: impl FnMut(usize, &mut Rng) -> bool,
) -> Option<usize> {
    for _ in 0..DRAWS_MAX {
        let drawn = alias.draw(rng)?;
        if accept(drawn, rng) {
            return Some(drawn);
        }
    }
    let start = rng.index(len);
    (0..len).map(|step| (start + step) % len).find(|at| accept(*at, rng))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Rng;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_weight_gets_its_share(weights in proptest::collection::vec(0u32..100, 1..40), seed: u64) {
            let total: u32 = weights.iter().sum();
            let alias = Alias::new(&weights.iter().map(|weight| f64::from(*weight)).collect::<Vec<_>>());
            let mut rng = Rng::new(seed);
            if total == 0 {
                prop_assert_eq!(alias.draw(&mut rng), None);
                return Ok(());
            }
            const DRAWS: usize = 40_000;
            let mut counts = vec![0usize; weights.len()];
            (0..DRAWS).for_each(|_| counts[alias.draw(&mut rng).expect("not empty")] += 1);
            for (count, weight) in counts.iter().zip(&weights) {
                let p = f64::from(*weight) / f64::from(total);
                let expected = p * DRAWS as f64;
                // Five standard deviations of a binomial count.
                prop_assert!((*count as f64 - expected).abs() <= 5.0 * (expected * (1.0 - p)).sqrt() + 1.0, "{count} of {expected}");
                prop_assert!(*weight > 0 || *count == 0, "a weight of zero is never drawn");
            }
        }
    }

    #[test]
    fn a_walk_finds_the_only_one_that_is_left() {
        let alias = Alias::new(&[1e6, 1.0, 1e6]);
        let mut rng = Rng::new(3);
        assert!((0..1000).all(|_| pick(&alias, 3, &mut rng, |at, _| at == 1) == Some(1)));
        assert_eq!(pick(&alias, 3, &mut rng, |_, _| false), None);
    }
}

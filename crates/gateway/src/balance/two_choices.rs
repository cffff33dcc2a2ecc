//! The power of two choices: draw two, take the less loaded (M. Mitzenmacher, "The power of two choices in randomized load balancing",
//! IEEE TPDS 12(10), 2001). As good as looking at everybody for a fraction of the cost, and without the herd that runs to whoever was idle
//! a moment ago. Least connections compares requests in flight by weight, peak EWMA compares costs; both draw candidates by weight, so that
//! idle members get their shares.

use super::random::{Alias, pick as draw};
use base::Rng;

/// How often the second candidate is drawn anew because it was the first again.
const REDRAWS_MAX: usize = 3;

/// Draws two members that `accept` and gives the one that `better(a, b)` prefers, `a` being drawn first; with only one left, that one.
pub(super) fn pick(
    alias: &Alias,
    len: usize,
    rng: &mut Rng,
    mut accept: impl FnMut(usize, &mut Rng) -> bool,
    better: impl Fn(usize, usize) -> usize,
) -> Option<usize> {
    let first = draw(alias, len, rng, &mut accept)?;
    if len == 1 {
        return Some(first);
    }
    let mut second = alias.draw(rng)?;
    for _ in 0..REDRAWS_MAX {
        if second != first {
            break;
        }
        second = alias.draw(rng)?;
    }
    if second == first {
        // One weight outweighs all others: any other one will do for comparison.
        second = (first + 1 + rng.index(len - 1)) % len;
    }
    Some(if accept(second, rng) { better(first, second) } else { first })
}

/// The one with fewer requests in flight for its weight; where they are equal the first drawn, which was drawn by weight.
pub(super) fn less_loaded(first: (u32, u32), second: (u32, u32)) -> bool {
    let load = |(in_flight, _): (u32, u32), (_, weight): (u32, u32)| u64::from(in_flight) * u64::from(weight.max(1));
    load(first, second) <= load(second, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Throws `balls` into `bins` and gives the fullest bin's distance from the mean.
    fn gap(balls: u32, bins: usize, choices: bool) -> f64 {
        let alias = Alias::new(&vec![1.0; bins]);
        let mut rng = Rng::new(11);
        let counts = std::cell::RefCell::new(vec![0u32; bins]);
        for _ in 0..balls {
            let load = |at: usize| (counts.borrow()[at], 1);
            let better = |a, b| if !choices || less_loaded(load(a), load(b)) { a } else { b };
            let at = pick(&alias, bins, &mut rng, |_, _| true, better).expect("somebody");
            counts.borrow_mut()[at] += 1;
        }
        let fullest = *counts.borrow().iter().max().expect("bins");
        f64::from(fullest) - f64::from(balls) / bins as f64
    }

    #[test]
    fn two_choices_keep_the_fullest_bin_near_the_mean() {
        // Azar, Broder, Karlin and Upfal: ln ln n / ln 2 + O(1) above the mean, about 3 for 100 bins; one choice: about sqrt(2 m ln n / n).
        let (one, two) = (gap(100_000, 100, false), gap(100_000, 100, true));
        assert!(two <= 4.0, "{two} above the mean");
        assert!(one >= 40.0, "{one} above the mean with one choice");
    }

    #[test]
    fn load_is_counted_by_weight() {
        assert!(less_loaded((2, 2), (1, 1)) && less_loaded((1, 1), (2, 2)), "equal: the first drawn");
        assert!(less_loaded((3, 4), (1, 1)) && !less_loaded((1, 1), (3, 4)));
    }

    #[test]
    fn a_weight_that_outweighs_all_others_is_still_compared() {
        let alias = Alias::new(&[1e9, 1.0, 1.0]);
        let mut rng = Rng::new(5);
        let picked = pick(&alias, 3, &mut rng, |_, _| true, |first, second| if first == 0 { second } else { first });
        assert!(matches!(picked, Some(1 | 2)));
    }
}

//! From a long failing stream to the few commands that matter (delta debugging).

use super::generate::Step;
use super::play::{Arena, Mismatch};
use std::time::{Duration, Instant};

/// The shortest list found, its own mismatch, and how often it was tried.
pub struct Shrunk {
    /// What still fails.
    pub steps: Vec<Step>,
    /// How it fails.
    pub mismatch: Mismatch,
    /// How many times the servers were emptied and played again.
    pub tries: usize,
}

/// Takes away whatever the failure does not need, for at most `budget`. `None`: the failure did not show itself again, even unshortened.
///
/// Only a failure of the same kind counts as the same: otherwise a search for one bug ends at another.
pub fn shrink(
    arena: &Arena,
    steps: &[Step],
    protocols: u64,
    first: &Mismatch,
    budget: Duration,
) -> Result<Option<Shrunk>, String> {
    let start = Instant::now();
    let mut tries = 0;
    let mut attempt = |steps: &[Step]| -> Result<Option<Mismatch>, String> {
        tries += 1;
        Ok(arena.play(steps, protocols)?.filter(|mismatch| mismatch.signature() == first.signature()))
    };
    let mut kept = steps[..=first.at].to_vec();
    let Some(mut mismatch) = attempt(&kept)? else {
        return Ok(None);
    };
    kept.truncate(mismatch.at + 1);
    let mut chunk = kept.len().div_ceil(2);
    while start.elapsed() < budget {
        let mut end = kept.len();
        let mut removed = false;
        // From the back: late commands seldom prepare the failure, and a cut there leaves the front as it was.
        while end > 0 && start.elapsed() < budget {
            let from = end.saturating_sub(chunk);
            let mut candidate = kept.clone();
            candidate.drain(from..end);
            if !candidate.is_empty()
                && let Some(found) = attempt(&candidate)?
            {
                candidate.truncate(found.at + 1);
                kept = candidate;
                mismatch = found;
                removed = true;
            }
            end = from.min(kept.len());
        }
        if chunk == 1 && !removed {
            break;
        }
        chunk = if chunk > 1 { chunk.div_ceil(2) } else { 1 };
    }
    Ok(Some(Shrunk { steps: kept, mismatch, tries }))
}

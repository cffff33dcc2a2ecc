//! Bugs that the simulator must find, behind switches that only its builds have.

/// Which of them are put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// A partition remembers a producer's last batch only.
    pub window_of_one: bool,
    /// A snapshot holds no producer's last batches.
    pub producers_forgotten: bool,
    /// A new leader knows nothing of the abort markers that its predecessor owed.
    pub abort_markers_lost: bool,
    /// Readers of committed records see what open transactions have written.
    pub stable_not_held: bool,
    /// A batch is taken though its transaction has ended.
    pub late_batches: bool,
    /// Offsets are taken from members of any generation.
    pub offsets_not_fenced: bool,
}

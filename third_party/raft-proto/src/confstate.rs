//! Equality of configurations.

use crate::eraftpb::ConfState;

fn same_set(a: &[u64], b: &[u64]) -> bool {
    a == b || (a.iter().all(|id| b.contains(id)) && b.iter().all(|id| a.contains(id)))
}

/// Whether both describe the same configuration; the order of ids does not count.
#[must_use]
pub fn conf_state_eq(a: &ConfState, b: &ConfState) -> bool {
    same_set(&a.voters, &b.voters)
        && same_set(&a.learners, &b.learners)
        && same_set(&a.voters_outgoing, &b.voters_outgoing)
        && same_set(&a.learners_next, &b.learners_next)
        && a.auto_leave == b.auto_leave
}

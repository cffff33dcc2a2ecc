//! The leader's lease: until when it may read without asking.
//!
//! A leader puts its own clock's reading into each heartbeat; a follower echoes it. A follower that took a heartbeat
//! refuses its vote, and does not stand itself, for one election timeout from then on. So if a majority echoed the reading
//! `S`, no other leader can be elected before `S + election`, by any clock of that majority; `S` is when the heartbeat was
//! *sent*, hence earlier than any of them received it. The lease ends at `S + lease`, sooner by the drift of clocks.
//!
//! ```text
//! leader     S ├──────────── lease ───────────┤┄drift┄│
//! follower       └─R ├──────────────── election ───────────────┤ votes again
//! ```
//!
//! Caveats that we chose: a lease starts anew with every change of membership, and once leadership was handed to another
//! node in a term (`surrender`) that term has no lease any more, for the request to stand may arrive late and its votes
//! are not refused. ReadIndex still works then.

use base::{Duration, Instant, NodeId};
use std::collections::BTreeMap;

/// What is known about a leader's lease in one term.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// The newest reading of this node's clock that each voter echoed.
    echoed: BTreeMap<NodeId, Instant>,
    until: Option<Instant>,
    surrendered: bool,
}

impl Lease {
    /// Another term, or no leader any more.
    pub(crate) fn restart(&mut self) {
        *self = Lease::default();
    }

    /// Another membership: majorities are counted anew.
    pub(crate) fn recount(&mut self) {
        self.echoed.clear();
        self.until = None;
    }

    /// Leadership is being handed over: no lease in this term any more.
    pub(crate) fn surrender(&mut self) {
        self.surrendered = true;
        self.recount();
    }

    pub(crate) fn is_surrendered(&self) -> bool {
        self.surrendered
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// A voter echoed the stamp of a heartbeat of this term. `halves` are the voters, in a joint configuration those of
    /// both sides; `me` counts as having heard itself just now. A stamp from the future is a lie and counts for nothing.
    pub(crate) fn echo(
        &mut self,
        from: NodeId,
        stamp: Instant,
        now: Instant,
        me: NodeId,
        halves: [&[NodeId]; 2],
        span: Duration,
    ) {
        if self.surrendered || stamp > now {
            return;
        }
        let newest = self.echoed.entry(from).or_default();
        *newest = stamp.max(*newest);
        let heard = |half: &[NodeId]| {
            let mut stamps: Vec<Option<Instant>> =
                half.iter().map(|id| if *id == me { Some(now) } else { self.echoed.get(id).copied() }).collect();
            // Sorted from the newest: a majority has heard the one in the middle, or later.
            stamps.sort_unstable_by(|a, b| b.cmp(a));
            stamps.get(half.len() / 2).copied().flatten()
        };
        let sent = match halves {
            [voters, []] => heard(voters),
            [incoming, outgoing] => heard(incoming).min(heard(outgoing)),
        };
        if let Some(sent) = sent {
            self.until = self.until.max(Some(sent + span));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Lease, NodeId};

    const SPAN: Duration = Duration::from_nanos(100);
    const ME: NodeId = NodeId(1);

    fn nodes<const N: usize>(ids: [u64; N]) -> [NodeId; N] {
        ids.map(NodeId)
    }

    fn echo(lease: &mut Lease, from: u64, stamp: u64, now: u64, halves: [&[NodeId]; 2]) -> Option<u64> {
        lease.echo(NodeId(from), Instant(stamp), Instant(now), ME, halves, SPAN);
        lease.until().map(|until| until.0)
    }

    #[test]
    fn a_majorities_oldest_stamp_counts() {
        let five = nodes([1, 2, 3, 4, 5]);
        let mut lease = Lease::default();
        assert_eq!(echo(&mut lease, 2, 10, 50, [&five, &[]]), None, "two of five");
        assert_eq!(echo(&mut lease, 3, 20, 50, [&five, &[]]), Some(110), "three of five: the oldest of them");
        assert_eq!(echo(&mut lease, 4, 30, 50, [&five, &[]]), Some(120));
        assert_eq!(echo(&mut lease, 4, 5, 50, [&five, &[]]), Some(120), "late echoes change nothing");
        assert_eq!(echo(&mut lease, 5, 51, 50, [&five, &[]]), Some(120), "nor do stamps from the future");
        assert_eq!(echo(&mut lease, 9, 50, 50, [&five, &[]]), Some(120), "nor strangers");
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let (new, old) = (nodes([1, 2, 3]), nodes([4, 5, 6]));
        let mut lease = Lease::default();
        assert_eq!(echo(&mut lease, 2, 40, 50, [&new, &old]), None);
        assert_eq!(echo(&mut lease, 4, 30, 50, [&new, &old]), None);
        assert_eq!(echo(&mut lease, 5, 20, 50, [&new, &old]), Some(120));
    }

    #[test]
    fn what_was_surrendered_stays_so_for_the_term() {
        let three = nodes([1, 2, 3]);
        let mut lease = Lease::default();
        assert_eq!(echo(&mut lease, 2, 10, 50, [&three, &[]]), Some(110));
        lease.recount();
        assert_eq!(lease.until(), None);
        lease.surrender();
        assert_eq!(echo(&mut lease, 2, 20, 50, [&three, &[]]), None);
        lease.restart();
        assert_eq!(echo(&mut lease, 2, 30, 50, [&three, &[]]), Some(130));
    }
}

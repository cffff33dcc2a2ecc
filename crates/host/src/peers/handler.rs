//! What the links tell whoever owns them.

use std::future::Future;
use std::pin::Pin;

use base::{GroupId, NodeId};
use bytes::Bytes;
use consensus::Envelope;

use super::join::{Accepted, Request};

/// An answer that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What one node sends another.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Of a group's consensus. The link has checked that `from` and `to` are the nodes at its ends.
    Raft(Envelope),
    /// Of the doors: forwarded units and what becomes of them. The links do not look inside.
    Forward(Bytes),
}

/// Who is told what comes. Called on the links' tasks: nothing here may block or take long. `link`, `message` and `unreachable` may call
/// [`super::Peers::send`], but neither [`super::Peers::links`] nor [`super::Peers::set_directory`]: these wait for the same locks.
pub trait Handler: Send + Sync + 'static {
    /// A message; those of one node and kind come in the order in which it sent them, one at a time. The kinds may overtake each other.
    fn message(&self, from: NodeId, message: Message);

    /// Messages to it were lost: the link broke, or its queue is full.
    fn unreachable(&self, node: NodeId);

    /// Both links between the two nodes stand (`up`), or no longer do: whoever waits for something from there has an unknown
    /// outcome, and whatever was begun for that node is void. `up` and down alternate, beginning with `up`. After down, messages of
    /// the links before do not come any more. Messages may come before `up`.
    fn link(&self, node: NodeId, up: bool);

    /// A question of another node; the answer goes back to it. Small ones: the link's other messages do not wait for it, but it counts
    /// against a bound. An answer that nobody waits for any more is dropped.
    fn ask(&self, from: NodeId, request: Bytes) -> Later<Bytes>;

    /// What became of [`super::Peers::send_snapshot`].
    fn snapshot_sent(&self, group: GroupId, to: NodeId, ok: bool);

    /// A snapshot has come whole and is durable ([`store::snapshot::Arrival::finish`]): read it (`shard::open::arrived`, on a thread
    /// that may block), then tell the driver, with the announcement. Done once the driver's input is in its queue: only then does the
    /// sender hear that it has arrived, and goes on with what comes after it. `Err` is a sentence for both.
    fn snapshot_arrived(
        &self,
        from: NodeId,
        group: GroupId,
        index: u64,
        announcement: Envelope,
    ) -> Later<Result<(), String>>;

    /// Somebody who holds a token wants to join. The token has not been checked: only its hash is here ([`Request::token`]), to be compared
    /// with the one that the cluster knows. `Err` is a sentence for whoever joins. The same key asking again must get the same node.
    fn join(&self, request: Request) -> Later<Result<Accepted, String>>;

    /// Something that people should know: told once, not at every retry.
    fn tell(&self, sentence: &str) {
        eprintln!("quorate: {sentence}");
    }
}

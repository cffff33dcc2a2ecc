//! What comes over the links, and where it goes.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use ::cluster::{Change, Outcome};
use base::{GroupId, NodeId};
use bytes::Bytes;
use consensus::Envelope;
use parking_lot::RwLock;
use shard::driver::{Arrived, Input};
use shard::open::OpenOptions;
use shard::slots::{SlotAnswer, SlotChange};

use super::Member;
use super::change::bytes_of;
use crate::clock;
use crate::files::Directory;
use crate::peers::join::{Accepted, Request};
use crate::peers::{Handler, Later, Message};

/// Questions, by their first byte.
const REPORT: u8 = b'r';
const CHANGE: u8 = b'c';
const SHUN: u8 = b's';
const SLOTS: u8 = b'm';
const WHERE: u8 = b'w';
/// Answers to a change.
pub(super) const MADE: u8 = 0;
pub(super) const NOT_HERE: u8 = 1;

/// A question for a report.
pub(super) fn report_question() -> Bytes {
    Bytes::from_static(&[REPORT])
}

/// A question where the others are.
pub(super) fn where_question() -> Bytes {
    Bytes::from_static(&[WHERE])
}

/// What a node knows of where others are. Nothing where it makes no sense.
pub(super) fn read_where_answer(answer: &[u8]) -> BTreeMap<u64, Vec<String>> {
    serde_json::from_slice(answer).unwrap_or_default()
}

/// A question that makes a change.
pub(super) fn change_question(change: &Change) -> Bytes {
    bytes_of(CHANGE, &change.encode())
}

/// A question that changes the slots of a shard.
pub(super) fn slots_question(group: GroupId, change: &SlotChange) -> Bytes {
    let mut body = group.0.to_le_bytes().to_vec();
    body.extend_from_slice(&change.encode());
    bytes_of(SLOTS, &body)
}

/// What came of it. `Err` says why it is to be tried again.
pub(super) fn read_slots_answer(answer: &[u8]) -> Result<SlotAnswer, String> {
    match answer.split_first() {
        Some((&MADE, answer)) => SlotAnswer::decode(answer).map_err(|corrupt| corrupt.to_string()),
        Some((&NOT_HERE, why)) => Err(String::from_utf8_lossy(why).into_owned()),
        _ => Err("that node does not understand the question: is it of an older version?".into()),
    }
}

/// A word that this node does not want to lead anything, or does again.
pub(super) fn shun_question(shunned: bool) -> Bytes {
    bytes_of(SHUN, &[u8::from(shunned)])
}

/// What came of a change at the leader. `Err` says why it is to be tried again.
pub(super) fn read_change_answer(answer: &[u8]) -> Result<Outcome, String> {
    match answer.split_first() {
        Some((&MADE, outcome)) => Outcome::decode(outcome).map_err(|corrupt| corrupt.to_string()),
        Some((&NOT_HERE, why)) => Err(String::from_utf8_lossy(why).into_owned()),
        _ => Err("that node does not understand the question: is it of an older version?".into()),
    }
}

/// Who takes what doors on other nodes have sent (forwarded units and answers).
pub trait Forwarded: Send + Sync {
    /// Bytes from that node, in order.
    fn take(&self, from: NodeId, bytes: Bytes);
    /// The links with it stand, or no longer do.
    fn link(&self, node: NodeId, up: bool);
}

/// The links' owner.
pub struct Links {
    put: Box<dyn Fn(Input) + Send + Sync>,
    disk: Directory,
    options: OpenOptions,
    member: OnceLock<Weak<Member>>,
    forwarded: RwLock<Option<Arc<dyn Forwarded>>>,
}

impl Links {
    /// Inputs for the driver go to `put`; snapshots that arrive lie in `disk`.
    pub fn new(put: Box<dyn Fn(Input) + Send + Sync>, disk: Directory, options: OpenOptions) -> Links {
        Links { put, disk, options, member: OnceLock::new(), forwarded: RwLock::default() }
    }

    /// Who answers questions.
    pub fn serve(&self, member: &Arc<Member>) {
        let _ = self.member.set(Arc::downgrade(member));
    }

    /// Who takes forwarded units.
    pub fn forward_to(&self, forwarded: Arc<dyn Forwarded>) {
        *self.forwarded.write() = Some(forwarded);
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.member.get().and_then(Weak::upgrade)
    }
}

impl Handler for Links {
    fn message(&self, from: NodeId, message: Message) {
        match message {
            Message::Raft(envelope) => (self.put)(Input::Message(envelope.group(), envelope)),
            Message::Forward(bytes) => {
                if let Some(forwarded) = &*self.forwarded.read() {
                    forwarded.take(from, bytes);
                }
            }
        }
    }

    fn unreachable(&self, node: NodeId) {
        (self.put)(Input::Unreachable(node));
    }

    fn link(&self, node: NodeId, up: bool) {
        if !up {
            (self.put)(Input::LinkLost(node));
        }
        if let (Some(member), false) = (self.member(), up) {
            // Who comes back says it again.
            member.shunned.lock().remove(&node);
        }
        if let Some(forwarded) = &*self.forwarded.read() {
            forwarded.link(node, up);
        }
    }

    fn ask(&self, from: NodeId, request: Bytes) -> Later<Bytes> {
        let Some(member) = self.member() else {
            return Box::pin(async { Bytes::new() });
        };
        Box::pin(async move {
            match request.split_first() {
                Some((&REPORT, _)) => member.report().encode().into(),
                Some((&WHERE, _)) => {
                    let known = member.peers.whereabouts().into_iter().map(|(node, addresses)| (node.0, addresses));
                    serde_json::to_vec(&known.collect::<BTreeMap<u64, _>>()).unwrap_or_default().into()
                }
                Some((&CHANGE, change)) => {
                    let made = match Change::decode(change) {
                        Ok(change) => member.change_here(&change).await,
                        Err(corrupt) => Ok(Outcome::Refused(format!(
                            "that node does not understand the change ({corrupt}): is it older?"
                        ))),
                    };
                    match made {
                        Ok(outcome) => bytes_of(MADE, &outcome.encode()),
                        Err(why) => bytes_of(NOT_HERE, why.as_bytes()),
                    }
                }
                Some((&SLOTS, question)) => match question.split_first_chunk::<4>() {
                    Some((group, change)) => member.slots_asked(GroupId(u32::from_le_bytes(*group)), change).await,
                    None => Bytes::new(),
                },
                Some((&SHUN, word)) => {
                    let mut shunned = member.shunned.lock();
                    if word == [1] {
                        shunned.insert(from)
                    } else {
                        shunned.remove(&from)
                    };
                    Bytes::new()
                }
                _ => Bytes::new(),
            }
        })
    }

    fn snapshot_sent(&self, group: GroupId, to: NodeId, ok: bool) {
        (self.put)(Input::SnapshotSent { group, to, ok });
    }

    fn snapshot_arrived(
        &self,
        from: NodeId,
        group: GroupId,
        index: u64,
        announcement: Envelope,
    ) -> Later<Result<(), String>> {
        let (disk, options, member) = (self.disk.clone(), self.options.clone(), self.member());
        Box::pin(async move {
            let member = member.ok_or("this node is just starting")?;
            let reading = disk.clone();
            let read = tokio::task::spawn_blocking(move || {
                shard::open::arrived(&reading, group, index, &options, clock::seed()).map(Box::new)
            });
            let why = match read.await {
                Ok(Ok(state)) => {
                    (member.put)(Input::SnapshotArrived(Arrived { group, announcement, index, state }));
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            let _ = store::snapshot::discard(&disk, group, index);
            Err(format!("the snapshot of {group} that node {} sent cannot be read and is dropped: {why}", from.0))
        })
    }

    fn join(&self, request: Request) -> Later<Result<Accepted, String>> {
        let member = self.member();
        Box::pin(async move {
            match member {
                Some(member) => member.let_in(&request).await,
                None => Err("this node is just starting; try again in a moment".into()),
            }
        })
    }
}

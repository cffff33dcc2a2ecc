//! Shards that were made later, and slots on their way: what this node has to do about them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::cluster::{Change, Cluster, Outcome};
use base::{GroupId, Instant, NodeId, SlotSet};
use bytes::Bytes;
use doors::resp::door::Client;
use doors::resp::peer::Peer;
use serde::{Deserialize, Serialize};
use shard::live::Shard;
use shard::manifest::Manifest;
use shard::mover::{Ask, Mover, Told};
use shard::slots::{SlotAnswer, SlotChange};

use super::change::bytes_of;
use super::{Member, links};
use crate::clock;

/// How long a shard's leader may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How far slots are that leave a shard, as its leader knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The shard that they leave.
    pub from: u32,
    /// The shard that takes them.
    pub to: u32,
    /// What is being done, in words.
    pub step: String,
    /// Keys sent, those that changed again and again too.
    pub keys: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Attempts; a new one begins where a leader was lost.
    pub attempts: u64,
    /// Seconds since this leader began.
    pub seconds: f64,
}

impl Member {
    /// Whether the cluster has shards that this node has not.
    pub(super) fn lacks_shards(&self, cluster: &Cluster) -> bool {
        cluster.born().keys().any(|group| self.shards.of(*group).is_none())
    }

    /// Makes them: first the directory says that they are there, so that whoever replays the log knows them.
    pub(super) async fn add_shards(self: Arc<Self>, cluster: &Cluster) {
        let (disk, options, born) = (self.disk.clone(), self.options.clone(), cluster.born().clone());
        let known: Vec<GroupId> = self.shards.iter().map(|shard| shard.group).collect();
        let made = tokio::task::spawn_blocking(move || -> Result<_, String> {
            let manifest = Manifest { founded: options.data_shards, born: born.clone() };
            manifest.write(&disk).map_err(|error| error.to_string())?;
            let fresh = born.iter().filter(|(group, _)| !known.contains(group));
            let made = fresh
                .map(|(group, founders)| shard::open::new_group(*group, founders, &options, &mut crate::clock::seed));
            made.collect::<Result<Vec<_>, String>>()
        });
        match made.await {
            Ok(Ok(fresh)) => fresh.into_iter().for_each(|fresh| (self.add)(fresh)),
            Ok(Err(why)) => eprintln!("quorate: a new shard cannot be written down, it is tried again: {why}"),
            Err(error) => eprintln!("quorate: a new shard cannot be written down, it is tried again: {error}"),
        }
    }

    /// Begins to move the slots that leave shards which this node leads.
    pub(super) fn move_slots(self: &Arc<Self>, cluster: &Cluster) {
        for (from, own) in cluster.moves() {
            let Some(parent) = self.shards.of(*from) else { continue };
            if self.shards.of(own.to).is_none() || !leads(parent) || self.moving.lock().contains_key(from) {
                continue;
            }
            let progress = Progress { from: from.0, to: own.to.0, step: "beginning".into(), ..Progress::default() };
            self.moving.lock().insert(*from, progress);
            let (member, parent) = (self.clone(), parent.clone());
            let mover = Mover::new(*from, own.to, own.slots.clone());
            tokio::spawn(async move {
                member.drive(mover, &parent).await;
                member.moving.lock().remove(&parent.group);
            });
        }
    }

    async fn drive(self: &Arc<Self>, mut mover: Mover, parent: &Arc<Shard<Client>>) {
        let begun = clock::now();
        while !mover.is_over() && leads(parent) {
            let told = match mover.next(parent) {
                Ask::Pause(span) if span.is_zero() => {
                    tokio::task::yield_now().await;
                    None
                }
                Ask::Pause(span) => {
                    tokio::time::sleep(span).await;
                    None
                }
                Ask::Parent(change) => Some(self.ask_slots_here(parent, &change).await),
                Ask::Child(change) => Some(self.ask_slots(mover.to(), &change).await),
                Ask::Meta(change) => match self.change(&change).await {
                    Ok(_) => {
                        mover.told(parent, Told::Done);
                        None
                    }
                    Err(_) => {
                        mover.told(parent, Told::Unknown);
                        None
                    }
                },
            };
            if let Some(answer) = told {
                mover.told(parent, answer.map_or(Told::Unknown, Told::Slots));
            }
            if let Some(progress) = self.moving.lock().get_mut(&parent.group) {
                progress.step = mover.word().into();
                (progress.keys, progress.bytes, progress.attempts) = (mover.keys, mover.bytes, mover.attempts);
                progress.seconds = clock::now().since(begun).as_secs_f64();
            }
        }
        mover.stop(parent);
    }

    async fn ask_slots(&self, group: GroupId, change: &SlotChange) -> Result<SlotAnswer, String> {
        let shard = self.shards.of(group).ok_or("this node does not know that shard yet")?;
        let assigned = || {
            let cluster = self.cluster();
            let own = cluster.groups().get(&group)?;
            own.leader.or_else(|| own.voters.first().copied())
        };
        match shard.leader().or_else(assigned) {
            Some(leader) if leader == self.own => self.ask_slots_here(shard, change).await,
            Some(leader) => {
                let answer = self.peers.ask(leader, links::slots_question(group, change), ANSWER).await;
                let answer = answer.map_err(|_| format!("node {} did not answer", leader.0))?;
                links::read_slots_answer(&answer)
            }
            None => Err("that shard has no leader at the moment".into()),
        }
    }

    /// Changes the slots of a shard that this node leads.
    pub(super) async fn ask_slots_here(
        &self,
        shard: &Arc<Shard<Client>>,
        change: &SlotChange,
    ) -> Result<SlotAnswer, String> {
        if let Some(error) = shard.refusal(change.frees()) {
            return Err(error.0.into_owned());
        }
        let peer = Arc::new(Peer::new(0, String::new(), String::new(), Instant::default(), ANSWER_BYTES_MAX));
        shard.submit(|batch| batch.slots(Some(peer.clone()), change)).map_err(|error| error.0.into_owned())?;
        (self.put)(shard::driver::Input::Wake);
        let bytes = poll_fn(|context| {
            if !peer.listen(context.waker()) {
                return Poll::Pending;
            }
            let mut bytes = Vec::new();
            Poll::Ready((peer.collect(&mut bytes) > 0).then_some(bytes))
        });
        let bytes = tokio::time::timeout(ANSWER, bytes).await.map_err(|_| "a majority of its nodes does not answer")?;
        let bytes = bytes.ok_or("the lead has just moved")?;
        match bytes.strip_prefix(b"-") {
            Some(error) => Err(String::from_utf8_lossy(error).trim_end().to_owned()),
            None => SlotAnswer::decode(&bytes).map_err(|corrupt| corrupt.to_string()),
        }
    }

    /// The same for a leader on another node that asks.
    pub(super) async fn slots_asked(&self, group: GroupId, change: &[u8]) -> Bytes {
        let made = match (self.shards.of(group), SlotChange::decode(change)) {
            (Some(shard), Ok(change)) => self.ask_slots_here(shard, &change).await,
            (None, _) => Err("that node does not know the shard yet".into()),
            (_, Err(corrupt)) => Err(format!("that node does not understand the change: {corrupt}")),
        };
        match made {
            Ok(answer) => bytes_of(links::MADE, &answer.encode()),
            Err(why) => bytes_of(links::NOT_HERE, why.as_bytes()),
        }
    }

    /// How far the slots are that leave the shards which this node leads.
    pub fn moving(&self) -> BTreeMap<GroupId, Progress> {
        self.moving.lock().clone()
    }

    /// A new shard takes these slots from another; it is made up of the nodes that decide there.
    ///
    /// # Errors
    /// A sentence.
    pub async fn split(self: &Arc<Self>, from: GroupId, slots: SlotSet) -> Result<GroupId, String> {
        self.ask_all().await;
        let reports = self.reports();
        let told = reports.values().flat_map(|(_, report)| &report.groups);
        let leader =
            told.filter(|group| group.group == from.0 && group.role == "leader").max_by_key(|group| group.term);
        let leader = leader.ok_or_else(|| {
            format!(
                "shard {} has no leader that answers at the moment, or is none; `quorate cluster` shows them",
                from.0
            )
        })?;
        if leader.joint {
            return Err(format!("replicas of shard {} are on the move; try again when they have arrived", from.0));
        }
        let founders = leader.voters.iter().map(|node| NodeId(*node)).collect();
        match self.change(&Change::Split { from, slots, founders }).await? {
            Outcome::Made(group) => Ok(group),
            other => Err(format!("that node does not understand the change ({other:?}): is it older?")),
        }
    }
}

fn leads(shard: &Shard<Client>) -> bool {
    !shard.is_led_elsewhere() && shard.current_refusal() != Some(shard::live::Refusal::Loading)
}

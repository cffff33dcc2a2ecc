//! A shard's queue: all its partitions, groups and transactional ids, and what a command does to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::{GroupId, Millis};

use crate::batch;
use crate::code::Code;
use crate::command::{Command, Committer, Entered, Within};
use crate::form::Walk;
use crate::group::{self, Generation, Group, OffsetOf};
use crate::limits::{
    DROPPED_MAX, GROUPS_MAX, ID_BYTES_MAX, OFFSETS_MAX, OFFSETS_RETENTION_MS, PRODUCER_SILENT_MS, PRODUCERS_MAX,
    SWEEP_MAX, TRANSACTION_SILENT_MS, TRANSACTION_TIMEOUT_MS_MAX, TRANSACTIONS_MAX,
};
use crate::marks::Mark;
use crate::outcome::Outcome;
use crate::partition::{Partition, Pass, Spot};
use crate::topics::{TopicId, Topics};
use crate::transaction::{Phase, Target, Transaction};

/// From one sweep to the next, milliseconds of shard time.
const SWEEP_EVERY_MS: u64 = 10 * 60 * 1000;
/// Bits of a producer's id that count; above them stands the group.
const COUNTER_BITS: u32 = 40;

/// Where a command lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry's index.
    pub index: u64,
    /// Where the command's form begins in the entry's data.
    pub at: u32,
}

/// A marker that has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The transactional id.
    pub id: Arc<str>,
    /// The transaction's number.
    pub number: u64,
    /// Where.
    pub target: Target,
    /// The producer.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Or else it was aborted.
    pub commit: bool,
}

/// How much there is, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Partitions that hold or held something.
    pub partitions: usize,
    /// Rows of all partitions.
    pub rows: usize,
    /// Bytes of stored batches.
    pub stored_bytes: u64,
    /// Producers that partitions remember.
    pub producers: usize,
    /// Aborted transactions that partitions list.
    pub aborted: usize,
    /// Groups.
    pub groups: usize,
    /// Their offsets.
    pub offsets: usize,
    /// Transactional ids.
    pub transactions: usize,
    /// Memory of all that, roughly, bytes.
    pub memory_bytes: u64,
}

/// Names of partitions within a shard.
pub type PartitionId = (TopicId, u32);

/// One shard's queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub(crate) group: u32,
    /// Leaders that this shard has had.
    pub(crate) epoch: i32,
    /// Producer ids given out.
    pub(crate) counter: u64,
    pub(crate) partitions: BTreeMap<PartitionId, Arc<Partition>>,
    pub(crate) groups: BTreeMap<Arc<str>, Arc<Group>>,
    pub(crate) transactions: BTreeMap<Arc<str>, Arc<Transaction>>,
    /// Topics that went last.
    pub(crate) dropped: VecDeque<TopicId>,
    pub(crate) swept: Millis,
    pub(crate) more_to_sweep: bool,
    /// Counted along: producers of all partitions, offsets of all groups.
    pub(crate) producers: usize,
    pub(crate) offsets: usize,
    /// Partitions that grew, or whose readers see further, since they were last asked for.
    pub(crate) grown: Vec<PartitionId>,
    pub(crate) walk: Option<Walk>,
    /// Bugs to be found (see `sim`).
    #[cfg(any(test, feature = "planted"))]
    pub planted: crate::planted::Planted,
}

type Refusal = (Code, &'static str);

impl From<Refusal> for Outcome {
    fn from((code, why): Refusal) -> Outcome {
        Outcome::refused(code, why)
    }
}

fn done(result: Result<Outcome, Refusal>) -> Outcome {
    result.unwrap_or_else(Outcome::from)
}

impl Queue {
    /// An empty one.
    pub fn new(group: GroupId) -> Queue {
        Queue { group: group.0, ..Queue::default() }
    }

    /// Whether there has never been anything in it: then it needs no upkeep.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
            && self.groups.is_empty()
            && self.transactions.is_empty()
            && self.counter == 0
            && self.dropped.is_empty()
    }

    // ---- apply -----------------------------------------------------------------------------------------------------

    /// A new leader's first entry.
    pub fn new_leader(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        #[cfg(any(test, feature = "planted"))]
        if self.planted.abort_markers_lost {
            for own in self.transactions.values_mut().filter(|own| own.phase == Phase::Ending(false)) {
                let own = Arc::make_mut(own);
                own.targets.clear();
                own.phase = Phase::Ended(false);
            }
        }
    }

    /// The leader's epoch: how many leaders the shard has had.
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Applies a command of an entry with this stamp. The same on every replica.
    pub fn apply(&mut self, command: &Command<'_>, bytes: usize, place: Place, now: Millis) -> Outcome {
        match command {
            Command::Produce { topic, place: name, partition, append_time, transaction, marks, batches } => {
                let at = place.at + (bytes - batches.len()) as u32;
                let spot = Spot { index: place.index, at, now, epoch: self.epoch };
                done(self.produce((*topic, *partition), name, batches, *append_time, *transaction, marks, spot))
            }
            Command::Mark { topic, place: name, partition, number, commit, batch } => {
                let at = place.at + (bytes - batch.len()) as u32;
                let spot = Spot { index: place.index, at, now, epoch: self.epoch };
                done(self.mark((*topic, *partition), name, batch, *number, *commit, spot))
            }
            Command::Trim { topic, partition, to } => match self.partitions.get_mut(&(*topic, *partition)) {
                Some(own) => {
                    let start = Arc::make_mut(own).trim(*to);
                    self.grown.push((*topic, *partition));
                    Outcome::Trimmed { start }
                }
                None => Outcome::Trimmed { start: 0 },
            },
            Command::Clean { topic, partition, clean } => match self.partitions.get_mut(&(*topic, *partition)) {
                Some(own) => {
                    let at = place.at + (bytes - clean.batches.len()) as u32;
                    Arc::make_mut(own).clean(clean, Spot { index: place.index, at, now, epoch: self.epoch })
                }
                None => Outcome::refused(Code::UNKNOWN_TOPIC_OR_PARTITION, "the topic has been deleted"),
            },
            Command::Drop { topic } => {
                self.drop_topic(*topic);
                Outcome::Done
            }
            Command::InitProducer => Outcome::Producer { id: self.fresh(), epoch: 0 },
            Command::Commit { group, by, offsets } => done(self.commit(group, by, None, offsets, now)),
            Command::TransactionCommit { group, by, within, offsets } => {
                done(self.commit(group, by, Some(*within), offsets, now))
            }
            Command::DeleteOffsets { group, partitions } => self.delete_offsets(group, partitions, now),
            Command::DeleteGroup { group } => done(self.delete_group(group)),
            Command::SaveGroup { group, generation } => done(self.save_group(group, generation, now)),
            Command::MarkGroup { group, within, commit } => {
                self.mark_group(group, *within, *commit, now);
                Outcome::Done
            }
            Command::Begin { id, timeout_ms, expected } => done(self.begin(id, *timeout_ms, *expected, now)),
            Command::Enlist { id, producer, epoch, targets } => done(self.transaction(id).and_then(|own| {
                own.enlist(*producer, *epoch, targets.clone(), now).map(|number| Outcome::Enlisted { number })
            })),
            Command::Verify { id, producer, epoch, target } => done(
                self.transaction(id)
                    .and_then(|own| own.verify(*producer, *epoch, target))
                    .map(|number| Outcome::Enlisted { number }),
            ),
            Command::End { id, producer, epoch, commit, second_version } => {
                let fresh = self.next_producer();
                let (mut used, second) = (false, *second_version);
                let ended = self.transaction(id).and_then(|own| {
                    own.end(*producer, *epoch, *commit, second, now, || {
                        used = true;
                        fresh
                    })
                });
                self.counter += u64::from(used);
                done(ended.map(|(id, epoch)| Outcome::Producer { id, epoch }))
            }
            Command::TimeOut { id, number } => done(self.transaction(id).map(|own| {
                own.time_out(*number, now);
                Outcome::Done
            })),
            Command::Marked { id, number, targets } => done(self.transaction(id).map(|own| {
                own.marked(*number, targets, now);
                Outcome::Done
            })),
            Command::Sweep => {
                self.sweep(now);
                Outcome::Done
            }
        }
    }

    fn partition_mut(&mut self, id: PartitionId, place: &str) -> Result<&mut Partition, Refusal> {
        if self.dropped.contains(&id.0) {
            return Err((Code::UNKNOWN_TOPIC_OR_PARTITION, "the topic has been deleted"));
        }
        let own = Arc::make_mut(self.partitions.entry(id).or_insert_with(|| Arc::new(Partition::new(place))));
        #[cfg(any(test, feature = "planted"))]
        {
            own.planted = self.planted;
        }
        Ok(own)
    }

    #[allow(clippy::too_many_arguments)]
    fn produce(
        &mut self,
        id: PartitionId,
        place: &str,
        batches: &[u8],
        append_time: bool,
        entered: Option<Entered>,
        marks: &[Mark],
        spot: Spot,
    ) -> Result<Outcome, Refusal> {
        let run = batch::run(batches).map_err(|refused| (refused.code, refused.why))?;
        let own = self.partition_mut(id, place)?;
        if !marks.is_empty() && !own.admits_marks(marks.len(), spot.now) {
            return Err((Code::POLICY_VIOLATION, "as many records as may be are delayed in this partition"));
        }
        let before = own.producers.len();
        let outcome = own.produce(&run, append_time, entered, spot);
        let more = own.producers.len() - before;
        if let Outcome::Produced { base, again: false, .. } = outcome {
            own.mark_records(base, marks, spot.now);
        }
        self.count_producers(more);
        if matches!(outcome, Outcome::Produced { again: false, .. }) {
            self.grown.push(id);
        }
        Ok(outcome)
    }

    fn mark(
        &mut self,
        id: PartitionId,
        place: &str,
        marker: &[u8],
        number: u64,
        commit: bool,
        spot: Spot,
    ) -> Result<Outcome, Refusal> {
        let run = batch::run(marker).map_err(|refused| (refused.code, refused.why))?;
        if !run.control || run.producer < 0 {
            return Err((Code::INVALID_RECORD, "no marker"));
        }
        if self.dropped.contains(&id.0) {
            // Nobody reads it any more.
            return Ok(Outcome::Done);
        }
        let own = self.partition_mut(id, place)?;
        let before = own.producers.len();
        let marked = own.mark(&run, number, commit, spot);
        let more = own.producers.len() - before;
        self.count_producers(more);
        match marked {
            Ok(stored) => {
                if stored {
                    self.grown.push(id);
                }
                Ok(Outcome::Done)
            }
            Err(outcome) => Ok(outcome),
        }
    }

    /// Beyond the bound, those go that were silent longest: a sixteenth at once, so that it is seldom looked for.
    fn count_producers(&mut self, more: usize) {
        self.producers += more;
        if self.producers <= PRODUCERS_MAX {
            return;
        }
        let known = self.partitions.values().flat_map(|own| own.producers.values());
        let mut stamps: Vec<Millis> = known.filter(|known| known.ongoing.is_none()).map(|known| known.stamp).collect();
        if stamps.is_empty() {
            return;
        }
        let nth = (PRODUCERS_MAX / 16).min(stamps.len() - 1);
        let until = *stamps.select_nth_unstable(nth).1 + 1;
        self.forget_producers(until, usize::MAX);
    }

    fn forget_producers(&mut self, until: Millis, most: usize) -> usize {
        let mut gone = 0;
        for own in self.partitions.values_mut() {
            if gone >= most {
                break;
            }
            if own.producers.values().any(|known| known.ongoing.is_none() && known.stamp < until) {
                gone += Arc::make_mut(own).forget_silent(until, most - gone);
            }
        }
        self.producers -= gone;
        gone
    }

    fn drop_topic(&mut self, topic: TopicId) {
        if !self.dropped.contains(&topic) {
            self.dropped.push_back(topic);
            if self.dropped.len() > DROPPED_MAX {
                self.dropped.pop_front();
            }
        }
        let range = (topic, 0)..=(topic, u32::MAX);
        let gone: Vec<PartitionId> = self.partitions.range(range).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(own) = self.partitions.remove(&id) {
                self.producers -= own.producers.len();
            }
            self.grown.push(id);
        }
        for own in self.groups.values_mut() {
            if own.offsets.values().any(|offset| offset.topic == topic) {
                let own = Arc::make_mut(own);
                let before = own.offsets.len();
                own.offsets.retain(|_, offset| offset.topic != topic);
                self.offsets -= before - own.offsets.len();
            }
        }
    }

    fn next_producer(&self) -> i64 {
        (i64::from(self.group) << COUNTER_BITS) | (self.counter & ((1 << COUNTER_BITS) - 1)) as i64
    }

    fn fresh(&mut self) -> i64 {
        let id = self.next_producer();
        self.counter += 1;
        id
    }

    // ---- groups ----------------------------------------------------------------------------------------------------

    fn group_mut(&mut self, name: &str) -> Result<&mut Group, Refusal> {
        if name.len() > ID_BYTES_MAX {
            return Err((Code::INVALID_GROUP_ID, "the group's name is too long"));
        }
        if !self.groups.contains_key(name) {
            if self.groups.len() >= GROUPS_MAX {
                return Err((Code::POLICY_VIOLATION, "there are as many groups as there may be"));
            }
            self.groups.insert(name.into(), Arc::default());
        }
        let own = self.groups.get_mut(name).expect("it was inserted where it was missing");
        Ok(Arc::make_mut(own))
    }

    fn commit(
        &mut self,
        name: &str,
        by: &Committer<'_>,
        within: Option<Within>,
        offsets: &[OffsetOf<'_>],
        now: Millis,
    ) -> Result<Outcome, Refusal> {
        group::check_offsets(offsets)?;
        let nobody = Group::default();
        let admitted = self.groups.get(name).map_or(&nobody, |own| own).admits(by, within.is_some());
        #[cfg(any(test, feature = "planted"))]
        let admitted = if self.planted.offsets_not_fenced { Ok(()) } else { admitted };
        admitted?;
        if self.offsets + offsets.len() > OFFSETS_MAX {
            return Err((Code::POLICY_VIOLATION, "there are as many offsets as there may be"));
        }
        let own = self.group_mut(name)?;
        let before = own.offset_count();
        let committed = match within {
            None => {
                own.commit(offsets, now);
                Ok(Outcome::Done)
            }
            Some(within) => own.commit_within(within, offsets, now).map(|()| Outcome::Done),
        };
        let after = own.offset_count();
        self.offsets = self.offsets - before + after;
        committed
    }

    /// Ends a transaction in a group. A group that is not known yet remembers it too: offsets of this transaction may come late.
    /// Never refused, or the transaction would never end.
    fn mark_group(&mut self, name: &str, within: Within, commit: bool, now: Millis) {
        if let Ok(own) = self.group_mut(name) {
            let before = own.offset_count();
            own.mark(within, commit, now);
            let after = own.offset_count();
            self.offsets = self.offsets - before + after;
        }
    }

    fn delete_offsets(&mut self, name: &str, partitions: &[(&str, u32)], now: Millis) -> Outcome {
        let Some(own) = self.groups.get_mut(name) else {
            return Outcome::refused(Code::GROUP_ID_NOT_FOUND, "there is no such group");
        };
        let own = Arc::make_mut(own);
        let before = own.offsets.len();
        for (topic, partition) in partitions {
            own.offsets.remove(&(Arc::from(*topic), *partition));
        }
        own.stamp = now;
        self.offsets -= before - own.offsets.len();
        Outcome::Done
    }

    fn delete_group(&mut self, name: &str) -> Result<Outcome, Refusal> {
        match self.groups.get(name) {
            None => Err((Code::GROUP_ID_NOT_FOUND, "there is no such group")),
            Some(own) if !own.is_empty() => Err((Code::NON_EMPTY_GROUP, "the group has members")),
            Some(own) => {
                self.offsets -= own.offset_count();
                self.groups.remove(name);
                Ok(Outcome::Done)
            }
        }
    }

    fn save_group(&mut self, name: &str, generation: &Generation, now: Millis) -> Result<Outcome, Refusal> {
        generation.check()?;
        let known = self.groups.get(name).and_then(|own| own.generation.as_ref());
        if known.is_some_and(|known| known.number > generation.number) {
            return Err((Code::ILLEGAL_GENERATION, "a newer generation has been kept"));
        }
        let own = self.group_mut(name)?;
        own.generation = Some(generation.clone());
        own.stamp = now;
        Ok(Outcome::Done)
    }

    // ---- transactions ----------------------------------------------------------------------------------------------

    fn transaction(&mut self, id: &str) -> Result<&mut Transaction, Refusal> {
        match self.transactions.get_mut(id) {
            Some(own) => Ok(Arc::make_mut(own)),
            None => Err((Code::INVALID_PRODUCER_ID_MAPPING, "nobody has this transactional id")),
        }
    }

    fn begin(
        &mut self,
        id: &str,
        timeout_ms: u32,
        expected: Option<(i64, i16)>,
        now: Millis,
    ) -> Result<Outcome, Refusal> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err((Code::INVALID_REQUEST, "a transactional id is 1 to 1024 bytes long"));
        }
        if timeout_ms == 0 || timeout_ms > TRANSACTION_TIMEOUT_MS_MAX {
            return Err((Code::INVALID_TRANSACTION_TIMEOUT, "a transaction's timeout is 1 ms to 15 minutes"));
        }
        if !self.transactions.contains_key(id) {
            if self.transactions.len() >= TRANSACTIONS_MAX {
                return Err((Code::POLICY_VIOLATION, "there are as many transactional ids as there may be"));
            }
            let producer = self.fresh();
            self.transactions.insert(id.into(), Arc::new(Transaction::new(producer, timeout_ms, now)));
        }
        let fresh = self.next_producer();
        let mut used = false;
        let own = self.transaction(id)?;
        let begun = own.begin(timeout_ms, expected, now, || {
            used = true;
            fresh
        });
        self.counter += u64::from(used);
        begun.map(|(id, epoch)| Outcome::Producer { id, epoch })
    }

    // ---- within larger units ---------------------------------------------------------------------------------------

    /// The group whose shard this is.
    pub fn home(&self) -> GroupId {
        GroupId(self.group)
    }

    /// Why a produce without a producer's id, or a commit of offsets, would be refused now. For whoever does it together with
    /// something else, which must not happen alone.
    pub fn refusal(&self, command: &Command<'_>) -> Option<(Code, &'static str)> {
        match command {
            Command::Produce { topic, .. } if self.dropped.contains(topic) => {
                Some((Code::UNKNOWN_TOPIC_OR_PARTITION, "the topic has been deleted"))
            }
            Command::Produce { batches, .. } => match batch::run(batches) {
                Err(refused) => Some((refused.code, refused.why)),
                Ok(run) if run.producer >= 0 || run.control => {
                    Some((Code::INVALID_RECORD, "a producer with an id does not write together with others"))
                }
                Ok(_) => None,
            },
            Command::Commit { group: name, by, offsets } => {
                let nobody = Group::default();
                let own = self.groups.get(*name).map_or(&nobody, |own| own);
                let admitted = group::check_offsets(offsets).and_then(|()| own.admits(by, false));
                if let Err(refused) = admitted {
                    return Some(refused);
                }
                let full = self.offsets + offsets.len() > OFFSETS_MAX
                    || !self.groups.contains_key(*name) && self.groups.len() >= GROUPS_MAX;
                match full {
                    true => Some((Code::POLICY_VIOLATION, "there are as many groups or offsets as there may be")),
                    false if name.len() > ID_BYTES_MAX => {
                        Some((Code::INVALID_GROUP_ID, "the group's name is too long"))
                    }
                    false => None,
                }
            }
            _ => Some((Code::INVALID_REQUEST, "this cannot be done together with others")),
        }
    }

    // ---- upkeep ----------------------------------------------------------------------------------------------------

    fn sweep(&mut self, now: Millis) {
        self.swept = now;
        let mut left = SWEEP_MAX - self.forget_producers(now.saturating_sub(PRODUCER_SILENT_MS), SWEEP_MAX);
        let until = now.saturating_sub(OFFSETS_RETENTION_MS);
        let mut groups = Vec::new();
        for (name, own) in &mut self.groups {
            let stale_marks = own.marked.values().any(|marked| marked.stamp < until);
            if stale_marks {
                let pending: Vec<i64> = own.pending.keys().copied().collect();
                Arc::make_mut(own).marked.retain(|id, marked| marked.stamp >= until || pending.contains(id));
            }
            if left == 0 {
                break;
            }
            if own.is_empty() && own.stamp < until && own.pending.is_empty() {
                left = left.saturating_sub(1 + own.offsets.len());
                groups.push(name.clone());
            }
        }
        for name in groups {
            let own = self.groups.remove(&name).expect("it was just seen");
            self.offsets -= own.offset_count();
        }
        let until = now.saturating_sub(TRANSACTION_SILENT_MS);
        let silent = |own: &Transaction| !matches!(own.phase, Phase::Ongoing | Phase::Ending(_)) && own.stamp < until;
        let ids: Vec<Arc<str>> =
            self.transactions.iter().filter(|(_, own)| silent(own)).map(|(id, _)| id.clone()).take(left).collect();
        left -= ids.len().min(left);
        for id in ids {
            self.transactions.remove(&id);
        }
        self.more_to_sweep = left == 0;
    }

    /// Whether the leader should propose [`Command::Sweep`].
    pub fn is_sweep_due(&self, now: Millis) -> bool {
        let something = self.producers > 0 || !self.groups.is_empty() || !self.transactions.is_empty();
        something && (self.more_to_sweep || now >= self.swept.saturating_add(SWEEP_EVERY_MS))
    }

    /// Where partitions should begin by their topics' retention, `most` of them: for the leader to propose as
    /// [`Command::Trim`].
    pub fn expired(&self, topics: &Topics, now: Millis, most: usize) -> Vec<(PartitionId, u64)> {
        let own = |(id, own): (&PartitionId, &Arc<Partition>)| {
            let settings = &topics.by_id(id.0)?.settings;
            if !settings.deletes() {
                return None;
            }
            Some((*id, own.expired(now, settings.retention_ms(), settings.retention_bytes())?))
        };
        self.partitions.iter().filter_map(own).take(most).collect()
    }

    /// Partitions that compaction has something to do with, `most` of them.
    pub fn cleanable(&self, topics: &Topics, now: Millis, most: usize) -> Vec<(PartitionId, Pass)> {
        let own = |(id, own): (&PartitionId, &Arc<Partition>)| {
            let settings = &topics.by_id(id.0)?.settings;
            if !settings.compacts() {
                return None;
            }
            Some((*id, own.cleanable(now, &settings.cleanable())?))
        };
        self.partitions.iter().filter_map(own).take(most).collect()
    }

    /// Topics that have partitions here and are gone: for the leader to propose as [`Command::Drop`]. `applied` is the index
    /// up to which this node has applied the meta group.
    pub fn orphans(&self, topics: &Topics, applied: u64) -> Vec<TopicId> {
        let mut gone: Vec<TopicId> = Vec::new();
        for (topic, _) in self.partitions.keys() {
            if gone.last() != Some(topic) && topics.is_gone(*topic, applied) {
                gone.push(*topic);
            }
        }
        gone
    }

    /// Transactions that take too long: for the leader to propose as [`Command::TimeOut`].
    pub fn overdue(&self, now: Millis) -> Vec<(Arc<str>, u64)> {
        let overdue = self.transactions.iter().filter(|(_, own)| own.is_overdue(now));
        overdue.map(|(id, own)| (id.clone(), own.number)).collect()
    }

    /// Markers that have to be written, `most` of them: each is proposed to its target's shard ([`Due::command`]), and what has
    /// been done is reported by [`Command::Marked`].
    pub fn markers(&self, most: usize) -> Vec<Due> {
        let mut due = Vec::new();
        for (id, own) in &self.transactions {
            due.extend(markers_of(id, own).take(most - due.len()));
            if due.len() >= most {
                break;
            }
        }
        due
    }

    /// The markers of one transactional id.
    pub fn markers_of(&self, id: &str) -> Vec<Due> {
        let found = self.transactions.get_key_value(id);
        found.map(|(id, own)| markers_of(id, own).collect()).unwrap_or_default()
    }

    // ---- questions -------------------------------------------------------------------------------------------------

    /// A partition, once something has been written to it. A topic's partition that is missing here is empty: it begins and
    /// ends at 0.
    pub fn partition(&self, topic: TopicId, partition: u32) -> Option<&Partition> {
        self.partitions.get(&(topic, partition)).map(|own| &**own)
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        self.partitions.iter().map(|(id, own)| (*id, &**own))
    }

    /// A group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).map(|own| &**own)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, own)| (&**name, &**own))
    }

    /// A transactional id.
    pub fn transaction_of(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id).map(|own| &**own)
    }

    /// All transactional ids.
    pub fn transactions(&self) -> impl Iterator<Item = (&str, &Transaction)> {
        self.transactions.iter().map(|(id, own)| (&**id, &**own))
    }

    /// What a client's idea of the leader's epoch is worth; -1 for none.
    ///
    /// # Errors
    /// FENCED_LEADER_EPOCH for an older one, UNKNOWN_LEADER_EPOCH for a newer one.
    pub fn check_epoch(&self, asked: i32) -> Result<(), Code> {
        match asked.cmp(&self.epoch) {
            _ if asked < 0 => Ok(()),
            std::cmp::Ordering::Less => Err(Code::FENCED_LEADER_EPOCH),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Code::UNKNOWN_LEADER_EPOCH),
        }
    }

    /// Says that readers of this partition may see more.
    pub fn note_grown(&mut self, id: PartitionId) {
        self.grown.push(id);
    }

    /// Becomes an empty one.
    pub fn clear(&mut self) {
        *self = Queue {
            group: self.group,
            #[cfg(any(test, feature = "planted"))]
            planted: self.planted,
            ..Queue::default()
        };
    }

    /// Partitions whose readers may see more than when this was last asked, and forgets them.
    pub fn take_grown(&mut self) -> Vec<PartitionId> {
        std::mem::take(&mut self.grown)
    }

    /// How much there is.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures {
            partitions: self.partitions.len(),
            producers: self.producers,
            groups: self.groups.len(),
            offsets: self.offsets,
            transactions: self.transactions.len(),
            ..Figures::default()
        };
        for own in self.partitions.values() {
            figures.rows += own.row_count();
            figures.stored_bytes += own.bytes();
            figures.aborted += own.aborted.len();
        }
        let targets: usize = self.transactions.values().map(|own| own.targets.len()).sum();
        let words: usize = self.groups.values().filter_map(|own| own.generation()).map(Generation::bytes).sum();
        let parts = [
            (figures.partitions, 400),
            (figures.rows, size_of::<crate::partition::Row>()),
            (figures.producers, size_of::<crate::producer::Producer>() + 16),
            (figures.aborted, size_of::<crate::partition::Aborted>()),
            (figures.groups, 300),
            (figures.offsets, 140),
            (figures.transactions, 300),
            (targets, 120),
            (words, 1),
        ];
        figures.memory_bytes = parts.iter().map(|(count, bytes)| (count * bytes) as u64).sum();
        figures
    }
}

fn markers_of<'a>(id: &'a Arc<str>, own: &'a Transaction) -> impl Iterator<Item = Due> + 'a {
    let commit = match own.phase {
        Phase::Ending(commit) => Some(commit),
        _ => None,
    };
    commit.into_iter().flat_map(move |commit| {
        own.targets.iter().map(move |target| Due {
            id: id.clone(),
            number: own.number,
            target: target.clone(),
            producer: own.marker_producer,
            epoch: own.marker_epoch,
            commit,
        })
    })
}

impl Due {
    /// The marker's bytes; needed for partitions only. `stamp` is what readers see as its time.
    pub fn batch(&self, coordinator_epoch: i32, stamp: Millis) -> Vec<u8> {
        batch::marker(self.producer, self.epoch, self.commit, coordinator_epoch, stamp as i64)
    }

    /// What is to be proposed to the target's shard, with the marker's [bytes](Due::batch).
    pub fn command<'a>(&'a self, batch: &'a [u8]) -> Command<'a> {
        let (number, commit) = (self.number, self.commit);
        match &self.target {
            Target::Partition { topic, place, partition } => {
                Command::Mark { topic: *topic, place, partition: *partition, number, commit, batch }
            }
            Target::Group(group) => {
                let within = Within { producer: self.producer, epoch: self.epoch, number };
                Command::MarkGroup { group, within, commit }
            }
        }
    }
}

#[cfg(test)]
mod tests;

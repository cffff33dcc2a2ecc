//! What producers and consumers of partitioned streams saw, and whether a log could have done it.
//!
//! The anomalies are those that Jepsen's analyses of Redpanda and Bufstream name: an acknowledged record that nobody finds (lost
//! write), one record twice (duplicate), two values at one offset (inconsistent offset), records of one producer or of one time in
//! another order (reordered), a consumer that is not shown what lies between two records (poll skip) or goes back (non-monotonic
//! poll), a record of a transaction that was aborted or is not yet over (aborted read, dirty read), and a transaction of which a part
//! is there (torn). Every value is new, so that each is known by itself.
//!
//! A last read of everything, when all is quiet, says what is there; it is the measure of all other reads.

use std::collections::BTreeMap;

use crate::Moment;

/// A partition.
pub type Partition = u32;

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acknowledged at this moment, at this offset.
    Done(Moment, u64),
    /// It surely did not happen.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// How a transaction ended, as far as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is under way, or nobody knows.
    Unknown,
    /// Committed.
    Committed,
    /// Aborted.
    Aborted,
}

#[derive(Clone, Copy, Debug)]
struct Send {
    partition: Partition,
    producer: u64,
    value: u64,
    transaction: Option<u64>,
    begun: Moment,
    outcome: Sent,
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    /// When its producer asked for the commit.
    asked: Option<Moment>,
    ended: Ended,
}

/// What a consumer was given.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Who polled.
    pub consumer: u64,
    /// What.
    pub partition: Partition,
    /// From which offset on.
    pub from: u64,
    /// Whether it wants committed records only.
    pub committed: bool,
    /// Offsets and values, in the order in which they came.
    pub records: Vec<(u64, u64)>,
    /// When the answer came.
    pub ended: Moment,
}

/// All that was done to one topic.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    sends: Vec<Send>,
    polls: Vec<Poll>,
    transactions: BTreeMap<u64, Transaction>,
    /// Where partitions begin in the end.
    starts: BTreeMap<Partition, u64>,
}

/// What the last read found: by partition and offset, the values that committed readers see, and whether there are others.
pub type Last = BTreeMap<Partition, Vec<(u64, u64)>>;

impl Stream {
    /// A producer sends a value; its sends to one partition are begun in the order in which they are to stand there. The number for
    /// [`Stream::sent`].
    pub fn send(
        &mut self,
        partition: Partition,
        producer: u64,
        value: u64,
        transaction: Option<u64>,
        now: Moment,
    ) -> usize {
        self.sends.push(Send { partition, producer, value, transaction, begun: now, outcome: Sent::Unknown });
        if let Some(transaction) = transaction {
            let new = Transaction { asked: None, ended: Ended::Unknown };
            self.transactions.entry(transaction).or_insert(new);
        }
        self.sends.len() - 1
    }

    /// A send ended like this.
    pub fn sent(&mut self, send: usize, outcome: Sent) {
        self.sends[send].outcome = outcome;
    }

    /// A producer asks for its transaction's commit.
    pub fn commit(&mut self, transaction: u64, now: Moment) {
        if let Some(own) = self.transactions.get_mut(&transaction) {
            own.asked.get_or_insert(now);
        }
    }

    /// A transaction ended like this.
    pub fn ended(&mut self, transaction: u64, ended: Ended) {
        if let Some(own) = self.transactions.get_mut(&transaction) {
            own.ended = ended;
        }
    }

    /// What lies before this offset has been deleted by the time of the last read: what is known of it stands for what was there.
    pub fn begins(&mut self, partition: Partition, start: u64) {
        self.starts.insert(partition, start);
    }

    /// A poll was answered.
    pub fn poll(&mut self, poll: Poll) {
        self.polls.push(poll);
    }

    /// Operations so far.
    pub fn len(&self) -> usize {
        self.sends.len() + self.polls.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of acknowledged sends that count: without a transaction, or in one that was committed.
    pub fn acknowledged(&self) -> usize {
        let counts = |send: &&Send| {
            let committed = send.transaction.is_none_or(|own| self.transactions[&own].ended == Ended::Committed);
            committed && matches!(send.outcome, Sent::Done(..))
        };
        self.sends.iter().filter(counts).count()
    }

    /// Whether a log explains everything. `committed` is what readers of committed records find in the end, `all` what is there at all.
    ///
    /// # Errors
    /// The first anomaly, by its name.
    pub fn check(&self, committed: &Last, all: &Last) -> Result<(), String> {
        let mut offsets: BTreeMap<u64, (Partition, u64)> = BTreeMap::new();
        let mut values: BTreeMap<(Partition, u64), u64> = BTreeMap::new();
        for (partition, records) in all {
            for (offset, value) in records {
                if let Some((_, before)) = offsets.insert(*value, (*partition, *offset)) {
                    return Err(format!("duplicate: {value} stands at {before} and {offset} of partition {partition}"));
                }
                values.insert((*partition, *offset), *value);
            }
        }
        let mut visible: BTreeMap<(Partition, u64), u64> = committed
            .iter()
            .flat_map(|(partition, records)| records.iter().map(|(offset, value)| ((*partition, *offset), *value)))
            .collect();
        if let Some((place, value)) = visible.iter().find(|(place, value)| values.get(place) != Some(value)) {
            return Err(format!("inconsistent offset: {value} at {place:?}, where there is {:?}", values.get(place)));
        }
        let sends: BTreeMap<u64, &Send> = self.sends.iter().map(|send| (send.value, send)).collect();
        if let Some(value) = offsets.keys().find(|value| !sends.contains_key(value)) {
            return Err(format!("{value} is there, and nobody sent it"));
        }
        self.recall(&mut offsets, &mut values, &mut visible, &sends)?;
        self.check_sends(&offsets, &visible)?;
        self.check_order(&offsets)?;
        self.check_transactions(&offsets, &visible)?;
        self.polls.iter().try_for_each(|poll| self.check_poll(poll, &values, &visible, &sends))?;
        self.check_monotonic()
    }

    /// Adds what was deleted: acknowledgements and polls say where it stood. Of a transaction whose end nobody knows it was shown if any
    /// of it was.
    fn recall(
        &self,
        offsets: &mut BTreeMap<u64, (Partition, u64)>,
        values: &mut BTreeMap<(Partition, u64), u64>,
        visible: &mut BTreeMap<(Partition, u64), u64>,
        sends: &BTreeMap<u64, &Send>,
    ) -> Result<(), String> {
        let start = |partition: &Partition| self.starts.get(partition).copied().unwrap_or(0);
        let acknowledged = self.sends.iter().filter_map(|send| match send.outcome {
            Sent::Done(_, offset) => Some(((send.partition, offset), send.value)),
            _ => None,
        });
        let polled = self
            .polls
            .iter()
            .flat_map(|poll| poll.records.iter().map(|(offset, value)| ((poll.partition, *offset), *value)));
        let mut gone = Vec::new();
        for (place, value) in acknowledged.chain(polled).filter(|(place, _)| place.1 < start(&place.0)) {
            match values.get(&place) {
                Some(known) if *known == value => continue,
                Some(known) => return Err(format!("inconsistent offset: {known} and {value} both stood at {place:?}")),
                None => {}
            }
            values.insert(place, value);
            if let Some(before) = offsets.insert(value, place) {
                return Err(format!("duplicate: {value} stood at {before:?} and {place:?}"));
            }
            gone.push((place, value));
        }
        let shown = self
            .polls
            .iter()
            .filter(|poll| poll.committed)
            .flat_map(|poll| poll.records.iter().map(|(_, value)| *value));
        let shown: Vec<u64> = shown.chain(visible.values().copied()).collect();
        let of = |value: &u64| sends.get(value).and_then(|send| send.transaction);
        let shown: std::collections::BTreeSet<u64> = shown.iter().filter_map(of).collect();
        for (place, value) in gone {
            let counts = of(&value).is_none_or(|own| match self.transactions[&own].ended {
                Ended::Committed => true,
                Ended::Aborted => false,
                Ended::Unknown => shown.contains(&own),
            });
            if counts {
                visible.insert(place, value);
            }
        }
        Ok(())
    }

    fn check_sends(
        &self,
        offsets: &BTreeMap<u64, (Partition, u64)>,
        visible: &BTreeMap<(Partition, u64), u64>,
    ) -> Result<(), String> {
        for send in &self.sends {
            let (value, place) = (send.value, offsets.get(&send.value));
            match (send.outcome, place) {
                (Sent::Done(ended, offset), None) => {
                    return Err(format!("lost write: {value}, acknowledged at {ended} as {offset}, is not there"));
                }
                (Sent::Done(_, offset), Some(place)) if *place != (send.partition, offset) => {
                    return Err(format!(
                        "inconsistent offset: {value} was acknowledged as {offset} and is at {place:?}"
                    ));
                }
                (Sent::Refused, Some(place)) => {
                    return Err(format!("{value} was refused, and is at {place:?}"));
                }
                (_, Some(place)) if send.transaction.is_none() && !visible.contains_key(place) => {
                    return Err(format!("unseen: {value} at {place:?} belongs to no transaction and is not shown"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A producer's records stand in the order of its sends; what was acknowledged stands before whatever was begun afterwards.
    fn check_order(&self, offsets: &BTreeMap<u64, (Partition, u64)>) -> Result<(), String> {
        let mut last: BTreeMap<(Partition, u64), (u64, u64)> = BTreeMap::new();
        let mut operations: BTreeMap<Partition, Vec<(Moment, Moment, u64, u64)>> = BTreeMap::new();
        for send in &self.sends {
            let Some((partition, offset)) = offsets.get(&send.value) else { continue };
            if let Some((value, before)) = last.insert((*partition, send.producer), (send.value, *offset))
                && before > *offset
            {
                return Err(format!(
                    "reordered: producer {} sent {value} before {}, and they stand at {before} and {offset} of {partition}",
                    send.producer, send.value
                ));
            }
            let ended = if let Sent::Done(ended, _) = send.outcome { ended } else { Moment::MAX };
            operations.entry(*partition).or_default().push((send.begun, ended, 2 * offset + 1, send.value));
        }
        let real_time = |(partition, own): (&Partition, &Vec<_>)| {
            crate::real_time(own).map_err(|why| format!("reordered in partition {partition}: {why}"))
        };
        operations.iter().try_for_each(real_time)
    }

    fn check_transactions(
        &self,
        offsets: &BTreeMap<u64, (Partition, u64)>,
        visible: &BTreeMap<(Partition, u64), u64>,
    ) -> Result<(), String> {
        let mut shown: BTreeMap<u64, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for send in &self.sends {
            let (Some(own), Some(place)) = (send.transaction, offsets.get(&send.value)) else { continue };
            let sides = shown.entry(own).or_default();
            let side = if visible.contains_key(place) { &mut sides.0 } else { &mut sides.1 };
            side.push(send.value);
        }
        for (own, (seen, hidden)) in shown {
            match self.transactions[&own].ended {
                Ended::Committed if !hidden.is_empty() => {
                    return Err(format!("torn transaction {own}: committed, and {hidden:?} are not shown"));
                }
                Ended::Aborted if !seen.is_empty() => {
                    return Err(format!("aborted read: {seen:?} of the aborted transaction {own} are shown"));
                }
                Ended::Unknown if !seen.is_empty() && !hidden.is_empty() => {
                    return Err(format!("torn transaction {own}: {seen:?} are shown and {hidden:?} are not"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_poll(
        &self,
        poll: &Poll,
        values: &BTreeMap<(Partition, u64), u64>,
        visible: &BTreeMap<(Partition, u64), u64>,
        sends: &BTreeMap<u64, &Send>,
    ) -> Result<(), String> {
        let who = format!("consumer {} of partition {} from {}", poll.consumer, poll.partition, poll.from);
        let mut next = poll.from;
        for (offset, value) in &poll.records {
            if *offset < next {
                return Err(format!("non-monotonic poll: {who} was given {offset} after {next}"));
            }
            let place = (poll.partition, *offset);
            if values.get(&place) != Some(value) {
                let there = values.get(&place);
                return Err(format!(
                    "inconsistent offset: {who} was given {value} at {offset}, where there is {there:?}"
                ));
            }
            let expected = if poll.committed { visible } else { values };
            let skipped = expected.range((poll.partition, next)..place).next();
            if let Some(((_, skipped), value)) = skipped {
                return Err(format!("poll skip: {who} was not given {value} at {skipped}, but {offset}"));
            }
            if poll.committed {
                let send = sends.get(value).ok_or_else(|| format!("{who} was given {value}, which nobody sent"))?;
                if let Some(own) = send.transaction {
                    let transaction = self.transactions[&own];
                    if !visible.contains_key(&place) {
                        return Err(format!("aborted read: {who} was given {value} of transaction {own}"));
                    }
                    if transaction.asked.is_none_or(|asked| asked > poll.ended) {
                        return Err(format!(
                            "dirty read: {who} was given {value} before transaction {own} was committed"
                        ));
                    }
                }
            }
            next = offset + 1;
        }
        Ok(())
    }

    /// A consumer that goes on from where it was is not given anything twice.
    fn check_monotonic(&self) -> Result<(), String> {
        let mut last: BTreeMap<(u64, Partition), u64> = BTreeMap::new();
        for poll in &self.polls {
            let at = (poll.consumer, poll.partition);
            let before = last.get(&at).copied().unwrap_or(0);
            if poll.from < before {
                return Err(format!(
                    "non-monotonic poll: consumer {} went back from {before} to {}",
                    poll.consumer, poll.from
                ));
            }
            let end = poll.records.last().map_or(poll.from, |(offset, _)| offset + 1);
            last.insert(at, end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound history: two producers, a committed and an aborted transaction, one unknown send that happened.
    fn sound() -> (Stream, Last, Last) {
        let mut stream = Stream::default();
        let done = |stream: &mut Stream, value, producer, transaction, at: u64, offset| {
            let send = stream.send(0, producer, value, transaction, at);
            stream.sent(send, Sent::Done(at + 5, offset));
        };
        done(&mut stream, 1, 1, None, 10, 0);
        done(&mut stream, 2, 2, Some(7), 20, 1);
        done(&mut stream, 3, 1, None, 30, 2);
        stream.commit(7, 40);
        stream.ended(7, Ended::Committed);
        done(&mut stream, 4, 2, Some(8), 60, 4);
        stream.ended(8, Ended::Aborted);
        stream.send(0, 1, 5, None, 70);
        let refused = stream.send(0, 1, 6, None, 80);
        stream.sent(refused, Sent::Refused);
        let poll = |from, records: &[(u64, u64)], ended| Poll {
            consumer: 1,
            partition: 0,
            from,
            committed: true,
            records: records.to_vec(),
            ended,
        };
        stream.poll(poll(0, &[(0, 1)], 38));
        stream.poll(poll(1, &[(1, 2), (2, 3)], 50));
        stream.poll(poll(3, &[(6, 5)], 90));
        let committed = Last::from([(0, vec![(0, 1), (1, 2), (2, 3), (6, 5)])]);
        let all = Last::from([(0, vec![(0, 1), (1, 2), (2, 3), (4, 4), (6, 5)])]);
        (stream, committed, all)
    }

    fn verdict(change: impl FnOnce(&mut Stream, &mut Vec<(u64, u64)>, &mut Vec<(u64, u64)>)) -> String {
        let (mut stream, mut committed, mut all) = sound();
        let (seen, there) = (committed.get_mut(&0).expect("one"), all.get_mut(&0).expect("one"));
        change(&mut stream, seen, there);
        stream.check(&committed, &all).expect_err("an anomaly")
    }

    #[test]
    fn a_sound_history_is_explained() {
        let (stream, committed, all) = sound();
        stream.check(&committed, &all).expect("it is sound");
        assert_eq!(stream.acknowledged(), 3);
        // Whether an unknown one happened is nobody's business.
        let without =
            |last: &Last| Last::from([(0, last[&0].iter().filter(|record| record.1 != 5).copied().collect())]);
        let mut stream = stream;
        stream.polls.pop();
        stream.check(&without(&committed), &without(&all)).expect("sound too");
    }

    #[test]
    fn every_anomaly_has_its_name() {
        let remove = |records: &mut Vec<(u64, u64)>, value| records.retain(|record| record.1 != value);
        let lost = verdict(|stream, seen, all| {
            stream.polls.clear();
            [seen, all].into_iter().for_each(|records| remove(records, 3));
        });
        assert!(lost.starts_with("lost write: 3"), "{lost}");
        let twice = verdict(|_, _, all| all.push((9, 1)));
        assert!(twice.starts_with("duplicate: 1"), "{twice}");
        let refused = verdict(|_, seen, all| [seen, all].into_iter().for_each(|records| records.push((9, 6))));
        assert!(refused.contains("was refused"), "{refused}");
        let unsent = verdict(|_, seen, all| [seen, all].into_iter().for_each(|records| records.push((9, 66))));
        assert!(unsent.contains("nobody sent"), "{unsent}");
        let inconsistent = verdict(|stream, _, _| stream.polls[0].records[0].1 = 3);
        assert!(inconsistent.starts_with("inconsistent offset"), "{inconsistent}");
        let acknowledged = verdict(|stream, _, _| stream.sends[0].outcome = Sent::Done(15, 7));
        assert!(acknowledged.starts_with("inconsistent offset"), "{acknowledged}");
        let reordered = verdict(|stream, _, _| stream.sends.swap(0, 2));
        assert!(reordered.starts_with("reordered"), "{reordered}");
        let late = verdict(|stream, _, _| stream.sends[0].begun = 45);
        assert!(late.starts_with("reordered"), "{late}");
        let skipped = verdict(|stream, _, _| {
            stream.polls[1].records.remove(0);
        });
        assert!(skipped.starts_with("poll skip"), "{skipped}");
        let back = verdict(|stream, _, _| stream.polls[2].from = 1);
        assert!(back.starts_with("poll skip") || back.starts_with("non-monotonic"), "{back}");
        let went_back = verdict(|stream, _, _| stream.polls.swap(0, 1));
        assert!(went_back.starts_with("non-monotonic"), "{went_back}");
        let aborted = verdict(|_, seen, _| seen.push((4, 4)));
        assert!(aborted.starts_with("aborted read"), "{aborted}");
        let polled = verdict(|stream, _, _| stream.polls[2].records.insert(0, (4, 4)));
        assert!(polled.starts_with("aborted read"), "{polled}");
        let dirty = verdict(|stream, _, _| stream.polls[1].ended = 39);
        assert!(dirty.starts_with("dirty read"), "{dirty}");
        let torn = verdict(|stream, seen, _| {
            stream.polls.clear();
            remove(seen, 2);
        });
        assert!(torn.starts_with("torn transaction 7"), "{torn}");
        let unseen = verdict(|stream, seen, _| {
            stream.polls.clear();
            remove(seen, 3);
        });
        assert!(unseen.starts_with("unseen: 3"), "{unseen}");
    }
}

//! What an entry does to the shard's slots ([`crate::slots`]), and which units are refused because of them.

use base::{Millis, SlotSet, key_slot};
use store::codec::{Corrupt, Input, Stored};
use store::keyspace::Durability;
use store::value::Value;

use super::{Sink, State};
use crate::command::{self, Args, Flags, Spec};
use crate::commit::Step;
use crate::entry::{self, Part as MultiPart, Unit};
use crate::error::CommandError;
use crate::slots::{Part, Record, SlotAnswer, SlotChange, Slots, read_record};

/// The shard does not answer for a key, or not at the moment. Nothing was done.
pub const NOT_HERE: CommandError = CommandError::new(
    "TRYAGAIN the slot of this key is on its way to another shard; nothing was done, ask again in a moment",
);
/// What a client is told whose wait ends because its key has gone to another shard.
const MOVED: &[u8] = b"-UNBLOCKED the slot of a key that was waited for has moved to another shard; ask again\r\n";

impl State {
    /// The slots that it answers for.
    #[inline]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// From now on this leader takes nothing in for these slots, or takes everything again. Not replicated.
    pub fn hold_slots(&mut self, held: Option<SlotSet>) {
        self.slots.hold(held);
    }

    /// Whether a command may be taken in here and now.
    #[inline]
    pub fn takes(&self, spec: &Spec, args: Args<'_>) -> bool {
        self.slots.takes_all() || spec.key_places(args).iter().all(|place| self.slots.takes(args[*place]))
    }

    /// Whether a whole unit may be.
    pub fn takes_unit(&self, unit: &Unit<'_>) -> bool {
        self.slots.takes_all() || unit_keys(unit, |key| self.slots.takes(key))
    }

    /// Whether a unit is refused at apply because a slot is another shard's, or nobody's at the moment.
    pub(super) fn is_elsewhere(&self, unit: &Unit<'_>) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.freeze_unchecked {
            return false;
        }
        let is_home = match unit {
            Unit::Stream { op, .. } => self.is_home_of(op),
            Unit::Multi(multi) => self.is_home_of_all(multi),
            Unit::Commit(Step::Decide { unit, .. }) => match entry::read_unit(&mut Input::new(unit)) {
                Ok(Unit::Multi(multi)) => self.is_home_of_all(&multi),
                _ => true,
            },
            _ => true,
        };
        if !is_home {
            return true;
        }
        let clears = || match unit {
            Unit::Command { words, .. } => command::find(words[0]).is_some_and(is_clearing),
            Unit::Multi(multi) => multi.clone().any_command(|words| command::find(words[0]).is_some_and(is_clearing)),
            _ => false,
        };
        self.slots.is_split() && (!unit_keys(unit, |key| self.slots.serves(key)) || self.slots.is_frozen() && clears())
    }

    /// A change of whole databases: what arrives from another shard cannot be relied on any more.
    pub(super) fn note_clearing(&mut self, spec: &Spec) {
        if is_clearing(spec) {
            self.slots.break_arriving();
        }
    }

    pub(super) fn slot_change<C, S: Sink<C>>(&mut self, change: SlotChange, now: Millis, sink: &mut S) -> SlotAnswer {
        let index = self.applied;
        match change {
            SlotChange::Attempt { to, slots } => self.slots.attempt(to, &slots, index),
            SlotChange::Begin { from, slots, epoch } => self.slots.begin(from, &slots, epoch, index),
            SlotChange::Import { from, epoch, number, stamp, records } => {
                self.stamp = self.stamp.max(stamp);
                match self.slots.import(from, epoch, number) {
                    Err(answer) => answer,
                    Ok(_) => match self.import(&records, now.max(stamp)) {
                        Ok(()) => SlotAnswer::Done,
                        // The same on every replica: it is begun anew.
                        Err(_) => {
                            self.slots.break_arriving();
                            SlotAnswer::Broken
                        }
                    },
                }
            }
            #[cfg(any(test, feature = "planted"))]
            SlotChange::Freeze { epoch } if self.planted.freeze_over_locks => self.slots.freeze(epoch, true),
            // Who was prepared in these slots, or waits there, goes first: that takes a moment.
            SlotChange::Freeze { epoch }
                if self
                    .slots
                    .leaving()
                    .is_some_and(|leaving| leaving.epoch == epoch && self.commits.holds_in(&leaving.slots)) =>
            {
                SlotAnswer::Wait
            }
            SlotChange::Freeze { epoch } => self.slots.freeze(epoch, true),
            SlotChange::Thaw { epoch } => self.slots.freeze(epoch, false),
            SlotChange::Open { from, epoch, stamp } => {
                #[cfg(any(test, feature = "planted"))]
                let any_epoch = self.planted.stale_open;
                #[cfg(not(any(test, feature = "planted")))]
                let any_epoch = false;
                self.stamp = self.stamp.max(stamp);
                let answer = self.slots.open(from, epoch, any_epoch);
                if answer == SlotAnswer::Done {
                    // Who watches a key that is absent here may have watched it where it was not.
                    self.logged.tables.touch_absent();
                }
                answer
            }
            SlotChange::Gone { epoch } => match self.slots.gone(epoch, index) {
                None => SlotAnswer::Stale,
                Some(slots) => {
                    self.logged.tables.touch_absent();
                    self.memory.tables.touch_absent();
                    self.end_waits_in(&slots, sink);
                    SlotAnswer::Done
                }
            },
            SlotChange::Purge { keys } => {
                for (db, key) in keys.iter().filter(|(_, key)| self.slots.is_litter(key)) {
                    self.logged.tables.remove(*db, key, now);
                }
                SlotAnswer::Done
            }
            SlotChange::Swept { number } => {
                self.slots.swept(number);
                SlotAnswer::Done
            }
        }
    }

    fn import(&mut self, records: &[u8], now: Millis) -> Result<(), Corrupt> {
        let mut input = Input::new(records);
        while let Some(record) = read_record(&mut input)? {
            match record {
                Record::Put { db, expire, key } => {
                    let value = Value::decode(&mut input)?;
                    self.take_in(db, key, value, expire, now);
                }
                Record::Gone { db, key } => {
                    self.logged.tables.remove(db, key, now);
                }
                Record::Part { db, expire, key, ends: (first, last), bytes } => {
                    let arriving = self.slots.arriving_mut().ok_or(Corrupt("nothing arrives"))?;
                    if first {
                        arriving.part = Some(Part { db, key: key.to_vec(), expire, bytes: Vec::new() });
                    }
                    let part = arriving.part.as_mut().filter(|part| part.db == db && part.key == key);
                    let part = part.ok_or(Corrupt("a part of another value"))?;
                    part.bytes.extend_from_slice(bytes);
                    if last {
                        let whole = arriving.part.take().unwrap_or_default();
                        let value = Value::decode(&mut Input::new(&whole.bytes))?;
                        self.take_in(db, key, value, expire, now);
                    }
                }
                Record::Script { source, loaded } => {
                    // One that does not compile here would not have run there.
                    let _ = self.logged.scripts.keep(source, loaded, &self.limits);
                }
                Record::Library { source } => {
                    let _ = self.libraries.load(source, true, &self.limits);
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, db: u8, key: &[u8], value: Value, expire: Millis, now: Millis) {
        let arrives = self.slots.arriving().is_some_and(|arriving| arriving.slots.has(key_slot(key)));
        if arrives {
            self.logged.tables.import(db, key, value, expire, now);
        }
    }

    fn end_waits_in<C, S: Sink<C>>(&mut self, slots: &SlotSet, sink: &mut S) {
        for class in [Durability::Fsync, Durability::Memory] {
            for waiter in self.half_mut(class).waiters.take_in(slots) {
                sink.served(waiter, MOVED);
            }
        }
        self.update_watching();
    }

    /// Scripts that another shard is to know too.
    pub fn scripts(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.logged.scripts.sources()
    }

    /// Libraries of functions, likewise.
    pub fn libraries(&self) -> impl Iterator<Item = &[u8]> {
        self.libraries.iter().map(|(_, library)| library.code())
    }
}

fn is_clearing(spec: &Spec) -> bool {
    spec.flags.has(Flags::WHOLE) && spec.is_write()
}

/// Whether all keys that a unit names are such.
fn unit_keys(unit: &Unit<'_>, is_such: impl Fn(&[u8]) -> bool) -> bool {
    let command = |words: Args<'_>| match command::find(words[0]) {
        Some(spec) if command::check(spec, words).is_ok() => {
            spec.key_places(words).iter().all(|place| is_such(words[*place]))
        }
        _ => true,
    };
    match unit {
        Unit::Command { words, .. } => command(words),
        Unit::Multi(multi) => {
            multi.watches.iter().all(|watch| is_such(&watch.key)) && !multi.clone().any_command(|words| !command(words))
        }
        Unit::Commit(Step::Prepare { keys, watches, .. }) => {
            keys.iter().all(|key| is_such(key)) && watches.iter().all(|watch| is_such(&watch.key))
        }
        Unit::Commit(Step::Decide { foreign, unit, .. }) => {
            super::commits::own_keys(foreign, unit).iter().all(|key| is_such(key))
        }
        Unit::Versions(keys) => {
            let mut keys = *keys;
            while let Ok(Some((_, key))) = entry::read_expire(&mut keys) {
                if !is_such(key) {
                    return false;
                }
            }
            true
        }
        _ => true,
    }
}

/// Every key that a unit names, watched ones too; whether it watches any.
pub fn keys_of(unit: &Unit<'_>, mut visit: impl FnMut(&[u8])) -> bool {
    let visit = std::cell::RefCell::new(&mut visit);
    unit_keys(unit, |key| {
        visit.borrow_mut()(key);
        true
    });
    matches!(unit, Unit::Multi(multi) if !multi.watches.is_empty())
}

impl<'a> entry::Multi<'a> {
    /// Whether any of the commands that follow is such.
    pub(super) fn any_command(mut self, mut is_such: impl FnMut(Args<'_>) -> bool) -> bool {
        for _ in 0..self.count {
            match self.next_part() {
                Ok(MultiPart::Command(_, words)) if is_such(&words) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

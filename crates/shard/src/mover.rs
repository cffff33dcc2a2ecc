//! Takes slots from one shard to another while clients write: beside the parent's leader, by entries of both logs.
//!
//! ```text
//!   Attempt ─► Begin ─► copy ─► what changed ─► hold ─► Freeze ─► the rest ─► Open ─► Gone ─► the map
//!   parent     child    child   child           door    parent    child       child   parent  meta
//! ```
//!
//! It may be stopped anywhere and begun anew, here or beside another leader: a new attempt has a larger epoch, and once the child
//! has heard of that, nobody can open the slots by an earlier one; so a parent that was frozen may thaw. If the child has opened
//! already, what is left is done. Every question may be asked twice. Writes go on until Freeze; keys that change after they
//! were copied are sent again.
//!
//! Pure: whoever drives it asks for it and tells it the answers ([`Mover::next`], [`Mover::told`]).

use std::collections::{BTreeSet, VecDeque};

use base::{Duration, GroupId, Millis, SlotSet, key_slot};
use store::keyspace::Durability;
use store::table::Place;
use store::value::Frozen;

use crate::live::Shard;
use crate::slots::{Record, SlotAnswer, SlotChange, put_record};
use crate::state::State;

/// Bytes of keys and values in one import, about.
const IMPORT_BYTES: usize = 128 << 10;
/// Values that cost more are sent in pieces.
const LARGE_BYTES: usize = 64 << 10;
/// Keys that are looked at while the state is held, and steps of that between two questions.
const STEP_KEYS: usize = 512;
const STEPS: usize = 16;
/// So few changed keys are left for the freeze.
const FEW_KEYS: usize = 256;
/// After so many imports of changed keys it freezes however many there are: they may come faster than they can be sent.
const DELTAS_MAX: usize = 200;
/// How often the freeze waits for transactions across shards before it lets go and begins anew: two seconds.
const HELD_MAX: usize = 40;
/// Pauses: before a question is asked again, and between hold and freeze, so that what was taken in before has its place.
const AGAIN: Duration = Duration::from_millis(50);
const HOLD: Duration = Duration::from_millis(20);

/// What is to be asked next.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The parent, here.
    Parent(SlotChange),
    /// The child, wherever it is led.
    Child(SlotChange),
    /// The meta group.
    Meta(Box<cluster::Change>),
    /// Nobody, for so long.
    Pause(Duration),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The answer.
    Slots(SlotAnswer),
    /// The meta group has done it.
    Done,
    /// Not known: it may have been done.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Attempt,
    Begin,
    Thaw,
    Copy,
    Delta,
    Hold,
    Freeze,
    Rest,
    Open,
    Gone,
    Map,
    Over,
}

/// Bugs to be found (see `sim`).
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// The child answers without what changed last.
    pub no_rest: bool,
    /// Keys that went are not told.
    pub deletes_forgotten: bool,
    /// The parent lets go before the child answers.
    pub gone_first: bool,
}

/// See the module.
pub struct Mover {
    from: GroupId,
    to: GroupId,
    slots: SlotSet,
    step: Step,
    epoch: u64,
    frozen: bool,
    number: u64,
    /// Records on their way.
    sending: Option<(Millis, Vec<u8>)>,
    place: Option<Place>,
    large: VecDeque<(u8, Vec<u8>)>,
    value: Option<Value>,
    scripts: BTreeSet<Vec<u8>>,
    deltas: usize,
    waits: bool,
    /// How often the freeze had to wait.
    held: usize,
    /// Keys that were sent, those that changed again and again too.
    pub keys: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Attempts so far.
    pub attempts: u64,
    /// Bugs.
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

/// A large value on its way.
struct Value {
    db: u8,
    key: Vec<u8>,
    expire: Millis,
    frozen: Frozen,
    begun: bool,
}

impl Mover {
    /// These slots are to go from one shard to another.
    pub fn new(from: GroupId, to: GroupId, slots: SlotSet) -> Mover {
        Mover {
            from,
            to,
            slots,
            step: Step::Attempt,
            epoch: 0,
            frozen: false,
            number: 0,
            sending: None,
            place: None,
            large: VecDeque::new(),
            value: None,
            scripts: BTreeSet::new(),
            deltas: 0,
            waits: false,
            held: 0,
            keys: 0,
            bytes: 0,
            attempts: 0,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }

    /// The shard that takes them.
    pub fn to(&self) -> GroupId {
        self.to
    }

    /// Whether the map says that it is done.
    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// What it is at, for people.
    pub fn word(&self) -> &'static str {
        match self.step {
            Step::Attempt | Step::Begin | Step::Thaw => "beginning",
            Step::Copy => "copying keys",
            Step::Delta => "sending what changed",
            Step::Hold | Step::Freeze | Step::Rest | Step::Open => "handing over",
            Step::Gone | Step::Map => "telling the cluster",
            Step::Over => "done",
        }
    }

    /// What is to be asked. `parent` is led here, as far as known.
    pub fn next<C>(&mut self, parent: &Shard<C>) -> Ask {
        if std::mem::take(&mut self.waits) {
            return Ask::Pause(AGAIN);
        }
        let (from, to, epoch) = (self.from, self.to, self.epoch);
        match self.step {
            Step::Attempt => Ask::Parent(SlotChange::Attempt { to, slots: self.slots.clone() }),
            Step::Begin => Ask::Child(SlotChange::Begin { from, slots: self.slots.clone(), epoch }),
            Step::Thaw => Ask::Parent(SlotChange::Thaw { epoch }),
            Step::Copy | Step::Delta | Step::Rest => self.more(parent),
            Step::Hold => {
                self.held = 0;
                parent.state_mut().hold_slots(Some(self.slots.clone()));
                self.step = Step::Freeze;
                Ask::Pause(HOLD)
            }
            Step::Freeze => Ask::Parent(SlotChange::Freeze { epoch }),
            Step::Open => Ask::Child(SlotChange::Open { from, epoch, stamp: parent.state().stamp() }),
            Step::Gone => Ask::Parent(SlotChange::Gone { epoch }),
            Step::Map | Step::Over => {
                Ask::Meta(Box::new(cluster::Change::Moved { from, to, slots: self.slots.clone() }))
            }
        }
    }

    /// What came of what was asked last; not of a pause.
    pub fn told<C>(&mut self, parent: &Shard<C>, told: Told) {
        use SlotAnswer::{Begun, Broken, Done, Gone, Opened, Stale, Wait};
        let answer = match told {
            Told::Unknown => {
                self.waits = true;
                return;
            }
            Told::Done => {
                self.step = Step::Over;
                return;
            }
            Told::Slots(answer) => answer,
        };
        self.step = match (self.step, answer) {
            (Step::Attempt, Begun { epoch, frozen }) => {
                (self.epoch, self.frozen) = (epoch, frozen);
                self.attempts += 1;
                Step::Begin
            }
            (Step::Attempt, Gone) => Step::Map,
            (Step::Begin, Done) if self.frozen => Step::Thaw,
            (Step::Begin, Done) | (Step::Thaw, Done) => self.copy(parent),
            (Step::Begin, Opened) => Step::Gone,
            (Step::Begin, Wait) => {
                self.waits = true;
                Step::Begin
            }
            (Step::Copy | Step::Delta | Step::Rest, Done) => {
                self.number += 1;
                self.bytes += self.sending.take().map_or(0, |(_, records)| records.len() as u64);
                self.step
            }
            (Step::Freeze, Done) => {
                parent.state_mut().hold_slots(None);
                #[cfg(any(test, feature = "planted"))]
                if self.planted.gone_first {
                    self.step = Step::Gone;
                    return;
                }
                #[cfg(any(test, feature = "planted"))]
                if self.planted.no_rest {
                    self.step = Step::Open;
                    return;
                }
                Step::Rest
            }
            (Step::Freeze, Wait) if self.held < HELD_MAX => {
                // Transactions across shards hold keys there: nothing new comes in meanwhile.
                self.held += 1;
                self.waits = true;
                Step::Freeze
            }
            (Step::Open, Done) => Step::Gone,
            (Step::Gone, Done) => Step::Map,
            (_, Stale | Broken | Opened | Gone | Wait | Done | Begun { .. }) => {
                self.stop(parent);
                self.waits = true;
                Step::Attempt
            }
        };
        if matches!(self.step, Step::Gone | Step::Map) {
            self.stop(parent);
        }
    }

    /// Lets go of what it holds of the parent's state: at the end, or where the lead has moved.
    pub fn stop<C>(&mut self, parent: &Shard<C>) {
        let mut state = parent.state_mut();
        state.hold_slots(None);
        state.tables_mut(Durability::Fsync).track(None);
        (self.sending, self.value) = (None, None);
    }

    fn copy<C>(&mut self, parent: &Shard<C>) -> Step {
        // From here on nothing that changes is missed; what is read now is read after this.
        let mut state = parent.state_mut();
        state.hold_slots(None);
        state.tables_mut(Durability::Fsync).track(Some(self.slots.clone()));
        drop(state);
        (self.number, self.deltas, self.place) = (0, 0, Some(Place::default()));
        self.large.clear();
        self.scripts.clear();
        (self.sending, self.value) = (None, None);
        Step::Copy
    }

    /// The next import, or the next step.
    fn more<C>(&mut self, parent: &Shard<C>) -> Ask {
        if self.sending.is_none() {
            let mut records = Vec::new();
            if parent.state().tables(Durability::Fsync).tracked().is_none() {
                // Databases were cleared or swapped, or the state is another one.
                self.stop(parent);
                self.step = Step::Attempt;
                return Ask::Pause(AGAIN);
            }
            self.put_value(parent, &mut records);
            if self.step == Step::Copy && records.is_empty() {
                self.put_scripts(&parent.state(), &mut records);
                self.put_keys(parent, &mut records);
            } else if records.is_empty() {
                self.put_changed(parent, &mut records);
            }
            if records.is_empty() {
                return match self.step {
                    Step::Open | Step::Hold => self.next(parent),
                    _ => Ask::Pause(Duration::ZERO),
                };
            }
            self.sending = Some((parent.state().stamp(), records));
        }
        let (stamp, records) = self.sending.clone().unwrap_or_default();
        let (from, epoch, number) = (self.from, self.epoch, self.number);
        Ask::Child(SlotChange::Import { from, epoch, number, stamp, records })
    }

    fn put_scripts(&mut self, state: &State, records: &mut Vec<u8>) {
        for (source, loaded) in state.scripts() {
            if records.len() < IMPORT_BYTES && !self.scripts.contains(source) {
                self.scripts.insert(source.to_vec());
                put_record(records, &Record::Script { source, loaded });
            }
        }
        for source in state.libraries() {
            if records.len() < IMPORT_BYTES && !self.scripts.contains(source) {
                self.scripts.insert(source.to_vec());
                put_record(records, &Record::Library { source });
            }
        }
    }

    fn put_keys<C>(&mut self, parent: &Shard<C>, records: &mut Vec<u8>) {
        for _ in 0..STEPS {
            if records.len() >= IMPORT_BYTES || !self.large.is_empty() {
                break;
            }
            let Some(place) = self.place else {
                break;
            };
            let state = parent.state();
            let (slots, large, keys) = (&self.slots, &mut self.large, &mut self.keys);
            self.place = state.tables(Durability::Fsync).sift(place, STEP_KEYS, |db, entry| {
                if !slots.has(key_slot(entry.key())) {
                    return;
                }
                *keys += 1;
                if entry.value().heap_bytes() > LARGE_BYTES {
                    return large.push_back((db, entry.key().to_vec()));
                }
                put_record(records, &Record::Put { db, expire: entry.expire(), key: entry.key() });
                entry.value().encode(records);
            });
        }
        if records.is_empty() && self.place.is_none() && self.large.is_empty() && self.value.is_none() {
            self.step = Step::Delta;
        }
    }

    fn put_changed<C>(&mut self, parent: &Shard<C>, records: &mut Vec<u8>) {
        let left = parent.state().tables(Durability::Fsync).tracked().unwrap_or(0);
        if self.step == Step::Delta && (left <= FEW_KEYS || self.deltas >= DELTAS_MAX) {
            self.step = Step::Hold;
            return;
        }
        if left == 0 {
            self.put_scripts(&parent.state(), records);
            if records.is_empty() {
                self.step = Step::Open;
            }
            return;
        }
        self.deltas += 1;
        while records.len() < IMPORT_BYTES {
            let taken = parent.state_mut().tables_mut(Durability::Fsync).take_tracked(16);
            if taken.is_empty() {
                break;
            }
            let state = parent.state();
            for (db, key) in taken {
                self.keys += 1;
                let Some(entry) = state.tables(Durability::Fsync).entry_of(db, &key) else {
                    #[cfg(any(test, feature = "planted"))]
                    if self.planted.deletes_forgotten {
                        continue;
                    }
                    put_record(records, &Record::Gone { db, key: &key });
                    continue;
                };
                if entry.value().heap_bytes() > LARGE_BYTES {
                    self.large.push_back((db, key));
                    continue;
                }
                put_record(records, &Record::Put { db, expire: entry.expire(), key: &key });
                entry.value().encode(records);
            }
        }
    }

    /// Goes on with a large value, or begins the next one that waits.
    fn put_value<C>(&mut self, parent: &Shard<C>, records: &mut Vec<u8>) {
        while self.value.is_none()
            && let Some((db, key)) = self.large.pop_front()
        {
            let mut state = parent.state_mut();
            let tables = state.tables_mut(Durability::Fsync);
            if let Some((frozen, expire)) = tables.freeze(db, &key) {
                self.value = Some(Value { db, key, expire, frozen, begun: false });
            } else if let Some(entry) = tables.entry_of(db, &key) {
                put_record(records, &Record::Put { db, expire: entry.expire(), key: &key });
                entry.value().encode(records);
                return;
            }
            // One that has gone meanwhile has changed, and is told so.
        }
        let Some(value) = &mut self.value else {
            return;
        };
        let mut bytes = Vec::new();
        let last = value.frozen.write(IMPORT_BYTES, &mut bytes);
        let ends = (!std::mem::replace(&mut value.begun, true), last);
        put_record(records, &Record::Part { db: value.db, expire: value.expire, key: &value.key, ends, bytes: &bytes });
        if last {
            self.value = None;
        }
    }
}

#[cfg(test)]
mod tests;

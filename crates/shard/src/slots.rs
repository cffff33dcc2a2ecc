//! The slots that a shard answers for: replicated state of its own, changed only by entries of its own log, so that a router
//! whose map is old can never write to a shard that has given a key away.
//!
//! ```text
//!   parent   own ─ Attempt(epoch) ─ … copies … ─ Freeze ─► frozen ─────────────── Gone ─► litter ─ Purge… Swept ─► nothing
//!                                                  │ the rest is sent              ▲
//!   child    nothing ─ Begin(epoch) ─ Import… ─────┴─ Import… ─ Open ─► own ───────┘
//! ```
//!
//! An epoch is the index of an entry of the parent's log, so whoever begins anew has a larger one, and a child that has heard
//! of it takes no word of an earlier one. *Litter* are keys of slots that are not (or no longer) the shard's: nobody sees them,
//! and they go by and by; until then those slots are not taken in again.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, Millis, SLOT_COUNT, SlotSet, key_slot};
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

/// Slots on their way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Who takes them.
    pub to: GroupId,
    /// Which.
    pub slots: SlotSet,
    /// The newest attempt.
    pub epoch: u64,
    /// Nothing changes in them any more.
    pub frozen: bool,
}

/// Slots on their way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arriving {
    /// Who gives them.
    pub from: GroupId,
    /// Which.
    pub slots: SlotSet,
    /// The attempt.
    pub epoch: u64,
    /// The number of the next import.
    pub next: u64,
    /// What has come cannot be relied on: whole databases have been cleared or swapped since.
    pub broken: bool,
    /// A value of which a part has come: its database, key, expiry and stored form.
    pub part: Option<Part>,
}

/// The beginning of a large value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its database.
    pub db: u8,
    /// Its key.
    pub key: Vec<u8>,
    /// Its expiry, 0 for none.
    pub expire: Millis,
    /// What has come of its stored form.
    pub bytes: Vec<u8>,
}

/// What happens to a shard's slots: a unit of an entry of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// The parent's leader begins, or begins anew.
    Attempt {
        /// Who is to take them.
        to: GroupId,
        /// Which.
        slots: SlotSet,
    },
    /// The child is to take them; whatever came by an earlier attempt is void.
    Begin {
        /// Who gives them.
        from: GroupId,
        /// Which.
        slots: SlotSet,
        /// The attempt.
        epoch: u64,
    },
    /// Keys for the child.
    Import {
        /// Who gives them.
        from: GroupId,
        /// The attempt.
        epoch: u64,
        /// Counted from 0: each is taken once, in order.
        number: u64,
        /// The parent's shard time.
        stamp: Millis,
        /// See [`put_record`].
        records: Vec<u8>,
    },
    /// The parent answers nothing more in these slots.
    Freeze {
        /// The attempt.
        epoch: u64,
    },
    /// It does again.
    Thaw {
        /// The attempt.
        epoch: u64,
    },
    /// The child has everything, and answers from now on.
    Open {
        /// Who gave them.
        from: GroupId,
        /// The attempt.
        epoch: u64,
        /// The parent's shard time.
        stamp: Millis,
    },
    /// The child answers: the parent lets go.
    Gone {
        /// The attempt.
        epoch: u64,
    },
    /// Litter goes: databases and keys.
    Purge {
        /// Which.
        keys: Vec<(u8, Vec<u8>)>,
    },
    /// There was no more, as of this number of [`Slots::litter`].
    Swept {
        /// Which.
        number: u64,
    },
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    /// Done, or as it was already.
    Done,
    /// An attempt was begun.
    Begun {
        /// Its epoch.
        epoch: u64,
        /// Whether an earlier one has frozen the slots.
        frozen: bool,
    },
    /// Litter lies in these slots: ask again in a moment.
    Wait,
    /// The child has the slots.
    Opened,
    /// The parent has them no more.
    Gone,
    /// A newer attempt is known, or nothing is known of this one.
    Stale,
    /// What has come is of no use: begin anew.
    Broken,
}

/// A shard's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    own: SlotSet,
    leaving: Option<Leaving>,
    arriving: Option<Arriving>,
    litter: SlotSet,
    /// Index of the entry that last made litter.
    littered: u64,
    /// The smallest epoch that is believed, by who gives.
    floors: BTreeMap<GroupId, u64>,
    /// What is answered for: without what is frozen.
    served: SlotSet,
    is_whole: bool,
    /// Not replicated: this leader takes nothing more in these, for it is about to freeze them.
    held: Option<SlotSet>,
    /// Keys of other shards that lie here while a commit across shards runs: empty between units.
    laid: BTreeSet<Vec<u8>>,
}

impl Default for Slots {
    fn default() -> Slots {
        Slots::of(SlotSet::all())
    }
}

impl Slots {
    /// A shard that has these from the beginning.
    pub fn of(own: SlotSet) -> Slots {
        let is_whole = own == SlotSet::all();
        Slots {
            served: own.clone(),
            own,
            leaving: None,
            arriving: None,
            litter: SlotSet::default(),
            littered: 0,
            floors: BTreeMap::new(),
            is_whole,
            held: None,
            laid: BTreeSet::new(),
        }
    }

    /// Whether there are others, or may be soon.
    #[inline]
    pub fn is_split(&self) -> bool {
        !self.is_whole
    }

    /// Whether this shard answers for a key.
    #[inline]
    pub fn serves(&self, key: &[u8]) -> bool {
        self.is_whole || self.served.has(key_slot(key)) || !self.laid.is_empty() && self.laid.contains(key)
    }

    /// Whether a request for a key may be taken in here and now: also that it is not about to be frozen.
    #[inline]
    pub fn takes(&self, key: &[u8]) -> bool {
        self.takes_all() || self.takes_slot(key_slot(key))
    }

    /// The same of a slot.
    pub fn takes_slot(&self, slot: u16) -> bool {
        self.served.has(slot) && self.held.as_ref().is_none_or(|held| !held.has(slot))
    }

    /// Whether every request may be taken in.
    #[inline]
    pub fn takes_all(&self) -> bool {
        self.is_whole && self.held.is_none()
    }

    /// Whether a key that is in the tables is the shard's, to whoever asks for all keys.
    #[inline]
    pub fn shows(&self, key: &[u8]) -> bool {
        !self.is_mixed() || self.own.has(key_slot(key))
    }

    /// Whether the tables hold keys that are not the shard's.
    pub fn is_mixed(&self) -> bool {
        self.arriving.is_some() || !self.litter.is_empty()
    }

    /// Whether whatever a pattern's `*` stands for belongs here: its `{tag}` stands before the star.
    pub fn owns_all(&self, pattern: &[u8]) -> bool {
        let fixed = pattern.split(|byte| *byte == b'*').next().unwrap_or_default();
        let tag = fixed.iter().position(|byte| *byte == b'{').is_some_and(|open| {
            let close = fixed[open + 1..].iter().position(|byte| *byte == b'}');
            close.is_some_and(|length| length > 0)
        });
        !self.is_split() || tag && self.serves(fixed)
    }

    /// Those that it has.
    pub fn own(&self) -> &SlotSet {
        &self.own
    }

    /// Those on their way out.
    pub fn leaving(&self) -> Option<&Leaving> {
        self.leaving.as_ref()
    }

    pub(crate) fn arriving_mut(&mut self) -> Option<&mut Arriving> {
        self.arriving.as_mut()
    }

    /// Those on their way in.
    pub fn arriving(&self) -> Option<&Arriving> {
        self.arriving.as_ref()
    }

    /// Slots in which keys may lie that are not the shard's, and the number of that; `None` where there are none.
    pub fn litter(&self) -> Option<(&SlotSet, u64)> {
        (!self.litter.is_empty()).then_some((&self.litter, self.littered))
    }

    /// Whether slots are frozen: then whole databases stay as they are.
    pub fn is_frozen(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.frozen)
    }

    /// From now on this leader takes nothing in for these, or takes everything again. Not replicated.
    pub fn hold(&mut self, held: Option<SlotSet>) {
        self.held = held;
    }

    /// These keys of other shards may be used from now on, until that is said anew.
    pub(crate) fn lay(&mut self, keys: BTreeSet<Vec<u8>>) {
        self.laid = keys;
    }

    /// Whole databases were cleared or swapped: what arrives cannot be relied on.
    pub fn break_arriving(&mut self) {
        if let Some(arriving) = &mut self.arriving {
            arriving.broken = true;
        }
    }

    /// Whether a key is litter.
    pub fn is_litter(&self, key: &[u8]) -> bool {
        let slot = key_slot(key);
        self.litter.has(slot)
            && !self.own.has(slot)
            && self.arriving.as_ref().is_none_or(|arriving| !arriving.slots.has(slot))
    }

    fn settle(&mut self) {
        self.served = self.own.clone();
        if let Some(leaving) = self.leaving.as_ref().filter(|leaving| leaving.frozen) {
            self.served.take_away(&leaving.slots);
        }
        self.is_whole = self.served == SlotSet::all();
    }

    fn add_litter(&mut self, slots: &SlotSet, index: u64) {
        self.litter.add(slots);
        self.littered = index;
    }

    /// [`SlotChange::Attempt`].
    pub fn attempt(&mut self, to: GroupId, slots: &SlotSet, index: u64) -> SlotAnswer {
        if !self.own.holds(slots) {
            return SlotAnswer::Gone;
        }
        let same = |leaving: &Leaving| leaving.to == to && leaving.slots == *slots;
        let frozen = self.is_frozen();
        if frozen && !self.leaving.as_ref().is_some_and(same) {
            return SlotAnswer::Stale;
        }
        self.leaving = Some(Leaving { to, slots: slots.clone(), epoch: index, frozen });
        SlotAnswer::Begun { epoch: index, frozen }
    }

    /// [`SlotChange::Begin`].
    pub fn begin(&mut self, from: GroupId, slots: &SlotSet, epoch: u64, index: u64) -> SlotAnswer {
        if self.floors.get(&from).is_some_and(|floor| epoch < *floor) {
            return SlotAnswer::Stale;
        }
        if self.own.holds(slots) {
            return SlotAnswer::Opened;
        }
        if self.own.meets(slots) {
            return SlotAnswer::Stale;
        }
        self.floors.insert(from, epoch);
        if let Some(arriving) = &self.arriving {
            if arriving.from == from && arriving.epoch == epoch && !arriving.broken {
                return SlotAnswer::Done;
            }
            let old = arriving.slots.clone();
            self.arriving = None;
            self.add_litter(&old, index);
        }
        if self.litter.meets(slots) {
            return SlotAnswer::Wait;
        }
        let slots = slots.clone();
        self.arriving = Some(Arriving { from, slots, epoch, next: 0, broken: false, part: None });
        SlotAnswer::Done
    }

    /// [`SlotChange::Import`]: where it is taken, the slots that arrive.
    ///
    /// # Errors
    /// The answer where it is not.
    pub fn import(&mut self, from: GroupId, epoch: u64, number: u64) -> Result<&mut Arriving, SlotAnswer> {
        let same = |arriving: &&mut Arriving| arriving.from == from && arriving.epoch == epoch;
        let arriving = self.arriving.as_mut().filter(same).ok_or(SlotAnswer::Stale)?;
        if arriving.broken {
            return Err(SlotAnswer::Broken);
        }
        match number.cmp(&arriving.next) {
            std::cmp::Ordering::Less => Err(SlotAnswer::Done),
            std::cmp::Ordering::Greater => Err(SlotAnswer::Stale),
            std::cmp::Ordering::Equal => {
                arriving.next += 1;
                Ok(arriving)
            }
        }
    }

    /// [`SlotChange::Open`]. `any_epoch` is a bug to be found.
    pub fn open(&mut self, from: GroupId, epoch: u64, any_epoch: bool) -> SlotAnswer {
        if self.floors.get(&from) == Some(&(epoch + 1)) {
            return SlotAnswer::Done;
        }
        let same = |arriving: &&Arriving| arriving.from == from && (arriving.epoch == epoch || any_epoch);
        match self.arriving.as_ref().filter(same) {
            None => SlotAnswer::Stale,
            Some(arriving) if arriving.broken || arriving.part.is_some() => SlotAnswer::Broken,
            Some(arriving) => {
                self.own.add(&arriving.slots);
                self.floors.insert(from, arriving.epoch + 1);
                self.arriving = None;
                self.settle();
                SlotAnswer::Done
            }
        }
    }

    /// [`SlotChange::Freeze`] and [`SlotChange::Thaw`].
    pub fn freeze(&mut self, epoch: u64, frozen: bool) -> SlotAnswer {
        match self.leaving.as_mut().filter(|leaving| leaving.epoch == epoch) {
            None => SlotAnswer::Stale,
            Some(leaving) => {
                leaving.frozen = frozen;
                self.settle();
                SlotAnswer::Done
            }
        }
    }

    /// [`SlotChange::Gone`]: the slots that have gone.
    pub fn gone(&mut self, epoch: u64, index: u64) -> Option<SlotSet> {
        let leaving = self.leaving.take_if(|leaving| leaving.epoch == epoch && leaving.frozen)?;
        self.own.take_away(&leaving.slots);
        self.add_litter(&leaving.slots, index);
        self.settle();
        Some(leaving.slots)
    }

    /// [`SlotChange::Swept`].
    pub fn swept(&mut self, number: u64) {
        if self.littered == number {
            self.litter = SlotSet::default();
        }
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_slots(out, &self.own);
        out.push(u8::from(self.leaving.is_some()));
        if let Some(Leaving { to, slots, epoch, frozen }) = &self.leaving {
            put_varint(out, u64::from(to.0));
            put_slots(out, slots);
            put_varint(out, *epoch);
            out.push(u8::from(*frozen));
        }
        out.push(u8::from(self.arriving.is_some()));
        if let Some(Arriving { from, slots, epoch, next, broken, part }) = &self.arriving {
            put_varint(out, u64::from(from.0));
            put_slots(out, slots);
            put_varint(out, *epoch);
            put_varint(out, *next);
            out.push(u8::from(*broken));
            out.push(u8::from(part.is_some()));
            if let Some(Part { db, key, expire, bytes }) = part {
                out.push(*db);
                put_bytes(out, key);
                put_varint(out, *expire);
                put_bytes(out, bytes);
            }
        }
        put_slots(out, &self.litter);
        put_varint(out, self.littered);
        put_varint(out, self.floors.len() as u64);
        for (group, floor) in &self.floors {
            put_varint(out, u64::from(group.0));
            put_varint(out, *floor);
        }
    }

    /// Reads what [`Slots::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &mut Input<'_>) -> Result<Slots, Corrupt> {
        let mut read = Slots::of(slots(input)?);
        if input.u8()? != 0 {
            let (to, slots) = (group(input)?, slots(input)?);
            read.leaving = Some(Leaving { to, slots, epoch: input.varint()?, frozen: input.u8()? != 0 });
        }
        if input.u8()? != 0 {
            let (from, slots) = (group(input)?, slots(input)?);
            let (epoch, next, broken) = (input.varint()?, input.varint()?, input.u8()? != 0);
            let mut arriving = Arriving { from, slots, epoch, next, broken, part: None };
            if input.u8()? != 0 {
                let (db, key) = (input.u8()?, input.bytes()?.to_vec());
                arriving.part = Some(Part { db, key, expire: input.varint()?, bytes: input.bytes()?.to_vec() });
            }
            read.arriving = Some(arriving);
        }
        read.litter = slots(input)?;
        read.littered = input.varint()?;
        for _ in 0..input.count()? {
            let group = group(input)?;
            read.floors.insert(group, input.varint()?);
        }
        read.settle();
        Ok(read)
    }
}

fn group(input: &mut Input<'_>) -> Result<GroupId, Corrupt> {
    u32::try_from(input.varint()?).map(GroupId).map_err(|_| Corrupt("no group has such a number"))
}

fn put_slots(out: &mut Vec<u8>, slots: &SlotSet) {
    let ranges = slots.ranges();
    put_varint(out, ranges.len() as u64);
    for (first, last) in ranges {
        put_varint(out, u64::from(first));
        put_varint(out, u64::from(last));
    }
}

fn slots(input: &mut Input<'_>) -> Result<SlotSet, Corrupt> {
    let number = |input: &mut Input<'_>| {
        u16::try_from(input.varint()?).ok().filter(|slot| *slot < SLOT_COUNT).ok_or(Corrupt("no such slot"))
    };
    let count = input.count()?;
    if count > usize::from(SLOT_COUNT) {
        return Err(Corrupt("more slots than there are"));
    }
    let ranges = (0..count).map(|_| Ok((number(input)?, number(input)?)));
    Ok(SlotSet::of(ranges.collect::<Result<Vec<_>, Corrupt>>()?))
}

impl SlotChange {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            SlotChange::Attempt { to, slots } => {
                out.push(1);
                put_varint(&mut out, u64::from(to.0));
                put_slots(&mut out, slots);
            }
            SlotChange::Begin { from, slots, epoch } => {
                out.push(2);
                put_varint(&mut out, u64::from(from.0));
                put_slots(&mut out, slots);
                put_varint(&mut out, *epoch);
            }
            SlotChange::Import { from, epoch, number, stamp, records } => {
                out.push(3);
                put_varint(&mut out, u64::from(from.0));
                put_varint(&mut out, *epoch);
                put_varint(&mut out, *number);
                put_varint(&mut out, *stamp);
                put_bytes(&mut out, records);
            }
            SlotChange::Freeze { epoch } => {
                out.push(4);
                put_varint(&mut out, *epoch);
            }
            SlotChange::Thaw { epoch } => {
                out.push(5);
                put_varint(&mut out, *epoch);
            }
            SlotChange::Open { from, epoch, stamp } => {
                out.push(6);
                put_varint(&mut out, u64::from(from.0));
                put_varint(&mut out, *epoch);
                put_varint(&mut out, *stamp);
            }
            SlotChange::Gone { epoch } => {
                out.push(7);
                put_varint(&mut out, *epoch);
            }
            SlotChange::Purge { keys } => {
                out.push(8);
                put_varint(&mut out, keys.len() as u64);
                for (db, key) in keys {
                    out.push(*db);
                    put_bytes(&mut out, key);
                }
            }
            SlotChange::Swept { number } => {
                out.push(9);
                put_varint(&mut out, *number);
            }
        }
        out
    }

    /// Reads what [`SlotChange::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SlotChange, Corrupt> {
        let input = &mut Input::new(bytes);
        Ok(match input.u8()? {
            1 => SlotChange::Attempt { to: group(input)?, slots: slots(input)? },
            2 => SlotChange::Begin { from: group(input)?, slots: slots(input)?, epoch: input.varint()? },
            3 => SlotChange::Import {
                from: group(input)?,
                epoch: input.varint()?,
                number: input.varint()?,
                stamp: input.varint()?,
                records: input.bytes()?.to_vec(),
            },
            4 => SlotChange::Freeze { epoch: input.varint()? },
            5 => SlotChange::Thaw { epoch: input.varint()? },
            6 => SlotChange::Open { from: group(input)?, epoch: input.varint()?, stamp: input.varint()? },
            7 => SlotChange::Gone { epoch: input.varint()? },
            8 => {
                let count = input.count()?;
                let mut keys = Vec::with_capacity(count.min(4096));
                for _ in 0..count {
                    let db = input.u8()?;
                    if usize::from(db) >= store::table::DATABASES {
                        return Err(Corrupt("no such database"));
                    }
                    keys.push((db, input.bytes()?.to_vec()));
                }
                SlotChange::Purge { keys }
            }
            9 => SlotChange::Swept { number: input.varint()? },
            _ => return Err(Corrupt("unknown change of slots")),
        })
    }

    /// A word for people.
    pub fn word(&self) -> &'static str {
        match self {
            SlotChange::Attempt { .. } => "attempt",
            SlotChange::Begin { .. } => "begin",
            SlotChange::Import { .. } => "import",
            SlotChange::Freeze { .. } => "freeze",
            SlotChange::Thaw { .. } => "thaw",
            SlotChange::Open { .. } => "open",
            SlotChange::Gone { .. } => "gone",
            SlotChange::Purge { .. } => "purge",
            SlotChange::Swept { .. } => "swept",
        }
    }

    /// Whether it frees room, so that a full disk may take it.
    pub fn frees(&self) -> bool {
        !matches!(self, SlotChange::Import { .. })
    }
}

impl SlotAnswer {
    /// The form in which it is answered.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            SlotAnswer::Done => vec![0],
            SlotAnswer::Begun { epoch, frozen } => {
                let mut out = vec![1, u8::from(*frozen)];
                put_u64(&mut out, *epoch);
                out
            }
            SlotAnswer::Wait => vec![2],
            SlotAnswer::Opened => vec![3],
            SlotAnswer::Gone => vec![4],
            SlotAnswer::Stale => vec![5],
            SlotAnswer::Broken => vec![6],
        }
    }

    /// Reads what [`SlotAnswer::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SlotAnswer, Corrupt> {
        let mut input = Input::new(bytes);
        Ok(match input.u8()? {
            0 => SlotAnswer::Done,
            1 => {
                let frozen = input.u8()? != 0;
                SlotAnswer::Begun { epoch: input.u64()?, frozen }
            }
            2 => SlotAnswer::Wait,
            3 => SlotAnswer::Opened,
            4 => SlotAnswer::Gone,
            5 => SlotAnswer::Stale,
            6 => SlotAnswer::Broken,
            _ => return Err(Corrupt("unknown answer to a change of slots")),
        })
    }
}

/// One thing that an import holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A key with its whole value, whose stored form follows.
    Put {
        /// Its database.
        db: u8,
        /// Its expiry, 0 for none.
        expire: Millis,
        /// Its name.
        key: &'a [u8],
    },
    /// A key that is not there any more.
    Gone {
        /// Its database.
        db: u8,
        /// Its name.
        key: &'a [u8],
    },
    /// A part of a large value.
    Part {
        /// Its database.
        db: u8,
        /// Its expiry, 0 for none.
        expire: Millis,
        /// Its name.
        key: &'a [u8],
        /// Whether it is the first one, and the last.
        ends: (bool, bool),
        /// The part.
        bytes: &'a [u8],
    },
    /// A script that EVALSHA finds.
    Script {
        /// Its source.
        source: &'a [u8],
        /// Whether it was loaded by SCRIPT LOAD.
        loaded: bool,
    },
    /// A library of functions.
    Library {
        /// Its source.
        source: &'a [u8],
    },
}

/// Appends a record; behind [`Record::Put`] the caller appends the value's stored form.
pub fn put_record(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Put { db, expire, key } => {
            out.extend_from_slice(&[1, *db]);
            put_varint(out, *expire);
            put_bytes(out, key);
        }
        Record::Gone { db, key } => {
            out.extend_from_slice(&[2, *db]);
            put_bytes(out, key);
        }
        Record::Part { db, expire, key, ends, bytes } => {
            out.extend_from_slice(&[3, *db]);
            put_varint(out, *expire);
            put_bytes(out, key);
            out.push(u8::from(ends.0) | u8::from(ends.1) << 1);
            put_bytes(out, bytes);
        }
        Record::Script { source, loaded } => {
            out.extend_from_slice(&[4, u8::from(*loaded)]);
            put_bytes(out, source);
        }
        Record::Library { source } => {
            out.extend_from_slice(&[5, 0]);
            put_bytes(out, source);
        }
    }
}

/// Reads a record; `None` at the end. The value behind [`Record::Put`] is the caller's to read.
///
/// # Errors
/// What is wrong with it.
pub fn read_record<'a>(input: &mut Input<'a>) -> Result<Option<Record<'a>>, Corrupt> {
    if input.is_empty() {
        return Ok(None);
    }
    let (kind, second) = (input.u8()?, input.u8()?);
    if kind != 4 && usize::from(second) >= store::table::DATABASES {
        return Err(Corrupt("no such database"));
    }
    let db = second;
    Ok(Some(match kind {
        1 => Record::Put { db, expire: input.varint()?, key: input.bytes()? },
        2 => Record::Gone { db, key: input.bytes()? },
        3 => {
            let (expire, key, ends) = (input.varint()?, input.bytes()?, input.u8()?);
            Record::Part { db, expire, key, ends: (ends & 1 != 0, ends & 2 != 0), bytes: input.bytes()? }
        }
        4 => Record::Script { source: input.bytes()?, loaded: second != 0 },
        5 => Record::Library { source: input.bytes()? },
        _ => return Err(Corrupt("unknown record of an import")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(first: u16, last: u16) -> SlotSet {
        SlotSet::of([(first, last)])
    }

    #[test]
    fn a_tagged_pattern_belongs_where_its_tag_does() {
        let slot = key_slot(b"tag");
        let slots = Slots::of(set(slot, slot));
        assert!(slots.owns_all(b"{tag}w_*") && slots.owns_all(b"{tag}w_*->{x}"));
        assert!(
            !slots.owns_all(b"w_*") && !slots.owns_all(b"*{tag}") && !slots.owns_all(b"{*}") && !slots.owns_all(b"{}*")
        );
        assert!(Slots::default().owns_all(b"w_*"));
    }

    #[test]
    fn slots_go_from_one_shard_to_another_and_are_served_by_one_at_most() {
        let (parent_id, child_id) = (GroupId(1), GroupId(2));
        let (mut parent, mut child) = (Slots::default(), Slots::of(SlotSet::default()));
        let slots = set(100, 200);
        let serves = |parent: &Slots, child: &Slots| (parent.served.has(150), child.served.has(150));
        assert_eq!(parent.attempt(child_id, &slots, 7), SlotAnswer::Begun { epoch: 7, frozen: false });
        assert_eq!(child.begin(parent_id, &slots, 7, 1), SlotAnswer::Done);
        assert!(child.import(parent_id, 7, 0).is_ok());
        assert_eq!(child.import(parent_id, 7, 0).err(), Some(SlotAnswer::Done), "taken once");
        assert_eq!(child.import(parent_id, 7, 2).err(), Some(SlotAnswer::Stale), "in order");
        assert_eq!(parent.freeze(7, true), SlotAnswer::Done);
        assert_eq!(serves(&parent, &child), (false, false));
        // Another leader of the parent begins anew: what the first one still says counts no more.
        assert_eq!(parent.attempt(child_id, &slots, 9), SlotAnswer::Begun { epoch: 9, frozen: true });
        assert_eq!(child.begin(parent_id, &slots, 9, 2), SlotAnswer::Wait);
        assert_eq!(child.open(parent_id, 7, false), SlotAnswer::Stale);
        assert_eq!(child.begin(parent_id, &slots, 7, 3), SlotAnswer::Stale);
        assert_eq!(parent.freeze(7, false), SlotAnswer::Stale);
        assert_eq!(parent.freeze(9, false), SlotAnswer::Done);
        assert_eq!(serves(&parent, &child), (true, false));
        assert_eq!(child.litter().map(|(_, number)| number), Some(2));
        child.swept(2);
        assert_eq!(child.begin(parent_id, &slots, 9, 4), SlotAnswer::Done);
        assert_eq!(parent.freeze(9, true), SlotAnswer::Done);
        assert_eq!(child.open(parent_id, 9, false), SlotAnswer::Done);
        assert_eq!(child.open(parent_id, 9, false), SlotAnswer::Done, "nobody heard the first answer");
        assert_eq!(serves(&parent, &child), (false, true));
        assert_eq!(child.begin(parent_id, &slots, 9, 5), SlotAnswer::Stale);
        assert_eq!(child.begin(parent_id, &slots, 11, 5), SlotAnswer::Opened);
        assert_eq!(parent.gone(9, 12), Some(slots.clone()));
        assert_eq!(parent.attempt(child_id, &slots, 13), SlotAnswer::Gone);
        assert!(parent.is_litter(b"x") == slots.has(key_slot(b"x")));
        // Back again, not before what was left has been swept out.
        assert_eq!(child.attempt(parent_id, &slots, 20), SlotAnswer::Begun { epoch: 20, frozen: false });
        assert_eq!(parent.begin(child_id, &slots, 20, 14), SlotAnswer::Wait);
        parent.swept(12);
        assert_eq!(parent.begin(child_id, &slots, 20, 15), SlotAnswer::Done);
        for state in [&parent, &child] {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            assert_eq!(Slots::decode(&mut Input::new(&bytes)).as_ref(), Ok(state));
        }
    }

    #[test]
    fn what_is_stored_reads_back_and_damage_is_an_error() {
        let slots = set(3, 9);
        let (from, to) = (GroupId(1), GroupId(2));
        let mut records = Vec::new();
        let all = [
            Record::Gone { db: 1, key: b"k" },
            Record::Part { db: 2, expire: 7, key: b"k", ends: (true, false), bytes: b"xyz" },
            Record::Script { source: b"return 1", loaded: true },
            Record::Library { source: b"#!lua name=l\n" },
            Record::Put { db: 0, expire: 0, key: b"last" },
        ];
        all.iter().for_each(|record| put_record(&mut records, record));
        let mut input = Input::new(&records);
        for record in &all {
            assert_eq!(read_record(&mut input).expect("it was written").as_ref(), Some(record));
        }
        let changes = [
            SlotChange::Attempt { to, slots: slots.clone() },
            SlotChange::Begin { from, slots, epoch: 300 },
            SlotChange::Import { from, epoch: 3, number: 4, stamp: 5, records },
            SlotChange::Freeze { epoch: 1 },
            SlotChange::Thaw { epoch: 1 },
            SlotChange::Open { from, epoch: 1, stamp: 2 },
            SlotChange::Gone { epoch: 1 },
            SlotChange::Purge { keys: vec![(0, b"a".to_vec()), (15, b"".to_vec())] },
            SlotChange::Swept { number: 8 },
        ];
        let mut rng = base::Rng::new(11);
        for change in changes {
            let bytes = change.encode();
            assert_eq!(SlotChange::decode(&bytes), Ok(change));
            for _ in 0..500 {
                let mut damaged = bytes.clone();
                let at = rng.index(damaged.len());
                damaged[at] = rng.next_u64() as u8;
                damaged.truncate(rng.index(damaged.len()) + 1);
                let _ = (SlotChange::decode(&damaged), Slots::decode(&mut Input::new(&damaged)));
            }
        }
        for answer in [SlotAnswer::Done, SlotAnswer::Begun { epoch: 9, frozen: true }, SlotAnswer::Broken] {
            assert_eq!(SlotAnswer::decode(&answer.encode()), Ok(answer));
        }
    }
}

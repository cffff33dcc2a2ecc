//! Clients of etcd's door: writers, holders of a lock under a lease, and watchers that read on at any node.
//!
//! What happened is what replicas see as they apply; that all see the same is asked of every revision. Watchers are judged by
//! `history::watch`. Of the lock is asked: one holder at a time, none whose lease was prolonged loses it early, whatever it guards is
//! written only by the holder of that moment (late writes of a holder that was paused are refused by its revision), and when all is
//! quiet every leased key has gone.

use coordination::command::{Command, Kind as Verb, read_outcome};
use coordination::proto::{
    CompactionRequest, Compare, CompareWith, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseKeepAliveResponse, LeaseRequest, PutRequest, RequestKind, RequestOp, TxnRequest, TxnResponse,
};
use coordination::{Span, Store, error};
use history::watch::{Event as Happened, Revision, Told, Watches};
use prost::Message;

use super::*;

const META: GroupId = GroupId(0);
const WRITERS: usize = 2;
const HOLDERS: usize = 3;
const WATCHERS: usize = 3;
const CLIENTS: usize = WRITERS + HOLDERS + WATCHERS;
const KEYS: u64 = 6;
const LOCK: &[u8] = b"lock";
const GUARDED: &[u8] = b"guarded";
/// What each watcher watches.
const PREFIXES: [&[u8]; WATCHERS] = [b"", b"", b"k/1"];
/// A revision is compacted away at the earliest so long after it was seen.
const COMPACTED_AFTER: u64 = 1_500 * MILLI;

/// What a request of these clients is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A writer's puts.
    Put(usize),
    /// A writer's delete.
    Delete(usize),
    /// History goes.
    Compact,
    /// A holder's: a lease, the lock, more time, a guarded write, the end.
    Grant(usize),
    Take(usize),
    Keep(usize),
    Guard(usize),
    Revoke(usize),
}

#[derive(Debug, Default)]
struct Writer {
    /// What it has asked for, until it is answered.
    asked: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

#[derive(Debug, Default)]
struct Holder {
    lease: i64,
    seconds: i64,
    granted: bool,
    /// The lock is its own, by this revision.
    revision: Option<Revision>,
    busy: bool,
    /// When it asked for what is under way.
    asked_at: u64,
    paused_until: u64,
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// When it asked for the grant or the renewal that was acknowledged last.
    kept: u64,
    seconds: i64,
    /// It asked for the end.
    revoked: bool,
}

#[derive(Debug)]
struct Watcher {
    home: NodeId,
    next: Revision,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Etcd {
    story: Watches,
    writers: Vec<Writer>,
    holders: Vec<Holder>,
    watchers: Vec<Watcher>,
    /// How far each node's revisions were looked at, in which life.
    seen: BTreeMap<NodeId, (u64, Revision)>,
    /// When revisions were first seen.
    seen_at: BTreeMap<Revision, u64>,
    leases: BTreeMap<i64, Lease>,
    homes: Vec<NodeId>,
}

fn number(value: Option<&Vec<u8>>) -> Option<i64> {
    std::str::from_utf8(value?).ok()?.split(':').next()?.parse().ok()
}

fn put(key: &[u8], value: String, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.to_vec().into(), value: value.into(), lease, ..PutRequest::default() };
    RequestOp { request: Some(RequestKind::Put(put)) }
}

/// That the lock was made at this revision; 0 for that nobody holds it.
fn made_at(revision: Revision) -> Compare {
    Compare {
        result: 0,
        target: 1,
        key: LOCK.into(),
        target_union: Some(CompareWith::Create(revision)),
        ..Compare::default()
    }
}

/// The changes of a store from a revision on, those of each together.
fn changes(store: &Store, from: Revision) -> Vec<(Revision, Vec<Happened>)> {
    let mut revisions: Vec<(Revision, Vec<Happened>)> = Vec::new();
    for change in store.changes(from) {
        let Some((version, _)) = store.change(change) else { continue };
        let value = (!version.is_tombstone()).then(|| version.value.to_vec());
        let event = Happened { revision: change.main, key: change.key.to_vec(), value };
        match revisions.last_mut() {
            Some((revision, events)) if *revision == change.main => events.push(event),
            _ => revisions.push((change.main, vec![event])),
        }
    }
    revisions
}

impl World {
    /// Begins, where this seed has such clients.
    pub(super) fn begin_etcd(&mut self) {
        self.etcd = Some(Etcd {
            writers: (0..WRITERS).map(|_| Writer::default()).collect(),
            holders: (0..HOLDERS).map(|_| Holder::default()).collect(),
            watchers: (0..WATCHERS).map(|_| Watcher { home: NodeId(1), next: 2 }).collect(),
            homes: vec![NodeId(1); WRITERS + HOLDERS],
            ..Etcd::default()
        });
        for client in 0..CLIENTS {
            let at = self.rng.below(2_000 * MILLI);
            self.at(at, Event::Etcd(client));
        }
    }

    /// One of them does something, and comes back for as long as faults last.
    pub(super) fn play_etcd(&mut self, client: usize) -> Result<(), String> {
        let Some(mut own) = self.etcd.take() else { return Ok(()) };
        match client.checked_sub(WRITERS + HOLDERS) {
            Some(watcher) => self.watch(watcher, &mut own),
            None => {
                if self.rng.chance(1, 30) || !self.machines[&own.homes[client]].runs() {
                    own.homes[client] = self.any();
                }
                if self.machines[&own.homes[client]].runs() && !self.quiet {
                    match client.checked_sub(WRITERS) {
                        None => self.write_etcd(client, &mut own),
                        Some(holder) => self.hold(holder, &mut own),
                    }
                }
            }
        }
        let home = own.homes.get(client).copied();
        self.etcd = Some(own);
        if !self.quiet {
            let pause = self.draw((5 * MILLI, 150 * MILLI));
            self.at(self.now + pause, Event::Etcd(client));
        }
        home.map_or(Ok(()), |home| self.after(home))
    }

    fn ask_etcd(&mut self, client: usize, own: &mut Etcd, ask: Ask, verb: Verb, request: &[u8]) -> bool {
        let (home, number) = (own.homes[client], self.next_request);
        let command = Command { kind: verb, user: "", request };
        let mut unit = Vec::new();
        shard::entry::put_etcd(&mut unit, &command);
        if !self.submit(home, META, |batch| batch.unit(Place::Logged, command.frees(), number, &unit)) {
            let leader = self.shard(home, META).leader();
            own.homes[client] = leader.unwrap_or_else(|| self.any());
            return false;
        }
        self.next_request += 1;
        let request = Request { client: usize::MAX, node: home, group: META, kind: Kind::Etcd(ask), begun: self.now };
        self.requests.insert(number, request);
        let patience = self.draw((300 * MILLI, 2_000 * MILLI));
        self.at(self.now + patience, Event::GiveUp(number));
        true
    }

    fn write_etcd(&mut self, writer: usize, own: &mut Etcd) {
        if !own.writers[writer].asked.is_empty() {
            return;
        }
        let key = |rng: &mut Rng| format!("k/{}", rng.below(KEYS)).into_bytes();
        match self.rng.below(20) {
            0 => {
                let old = self.now.saturating_sub(COMPACTED_AFTER);
                let seen = own.seen_at.iter().rev().find(|(_, at)| **at < old).map(|(revision, _)| *revision);
                let Some(revision) = seen else { return };
                let form = CompactionRequest { revision, physical: false }.encode_to_vec();
                if self.ask_etcd(writer, own, Ask::Compact, Verb::Compact, &form) {
                    own.story.compacted(revision);
                }
            }
            1..5 => {
                let key = key(&mut self.rng);
                let form = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
                if self.ask_etcd(writer, own, Ask::Delete(writer), Verb::Delete, &form.encode_to_vec()) {
                    own.writers[writer].asked = vec![(key, None)];
                }
            }
            _ => {
                let mut asked = BTreeMap::new();
                for _ in 0..=self.rng.below(3) {
                    asked.insert(key(&mut self.rng), self.next_value.to_string());
                    self.next_value += 1;
                }
                let success = asked.iter().map(|(key, value)| put(key, value.clone(), 0)).collect();
                let form = TxnRequest { success, ..TxnRequest::default() }.encode_to_vec();
                if self.ask_etcd(writer, own, Ask::Put(writer), Verb::Txn, &form) {
                    let events = asked.into_iter().map(|(key, value)| (key, Some(value.into_bytes())));
                    own.writers[writer].asked = events.collect();
                }
            }
        }
    }

    fn hold(&mut self, holder: usize, own: &mut Etcd) {
        let (now, client) = (self.now, WRITERS + holder);
        let Holder { lease, seconds, granted, revision, busy, paused_until, .. } = own.holders[holder];
        if busy || now < paused_until {
            return;
        }
        let (ask, verb, form) = match revision {
            _ if !granted => {
                let own = &mut own.holders[holder];
                (own.lease, own.seconds) = (own_lease(holder, self.next_request), 2 + self.rng.below(2) as i64);
                let form = LeaseGrantRequest { ttl: own.seconds, id: own.lease }.encode_to_vec();
                (Ask::Grant(holder), Verb::Grant, form)
            }
            None => {
                let success = vec![put(LOCK, lease.to_string(), lease)];
                let form = TxnRequest { compare: vec![made_at(0)], success, ..TxnRequest::default() };
                (Ask::Take(holder), Verb::Txn, form.encode_to_vec())
            }
            // Everything that it had under way stands still, and it goes on without knowing that time has passed.
            Some(_) if self.rng.chance(1, 25) => {
                own.holders[holder].paused_until = now + self.draw((500 * MILLI, 2 * seconds as u64 * 1_000 * MILLI));
                self.report.paused_holders += 1;
                return;
            }
            Some(_) if self.rng.chance(1, 30) => {
                if let Some(known) = own.leases.get_mut(&lease) {
                    known.revoked = true;
                }
                (Ask::Revoke(holder), Verb::Revoke, LeaseRequest { id: lease }.encode_to_vec())
            }
            Some(revision) if self.rng.chance(1, 2) => {
                let value = format!("{revision}:{}", self.next_value);
                self.next_value += 1;
                let success = vec![put(GUARDED, value, 0)];
                let form = TxnRequest { compare: vec![made_at(revision)], success, ..TxnRequest::default() };
                (Ask::Guard(holder), Verb::Txn, form.encode_to_vec())
            }
            Some(_) => (Ask::Keep(holder), Verb::KeepAlive, LeaseRequest { id: lease }.encode_to_vec()),
        };
        if self.ask_etcd(client, own, ask, verb, &form) {
            let own = &mut own.holders[holder];
            (own.busy, own.asked_at) = (true, now);
        }
    }

    /// A request of theirs ended: with these bytes, or nobody knows how.
    pub(super) fn etcd_answered(&mut self, ask: Ask, bytes: Option<&[u8]>) -> Result<(), String> {
        let Some(mut own) = self.etcd.take() else { return Ok(()) };
        let done = self.etcd_told(ask, bytes, &mut own);
        self.etcd = Some(own);
        done
    }

    fn etcd_told(&mut self, ask: Ask, bytes: Option<&[u8]>, own: &mut Etcd) -> Result<(), String> {
        let outcome = match bytes.filter(|bytes| !is_refusal(bytes)) {
            Some(bytes) => Some(read_outcome(bytes).map_err(|corrupt| format!("{ask:?}: {corrupt}"))?),
            None => None,
        };
        self.tell(|| format!("{ask:?} was answered {outcome:?}"));
        let bad = |_| format!("{ask:?} was answered what cannot be read");
        match ask {
            Ask::Compact => {}
            Ask::Put(writer) | Ask::Delete(writer) => {
                let asked = std::mem::take(&mut own.writers[writer].asked);
                let Some(Ok(answer)) = outcome else { return Ok(()) };
                let is_delete = matches!(ask, Ask::Delete(_));
                if is_delete && DeleteRangeResponse::decode(&answer.body[..]).map_err(bad)?.deleted == 0 {
                    return Ok(());
                }
                self.report.etcd_writes += 1;
                for (key, value) in asked {
                    own.story.acknowledged(Happened { revision: answer.revision, key, value });
                }
            }
            Ask::Grant(holder) | Ask::Take(holder) | Ask::Keep(holder) | Ask::Guard(holder) | Ask::Revoke(holder) => {
                let Etcd { holders, leases, .. } = own;
                let own = &mut holders[holder];
                own.busy = false;
                let answer = match outcome {
                    Some(Ok(answer)) => answer,
                    // Its lease is over, or this one is somebody's: it begins anew.
                    Some(Err(_)) => {
                        *own = Holder::default();
                        return Ok(());
                    }
                    None => {
                        if matches!(ask, Ask::Grant(_)) {
                            *own = Holder::default();
                        }
                        return Ok(());
                    }
                };
                match ask {
                    Ask::Grant(_) => {
                        own.granted = true;
                        let lease = Lease { kept: own.asked_at, seconds: own.seconds, revoked: false };
                        leases.insert(own.lease, lease);
                    }
                    Ask::Take(_) => {
                        if TxnResponse::decode(&answer.body[..]).map_err(bad)?.succeeded {
                            own.revision = Some(answer.revision);
                            self.report.locks_taken += 1;
                        }
                    }
                    Ask::Keep(_) => {
                        if LeaseKeepAliveResponse::decode(&answer.body[..]).map_err(bad)?.ttl == 0 {
                            *own = Holder::default();
                        } else if let Some(lease) = leases.get_mut(&own.lease) {
                            lease.kept = own.asked_at;
                        }
                    }
                    Ask::Guard(_) => {
                        if TxnResponse::decode(&answer.body[..]).map_err(bad)?.succeeded {
                            self.report.guarded += 1;
                        } else {
                            self.report.late_refused += 1;
                            *own = Holder::default();
                        }
                    }
                    _ => *own = Holder::default(),
                }
            }
        }
        Ok(())
    }

    // ---- watching ----------------------------------------------------------------------------------------------------

    fn watch(&mut self, watcher: usize, own: &mut Etcd) {
        let moves = self.rng.chance(1, 12);
        let next = own.watchers[watcher].next;
        if moves || !self.machines[&own.watchers[watcher].home].runs() {
            own.watchers[watcher].home = self.any();
            own.story.told(watcher as u64, PREFIXES[watcher], Told::Asked(next));
        }
        let home = own.watchers[watcher].home;
        if self.machines[&home].runs() {
            let most = 1 + self.rng.index(20);
            self.read_on(watcher, home, most, own);
        }
    }

    /// Reads some revisions at a node, whatever it has applied.
    fn read_on(&mut self, watcher: usize, home: NodeId, most: usize, own: &mut Etcd) {
        let (number, prefix) = (watcher as u64, PREFIXES[watcher]);
        let next = &mut own.watchers[watcher].next;
        let state = self.shard(home, META).state();
        let store = state.coordination().store();
        if *next < store.compacted() {
            own.story.told(number, prefix, Told::Compacted(store.compacted()));
            *next = store.compacted();
        }
        let mut revisions = changes(store, *next);
        let is_all = revisions.len() <= most;
        revisions.truncate(most);
        if is_all && store.revision() >= *next {
            *next = store.revision() + 1;
        } else if let Some((last, _)) = revisions.last() {
            *next = last + 1;
        }
        for (_, events) in revisions {
            let events: Vec<Happened> = events.into_iter().filter(|event| event.key.starts_with(prefix)).collect();
            if !events.is_empty() {
                own.story.told(number, prefix, Told::Events(events, false));
            }
        }
        let progress = *next - 1;
        drop(state);
        if is_all && self.rng.chance(1, 3) {
            own.story.told(number, prefix, Told::Progress(progress));
        }
    }

    /// A node has applied something: what it was.
    pub(super) fn note_etcd(&mut self, id: NodeId) -> Result<(), String> {
        let Some(mut own) = self.etcd.take() else { return Ok(()) };
        let noted = self.noted(id, &mut own);
        self.etcd = Some(own);
        noted
    }

    fn noted(&mut self, id: NodeId, own: &mut Etcd) -> Result<(), String> {
        let (now, life) = (self.now, self.machines[&id].life);
        let seen = own.seen.get(&id).filter(|(of, _)| *of == life).map_or(1, |(_, revision)| *revision);
        let (revisions, revision) = {
            let state = self.shard(id, META).state();
            let store = state.coordination().store();
            (changes(store, (seen + 1).max(store.compacted())), store.revision())
        };
        own.seen.insert(id, (life, revision));
        for (revision, events) in revisions {
            let is_new = own.seen_at.insert(revision, own.seen_at.get(&revision).copied().unwrap_or(now)).is_none();
            if is_new {
                self.report.revisions += 1;
                if self.founders.len() > 1 {
                    Self::not_early(&events, own, now)?;
                }
            }
            own.story.happened(revision, events).map_err(|broken| format!("{id}: {broken}"))?;
        }
        Ok(())
    }

    /// The lock has gone: its lease's time was over, or its holder wanted it so. Clocks differ by a tenth, and shard time follows wall
    /// clocks by a twentieth.
    fn not_early(events: &[Happened], own: &Etcd, now: u64) -> Result<(), String> {
        let Some(gone) = events.iter().find(|event| event.key == LOCK && event.value.is_none()) else {
            return Ok(());
        };
        let before = own.story.before(gone.revision, LOCK);
        let Some(lease) = number(before.as_ref()).and_then(|id| own.leases.get(&id)) else { return Ok(()) };
        let least = lease.kept + lease.seconds as u64 * 1_000 * MILLI * 4 / 5;
        if !lease.revoked && now < least {
            return Err(format!(
                "a lease of {} s that was prolonged at {} ms ended by {} ms",
                lease.seconds,
                lease.kept / MILLI,
                now / MILLI
            ));
        }
        Ok(())
    }

    // ---- the end -----------------------------------------------------------------------------------------------------

    /// Whether leases have ended, as nobody prolongs them any more.
    pub(super) fn etcd_rests(&self) -> Result<(), String> {
        if self.etcd.is_none() {
            return Ok(());
        }
        let leader = self.leader(META).ok_or("nobody leads the meta group")?;
        let left = self.shard(leader, META).state().coordination().leases().len();
        if left > 0 { Err(format!("{left} leases have not ended")) } else { Ok(()) }
    }

    pub(super) fn judge_etcd(&mut self) -> Result<(), String> {
        let Some(mut own) = self.etcd.take() else { return Ok(()) };
        let leader = self.leader(META).ok_or("nobody leads the meta group")?;
        for (watcher, prefix) in PREFIXES.iter().enumerate() {
            let next = own.watchers[watcher].next;
            own.story.told(watcher as u64, prefix, Told::Asked(next));
            self.read_on(watcher, leader, usize::MAX, &mut own);
            let last = own.watchers[watcher].next - 1;
            own.story.told(watcher as u64, prefix, Told::Progress(last));
        }
        let figures = own.story.check().map_err(|broken| broken.to_string())?;
        self.report.watched += figures.told;
        self.report.resumed += figures.resumed;
        self.report.behind += figures.compacted;
        // What is there is what the changes come to.
        let (mut keys, mut held) = (BTreeMap::new(), None);
        for event in own.story.all() {
            let is_put = event.value.is_some();
            match event.key.as_slice() {
                LOCK if is_put && held.is_some() => return Err(format!("two hold the lock: {held:?}, then {event:?}")),
                LOCK if is_put => held = Some(event.revision),
                LOCK => held = None,
                GUARDED if number(event.value.as_ref()) != held => {
                    return Err(format!("a late write: {event:?} while {held:?} held the lock"));
                }
                _ => {}
            }
            match &event.value {
                Some(value) => drop(keys.insert(event.key.clone(), value.clone())),
                None => drop(keys.remove(&event.key)),
            }
        }
        if held.is_some() {
            return Err(format!("the lock of revision {held:?} outlived its lease"));
        }
        let state = self.shard(leader, META).state();
        let found = state.coordination().store().range(Span::of(b"\0", b"\0"), 0, 0, false);
        let found = found.map_err(|error: error::Error| error.text.into_owned())?;
        let there: BTreeMap<_, _> = found.keys.iter().map(|(key, own)| (key.to_vec(), own.value.to_vec())).collect();
        if there != keys {
            return Err(format!("there is {there:?}, and the changes come to {keys:?}"));
        }
        Ok(())
    }
}

/// A lease's id that no other has.
fn own_lease(holder: usize, request: u64) -> i64 {
    (request * HOLDERS as u64 + holder as u64 + 1) as i64
}

//! Fenced locks: holders who are paused past the end of what they hold, and write late.
//!
//! Some hold a lock of Redis clients (`Q.LOCK`), some one of Consul's (a session that they renew, in the meta group). Whoever has a lock's
//! number writes it to a list, in a MULTI that shows it to a fence. Asked is that numbers in the list never decrease (a late write would be
//! a smaller one behind a greater one), that what was acknowledged is there once, that every taking yields a number of its own, that nobody
//! is given a session's lock before the time of who renewed it is over, and that in the end all sessions have gone and let go.

use discovery::Outcome as Registered;
use discovery::change::{Change as RegistryChange, KvOp, Verb};
use discovery::form::Blob;
use discovery::model::NodeForm;
use discovery::session::{SessionChange, SessionForm};

use super::*;

const META: GroupId = GroupId(0);
/// Of each kind.
const HOLDERS: usize = 3;
/// What a Redis client's lock is taken for.
const SPAN: (u64, u64) = (1_000, 3_000);
/// A session's TTL, the smallest there is; it ends after twice that.
const TTL_MS: u64 = 10_000;
const NODE: &str = "sim";

/// The lock, the fence and the list of each kind.
const KEYS: [[&str; 3]; 2] = [["{l}lock", "{l}fence", "{l}list"], ["lock", "{l}fence-of-consul", "{l}list-of-consul"]];
const REDIS: usize = 0;
const CONSUL: usize = 1;

/// What a holder asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The node that sessions hang on.
    Register,
    Create,
    Take,
    /// The fence is raised, before anything is read.
    Raise,
    Keep,
    /// The number and this value.
    Guard(String),
    LetGo,
}

#[derive(Debug)]
struct Holder {
    kind: usize,
    /// The owner's name, or the session's id: another one after every end.
    name: String,
    incarnations: u64,
    has_session: bool,
    number: Option<u64>,
    has_raised: bool,
    /// When it asked for what was acknowledged last, and how many leaders the meta group had had then.
    kept: u64,
    terms: usize,
    span_ms: u64,
    lets_go: bool,
    busy: bool,
    asked_at: u64,
    paused_until: u64,
    home: NodeId,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Locks {
    holders: Vec<Holder>,
    is_registered: bool,
    /// Whose a number of each kind is.
    takings: [BTreeMap<u64, String>; 2],
    written: [Vec<String>; 2],
}

impl Holder {
    fn new(kind: usize, home: NodeId) -> Holder {
        Holder {
            kind,
            name: String::new(),
            incarnations: 0,
            has_session: false,
            number: None,
            has_raised: false,
            kept: 0,
            terms: 0,
            span_ms: 0,
            lets_go: false,
            busy: false,
            asked_at: 0,
            paused_until: 0,
            home,
        }
    }

    /// Begins anew, as somebody else.
    fn begin(&mut self, holder: usize) {
        let incarnations = self.incarnations + 1;
        let name = format!("{holder}-{incarnations}");
        *self = Holder { incarnations, name, ..Holder::new(self.kind, self.home) };
    }
}

fn change(change: &RegistryChange) -> Vec<u8> {
    let mut unit = Vec::new();
    shard::entry::put_change(&mut unit, change);
    unit
}

fn key_op(verb: Verb, session: &str) -> RegistryChange {
    let (key, session) = (KEYS[CONSUL][0].to_owned(), session.to_owned());
    RegistryChange::Kv(vec![KvOp { verb, key, value: Blob(Vec::new()), flags: 0, index: 0, session }])
}

impl World {
    /// Begins, where this seed has such holders.
    pub(super) fn begin_locks(&mut self) {
        let mut holders: Vec<Holder> = Vec::new();
        for kind in [REDIS, CONSUL] {
            for _ in 0..HOLDERS {
                let mut own = Holder::new(kind, NodeId(1));
                own.begin(holders.len());
                holders.push(own);
                let at = self.rng.below(2_000 * MILLI);
                self.at(at, Event::Locks(holders.len() - 1));
            }
        }
        self.locks = Some(Locks { holders, ..Locks::default() });
    }

    /// How many leaders the meta group has had.
    fn terms(&self) -> usize {
        self.leaders.range((META, 0)..=(META, u64::MAX)).count()
    }

    /// One of them does something, and comes back for as long as faults last.
    pub(super) fn play_locks(&mut self, holder: usize) -> Result<(), String> {
        let Some(mut locks) = self.locks.take() else { return Ok(()) };
        if self.rng.chance(1, 30) || !self.machines[&locks.holders[holder].home].runs() {
            locks.holders[holder].home = self.any();
        }
        let home = locks.holders[holder].home;
        if self.machines[&home].runs() && !self.quiet {
            self.hold_fenced(holder, &mut locks);
        }
        self.locks = Some(locks);
        if !self.quiet {
            let pause = self.draw((10 * MILLI, 250 * MILLI));
            self.at(self.now + pause, Event::Locks(holder));
        }
        self.after(home)
    }

    fn hold_fenced(&mut self, holder: usize, locks: &mut Locks) {
        let now = self.now;
        let is_registered = locks.is_registered;
        let own = &mut locks.holders[holder];
        if own.busy || now < own.paused_until {
            return;
        }
        let is_consul = own.kind == CONSUL;
        let ask = match own.number {
            _ if is_consul && !is_registered => Ask::Register,
            _ if is_consul && !own.has_session => Ask::Create,
            None if is_consul && self.rng.chance(1, 3) => Ask::Keep,
            None => Ask::Take,
            // Everything that it had under way stands still, and it goes on without knowing that time has passed.
            Some(_) if self.rng.chance(1, 20) => {
                let most = if is_consul { 30_000 } else { 2 * SPAN.1 };
                own.paused_until = now + self.draw((500 * MILLI, most * MILLI));
                self.report.paused_holders += 1;
                return;
            }
            Some(_) if is_consul && !own.has_raised => Ask::Raise,
            Some(_) if self.rng.chance(1, 25) => Ask::LetGo,
            Some(number) if self.rng.chance(1, 2) => {
                let value = format!("{number}:{}", self.next_value);
                self.next_value += 1;
                Ask::Guard(value)
            }
            Some(_) => Ask::Keep,
        };
        if self.ask_lock(holder, ask.clone(), own) {
            (own.busy, own.asked_at) = (true, now);
            own.lets_go |= ask == Ask::LetGo;
        }
    }

    fn ask_lock(&mut self, holder: usize, ask: Ask, own: &mut Holder) -> bool {
        let [lock, fence, list] = KEYS[own.kind].map(str::as_bytes);
        let (home, number) = (own.home, self.next_request);
        let (shown, name) = (own.number.unwrap_or_default().to_string(), own.name.clone());
        let is_registry = own.kind == CONSUL && !matches!(ask, Ask::Raise | Ask::Guard(_));
        let group = if is_registry { META } else { self.group_of_slot(base::key_slot(fence)) };
        let done = if is_registry {
            let unit = change(&match &ask {
                Ask::Register => RegistryChange::Register {
                    node: NodeForm { name: NODE.into(), ..NodeForm::default() },
                    keep_node: true,
                    service: None,
                    checks: Vec::new(),
                    replace_checks: false,
                },
                Ask::Create => RegistryChange::Session(SessionChange::Create(SessionForm {
                    id: name.clone(),
                    node: NODE.into(),
                    ttl: format!("{}s", TTL_MS / 1_000),
                    ttl_ms: TTL_MS,
                    lock_delay_ns: self.rng.below(2) * 1_000_000_000,
                    ..SessionForm::default()
                })),
                Ask::Keep => RegistryChange::Session(SessionChange::Renew { id: name.clone() }),
                Ask::LetGo => RegistryChange::Session(SessionChange::Destroy { id: name.clone() }),
                _ => key_op(Verb::Lock, &name),
            });
            self.submit(home, group, |batch| batch.unit(Place::Logged, false, number, &unit))
        } else {
            let mut multi = MultiBuilder::default();
            // The same for as long as it is the same owner: what comes late must not shorten what was given.
            if own.span_ms == 0 {
                own.span_ms = self.draw(SPAN);
            }
            let span = own.span_ms.to_string();
            let words: Vec<&[u8]> = match &ask {
                Ask::Take | Ask::Keep => vec![b"Q.LOCK", lock, fence, name.as_bytes(), span.as_bytes()],
                Ask::LetGo => vec![b"Q.UNLOCK", lock, name.as_bytes()],
                _ => vec![b"Q.FENCE", fence, shown.as_bytes()],
            };
            multi.command(0, &words);
            let is_guard = matches!(ask, Ask::Guard(_));
            if let Ask::Guard(value) = &ask {
                multi.command(0, &[b"RPUSH", list, value.as_bytes()]);
            }
            self.submit(home, group, |batch| match is_guard {
                true => batch.multi(Place::Logged, false, number, Protocol::Resp2, &multi, &[]),
                false => batch.command(Place::Logged, false, number, 0, Protocol::Resp2, &words),
            })
        };
        if !done {
            let leader = self.shard(home, group).leader();
            own.home = leader.unwrap_or_else(|| self.any());
            return false;
        }
        self.next_request += 1;
        let kind = Kind::Lock(holder, name, ask);
        let request = Request { client: usize::MAX, node: home, group, kind, begun: self.now };
        self.requests.insert(number, request);
        let patience = self.draw((300 * MILLI, 2_000 * MILLI));
        self.at(self.now + patience, Event::GiveUp(number));
        true
    }

    /// A request of theirs ended: with these bytes, or nobody knows how.
    pub(super) fn lock_answered(
        &mut self,
        holder: usize,
        name: &str,
        ask: &Ask,
        bytes: Option<&[u8]>,
    ) -> Result<(), String> {
        let Some(mut locks) = self.locks.take() else { return Ok(()) };
        let done = self.lock_told(holder, name, ask, bytes, &mut locks);
        self.locks = Some(locks);
        done
    }

    fn lock_told(
        &mut self,
        holder: usize,
        name: &str,
        ask: &Ask,
        bytes: Option<&[u8]>,
        locks: &mut Locks,
    ) -> Result<(), String> {
        let own = &mut locks.holders[holder];
        if own.name != name {
            return Ok(());
        }
        own.busy = false;
        // Nobody knows whether it was done: what it asked for is asked again, a write is another one.
        let Some(bytes) = bytes.filter(|bytes| !is_refusal(bytes)) else { return Ok(()) };
        self.tell(|| format!("{name}: {ask:?} was answered {}", model::show(bytes)));
        if own.kind == CONSUL && !matches!(ask, Ask::Raise | Ask::Guard(_)) {
            return self.registry_told(holder, ask, bytes, locks);
        }
        let answer = model::Answer::parse(bytes)?;
        let is_fenced = matches!(&answer, model::Answer::Error(text) if text.starts_with(b"FENCED"));
        match (ask, &answer) {
            (Ask::Take | Ask::Keep, model::Answer::Int(_)) => {
                let (number, kept) = (answer.number()?, own.asked_at);
                let is_new = own.number != Some(number);
                (own.number, own.has_raised, own.kept) = (Some(number), true, kept);
                if is_new {
                    self.taken(holder, number, locks)?;
                }
            }
            (Ask::Take, model::Answer::Bulk(None)) => {}
            // Another one holds it.
            (Ask::Keep, model::Answer::Bulk(None)) | (Ask::LetGo, model::Answer::Int(_)) => own.begin(holder),
            (Ask::Raise, model::Answer::Simple(_)) => own.has_raised = true,
            (Ask::Guard(value), model::Answer::Array(Some(_))) => {
                self.report.shown += 1;
                locks.written[own.kind].push(value.clone());
            }
            (Ask::Raise | Ask::Guard(_), _) if is_fenced => {
                self.report.stale_refused += 1;
                own.begin(holder);
            }
            _ => return Err(format!("{name}: {ask:?} was answered {answer:?}")),
        }
        Ok(())
    }

    fn registry_told(&mut self, holder: usize, ask: &Ask, bytes: &[u8], locks: &mut Locks) -> Result<(), String> {
        let outcome = Registered::decode(bytes).map_err(|corrupt| format!("{ask:?}: {corrupt}"))?;
        let terms = self.terms();
        let own = &mut locks.holders[holder];
        match (ask, outcome) {
            (Ask::Register, Registered::Done(_)) => locks.is_registered = true,
            (Ask::Create | Ask::Keep, Registered::Session(_)) => {
                (own.has_session, own.kept, own.span_ms, own.terms) = (true, own.asked_at, 2 * TTL_MS, terms);
            }
            // Its own of an attempt whose end it did not hear of; or over.
            (Ask::Create, Registered::Refused(..)) => own.begin(holder),
            (Ask::Keep, Registered::Refused(..)) => {
                self.report.sessions_over += 1;
                self.report.sessions_over_leaders += u64::from(terms > own.terms);
                own.begin(holder);
            }
            (Ask::LetGo, Registered::Done(_)) => own.begin(holder),
            (Ask::Take, Registered::Kv(results)) => {
                let entry = results.into_iter().next().and_then(|result| result.entry);
                let lock = entry.and_then(|entry| entry.lock).ok_or("a lock was taken, and nobody holds it")?;
                if lock.session != own.name {
                    return Err(format!("{} was given the lock, and {} holds it", own.name, lock.session));
                }
                own.number = Some(lock.fence);
                self.taken(holder, lock.fence, locks)?;
            }
            (Ask::Take, Registered::KvFailed(failures)) => {
                if failures.iter().any(|failure| failure.why.starts_with("invalid session")) {
                    own.begin(holder);
                }
            }
            (ask, outcome) => return Err(format!("{ask:?} was answered {outcome:?}")),
        }
        Ok(())
    }

    /// A holder has a number: nobody else has had it, and whoever had a session's lock before has lost it by now. Clocks differ by a tenth,
    /// and shard time follows wall clocks by a twentieth; a lone voter believes its wall clock when it starts. Nothing is asked of how early
    /// `Q.LOCK` ends: a key's expiry stands, and what a follower's clock has gained here since it last led comes with it into the lead,
    /// while sessions have their whole time again.
    fn taken(&mut self, holder: usize, number: u64, locks: &mut Locks) -> Result<(), String> {
        self.report.numbers += 1;
        let (kind, name) = (locks.holders[holder].kind, locks.holders[holder].name.clone());
        let known = locks.takings[kind].entry(number).or_insert_with(|| name.clone());
        if *known != name {
            return Err(format!("{known} and {name} were given number {number}"));
        }
        if self.founders.len() == 1 || kind == REDIS {
            return Ok(());
        }
        for (at, other) in locks.holders.iter().enumerate() {
            let Some(before) = other.number.filter(|before| *before < number && other.kind == kind && at != holder)
            else {
                continue;
            };
            if !other.lets_go && self.now < other.kept + other.span_ms * MILLI * 4 / 5 {
                return Err(format!(
                    "{name} was given number {number} at {} ms, while the lock of {} (number {before}) that was prolonged at {} ms \
                     is good for {} ms",
                    self.now / MILLI,
                    other.name,
                    other.kept / MILLI,
                    other.span_ms
                ));
            }
        }
        Ok(())
    }

    /// Whether sessions have ended, as nobody renews them any more.
    pub(super) fn locks_rest(&self) -> Result<(), String> {
        if self.locks.is_none() {
            return Ok(());
        }
        let leader = self.leader(META).ok_or("nobody leads the meta group")?;
        let left = self.shard(leader, META).state().catalog().sessions().count();
        if left > 0 { Err(format!("{left} sessions have not ended")) } else { Ok(()) }
    }

    pub(super) fn judge_locks(&mut self) -> Result<(), String> {
        let Some(locks) = self.locks.take() else { return Ok(()) };
        let leader = self.leader(META).ok_or("nobody leads the meta group")?;
        let state = self.shard(leader, META).state();
        if let Some(lock) = state.catalog().key(KEYS[CONSUL][0]).and_then(|entry| entry.lock.clone()) {
            return Err(format!("{lock:?} outlived its session"));
        }
        drop(state);
        for (kind, [_, fence, list]) in KEYS.iter().enumerate() {
            let group = self.group_of_slot(base::key_slot(fence.as_bytes()));
            let leader = self.leader(group).ok_or("nobody leads")?;
            let there =
                model::Answer::parse(&self.read_words(leader, group, &[b"LRANGE", list.as_bytes(), b"0", b"-1"]))?;
            let there = there.items()?.iter().map(model::Answer::text).collect::<Result<Vec<_>, _>>()?;
            let (mut greatest, mut counts) = (0, BTreeMap::new());
            for value in &there {
                let value = String::from_utf8_lossy(value).into_owned();
                let number: u64 = value.split(':').next().and_then(|number| number.parse().ok()).ok_or("no number")?;
                if number < greatest {
                    return Err(format!("a late write: {value} stands behind one with number {greatest}"));
                }
                greatest = number;
                *counts.entry(value).or_insert(0) += 1;
            }
            for value in &locks.written[kind] {
                if counts.get(value) != Some(&1) {
                    return Err(format!("{value} was written once, and is there {:?} times", counts.get(value)));
                }
            }
        }
        Ok(())
    }
}

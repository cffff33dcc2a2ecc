//! Who is in a consumer group at the moment: the rules of Kafka's classic group coordinator, as a plain value at the leader of the group's shard.
//!
//! ```text
//!                    join                     all have joined, or time is up
//!   Empty ─────────────────► Preparing ──────────────────────────────► Completing ── the leader's sync, saved ─► Stable
//!     ▲   (waits a moment      ▲  ▲                                        │                                      │
//!     │    for company)        │  └──────── join, leave, silence ──────────┘                                      │
//!     └── the last one went ───┴───────────────── join with news, leave, silence ─────────────────────────────────┘
//! ```
//!
//! A request that has to wait carries a token; its answer comes out with the [`Effects`] of whatever ends the wait. What a rebalance has come to
//! is to be replicated ([`Effects::save`]) and told to [`Coordinator::saved`]: only then do the members hear of it. A new leader goes on from what
//! was saved ([`Coordinator::load`]): members that go on heart-beating notice nothing.
//!
//! An example: A joins an empty group, and B within the moment that the first one waits for company. Both are answered with generation 1, A as
//! its leader with the subscriptions of both; A's sync brings who gets what; it is saved; both syncs are answered.
//!
//! **Invariant:** no clock (moments are told), no randomness (the caller gives it), nothing replicated: whoever loses the lead forgets it all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::Instant;

use crate::code::Code;
use crate::group::{Generation, Member as Saved};
use crate::limits::{GENERATION_BYTES_MAX, ID_BYTES_MAX, MEMBER_BYTES_MAX, MEMBERS_MAX};

#[cfg(test)]
mod tests;

/// How long the first member of an empty group waits for company. Kafka waits three seconds in production and not at all in its quickstart.
pub const COMPANY_WAIT: Duration = Duration::from_millis(500);
/// Shortest and longest session timeout (Kafka's `group.min.session.timeout.ms` and `group.max.session.timeout.ms`).
pub const SESSION_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// How long a new member that is given an id may take to come back with it, at most.
const PENDING_MAX: usize = MEMBERS_MAX;
/// Protocols of one member.
const PROTOCOLS_MAX: usize = 64;

/// The members have no protocol in common, or are of another kind than the group.
pub const INCONSISTENT_GROUP_PROTOCOL: Code = Code(23);
/// A session timeout out of bounds.
pub const INVALID_SESSION_TIMEOUT: Code = Code(26);
/// Come again with the id that you are given.
pub const MEMBER_ID_REQUIRED: Code = Code(79);
/// The group is full.
pub const GROUP_MAX_SIZE_REACHED: Code = Code(81);

/// Whose wait it is: the caller's own numbers.
pub type Token = u64;

/// A wish to join.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// Empty for somebody new.
    pub member: String,
    /// A static member's name.
    pub instance: Option<String>,
    /// What the client calls itself.
    pub client: String,
    /// Where it comes from.
    pub host: String,
    /// Silent for so long it is out, milliseconds.
    pub session_ms: i32,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_ms: i32,
    /// The kind of group.
    pub kind: String,
    /// Protocols that it speaks, the one it likes best first, each with its subscription.
    pub protocols: Vec<(String, Vec<u8>)>,
    /// Whether somebody new must come twice (from version 4 on): so no member stays that nobody knows of.
    pub needs_id: bool,
    /// Whether the client knows that an assignment may be skipped (from version 9 on).
    pub can_skip: bool,
    /// For a new member's id.
    pub random: u64,
}

/// The answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// NONE, or why not.
    pub code: Code,
    /// The generation; -1 with an error.
    pub generation: i32,
    /// The kind of group.
    pub kind: String,
    /// The protocol.
    pub protocol: String,
    /// Who assigns.
    pub leader: String,
    /// Who it is itself.
    pub member: String,
    /// For the leader: everybody, with name, static name and subscription.
    pub members: Vec<(String, Option<String>, Vec<u8>)>,
    /// The leader is to leave the assignment as it is.
    pub skip: bool,
}

/// The answer to a sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// NONE, or why not.
    pub code: Code,
    /// The kind of group.
    pub kind: String,
    /// The protocol.
    pub protocol: String,
    /// What it is given.
    pub assignment: Vec<u8>,
}

/// An answer that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a join.
    Joined(Joined),
    /// To a sync.
    Synced(Synced),
}

/// What a step has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Answers to those who wait.
    pub answers: Vec<(Token, Answer)>,
    /// What is to be replicated, then told to [`Coordinator::saved`].
    pub save: Vec<(String, Generation)>,
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody is in it.
    Empty,
    /// Members are joining.
    Preparing,
    /// They wait for the assignment.
    Completing,
    /// All have theirs.
    Stable,
}

impl Phase {
    /// Kafka's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::Preparing => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Member {
    saved: Saved,
    joining: Option<Token>,
    syncing: Option<Token>,
    /// Out, if nothing is heard until then; not while it waits for an answer of ours.
    until: Instant,
}

/// A group at the moment.
#[derive(Clone, Debug)]
pub struct Group {
    phase: Phase,
    number: i32,
    kind: String,
    protocol: String,
    leader: String,
    members: BTreeMap<String, Member>,
    statics: BTreeMap<String, String>,
    /// Who was given an id and has not come back with it.
    pending: BTreeMap<String, Instant>,
    /// When the rebalance goes on without those that are missing; and when an assignment is given up.
    limit: Instant,
    /// While the first ones wait for company: until when; it grows with who comes, up to the second.
    company: Option<(Instant, Instant)>,
    /// A generation that is being saved.
    saving: Option<i32>,
    deadline: Option<Instant>,
}

/// All groups of one shard, at its leader.
#[derive(Clone, Debug, Default)]
pub struct Coordinator {
    groups: BTreeMap<String, Group>,
    deadlines: BTreeSet<(Instant, String)>,
}

fn after(now: Instant, ms: u32) -> Instant {
    now + Duration::from_millis(u64::from(ms))
}

fn refused(code: Code, member: &str) -> Joined {
    Joined { code, generation: -1, member: member.to_owned(), ..Joined::default() }
}

impl Coordinator {
    /// Takes over a group as it was saved. Nothing where it is known already.
    pub fn load(&mut self, name: &str, generation: &Generation, now: Instant) {
        if self.groups.contains_key(name) {
            return;
        }
        let mut group = Group::new(now);
        group.number = generation.number;
        group.kind.clone_from(&generation.kind);
        group.protocol.clone_from(&generation.protocol);
        group.leader.clone_from(&generation.leader);
        group.phase = if generation.members.is_empty() { Phase::Empty } else { Phase::Stable };
        for member in &generation.members {
            if let Some(instance) = &member.instance {
                group.statics.insert(instance.clone(), member.id.clone());
            }
            let own = Member { saved: member.clone(), until: after(now, member.session_ms), ..Member::default() };
            group.members.insert(member.id.clone(), own);
        }
        self.groups.insert(name.to_owned(), group);
        self.schedule(name);
    }

    /// The group of this name.
    pub fn get(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// Forgets a group that nobody is in: it was deleted, or never was.
    pub fn forget(&mut self, name: &str) {
        if self.groups.get(name).is_some_and(|group| group.phase == Phase::Empty && group.pending.is_empty()) {
            self.groups.remove(name);
            self.deadlines.retain(|(_, other)| other != name);
        }
    }

    /// Forgets everything: another node leads. Whoever waits is told to look for it.
    pub fn abdicate(&mut self, code: Code) -> Effects {
        let mut effects = Effects::default();
        self.deadlines.clear();
        for (_, mut group) in std::mem::take(&mut self.groups) {
            for member in group.members.values_mut() {
                member.answer_join(refused(code, &member.saved.id), &mut effects);
                member.answer_sync(Synced { code, ..Synced::default() }, &mut effects);
            }
        }
        effects
    }

    /// When [`Coordinator::tick`] is next needed.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
        {
            let (_, name) = self.deadlines.pop_first().expect("it was there a line ago");
            if let Some(group) = self.groups.get_mut(&name) {
                group.deadline = None;
                group.tick(&name, now, &mut effects);
                self.schedule(&name);
            }
        }
        effects
    }

    fn schedule(&mut self, name: &str) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        if group.phase == Phase::Empty && group.pending.is_empty() && group.number == 0 && group.saving.is_none() {
            // Somebody asked, and did not come back: as if nothing had been.
            let group = self.groups.remove(name).expect("it was there a line ago");
            if let Some(at) = group.deadline {
                self.deadlines.remove(&(at, name.to_owned()));
            }
            return;
        }
        let next = group.next();
        // Heartbeats only move it back: then it is looked at once too often, and not moved with each.
        if let Some(at) = group.deadline {
            if next.is_some_and(|next| at <= next) {
                return;
            }
            self.deadlines.remove(&(at, name.to_owned()));
        }
        group.deadline = next;
        if let Some(next) = next {
            self.deadlines.insert((next, name.to_owned()));
        }
    }

    fn step<T>(&mut self, name: &str, now: Instant, act: impl FnOnce(&mut Group) -> T) -> T {
        let group = self.groups.entry(name.to_owned()).or_insert_with(|| Group::new(now));
        let done = act(group);
        self.schedule(name);
        done
    }

    /// JoinGroup. It is answered by an effect, now or later.
    pub fn join(&mut self, name: &str, token: Token, join: Join, now: Instant) -> Effects {
        let mut effects = Effects::default();
        let code = check(name, &join);
        if code != Code::NONE {
            effects.answers.push((token, Answer::Joined(refused(code, &join.member))));
            return effects;
        }
        if !self.groups.contains_key(name) && !join.member.is_empty() {
            effects.answers.push((token, Answer::Joined(refused(Code::UNKNOWN_MEMBER_ID, &join.member))));
            return effects;
        }
        self.step(name, now, |group| group.join(name, token, join, now, &mut effects));
        effects
    }

    /// SyncGroup. It is answered by an effect, now or later.
    #[allow(clippy::too_many_arguments)]
    pub fn sync(
        &mut self,
        name: &str,
        token: Token,
        by: &By<'_>,
        kind: Option<&str>,
        protocol: Option<&str>,
        assignments: Vec<(String, Vec<u8>)>,
        now: Instant,
    ) -> Effects {
        let mut effects = Effects::default();
        if !self.groups.contains_key(name) {
            let code = Code::UNKNOWN_MEMBER_ID;
            effects.answers.push((token, Answer::Synced(Synced { code, ..Synced::default() })));
            return effects;
        }
        self.step(name, now, |group| group.sync(name, token, by, (kind, protocol), assignments, now, &mut effects));
        effects
    }

    /// Heartbeat.
    pub fn heartbeat(&mut self, name: &str, by: &By<'_>, now: Instant) -> Code {
        if !self.groups.contains_key(name) {
            return Code::UNKNOWN_MEMBER_ID;
        }
        self.step(name, now, |group| match group.known(by) {
            Err(code) => code,
            Ok(_) if group.phase == Phase::Empty => Code::UNKNOWN_MEMBER_ID,
            Ok(id) => {
                group.hear(&id, now);
                if group.phase == Phase::Preparing { Code::REBALANCE_IN_PROGRESS } else { Code::NONE }
            }
        })
    }

    /// Whether this committer may commit offsets now. It counts as a heartbeat.
    pub fn commits(&mut self, name: &str, by: &By<'_>, now: Instant) -> Code {
        if by.generation < 0 && by.member.is_empty() && by.instance.is_none() {
            // Somebody who manages its partitions itself: only where nobody is in the group.
            let busy = self.groups.get(name).is_some_and(|group| group.phase != Phase::Empty);
            return if busy { Code::UNKNOWN_MEMBER_ID } else { Code::NONE };
        }
        if !self.groups.contains_key(name) {
            return if by.generation < 0 { Code::NONE } else { Code::ILLEGAL_GENERATION };
        }
        self.step(name, now, |group| match group.known(by) {
            Err(code) => code,
            Ok(id) => {
                group.hear(&id, now);
                if group.phase == Phase::Completing { Code::REBALANCE_IN_PROGRESS } else { Code::NONE }
            }
        })
    }

    /// LeaveGroup of one member. Its code, and what follows.
    pub fn leave(&mut self, name: &str, member: &str, instance: Option<&str>, now: Instant) -> (Code, Effects) {
        let mut effects = Effects::default();
        if !self.groups.contains_key(name) {
            return (Code::UNKNOWN_MEMBER_ID, effects);
        }
        let code = self.step(name, now, |group| group.leave(name, member, instance, now, &mut effects));
        (code, effects)
    }

    /// What was to be saved has been, or could not be (`code`).
    pub fn saved(&mut self, name: &str, number: i32, code: Code, now: Instant) -> Effects {
        let mut effects = Effects::default();
        if self.groups.contains_key(name) {
            self.step(name, now, |group| group.saved(name, number, code, now, &mut effects));
        }
        effects
    }
}

/// Who asks, as far as it says.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Its id.
    pub member: &'a str,
    /// A static member's name.
    pub instance: Option<&'a str>,
    /// The generation that it knows.
    pub generation: i32,
}

/// What is wrong with a wish to join whatever the group is like.
fn check(name: &str, join: &Join) -> Code {
    let long = |word: &str| word.len() > ID_BYTES_MAX;
    if name.is_empty() || long(name) {
        return Code::INVALID_GROUP_ID;
    }
    if !SESSION_MS.contains(&join.session_ms) {
        return INVALID_SESSION_TIMEOUT;
    }
    let is_odd = long(&join.member)
        || join.instance.as_deref().is_some_and(long)
        || long(&join.client)
        || long(&join.kind)
        || join.protocols.iter().any(|(name, words)| long(name) || words.len() > MEMBER_BYTES_MAX);
    if is_odd {
        return Code::INVALID_REQUEST;
    }
    if join.protocols.is_empty() || join.protocols.len() > PROTOCOLS_MAX || join.kind.is_empty() {
        return INCONSISTENT_GROUP_PROTOCOL;
    }
    Code::NONE
}

impl Member {
    fn answer_join(&mut self, joined: Joined, effects: &mut Effects) {
        if let Some(token) = self.joining.take() {
            effects.answers.push((token, Answer::Joined(joined)));
        }
    }

    fn answer_sync(&mut self, synced: Synced, effects: &mut Effects) {
        if let Some(token) = self.syncing.take() {
            effects.answers.push((token, Answer::Synced(synced)));
        }
    }

    fn waits(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    fn subscription(&self, protocol: &str) -> Vec<u8> {
        let own = self.saved.protocols.iter().find(|(name, _)| name == protocol);
        own.map_or_else(Vec::new, |(_, words)| words.clone())
    }
}

impl Group {
    fn new(now: Instant) -> Group {
        Group {
            phase: Phase::Empty,
            number: 0,
            kind: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            limit: now,
            company: None,
            saving: None,
            deadline: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The kind of group; empty before anybody was in it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The protocol in use.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Who is in it, and with which subscription.
    pub fn members(&self) -> impl Iterator<Item = (&Saved, Vec<u8>)> {
        self.members.values().map(|member| (&member.saved, member.subscription(&self.protocol)))
    }

    /// What must be done next, and when.
    fn next(&self) -> Option<Instant> {
        let silent = self.members.values().filter(|member| !member.waits()).map(|member| member.until);
        let pending = self.pending.values().copied();
        let rebalance = match self.phase {
            Phase::Preparing => Some(self.company.map_or(self.limit, |(until, _)| until)),
            Phase::Completing => Some(self.limit),
            Phase::Empty | Phase::Stable => None,
        };
        silent.chain(pending).chain(rebalance).min()
    }

    fn tick(&mut self, name: &str, now: Instant, effects: &mut Effects) {
        self.pending.retain(|_, until| *until > now);
        let silent = |member: &Member| !member.waits() && member.until <= now;
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| silent(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id, effects);
            self.changed(name, now, effects);
        }
        if let (Phase::Preparing, Some((until, _))) = (self.phase, self.company)
            && until <= now
        {
            self.company = None;
        }
        match self.phase {
            Phase::Preparing => self.try_complete(name, now, effects),
            Phase::Completing if self.limit <= now && self.saving.is_none() => {
                // The leader brought no assignment, or somebody did not come for his.
                let missing: Vec<String> = self
                    .members
                    .iter()
                    .filter(|(_, member)| member.syncing.is_none())
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in missing {
                    self.remove(&id, effects);
                }
                self.prepare(now, effects);
                self.try_complete(name, now, effects);
            }
            Phase::Completing if self.limit <= now => self.limit = after(now, 1_000),
            _ => {}
        }
    }

    fn hear(&mut self, id: &str, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            member.until = after(now, member.saved.session_ms);
        }
    }

    /// Checks who asks: its id where it is a member of this generation.
    fn known(&self, by: &By<'_>) -> Result<String, Code> {
        if let Some(instance) = by.instance {
            match self.statics.get(instance) {
                None => return Err(Code::UNKNOWN_MEMBER_ID),
                Some(id) if id != by.member => return Err(Code::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if !self.members.contains_key(by.member) {
            return Err(Code::UNKNOWN_MEMBER_ID);
        }
        if by.generation != self.number {
            return Err(Code::ILLEGAL_GENERATION);
        }
        Ok(by.member.to_owned())
    }

    fn join(&mut self, name: &str, token: Token, join: Join, now: Instant, effects: &mut Effects) {
        let refuse = |code, effects: &mut Effects| {
            effects.answers.push((token, Answer::Joined(refused(code, &join.member))));
        };
        // A static member that comes back has its place, full or not.
        let replaced = match (&join.instance, join.member.is_empty()) {
            (Some(instance), true) => self.statics.get(instance).cloned(),
            _ => None,
        };
        let own = replaced.as_deref().unwrap_or(&join.member);
        if !self.speaks(&join, own) {
            return refuse(INCONSISTENT_GROUP_PROTOCOL, effects);
        }
        if let Some(old) = replaced {
            return self.replace(name, token, &old, join, now, effects);
        }
        if let (Some(instance), false) = (&join.instance, join.member.is_empty()) {
            match self.statics.get(instance) {
                None => return refuse(Code::UNKNOWN_MEMBER_ID, effects),
                Some(id) if *id != join.member => return refuse(Code::FENCED_INSTANCE_ID, effects),
                Some(_) => {}
            }
        }
        if self.members.contains_key(&join.member) {
            return self.rejoin(name, token, join, now, effects);
        }
        let was_pending = self.pending.contains_key(&join.member);
        if !join.member.is_empty() && !was_pending {
            return refuse(Code::UNKNOWN_MEMBER_ID, effects);
        }
        let bytes: usize = self.members.values().map(|member| words(&member.saved)).sum();
        let more: usize = join.protocols.iter().map(|(name, words)| name.len() + words.len()).sum();
        if self.members.len() >= MEMBERS_MAX || bytes + more > GENERATION_BYTES_MAX / 2 {
            return refuse(GROUP_MAX_SIZE_REACHED, effects);
        }
        let id = match join.member.is_empty() {
            false => join.member.clone(),
            true => {
                let base = join.instance.as_deref().unwrap_or(&join.client);
                format!("{}-{:016x}{:08x}", &base[..base.floor_char_boundary(200)], join.random, self.members.len())
            }
        };
        if join.member.is_empty() && join.needs_id && join.instance.is_none() {
            if self.pending.len() >= PENDING_MAX {
                return refuse(GROUP_MAX_SIZE_REACHED, effects);
            }
            self.pending.insert(id.clone(), after(now, join.session_ms as u32));
            effects.answers.push((token, Answer::Joined(refused(MEMBER_ID_REQUIRED, &id))));
            return;
        }
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.kind.clone_from(&join.kind);
        }
        if let Some(instance) = &join.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        let mut member = Member { joining: Some(token), ..Member::default() };
        member.saved.id.clone_from(&id);
        take(&mut member, join, now);
        self.members.insert(id, member);
        if self.phase == Phase::Preparing {
            if let Some((until, most)) = &mut self.company {
                // Company has come: perhaps there is more.
                *until = (now + COMPANY_WAIT).min(*most);
            }
        } else {
            self.prepare(now, effects);
        }
        self.try_complete(name, now, effects);
    }

    /// Whether a member that speaks like this fits to the others.
    fn speaks(&self, join: &Join, own: &str) -> bool {
        let mut others = self.members.iter().filter(|(id, _)| *id != own).map(|(_, member)| member).peekable();
        if others.peek().is_none() {
            return true;
        }
        let others: Vec<&Member> = others.collect();
        let all_know =
            |name: &str| others.iter().all(|member| member.saved.protocols.iter().any(|(known, _)| known == name));
        self.kind == join.kind && join.protocols.iter().any(|(name, _)| all_know(name))
    }

    /// A member joins again.
    fn rejoin(&mut self, name: &str, token: Token, join: Join, now: Instant, effects: &mut Effects) {
        let id = join.member.clone();
        let member = self.members.get_mut(&id).expect("the caller has looked");
        let has_news = member.saved.protocols != join.protocols;
        let is_leader = self.leader == id;
        match self.phase {
            Phase::Completing if !has_news => {
                // It did not hear the answer.
                member.until = after(now, member.saved.session_ms);
                let joined = self.joined(&id);
                effects.answers.push((token, Answer::Joined(joined)));
            }
            Phase::Stable if !has_news && !is_leader => {
                member.until = after(now, member.saved.session_ms);
                let joined = self.joined(&id);
                effects.answers.push((token, Answer::Joined(joined)));
            }
            _ => {
                // Whoever waited under this id before, waits no more: the client has asked anew.
                member.answer_join(refused(Code::REBALANCE_IN_PROGRESS, &id), effects);
                take(member, join, now);
                member.joining = Some(token);
                if self.phase != Phase::Preparing {
                    self.prepare(now, effects);
                    self.members.get_mut(&id).expect("nobody went").joining = Some(token);
                }
                self.try_complete(name, now, effects);
            }
        }
    }

    /// A static member comes back under a new id.
    fn replace(&mut self, name: &str, token: Token, old: &str, join: Join, now: Instant, effects: &mut Effects) {
        let instance = join.instance.clone().expect("only static members are replaced");
        let mut member = self.members.remove(old).expect("names of static members are those of members");
        let fenced = Code::FENCED_INSTANCE_ID;
        member.answer_join(refused(fenced, old), effects);
        member.answer_sync(Synced { code: fenced, ..Synced::default() }, effects);
        let base = &instance[..instance.floor_char_boundary(200)];
        let id = format!("{base}-{:016x}{:08x}", join.random, self.members.len());
        let is_leader = self.leader == old;
        let can_skip = join.can_skip;
        member.saved.id.clone_from(&id);
        take(&mut member, join, now);
        self.statics.insert(instance, id.clone());
        self.members.insert(id.clone(), member);
        if is_leader {
            self.leader.clone_from(&id);
        }
        match self.phase {
            Phase::Stable if self.vote() == self.protocol => {
                // The assignment stays: it is the same consumer. It must be known to a new leader too.
                let mut joined = self.joined(&id);
                if is_leader {
                    match can_skip {
                        true => joined.skip = true,
                        // It would assign, and its sync would be nobody's: it is told that another one leads.
                        false => (joined.leader, joined.members) = (old.to_owned(), Vec::new()),
                    }
                }
                self.saving = None;
                effects.save.push((name.to_owned(), self.generation()));
                effects.answers.push((token, Answer::Joined(joined)));
            }
            Phase::Preparing => {
                self.members.get_mut(&id).expect("it was put there above").joining = Some(token);
                self.try_complete(name, now, effects);
            }
            _ => {
                self.prepare(now, effects);
                self.members.get_mut(&id).expect("it was put there above").joining = Some(token);
                self.try_complete(name, now, effects);
            }
        }
    }

    /// Begins a rebalance.
    fn prepare(&mut self, now: Instant, effects: &mut Effects) {
        for member in self.members.values_mut() {
            let code = Code::REBALANCE_IN_PROGRESS;
            if member.syncing.is_some() {
                member.until = after(now, member.saved.session_ms);
            }
            member.answer_sync(Synced { code, ..Synced::default() }, effects);
        }
        self.saving = None;
        let longest = Duration::from_millis(u64::from(self.longest()));
        self.company = match self.phase {
            Phase::Empty => Some(((now + COMPANY_WAIT).min(now + longest), now + longest)),
            _ => None,
        };
        self.limit = now + longest;
        self.phase = Phase::Preparing;
    }

    fn longest(&self) -> u32 {
        self.members.values().map(|member| member.saved.rebalance_ms).max().unwrap_or(0)
    }

    /// Goes on once all have joined, or time is up.
    fn try_complete(&mut self, name: &str, now: Instant, effects: &mut Effects) {
        if self.phase != Phase::Preparing || self.company.is_some() && !self.members.is_empty() {
            return;
        }
        let all_here = self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some());
        if !all_here && self.limit > now {
            return;
        }
        // Static members that are not here keep their place while their session lasts.
        let missing = |member: &Member| member.joining.is_none() && member.saved.instance.is_none();
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| missing(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id, effects);
        }
        self.company = None;
        self.number = if self.number == i32::MAX { 1 } else { self.number + 1 };
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            (self.protocol, self.leader) = (String::new(), String::new());
            effects.save.push((name.to_owned(), self.generation()));
            return;
        }
        let is_here = |id: &String| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if !is_here(&self.leader) {
            let first = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
            let Some(first) = first else {
                // Only static members that are away: they have until their sessions end.
                self.limit = after(now, self.longest());
                self.number -= 1;
                return;
            };
            self.leader = first;
        }
        self.protocol = self.vote();
        self.phase = Phase::Completing;
        self.limit = after(now, self.longest());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            let member = self.members.get_mut(&id).expect("it is one of the keys");
            if member.joining.is_some() {
                member.until = after(now, member.saved.session_ms);
            }
            member.answer_join(joined, effects);
        }
    }

    /// The protocol that all speak and most like best.
    fn vote(&self) -> String {
        let all_know = |name: &str| {
            self.members.values().all(|member| member.saved.protocols.iter().any(|(known, _)| known == name))
        };
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.saved.protocols.iter().find(|(name, _)| all_know(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(name, _)| name.to_owned())
    }

    fn joined(&self, id: &str) -> Joined {
        let own = |member: &Member| {
            (member.saved.id.clone(), member.saved.instance.clone(), member.subscription(&self.protocol))
        };
        Joined {
            code: Code::NONE,
            generation: self.number,
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member: id.to_owned(),
            members: if id == self.leader { self.members.values().map(own).collect() } else { Vec::new() },
            skip: false,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn sync(
        &mut self,
        name: &str,
        token: Token,
        by: &By<'_>,
        (kind, protocol): (Option<&str>, Option<&str>),
        assignments: Vec<(String, Vec<u8>)>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let refuse = |code, effects: &mut Effects| {
            effects.answers.push((token, Answer::Synced(Synced { code, ..Synced::default() })));
        };
        let id = match self.known(by) {
            Ok(id) => id,
            Err(code) => return refuse(code, effects),
        };
        if kind.is_some_and(|kind| kind != self.kind) || protocol.is_some_and(|protocol| protocol != self.protocol) {
            return refuse(INCONSISTENT_GROUP_PROTOCOL, effects);
        }
        self.hear(&id, now);
        match self.phase {
            Phase::Empty => refuse(Code::UNKNOWN_MEMBER_ID, effects),
            Phase::Preparing => refuse(Code::REBALANCE_IN_PROGRESS, effects),
            Phase::Stable => {
                let synced = self.synced(&id);
                effects.answers.push((token, Answer::Synced(synced)));
            }
            Phase::Completing => {
                let bytes: usize = assignments.iter().map(|(_, words)| words.len()).sum();
                let is_large = assignments.iter().any(|(_, words)| words.len() > MEMBER_BYTES_MAX);
                if bytes > GENERATION_BYTES_MAX / 2 || is_large {
                    return refuse(Code::INVALID_REQUEST, effects);
                }
                let member = self.members.get_mut(&id).expect("it is known");
                member.answer_sync(Synced { code: Code::REBALANCE_IN_PROGRESS, ..Synced::default() }, effects);
                member.syncing = Some(token);
                if id == self.leader && self.saving.is_none() {
                    for member in self.members.values_mut() {
                        member.saved.assignment.clear();
                    }
                    for (id, words) in assignments {
                        if let Some(member) = self.members.get_mut(&id) {
                            member.saved.assignment = words;
                        }
                    }
                    self.saving = Some(self.number);
                    effects.save.push((name.to_owned(), self.generation()));
                }
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        let assignment = self.members.get(id).map_or_else(Vec::new, |member| member.saved.assignment.clone());
        Synced { code: Code::NONE, kind: self.kind.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn generation(&self) -> Generation {
        Generation {
            number: self.number,
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: self.members.values().map(|member| member.saved.clone()).collect(),
        }
    }

    fn saved(&mut self, name: &str, number: i32, code: Code, now: Instant, effects: &mut Effects) {
        if self.phase != Phase::Completing || self.saving != Some(number) || self.number != number {
            return;
        }
        self.saving = None;
        if code != Code::NONE {
            for member in self.members.values_mut() {
                member.until = after(now, member.saved.session_ms);
                member.answer_sync(Synced { code, ..Synced::default() }, effects);
            }
            self.prepare(now, effects);
            return self.try_complete(name, now, effects);
        }
        self.phase = Phase::Stable;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            let member = self.members.get_mut(&id).expect("it is one of the keys");
            if member.syncing.is_some() {
                member.until = after(now, member.saved.session_ms);
            }
            member.answer_sync(synced, effects);
        }
    }

    fn leave(&mut self, name: &str, member: &str, instance: Option<&str>, now: Instant, effects: &mut Effects) -> Code {
        let id = match instance {
            None => member.to_owned(),
            Some(instance) => match self.statics.get(instance) {
                None => return Code::UNKNOWN_MEMBER_ID,
                Some(id) if !member.is_empty() && id != member => return Code::FENCED_INSTANCE_ID,
                Some(id) => id.clone(),
            },
        };
        if self.pending.remove(&id).is_some() {
            self.try_complete(name, now, effects);
            return Code::NONE;
        }
        if !self.members.contains_key(&id) {
            return Code::UNKNOWN_MEMBER_ID;
        }
        self.remove(&id, effects);
        self.changed(name, now, effects);
        Code::NONE
    }

    fn remove(&mut self, id: &str, effects: &mut Effects) {
        let Some(mut member) = self.members.remove(id) else {
            return;
        };
        if let Some(instance) = &member.saved.instance {
            self.statics.remove(instance);
        }
        member.answer_join(refused(Code::UNKNOWN_MEMBER_ID, id), effects);
        member.answer_sync(Synced { code: Code::UNKNOWN_MEMBER_ID, ..Synced::default() }, effects);
    }

    /// Somebody has gone.
    fn changed(&mut self, name: &str, now: Instant, effects: &mut Effects) {
        if matches!(self.phase, Phase::Stable | Phase::Completing) {
            self.prepare(now, effects);
        }
        self.try_complete(name, now, effects);
    }
}

/// Takes over what a wish to join says.
fn take(member: &mut Member, join: Join, now: Instant) {
    let saved = &mut member.saved;
    (saved.instance, saved.client, saved.host) = (join.instance, join.client, join.host);
    saved.session_ms = join.session_ms.unsigned_abs();
    saved.rebalance_ms = if join.rebalance_ms > 0 { join.rebalance_ms.unsigned_abs() } else { saved.session_ms };
    saved.protocols = join.protocols;
    member.until = after(now, saved.session_ms);
}

fn words(saved: &Saved) -> usize {
    let protocols: usize = saved.protocols.iter().map(|(name, words)| name.len() + words.len()).sum();
    saved.id.len() + saved.client.len() + saved.host.len() + protocols
}

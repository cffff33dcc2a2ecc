//! ACL: who may do what, and who has tried.
//!
//! Every session holds its user's compiled rights ([`Grant`]), and looks at one number whether the users have changed since. What changes
//! them is an entry of the meta group, wherever that is led; the answer is given once this node has heard of it. What is forwarded to
//! another node was checked here, where the client is; what a script calls is checked where it runs (see `shard::command::rights`).

mod log;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use shard::command::{self, Args, Spec, rights};
use shard::error::CommandError;
use shard::reply::Reply;
use users::commands::{CATEGORIES, Commands, category};
use users::{Change, DEFAULT, Denied, Grant, Outcome, Password, User, Users};

use super::door::Door;
use super::introspect;
use super::session::{Session, Step};
use super::text;
use crate::access;
use log::{Context, Log, Reason};

/// How many users' compiled rights are kept: those of the clients that are here.
const GRANTS_MAX: usize = 10_000;
/// Bits of ACL GENPASS.
const GENPASS_BITS_MAX: i64 = 4096;

/// What a door remembers of users.
#[derive(Debug, Default)]
pub(super) struct Access {
    grants: Mutex<BTreeMap<Vec<u8>, Arc<Grant>>>,
    pub(super) log: Mutex<Log>,
}

impl Door {
    /// Grows when the users change.
    #[inline]
    pub(super) fn users_index(&self) -> u64 {
        self.forward.meta.get().map_or(0, |meta| meta.users_bell.index())
    }

    /// The users by now.
    pub fn users(&self) -> Arc<Users> {
        self.forward.meta.get().map_or_else(Arc::default, |meta| meta.state().users().clone())
    }

    /// What the settings say of clients that have not said who they are.
    fn default_of_settings(&self) -> User {
        let mut user = User::unbounded();
        if let Some(password) = &self.password {
            user.nopass = false;
            user.passwords = vec![Password { digest: access::digest_of(password.reveal().as_bytes()), proof: None }];
        }
        user
    }

    /// A user by now. The default user is what the settings say, until ACL SETUSER has said something of it.
    fn user(&self, name: &[u8]) -> Option<Arc<User>> {
        let users = self.users();
        let known = users.get(name).cloned();
        known.or_else(|| (name == DEFAULT).then(|| Arc::new(self.default_of_settings())))
    }

    /// What a user may do by now. The same value as long as the user is the same.
    pub(super) fn grant(&self, name: &[u8]) -> Option<Arc<Grant>> {
        let user = self.user(name);
        let mut grants = self.access.grants.lock();
        let Some(user) = user else {
            grants.remove(name);
            return None;
        };
        match grants.get(name) {
            Some(known) if known.user == user => Some(known.clone()),
            _ => {
                if grants.len() >= GRANTS_MAX {
                    grants.clear();
                }
                let grant = Arc::new(Grant::new(name, user));
                grants.insert(name.to_vec(), grant.clone());
                Some(grant)
            }
        }
    }

    /// What clients may do who have not said who they are, and whether they need to say it.
    pub(super) fn default_grant(&self) -> (Arc<Grant>, bool) {
        let grant = self.grant(DEFAULT).expect("there is always a default user");
        let is_open = grant.user.enabled && grant.user.nopass;
        (grant, is_open)
    }

    /// Ends the connections of users who are gone, and of those who listen to what they may listen to no more. Runs for as long as the door.
    pub fn watch_users(self: &Arc<Door>) {
        let Some(meta) = self.forward.meta.get().cloned() else { return };
        let door = self.clone();
        self.world.spawn(Box::pin(async move {
            let mut seen = 0;
            loop {
                seen = shard::meta::Changed::users(meta.clone(), seen).await;
                door.end_forbidden();
            }
        }));
    }

    fn end_forbidden(&self) {
        let clients: Vec<_> = self.clients.lock().values().cloned().collect();
        for client in clients {
            let Some(before) = client.card.lock().grant.clone() else { continue };
            let now = self.grant(&before.name).filter(|now| is_same(now, &before));
            let may_stay = now.is_some_and(|now| {
                Arc::ptr_eq(&now, &before) || {
                    let stays =
                        self.channels.read().all_of(client.id, |name, is_pattern| now.may_listen(name, is_pattern));
                    client.card.lock().grant = Some(now);
                    stays
                }
            });
            if !may_stay {
                client.doom();
            }
        }
    }

    /// Changes the users, and waits until this node has heard of it. `None`: it may have been done.
    async fn change_users(self: &Arc<Door>, change: &Change) -> Option<Result<Outcome, String>> {
        let mut unit = Vec::new();
        shard::entry::put_users(&mut unit, change);
        let answer = match self.ask_meta(unit, true, |batch, peer| batch.users(peer, change)).await? {
            Ok(answer) => answer,
            Err(why) => return Some(Err(why)),
        };
        let outcome = Outcome::decode(&answer).ok()?;
        if let Outcome::Done(revision, _) = outcome {
            self.until(|| self.users_index() >= revision).await;
        }
        Some(Ok(outcome))
    }
}

/// Whether it is still the same user, not another one of that name.
fn is_same(now: &Grant, before: &Grant) -> bool {
    now.user.born == before.user.born || now.name == DEFAULT
}

impl Session {
    /// Looks whether the user has changed. A user who is gone ends the connection.
    #[inline]
    pub(super) fn look_at_users(&mut self) {
        let index = self.door.users_index();
        if index != self.users_seen {
            self.users_seen = index;
            self.look_again();
        }
    }

    #[cold]
    fn look_again(&mut self) {
        match self.door.grant(&self.grant.name) {
            Some(now) if is_same(&now, &self.grant) => self.become_user(now),
            _ => self.closing = true,
        }
    }

    fn become_user(&mut self, grant: Arc<Grant>) {
        self.client.card.lock().grant = Some(grant.clone());
        self.grant = grant;
    }

    /// As if it had just come: the default user, who may have to say so.
    pub(super) fn become_default(&mut self) {
        let (grant, is_open) = self.door.default_grant();
        self.become_user(grant);
        if is_open {
            return self.authenticate();
        }
        self.authenticated = false;
        self.limits = super::decode::DecodeLimits::unauthenticated(&self.door.limits);
    }

    /// AUTH and HELLO … AUTH.
    pub(super) fn check_password(&mut self, user: &[u8], password: &[u8]) -> Result<(), CommandError> {
        const WRONG_PASS: CommandError =
            CommandError::new("WRONGPASS invalid username-password pair or user is disabled.");
        let known = self.door.user(user);
        // Somebody who is not known costs as much time as somebody who is.
        let is_it = access::is_right(known.as_deref().unwrap_or(&User::default()), password);
        let grant = if is_it { self.door.grant(user) } else { None };
        let Some(grant) = grant else {
            self.door.counters.auth_failures.fetch_add(1, Ordering::Relaxed);
            self.note_denied(Reason::Auth, "AUTH".as_bytes(), user);
            return Err(WRONG_PASS);
        };
        self.become_user(grant);
        self.authenticate();
        Ok(())
    }

    /// Why the user may not do that, if so: NOPERM. `name` is the command's full one, its keys stand at these places.
    #[inline]
    pub(super) fn forbidden(
        &mut self,
        name: &str,
        places: impl FnOnce() -> Places,
        args: Args<'_>,
    ) -> Option<CommandError> {
        self.look_at_users();
        if self.grant.is_all { None } else { self.denied(name, &places(), args) }
    }

    #[cold]
    fn denied(&mut self, name: &str, places: &[usize], args: Args<'_>) -> Option<CommandError> {
        let named = topic_named(name, places, args);
        let named: Option<Vec<&[u8]>> = named.as_ref().map(|named| named.iter().map(|word| &word[..]).collect());
        let args = named.as_deref().unwrap_or(args);
        let denied = rights::check(&self.grant, name, places, args).err()?;
        let object = |place: usize| args.get(place).copied().unwrap_or_default();
        let (reason, object) = match denied {
            Denied::Command => (Reason::Command, full_name(name, args).as_bytes()),
            Denied::Key(place) => (Reason::Key, object(place)),
            Denied::Channel(place) => (Reason::Channel, object(place)),
        };
        let user = self.grant.name.clone();
        self.note_denied(reason, object, &user);
        Some(format!("NOPERM {}", rights::why_not(denied, &self.grant, name, args)).into())
    }

    fn note_denied(&mut self, reason: Reason, object: &[u8], user: &[u8]) {
        let context = if self.transaction.is_some() { Context::Multi } else { Context::TopLevel };
        let line = self.facts_of(&self.client, "").line();
        let now = self.door.world.wall_micros() / 1000;
        self.door.access.log.lock().note(reason, context, object, user, line, now);
    }

    /// A script of a user who may not do everything carries what it may.
    pub(super) fn wrapped(&self, spec: &'static Spec) -> Option<(&'static Spec, Vec<u8>)> {
        if self.grant.is_all {
            return None;
        }
        Some((rights::wrapped(spec)?, rights::word_of(&self.grant)))
    }

    /// ACL SETUSER and DELUSER: an entry of the meta group.
    pub(super) fn acl_change(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            let text = "ERR ACL SETUSER and DELUSER are not allowed inside MULTI: users are another group's";
            return self.refuse(CommandError::new(text), out);
        }
        if self.is_pending() {
            return Step::Barrier;
        }
        let made = match name {
            "acl|setuser" => self.set_user(args[2], &args[3..]),
            _ if args[2..].contains(&DEFAULT) => Err(CommandError::new("ERR The 'default' user cannot be removed")),
            _ => Ok((Change::Delete { names: args[2..].iter().map(|name| name.to_vec()).collect() }, Vec::new())),
        };
        let (mut change, clear) = match made {
            Ok(made) => made,
            Err(error) => return self.refuse(error, out),
        };
        let (door, client, protocol) = (self.door.clone(), self.client.clone(), self.protocol);
        let is_set = name == "acl|setuser";
        self.sent += 1;
        self.blocked = true;
        self.door.clone().world.spawn(Box::pin(async move {
            let mut reply = Reply::new(protocol);
            if let Change::Set { name, proofs, .. } = &mut change {
                let random = [door.world.random(), door.world.random()];
                let salt = access::salt_of(door.user(name).as_deref(), random);
                *proofs = clear.iter().map(|word| (access::digest_of(word), access::prove(word, &salt))).collect();
            }
            match door.change_users(&change).await {
                None => return client.doom(),
                Some(Ok(Outcome::Done(..))) if is_set => reply.ok(),
                Some(Ok(Outcome::Done(_, count))) => reply.int(count as i64),
                Some(Ok(Outcome::Refused(_, why))) => reply.error(&format!("ERR {why}")),
                Some(Err(why)) => reply.error(&why),
            }
            client.answer(&reply.bytes).into_iter().for_each(std::task::Waker::wake);
        }));
        Step::Next
    }

    /// The change that SETUSER's words are, and the passwords among them.
    fn set_user(&self, name: &[u8], words: &[&[u8]]) -> Result<(Change, Vec<Vec<u8>>), CommandError> {
        let known = self.door.user(name);
        let base = if self.door.users().get(name).is_none() { known.as_deref().cloned() } else { None };
        let mut user = known.as_deref().cloned().unwrap_or_default();
        let (words, clear) = words::read(name, words, &mut user)?;
        Ok((Change::Set { name: name.to_vec(), base, words, proofs: Vec::new() }, clear))
    }

    /// The other subcommands of ACL: they only look.
    pub(super) fn acl_command(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        const NO_FILE: CommandError = CommandError::new(
            "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
        );
        match name {
            "acl|whoami" => out.bulk(&self.grant.name),
            "acl|users" | "acl|list" => self.list_users(name == "acl|list", out),
            "acl|getuser" => match self.door.user(args[2]) {
                Some(user) => words::write_user(&user, out),
                None => out.null(),
            },
            "acl|cat" if args.len() == 2 => {
                out.array(CATEGORIES.len());
                CATEGORIES.iter().for_each(|name| out.bulk(name.as_bytes()));
            }
            "acl|cat" if args.len() == 3 => cat(args[2], out)?,
            "acl|genpass" if args.len() <= 3 => self.genpass(args.get(2).copied(), out)?,
            "acl|log" if args.len() <= 3 => {
                let now = self.door.world.wall_micros() / 1000;
                self.door.access.log.lock().command(args.get(2).copied(), now, out)?;
            }
            "acl|dryrun" => self.dryrun(args, out)?,
            "acl|load" | "acl|save" => return Err(NO_FILE),
            "acl|help" => text::help("ACL", words::HELP, out),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }

    fn list_users(&self, aloud: bool, out: &mut Reply) {
        let users = self.door.users();
        let mut names: Vec<&[u8]> = users.iter().map(|(name, _)| name).collect();
        if users.get(DEFAULT).is_none() {
            let at = names.partition_point(|name| *name < DEFAULT);
            names.insert(at, DEFAULT);
        }
        out.array(names.len());
        for name in names {
            match self.door.user(name).filter(|_| aloud) {
                Some(user) => out.bulk(&[b"user ", name, b" ", &user.show()].concat()),
                None => out.bulk(name),
            }
        }
    }

    fn genpass(&self, bits: Option<&[u8]>, out: &mut Reply) -> Result<(), CommandError> {
        let bits = bits.map_or(Some(256), base::parse_i64).ok_or(shard::error::NOT_INTEGER)?;
        if !(1..=GENPASS_BITS_MAX).contains(&bits) {
            let text = "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096";
            return Err(CommandError::new(text));
        }
        let digits = bits.unsigned_abs().div_ceil(4) as usize;
        let mut text = String::new();
        while text.len() < digits {
            text.push_str(&format!("{:016x}", self.door.world.random()));
        }
        out.bulk(&text.as_bytes()[..digits]);
        Ok(())
    }

    fn dryrun(&self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let grant = self.door.grant(args[2]).ok_or_else(|| format!("ERR User '{}' not found", shown(args[2])))?;
        let words = &args[3..];
        let not_found = || CommandError::from(format!("ERR Command '{}' not found", shown(words[0])));
        let mut ignored = Reply::new(self.protocol);
        let (name, places) = match command::find(words[0]).filter(|spec| !rights::is_internal(spec)) {
            Some(spec) => {
                command::check(spec, words)?;
                (spec.name, spec.key_places(words))
            }
            None => {
                introspect::find_door(words[0]).ok_or_else(not_found)?;
                let Some(spec) = introspect::check(words, &mut ignored) else {
                    out.bytes.extend_from_slice(&ignored.bytes);
                    return Ok(());
                };
                (spec.name, door_places(spec, words))
            }
        };
        match rights::check(&grant, name, &places, words) {
            Ok(()) => out.ok(),
            Err(denied) => {
                let command = Commands::all().of_words(name, words).ok_or_else(not_found)?;
                out.bulk(denied.text(&grant.name, command, words, true).as_bytes());
            }
        }
        Ok(())
    }
}

/// Places of keys among a command's words.
pub(super) type Places = smallvec::SmallVec<[usize; 8]>;

/// Places of the keys of a command of the door. Channels are none.
pub(super) fn door_places(spec: &introspect::DoorSpec, args: Args<'_>) -> Places {
    match spec.name {
        "watch" => (1..args.len()).collect(),
        "q.xack" => std::iter::once(1).collect(),
        "q.topic" | "q.commitoffset" => std::iter::once(2).collect(),
        _ => Places::new(),
    }
}

/// The words with the topic called as its key is, where they leave that out: rules on keys are compared with it.
fn topic_named(name: &str, places: &[usize], args: Args<'_>) -> Option<Vec<Vec<u8>>> {
    const PREFIX: &[u8] = b"topic:";
    let place = *places.first().filter(|_| matches!(name, "q.topic" | "q.commitoffset"))?;
    let is_short = args.get(place).is_some_and(|word| !word.starts_with(PREFIX));
    is_short.then(|| {
        let mut words: Vec<Vec<u8>> = args.iter().map(|word| word.to_vec()).collect();
        words[place].splice(0..0, PREFIX.iter().copied());
        words
    })
}

/// The name with the subcommand's, where it has one.
fn full_name<'a>(name: &'a str, args: Args<'_>) -> &'a str {
    Commands::all().of_words(name, args).map_or(name, |command| command.name)
}

fn cat(name: &[u8], out: &mut Reply) -> Result<(), CommandError> {
    let shown = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
    let bit = category(&shown).ok_or_else(|| format!("ERR Unknown category '{shown}'"))?;
    let is_here = |name: &str| {
        let parent = name.split('|').next().unwrap_or(name).as_bytes();
        command::find(parent).is_some()
            || introspect::find_door(parent)
                .is_some_and(|spec| spec.name == name || spec.subcommands.iter().any(|sub| sub.name == name))
    };
    let names = Commands::all().iter().filter(|command| command.categories & bit != 0 && is_here(command.name));
    let names: Vec<&str> = names.map(|command| command.name).collect();
    out.array(names.len());
    names.iter().for_each(|name| out.bulk(name.as_bytes()));
    Ok(())
}

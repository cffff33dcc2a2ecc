//! Requests on their way: what clients have asked and the log has not taken yet.
//!
//! One batch becomes one log entry. A command is written once, straight into the entry's bytes; what needs no log (a read
//! behind a write of the same pipeline) is written beside it and runs in its place when the entry is applied.

use store::codec::Input;

use crate::command::Args;
use crate::entry::{self, HEADER_BYTES, MultiBuilder, Unblock, Unit, Watch};
use crate::reply::Protocol;

/// Where a request's unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the entry: replicated.
    Logged,
    /// Beside it: run by the leader only.
    Local,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request<C> {
    /// Who asked; nobody for the leader's own doings.
    pub client: Option<C>,
    /// Where its unit stands.
    pub place: Place,
}

/// Requests in order, the logged ones as the bytes of an entry.
#[derive(Clone, Debug)]
pub struct Batch<C> {
    entry: Vec<u8>,
    local: Vec<u8>,
    requests: Vec<Request<C>>,
    /// Whether every logged unit only frees (DEL, expiry): such an entry may use the log's reserve on a full disk.
    frees_only: bool,
}

impl<C> Default for Batch<C> {
    fn default() -> Batch<C> {
        Batch { entry: Vec::new(), local: Vec::new(), requests: Vec::new(), frees_only: true }
    }
}

impl<C> Batch<C> {
    fn logged(&mut self, client: Option<C>, frees: bool) -> &mut Vec<u8> {
        if self.entry.is_empty() {
            entry::put_header(&mut self.entry);
        }
        self.frees_only &= frees;
        self.requests.push(Request { client, place: Place::Logged });
        &mut self.entry
    }

    fn beside(&mut self, client: Option<C>) -> &mut Vec<u8> {
        self.requests.push(Request { client, place: Place::Local });
        &mut self.local
    }

    /// Adds a command.
    #[inline]
    pub fn command(&mut self, place: Place, frees: bool, client: C, db: u8, protocol: Protocol, words: Args<'_>) {
        let out = match place {
            Place::Logged => self.logged(Some(client), frees),
            Place::Local => self.beside(Some(client)),
        };
        entry::put_command(out, db, protocol, words);
    }

    /// Adds a MULTI.
    pub fn multi(
        &mut self,
        place: Place,
        frees: bool,
        client: C,
        protocol: Protocol,
        multi: &MultiBuilder,
        watches: &[Watch],
    ) {
        let out = match place {
            Place::Logged => self.logged(Some(client), frees),
            Place::Local => self.beside(Some(client)),
        };
        multi.finish(out, protocol, watches);
    }

    /// Adds a question for the versions of keys.
    pub fn versions<'a>(&mut self, client: C, db: u8, keys: impl Iterator<Item = &'a [u8]>) {
        entry::put_versions(self.beside(Some(client)), db, keys);
    }

    /// Adds a unit that has been written already ([`entry::read_unit`] must be able to read it).
    pub fn unit(&mut self, place: Place, frees: bool, client: C, unit: &[u8]) {
        let out = match place {
            Place::Logged => self.logged(Some(client), frees),
            Place::Local => self.beside(Some(client)),
        };
        out.extend_from_slice(unit);
    }

    /// Adds an answer that is already known, in its place.
    pub fn literal(&mut self, client: C, reply: &[u8]) {
        entry::put_literal(self.beside(Some(client)), reply);
    }

    /// Adds keys that the leader found expired.
    pub fn expire(&mut self, keys: &[(u8, Vec<u8>)]) {
        entry::put_expire(self.logged(None, true), keys);
    }

    /// Adds the end of a wait.
    pub fn unblock(&mut self, waiter: u64, how: Unblock) {
        entry::put_unblock(self.logged(None, true), waiter, how);
    }

    /// The ends of waits that are in here, in order.
    pub fn unblocks(&self) -> Vec<(u64, Unblock)> {
        let mut ends = Vec::new();
        if self.requests.iter().any(|request| request.client.is_none()) {
            let mut units = Input::new(self.entry.get(HEADER_BYTES..).unwrap_or_default());
            while let Ok(unit) = entry::read_unit(&mut units) {
                if let Unit::Unblock { waiter, how } = unit {
                    ends.push((waiter, how));
                }
            }
        }
        ends
    }

    /// Adds a change of the registry. Its answer is the outcome's form.
    pub fn change(&mut self, client: C, change: &discovery::Change) {
        entry::put_change(self.logged(Some(client), crate::meta::frees(change)), change);
    }

    /// Adds a change of the cluster. Its answer is the outcome's form. It may use the log's reserve: a full disk must not keep
    /// a node from leaving.
    pub fn cluster(&mut self, client: C, change: &cluster::Change) {
        entry::put_cluster(self.logged(Some(client), true), change);
    }

    /// Adds a command of the queue. Its answer is the outcome's form ([`queue::Outcome`]).
    pub fn queue(&mut self, client: C, command: &queue::Command<'_>) {
        entry::put_queue(self.logged(Some(client), command.frees()), command);
    }

    /// Adds a command of the queue that nobody waits for: the leader's own upkeep.
    pub fn queue_upkeep(&mut self, command: &queue::Command<'_>) {
        entry::put_queue(self.logged(None, command.frees()), command);
    }

    /// Adds work on a topic as a stream, by its [form](crate::streams).
    pub fn stream(&mut self, place: Place, frees: bool, client: C, protocol: Protocol, form: &[u8]) {
        let out = match place {
            Place::Logged => self.logged(Some(client), frees),
            Place::Local => self.beside(Some(client)),
        };
        entry::put_stream(out, protocol, form);
    }

    /// Adds the leader's own word that some of etcd's leases are over.
    pub fn etcd_expire(&mut self) {
        let command = coordination::Command { kind: coordination::command::Kind::Expire, user: "", request: &[] };
        entry::put_etcd(self.logged(None, true), &command);
    }

    /// Adds the leader's own word that some sessions are over.
    pub fn sessions_expire(&mut self) {
        let change = discovery::Change::Session(discovery::session::SessionChange::Expire);
        entry::put_change(self.logged(None, true), &change);
    }

    /// Adds a change of the topics. Its answer is the outcome's form ([`queue::topics::Outcome`]).
    pub fn topics(&mut self, client: C, change: &queue::topics::Change) {
        let frees = matches!(change, queue::topics::Change::Delete { .. });
        entry::put_topics(self.logged(Some(client), frees), change);
    }

    /// Adds a change of the users. Its answer is the outcome's form ([`users::Outcome`]).
    pub fn users(&mut self, client: C, change: &users::Change) {
        entry::put_users(self.logged(Some(client), true), change);
    }

    /// Adds a change of the shard's slots. Its answer is a [`SlotAnswer`](crate::slots::SlotAnswer)'s form.
    pub fn slots(&mut self, client: Option<C>, change: &crate::slots::SlotChange) {
        entry::put_slots(self.logged(client, change.frees()), change);
    }

    /// Adds other keyspace settings.
    pub fn keyspaces(&mut self, keyspaces: &store::keyspace::Keyspaces) {
        entry::put_keyspaces(self.logged(None, false), keyspaces);
    }

    /// Adds other bounds.
    pub fn bounds(&mut self, limits: &base::Limits) {
        entry::put_bounds(self.logged(None, false), limits);
    }

    /// Gives it an entry, if only one of a header: what stands beside it is then run once that has been committed.
    pub fn ride(&mut self) {
        if self.entry.is_empty() {
            entry::put_header(&mut self.entry);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether something needs an entry.
    pub fn needs_entry(&self) -> bool {
        !self.entry.is_empty()
    }

    /// See `frees_only`.
    pub fn frees_only(&self) -> bool {
        self.frees_only
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.entry.len() + self.local.len()
    }

    /// Bytes of the entry so far.
    pub fn entry_bytes(&self) -> usize {
        self.entry.len()
    }

    /// Requests in order.
    pub fn requests(&self) -> &[Request<C>] {
        &self.requests
    }

    /// The units that are not in the entry.
    pub fn local(&self) -> Input<'_> {
        Input::new(&self.local)
    }

    /// Takes the entry's bytes out, with its stamp and seed. Empty where no entry is needed.
    pub fn take_entry(&mut self, stamp: base::Millis, seed: u64) -> Vec<u8> {
        let mut entry = std::mem::take(&mut self.entry);
        if entry.len() >= HEADER_BYTES {
            entry::stamp_header(&mut entry, stamp, seed);
        }
        entry
    }

    /// An empty one whose entry grows into this room.
    pub fn with_room(mut room: Vec<u8>) -> Batch<C> {
        room.clear();
        Batch { entry: room, ..Batch::default() }
    }

    /// The clients whose requests are here, each as often as it asked.
    pub fn clients(&self) -> impl Iterator<Item = &C> {
        self.requests.iter().filter_map(|request| request.client.as_ref())
    }

    /// Whether all requests here are this one client's.
    pub fn only_of(&self, client: &C) -> bool
    where
        C: PartialEq,
    {
        self.requests.iter().all(|request| request.client.as_ref() == Some(client))
    }
}

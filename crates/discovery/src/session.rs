//! Sessions, which hold locks on keys of the tree: each lives as long as its node, its checks, and the time that whoever has it
//! must prolong. What ends one lets go of its keys at the same entry.
//!
//! ```text
//!   create ─► holds keys ─┬─ destroyed, its time is over, a check critical or gone, its node gone
//!                         └─► each key released or deleted, and not to be locked again for the lock delay
//! ```
//!
//! As in Consul the time that is kept is twice what was asked for, so that a renewal which is late by a whole span finds its
//! session. Unlike there a renewal is an entry: it holds whoever leads. A new leader gives every session its whole time again.
//!
//! A lock protects nothing from a holder that was paused while its session ended; the number that each taking of a lock yields
//! ([`Lock::fence`](crate::model::Lock)) does.

use std::collections::{BTreeMap, BTreeSet};

use base::Millis;
use store::codec::{Corrupt, Input};

use crate::catalog::lower;
use crate::form::{Form, form, form_enum};
use crate::limits::LOCK_DELAYS_MAX;

/// What becomes of a session's keys when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, without a holder.
    #[default]
    Release,
    /// They go.
    Delete,
}

form_enum!(Behavior { 0 = Release, 1 = Delete });

impl Behavior {
    /// The word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        }
    }
}

/// What a session is created with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionForm {
    /// A UUID that whoever proposes has chosen.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its node, which must be there.
    pub node: String,
    /// Checks of the node that must be there and not be critical.
    pub node_checks: Vec<String>,
    /// The same of instances on it.
    pub service_checks: Vec<String>,
    /// How long a key may not be locked after this session has lost it.
    pub lock_delay_ns: u64,
    /// What becomes of its keys.
    pub behavior: Behavior,
    /// Its span as it was written; empty for none.
    pub ttl: String,
    /// The same in milliseconds; 0 for none.
    pub ttl_ms: u64,
}

form!(SessionForm { id, name, node, node_checks, service_checks, lock_delay_ns, behavior, ttl, ttl_ms });

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// What was asked for.
    pub form: SessionForm,
    /// The index that made it.
    pub created: u64,
    /// When it ends unless it is renewed, by the time of the entries; 0 for never.
    pub until: Millis,
}

form!(Session { form, created, until });

impl Session {
    /// Whether it ends with this check of its node.
    pub(crate) fn hangs_on(&self, check: &str) -> bool {
        self.form.node_checks.iter().chain(&self.form.service_checks).any(|own| own == check)
    }

    fn prolong(&mut self, now: Millis) {
        if self.form.ttl_ms > 0 {
            self.until = self.until.max(now + 2 * self.form.ttl_ms);
        }
    }
}

/// What may be done to sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// A new one.
    Create(SessionForm),
    /// One goes, with what it holds.
    Destroy {
        /// Which.
        id: String,
    },
    /// One has its whole time again.
    Renew {
        /// Which.
        id: String,
    },
    /// The leader's own: those whose time is over go.
    Expire,
}

form_enum!(SessionChange { 1 = Create(form), 2 = Destroy { id }, 3 = Renew { id }, 4 = Expire });

/// All sessions, and the keys that are not to be locked for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// The index of the last that came or went.
    pub(crate) modified: u64,
    /// Whether there is a new leader, so that all are prolonged before anything else.
    renews: bool,
    all: BTreeMap<String, Session>,
    delays: BTreeMap<String, Millis>,
    /// Derived.
    due: BTreeSet<(Millis, String)>,
    /// By the key of their node. Derived.
    by_node: BTreeSet<(String, String)>,
    /// Derived.
    delays_due: BTreeSet<(Millis, String)>,
}

impl Sessions {
    pub(crate) fn all(&self) -> &BTreeMap<String, Session> {
        &self.all
    }

    /// The sessions of a node, by its key.
    pub(crate) fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Session> + use<'a> {
        let node = node.to_owned();
        let own = self.by_node.range((node.clone(), String::new())..).take_while(move |(on, _)| *on == node);
        own.filter_map(|(_, id)| self.all.get(id))
    }

    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(until, _)| *until)
    }

    pub(crate) fn overdue(&self, now: Millis) -> Option<String> {
        self.due.first().filter(|(until, _)| *until <= now).map(|(_, id)| id.clone())
    }

    /// There is a new leader: nobody could renew while there was none.
    pub(crate) fn new_leader(&mut self) {
        self.renews = !self.due.is_empty();
    }

    /// What comes first at every change: the time of its entry.
    pub(crate) fn begin(&mut self, now: Millis) {
        if std::mem::take(&mut self.renews) {
            let ids: Vec<String> = self.due.iter().map(|(_, id)| id.clone()).collect();
            ids.iter().for_each(|id| {
                self.renew(id, now);
            });
        }
        while let Some((until, _)) = self.delays_due.first()
            && *until <= now
        {
            self.drop_first_delay();
        }
    }

    fn drop_first_delay(&mut self) {
        if let Some((_, key)) = self.delays_due.pop_first() {
            self.delays.remove(&key);
        }
    }

    pub(crate) fn insert(&mut self, mut session: Session, now: Millis) {
        session.prolong(now);
        self.derive(&session);
        self.all.insert(session.form.id.clone(), session);
    }

    fn derive(&mut self, session: &Session) {
        let id = &session.form.id;
        if session.until > 0 {
            self.due.insert((session.until, id.clone()));
        }
        self.by_node.insert((lower(&session.form.node).into_owned(), id.clone()));
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Session> {
        let session = self.all.remove(id)?;
        self.due.remove(&(session.until, id.to_owned()));
        self.by_node.remove(&(lower(&session.form.node).into_owned(), id.to_owned()));
        Some(session)
    }

    pub(crate) fn renew(&mut self, id: &str, now: Millis) -> Option<&Session> {
        let session = self.all.get_mut(id)?;
        let before = session.until;
        session.prolong(now);
        if session.until != before {
            self.due.remove(&(before, id.to_owned()));
            self.due.insert((session.until, id.to_owned()));
        }
        Some(session)
    }

    // ---- the lock delay --------------------------------------------------------------------------------------------

    /// A key is not to be locked until then. Beyond a bound the delay that ends first is forgotten.
    pub(crate) fn delay(&mut self, key: &str, until: Millis) {
        if let Some(before) = self.delays.insert(key.to_owned(), until) {
            self.delays_due.remove(&(before, key.to_owned()));
        }
        self.delays_due.insert((until, key.to_owned()));
        if self.delays.len() > LOCK_DELAYS_MAX {
            self.drop_first_delay();
        }
    }

    pub(crate) fn is_delayed(&self, key: &str, now: Millis) -> bool {
        self.delays.get(key).is_some_and(|until| *until > now)
    }
}

impl Form for Sessions {
    fn put(&self, out: &mut Vec<u8>) {
        self.modified.put(out);
        self.renews.put(out);
        self.all.put(out);
        self.delays.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Sessions, Corrupt> {
        let mut sessions = Sessions { modified: u64::take(input)?, renews: bool::take(input)?, ..Sessions::default() };
        let all = BTreeMap::<String, Session>::take(input)?;
        all.values().for_each(|session| sessions.derive(session));
        sessions.all = all;
        sessions.delays = BTreeMap::take(input)?;
        sessions.delays_due = sessions.delays.iter().map(|(key, until)| (*until, key.clone())).collect();
        Ok(sessions)
    }
}

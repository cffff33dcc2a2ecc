//! Sessions within the catalog: what they hang on, and what goes with them.

use base::Millis;

use super::{Catalog, Refused, lower, valid};
use crate::change::{Outcome, Refusal};
use crate::limits::{LOCK_DELAY_MAX_MS, SESSIONS_MAX};
use crate::model::Status;
use crate::session::{Behavior, Session, SessionChange, SessionForm};

/// Sessions that one entry ends at most because their time is over.
const EXPIRED_AT_ONCE_MAX: usize = 1000;

fn invalid(why: String) -> Refused {
    (Refusal::Invalid, why)
}

impl Catalog {
    pub(super) fn change_session(&mut self, change: &SessionChange, index: u64) -> Outcome {
        let done = match change {
            SessionChange::Create(form) => self.create_session(form, index).map(Some),
            SessionChange::Destroy { id } => {
                self.end_session(id, index);
                Ok(None)
            }
            SessionChange::Renew { id } => match self.sessions.renew(id, self.now) {
                Some(session) => Ok(Some(session.clone())),
                None => Err((Refusal::Unknown, format!("Session id '{id}' not found"))),
            },
            SessionChange::Expire => {
                for _ in 0..EXPIRED_AT_ONCE_MAX {
                    let Some(id) = self.sessions.overdue(self.now) else {
                        break;
                    };
                    self.end_session(&id, index);
                }
                Ok(None)
            }
        };
        match done {
            Ok(Some(session)) => Outcome::Session(Box::new(session)),
            Ok(None) => Outcome::Done(index),
            Err((refusal, why)) => Outcome::Refused(refusal, why),
        }
    }

    fn create_session(&mut self, form: &SessionForm, index: u64) -> Result<Session, Refused> {
        valid::session(form).map_err(invalid)?;
        let node = lower(&form.node).into_owned();
        if !self.nodes.records().contains_key(&node) {
            return Err(invalid("Missing node registration".into()));
        }
        for id in form.node_checks.iter().chain(&form.service_checks) {
            match self.checks.records().get(&(node.clone(), id.clone())) {
                None => return Err(invalid(format!("Missing check '{id}' registration"))),
                Some(check) if check.form.status == Status::Critical => {
                    return Err(invalid(format!("Check '{id}' is in critical state")));
                }
                Some(_) => {}
            }
        }
        if self.sessions.all().contains_key(&form.id) {
            return Err(invalid(format!("there is a session {:?} already; nothing was done, try it again", form.id)));
        }
        if self.sessions.all().len() >= SESSIONS_MAX {
            let why = format!("the registry is full: at most {SESSIONS_MAX} sessions; nothing was done");
            return Err((Refusal::Full, why));
        }
        self.sessions.insert(Session { form: form.clone(), created: index, until: 0 }, self.now);
        (self.sessions.modified, self.index) = (index, index);
        Ok(self.sessions.all()[&form.id].clone())
    }

    /// Ends a session, if it is there: its keys are released or go, and are not to be locked for its delay.
    fn end_session(&mut self, id: &str, index: u64) {
        let Some(session) = self.sessions.remove(id) else {
            return;
        };
        (self.sessions.modified, self.index) = (index, index);
        let keys = self.kv.let_go(id, session.form.behavior == Behavior::Delete, &mut self.config, index, self.now);
        if keys.is_empty() {
            return;
        }
        self.tables.kv = index;
        let delay = (session.form.lock_delay_ns / 1_000_000).min(LOCK_DELAY_MAX_MS);
        if delay > 0 {
            keys.iter().for_each(|key| self.sessions.delay(key, self.now + delay));
        }
    }

    /// Ends the sessions of a node that hang on a check, which is critical or gone; without a check all of them.
    pub(super) fn end_sessions_of(&mut self, node: &str, check: Option<&str>, index: u64) {
        let hangs = |session: &&Session| check.is_none_or(|check| session.hangs_on(check));
        let ids: Vec<String> =
            self.sessions.on_node(node).filter(hangs).map(|session| session.form.id.clone()).collect();
        ids.iter().for_each(|id| self.end_session(id, index));
    }

    // ---- asking ----------------------------------------------------------------------------------------------------

    /// There is a new leader: every session has its whole time again.
    pub fn new_leader(&mut self) {
        self.sessions.new_leader();
    }

    /// When a session next ends by itself, unless it is renewed.
    pub fn next_due(&self) -> Option<Millis> {
        self.sessions.next_due()
    }

    /// One session.
    pub fn session(&self, id: &str) -> Option<&Session> {
        self.sessions.all().get(id)
    }

    /// All sessions, by their ids.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.all().values()
    }

    /// The sessions of a node.
    pub fn sessions_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Session> + use<'a> {
        self.sessions.on_node(&lower(node))
    }
}

#[cfg(test)]
mod tests;

//! The registry as a value: changes in, outcomes out, indexes kept, snapshots walked.
//!
//! Names of nodes and services are unique without regard to case, as in Consul; ids are not touched.
//!
//! **Invariant:** every change of a record, and of what follows from it, raises the indexes of all who may watch it; what
//! is registered again as it is raises none.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use base::Millis;
use store::codec::{Corrupt, Input};

use crate::change::{Change, DocumentChange, KvOp, Outcome, Refusal, Registered};
use crate::config::{Config, ConfigChange, Space};
use crate::form::Form;
use crate::index::{Marks, Tables};
use crate::kv::Kv;
use crate::limits;
use crate::model::{
    Ages, Check, CheckForm, Document, Node, NodeForm, Probe, Service, ServiceForm, Status, UnlockedEntry,
};
use crate::session::Sessions;
use crate::shelf::Shelf;

mod sessions;
mod valid;

/// A node and something on it, both as keys.
pub(crate) type OnNode = (String, String);

/// Numbers of the shelves in the stored form.
const NODES: u8 = 1;
const SERVICES: u8 = 2;
const CHECKS: u8 = 3;
/// Keys as they were stored before there were locks.
const KV_UNLOCKED: u8 = 4;
const DOCUMENTS: u8 = 5;
const KV: u8 = 6;

/// Version of the books, the part of a snapshot that stands before the records.
/// In 2 there are sessions, in 3 configuration; what has none is written as 2, so that an older node reads it.
const BOOKS_VERSION: u8 = 3;

/// A name as a key: without regard to case.
pub fn lower(name: &str) -> Cow<'_, str> {
    if name.chars().any(char::is_uppercase) { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) }
}

/// Everything that is registered.
#[derive(Clone, Debug)]
pub struct Catalog {
    index: u64,
    /// The time of the last entry.
    now: Millis,
    pub(crate) tables: Tables,
    pub(crate) node_marks: Marks,
    pub(crate) service_marks: Marks,
    pub(crate) nodes: Shelf<String, Node>,
    pub(crate) services: Shelf<OnNode, Service>,
    pub(crate) checks: Shelf<OnNode, Check>,
    pub(crate) kv: Kv,
    pub(crate) sessions: Sessions,
    pub(crate) config: Config,
    pub(crate) documents: Shelf<OnNode, Document>,
    documents_bytes: u64,
    /// Instances by service. Derived.
    pub(crate) by_name: BTreeMap<String, BTreeSet<OnNode>>,
    /// Node, instance ("" for the node's own), check. Derived.
    pub(crate) by_owner: BTreeSet<(String, String, String)>,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            index: 0,
            now: 0,
            tables: Tables::default(),
            node_marks: Marks::default(),
            service_marks: Marks::default(),
            nodes: Shelf::new(NODES),
            services: Shelf::new(SERVICES),
            checks: Shelf::new(CHECKS),
            kv: Kv::new(KV),
            sessions: Sessions::default(),
            config: Config::default(),
            documents: Shelf::new(DOCUMENTS),
            documents_bytes: 0,
            by_name: BTreeMap::new(),
            by_owner: BTreeSet::new(),
        }
    }
}

/// Why a change is not done.
type Refused = (Refusal, String);

fn unknown(why: String) -> Refused {
    (Refusal::Unknown, why)
}

impl Catalog {
    /// The index of the last change of anything.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether nothing was ever changed.
    pub fn is_empty(&self) -> bool {
        self.index == 0
    }

    /// Applies a change at an index of the log; indexes never fall, and changes of one entry share theirs. `now` is the time of
    /// the entry.
    pub fn apply_at(&mut self, change: &Change, index: u64, now: Millis) -> Outcome {
        self.now = self.now.max(now);
        self.apply(change, index)
    }

    /// The same at the time of the last one.
    pub fn apply(&mut self, change: &Change, index: u64) -> Outcome {
        assert!(index >= self.index, "changes come in the order of the log");
        self.sessions.begin(self.now);
        let done = match change {
            Change::Register { node, keep_node, service, checks, replace_checks } => {
                self.register(node, *keep_node, service.as_ref(), checks, *replace_checks, index)
            }
            Change::Deregister { node, what } => self.deregister(&lower(node), what, index),
            Change::CheckStatus { node, check, status, output } => {
                self.check_status(&lower(node), check, *status, output, index)
            }
            Change::Reap { node, check, since } => self.reap(&lower(node), check, *since, index),
            Change::Kv(ops) => return self.change_keys(ops, "", index),
            Change::Config(ConfigChange::By { who, ops }) => return self.change_keys(ops, who, index),
            Change::Config(ConfigChange::Keep { space, prefix, schema }) => {
                let keys = self.kv.under(prefix).map(|(key, entry)| (key.as_str(), entry.value.0.as_slice()));
                let keys = keys.filter(|_| *space == Space::Consul);
                let kept = self.config.keep(*space, prefix, schema, keys).map_err(|why| (Refusal::Invalid, why));
                kept.map(|()| self.index = index)
            }
            Change::Config(ConfigChange::Forget { space, prefix }) => {
                self.config.forget(*space, prefix).map_err(unknown).map(|()| self.index = index)
            }
            Change::Documents { expected, changes } => {
                if let Some(expected) = expected
                    && *expected != self.tables.documents
                {
                    return Outcome::Stale(self.tables.documents);
                }
                self.change_documents(changes, index)
            }
            Change::Session(change) => return self.change_session(change, index),
        };
        match done {
            Ok(()) => Outcome::Done(index),
            Err((refusal, why)) => Outcome::Refused(refusal, why),
        }
    }

    fn change_keys(&mut self, ops: &[KvOp], who: &str, index: u64) -> Outcome {
        let (outcome, has_changed) = self.kv.run(ops, &self.sessions, (&mut self.config, who), index, self.now);
        if has_changed {
            self.tables.kv = index;
            self.index = index;
        }
        outcome
    }

    /// Configuration: rules and history.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same, for changes of keys that are not in this catalog. Only by an entry.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    // ---- register --------------------------------------------------------------------------------------------------

    fn register(
        &mut self,
        node: &NodeForm,
        keep_node: bool,
        service: Option<&ServiceForm>,
        checks: &[CheckForm],
        replace_checks: bool,
        index: u64,
    ) -> Result<(), Refused> {
        let key = lower(&node.name).into_owned();
        self.check_room(&key, node, service, checks)?;
        if !keep_node || !self.nodes.records().contains_key(&key) {
            self.put_node(&key, node, index);
        }
        if let Some(service) = service {
            self.put_service(&key, service, index);
            if replace_checks {
                let stays = |id: &str| checks.iter().any(|check| check.id == id && check.service_id == service.id);
                for id in self.owned(&key, &service.id).filter(|id| !stays(id)).collect::<Vec<_>>() {
                    self.remove_check(&(key.clone(), id), index);
                }
            }
        }
        for check in checks {
            self.put_check(&key, check, index);
        }
        Ok(())
    }

    /// Everything that could be refused, before anything is done.
    fn check_room(
        &self,
        key: &str,
        node: &NodeForm,
        service: Option<&ServiceForm>,
        checks: &[CheckForm],
    ) -> Result<(), Refused> {
        let invalid = |why: String| (Refusal::Invalid, why);
        let full = |what: &str, most: usize| {
            Err((Refusal::Full, format!("the registry is full: at most {most} {what}; nothing was done")))
        };
        valid::node(node).map_err(invalid)?;
        if !self.nodes.records().contains_key(key) && self.nodes.records().len() >= limits::NODES_MAX {
            return full("nodes", limits::NODES_MAX);
        }
        if let Some(service) = service {
            valid::service(service).map_err(invalid)?;
            let is_new = !self.services.records().contains_key(&(key.to_owned(), service.id.clone()));
            if is_new && self.services.records().len() >= limits::INSTANCES_MAX {
                return full("service instances", limits::INSTANCES_MAX);
            }
        }
        let mut new = BTreeMap::<&str, usize>::new();
        for check in checks {
            valid::check(check).map_err(invalid)?;
            let id = check.service_id.as_str();
            let on_new = service.is_some_and(|service| service.id == id);
            if !id.is_empty() && !on_new && !self.services.records().contains_key(&(key.to_owned(), id.to_owned())) {
                return Err(unknown(format!("ServiceID {id:?} does not exist")));
            }
            let known = self.checks.records().get(&(key.to_owned(), check.id.clone()));
            if known.is_none_or(|known| known.form.service_id != check.service_id) {
                *new.entry(id).or_default() += 1;
            }
        }
        if self.checks.records().len() + new.values().sum::<usize>() > limits::CHECKS_MAX {
            return full("checks", limits::CHECKS_MAX);
        }
        for (id, count) in new {
            if self.owned(key, id).count() + count > limits::CHECKS_PER_OWNER_MAX {
                return full("checks of one instance or node", limits::CHECKS_PER_OWNER_MAX);
            }
        }
        Ok(())
    }

    fn put_node(&mut self, key: &String, form: &NodeForm, index: u64) {
        let known = self.nodes.records().get(key);
        if known.is_some_and(|known| known.form == *form) {
            return;
        }
        let ages = Ages { created: known.map_or(index, |known| known.ages.created), modified: index };
        let status = known.map_or(Status::Passing, |known| known.status);
        self.nodes.insert(key.clone(), Node { form: form.clone(), ages, status });
        self.tables.nodes = index;
        self.touch_node(key, index);
    }

    fn put_service(&mut self, node: &str, form: &ServiceForm, index: u64) {
        let key = (node.to_owned(), form.id.clone());
        let known = self.services.records().get(&key);
        if known.is_some_and(|known| known.form == *form) {
            return;
        }
        let ages = Ages { created: known.map_or(index, |known| known.ages.created), modified: index };
        let status = known.map_or(Status::Passing, |known| known.status);
        if let Some(old) = known.map(|known| lower(&known.form.name).into_owned())
            && old != lower(&form.name)
        {
            self.leave_name(&old, &key, index);
        }
        let name = lower(&form.name).into_owned();
        self.services.insert(key.clone(), Service { form: form.clone(), ages, status });
        self.by_name.entry(name.clone()).or_default().insert(key);
        self.tables.services = index;
        self.service_marks.touch(&name, index);
        self.node_marks.touch(node, index);
        self.index = index;
    }

    fn put_check(&mut self, node: &str, form: &CheckForm, index: u64) {
        let key = (node.to_owned(), form.id.clone());
        let mut form = form.clone();
        cut(&mut form.output, limits::OUTPUT_BYTES_MAX);
        let keeps_status = std::mem::take(&mut form.keeps_status);
        let known = self.checks.records().get(&key);
        let (mut since, mut created) = (index, index);
        if let Some(known) = known {
            created = known.ages.created;
            if keeps_status {
                (form.status, form.output) = (known.form.status, known.form.output.clone());
            }
            if known.form.status == form.status {
                since = known.since;
            }
            if known.form == form {
                return;
            }
            if known.form.service_id != form.service_id {
                self.remove_check(&key, index);
            }
        }
        let owner = form.service_id.clone();
        let name = self.nodes.records().get(node).map_or_else(String::new, |node| node.form.name.clone());
        let check = Check { node: name, form, since, ages: Ages { created, modified: index } };
        self.by_owner.insert((node.to_owned(), owner.clone(), key.1.clone()));
        let is_critical = check.form.status == Status::Critical;
        let id = key.1.clone();
        self.checks.insert(key, check);
        self.check_changed(node, &owner, index);
        if is_critical {
            self.end_sessions_of(node, Some(&id), index);
        }
    }

    /// After any change of a check: the status of its owner, and the indexes of all who see it.
    fn check_changed(&mut self, node: &str, owner: &str, index: u64) {
        self.derive_status(node, owner);
        self.tables.checks = index;
        self.index = index;
        if owner.is_empty() {
            return self.touch_node(node, index);
        }
        self.node_marks.touch(node, index);
        if let Some(service) = self.services.records().get(&(node.to_owned(), owner.to_owned())) {
            self.service_marks.touch(&lower(&service.form.name), index);
        }
    }

    fn derive_status(&mut self, node: &str, owner: &str) {
        let worst = self
            .owned(node, owner)
            .filter_map(|id| self.checks.records().get(&(node.to_owned(), id)))
            .map(|check| check.form.status)
            .max()
            .unwrap_or(Status::Passing);
        if owner.is_empty() {
            if let Some(node) = self.nodes.derived(&node.to_owned()) {
                node.status = worst;
            }
        } else if let Some(service) = self.services.derived(&(node.to_owned(), owner.to_owned())) {
            service.status = worst;
        }
    }

    /// A node changed: so did everything on it, to those who watch services.
    fn touch_node(&mut self, node: &str, index: u64) {
        self.index = index;
        self.node_marks.touch(node, index);
        for (_, service) in on_node(self.services.records(), node) {
            self.service_marks.touch(&lower(&service.form.name), index);
        }
    }

    /// Ids of the checks of an instance, or of the node itself for "".
    pub(crate) fn owned<'a>(&'a self, node: &str, owner: &str) -> impl Iterator<Item = String> + use<'a> {
        let (node, owner) = (node.to_owned(), owner.to_owned());
        let from = (node.clone(), owner.clone(), String::new());
        self.by_owner
            .range(from..)
            .take_while(move |(on, of, _)| *on == node && *of == owner)
            .map(|(_, _, id)| id.clone())
    }

    // ---- deregister ------------------------------------------------------------------------------------------------

    fn deregister(&mut self, node: &str, what: &Registered, index: u64) -> Result<(), Refused> {
        match what {
            Registered::Node => {
                if !self.nodes.records().contains_key(node) {
                    return Err(unknown(format!("Unknown node {node:?}")));
                }
                let services: Vec<_> = on_node(self.services.records(), node).map(|(key, _)| key.clone()).collect();
                for key in services {
                    self.remove_service(&key, index);
                }
                for id in self.owned(node, "").collect::<Vec<_>>() {
                    self.remove_check(&(node.to_owned(), id), index);
                }
                self.end_sessions_of(node, None, index);
                self.nodes.remove(&node.to_owned());
                self.tables.nodes = index;
                self.node_marks.end(node, index);
                self.index = index;
            }
            Registered::Service(id) => {
                if !self.remove_service(&(node.to_owned(), id.clone()), index) {
                    return Err(unknown(format!(
                        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
                    )));
                }
            }
            Registered::Check(id) => {
                if !self.remove_check(&(node.to_owned(), id.clone()), index) {
                    return Err(unknown(format!(
                        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
                    )));
                }
            }
        }
        Ok(())
    }

    fn remove_service(&mut self, key: &OnNode, index: u64) -> bool {
        if !self.services.records().contains_key(key) {
            return false;
        }
        for id in self.owned(&key.0, &key.1).collect::<Vec<_>>() {
            self.remove_check(&(key.0.clone(), id), index);
        }
        let service = self.services.remove(key).expect("it was there a moment ago");
        self.leave_name(&lower(&service.form.name), key, index);
        self.tables.services = index;
        self.node_marks.touch(&key.0, index);
        self.index = index;
        true
    }

    /// An instance is no longer one of this service.
    fn leave_name(&mut self, name: &str, key: &OnNode, index: u64) {
        let rest = self.by_name.get_mut(name).map_or(0, |keys| {
            keys.remove(key);
            keys.len()
        });
        if rest == 0 {
            self.by_name.remove(name);
            self.service_marks.end(name, index);
        } else {
            self.service_marks.touch(name, index);
        }
    }

    fn remove_check(&mut self, key: &OnNode, index: u64) -> bool {
        let Some(check) = self.checks.remove(key) else {
            return false;
        };
        let owner = check.form.service_id;
        self.by_owner.remove(&(key.0.clone(), owner.clone(), key.1.clone()));
        self.check_changed(&key.0, &owner, index);
        self.end_sessions_of(&key.0, Some(&key.1), index);
        true
    }

    // ---- checks ----------------------------------------------------------------------------------------------------

    fn check_status(&mut self, node: &str, id: &str, status: Status, output: &str, index: u64) -> Result<(), Refused> {
        let known = self.checks.records().get(&(node.to_owned(), id.to_owned()));
        let known = known.ok_or_else(|| {
            unknown(format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."))
        })?;
        let form = CheckForm { status, output: output.to_owned(), ..known.form.clone() };
        self.put_check(node, &form, index);
        Ok(())
    }

    fn reap(&mut self, node: &str, id: &str, since: u64, index: u64) -> Result<(), Refused> {
        let known = self.checks.records().get(&(node.to_owned(), id.to_owned()));
        match known {
            Some(check) if check.form.status == Status::Critical && check.since == since => {
                let service = check.form.service_id.clone();
                self.remove_service(&(node.to_owned(), service), index);
                Ok(())
            }
            _ => Err(unknown(format!("check {id:?} is not critical since {since} any more"))),
        }
    }

    // ---- documents -------------------------------------------------------------------------------------------------

    fn change_documents(&mut self, changes: &[DocumentChange], index: u64) -> Result<(), Refused> {
        let invalid = |why: String| (Refusal::Invalid, why);
        if changes.len() > limits::DOCUMENT_CHANGES_MAX {
            let most = limits::DOCUMENT_CHANGES_MAX;
            return Err(invalid(format!("one change takes at most {most} documents, this one has {}", changes.len())));
        }
        let mut wanted: BTreeMap<OnNode, Option<&[u8]>> = BTreeMap::new();
        for change in changes {
            valid::document(change).map_err(invalid)?;
            let body = change.body.as_ref().map(|body| body.0.as_slice());
            wanted.insert((change.kind.clone(), change.name.clone()), body);
        }
        let (mut count, mut bytes) = (self.documents.records().len(), self.documents_bytes);
        for (key, body) in &wanted {
            if let Some(known) = self.documents.records().get(key) {
                count -= 1;
                bytes -= document_size(key, known.body.0.len());
            }
            if let Some(body) = body {
                count += 1;
                bytes += document_size(key, body.len());
            }
        }
        if count > limits::DOCUMENTS_MAX || bytes > limits::DOCUMENTS_BYTES_MAX {
            let (most, bytes) = (limits::DOCUMENTS_MAX, limits::DOCUMENTS_BYTES_MAX);
            return Err((
                Refusal::Full,
                format!("at most {most} documents and {bytes} bytes of them are kept; nothing was done"),
            ));
        }
        self.documents_bytes = bytes;
        for (key, body) in wanted {
            let known = self.documents.records().get(&key);
            match body {
                Some(body) if known.is_some_and(|known| known.body.0 == body) => continue,
                Some(body) => {
                    let created = known.map_or(index, |known| known.ages.created);
                    let ages = Ages { created, modified: index };
                    self.documents.insert(key, Document { body: crate::form::Blob(body.to_vec()), ages });
                }
                None if known.is_none() => continue,
                None => {
                    self.documents.remove(&key);
                }
            }
            self.tables.documents = index;
            self.index = index;
        }
        Ok(())
    }

    // ---- snapshots -------------------------------------------------------------------------------------------------

    /// Appends what a snapshot needs beside the records, and begins the walk over them as they are now.
    pub fn begin_walk(&mut self, out: &mut Vec<u8>) {
        out.push(if self.config.is_empty() { 2 } else { BOOKS_VERSION });
        self.index.put(out);
        self.tables.put(out);
        self.node_marks.put(out);
        self.service_marks.put(out);
        self.kv.gone.put(out);
        self.kv.fence.put(out);
        self.sessions.put(out);
        if !self.config.is_empty() {
            self.config.put(out);
        }
        let moment = self.index;
        self.nodes.begin_walk(moment);
        self.services.begin_walk(moment);
        self.checks.begin_walk(moment);
        self.kv.shelf.begin_walk(moment);
        self.documents.begin_walk(moment);
    }

    /// Appends records until `out` has about `bytes` more. True when all of the moment have been; the walk is then over.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let until = out.len() + bytes;
        self.nodes.walk(until, out)
            && self.services.walk(until, out)
            && self.checks.walk(until, out)
            && self.kv.shelf.walk(until, out)
            && self.documents.walk(until, out)
    }

    /// Ends a walk early.
    pub fn abort_walk(&mut self) {
        self.nodes.abort_walk();
        self.services.abort_walk();
        self.checks.abort_walk();
        self.kv.shelf.abort_walk();
        self.documents.abort_walk();
    }

    /// A catalog from the first part of a snapshot; the records follow by [`Catalog::restore`].
    ///
    /// # Errors
    /// A version that this build does not know, or damage.
    pub fn read_books(input: &mut Input<'_>) -> Result<Catalog, Corrupt> {
        let version = input.u8()?;
        if !(1..=BOOKS_VERSION).contains(&version) {
            return Err(Corrupt("a registry of a version that this build does not know"));
        }
        let mut catalog = Catalog { index: u64::take(input)?, tables: Tables::take(input)?, ..Catalog::default() };
        catalog.node_marks = Marks::take(input)?;
        catalog.service_marks = Marks::take(input)?;
        catalog.kv.gone = Form::take(input)?;
        if version >= 2 {
            catalog.kv.fence = u64::take(input)?;
            catalog.sessions = Sessions::take(input)?;
        }
        if version >= 3 {
            catalog.config = Config::take(input)?;
        }
        Ok(catalog)
    }

    /// Puts back the records of a chunk that [`Catalog::walk`] wrote. Returns how many.
    ///
    /// # Errors
    /// Damage.
    pub fn restore(&mut self, chunk: &[u8]) -> Result<usize, Corrupt> {
        let mut input = Input::new(chunk);
        let mut count = 0;
        while !input.is_empty() {
            match input.u8()? {
                NODES => self.nodes.restore(&mut input)?,
                SERVICES => self.services.restore(&mut input)?,
                CHECKS => self.checks.restore(&mut input)?,
                KV => self.kv.shelf.restore(&mut input)?,
                KV_UNLOCKED => self.kv.shelf.restore_from::<UnlockedEntry>(&mut input)?,
                DOCUMENTS => self.documents.restore(&mut input)?,
                _ => return Err(Corrupt("an unknown kind of record")),
            }
            count += 1;
        }
        Ok(count)
    }

    /// Builds what is derived, after the last chunk.
    pub fn finish_restore(&mut self) {
        self.kv.recount(self.index);
        let documents = self.documents.records();
        self.documents_bytes = documents.iter().map(|(key, one)| document_size(key, one.body.0.len())).sum();
        self.by_name.clear();
        for (key, service) in self.services.records() {
            self.by_name.entry(lower(&service.form.name).into_owned()).or_default().insert(key.clone());
        }
        let owner = |(key, check): (&OnNode, &Check)| (key.0.clone(), check.form.service_id.clone(), key.1.clone());
        self.by_owner = self.checks.records().iter().map(owner).collect();
        let owners: BTreeSet<OnNode> = self.by_owner.iter().map(|(node, id, _)| (node.clone(), id.clone())).collect();
        for (node, owner) in owners {
            self.derive_status(&node, &owner);
        }
    }
}

fn document_size(key: &OnNode, body: usize) -> u64 {
    (key.0.len() + key.1.len() + body) as u64
}

/// The records of one node.
pub(crate) fn on_node<'a, V>(
    records: &'a BTreeMap<OnNode, V>,
    node: &str,
) -> impl Iterator<Item = (&'a OnNode, &'a V)> + use<'a, V> {
    let node = node.to_owned();
    records.range((node.clone(), String::new())..).take_while(move |(key, _)| key.0 == node)
}

/// Cuts a text to so many bytes, at the end of a character.
pub fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = text.floor_char_boundary(most);
        text.truncate(end);
    }
}

impl CheckForm {
    /// Whether a node makes this check.
    pub fn is_made_here(&self) -> bool {
        self.definition.probe != Probe::External
    }
}

#[cfg(test)]
mod tests;

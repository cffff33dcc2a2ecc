//! Documents on their way through the log: read, changed, judged together, written at one position, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::gateway::Config;
use ::gateway::model::stored::Unreadable;
use ::gateway::model::{Document, Kind, Listener, Wrong};
use discovery::change::DocumentChange;
use discovery::form::Blob;
use discovery::{Catalog, Change, Outcome};
use doors::registry::{ChangeError, Registry};

use super::{OWN_LISTENER, own_document};

/// How often a change is judged again because somebody else was faster.
const RACES_MAX: usize = 16;

/// One edit.
#[derive(Clone, Debug)]
pub enum Edit {
    /// There from now on, instead of what had its name.
    Put(Document),
    /// Gone from now on.
    Remove(Kind, String),
}

/// Why documents were not changed. Nothing was.
#[derive(Clone, Debug, PartialEq)]
pub enum NotApplied {
    /// Together they make no sense.
    Wrong(Vec<Wrong>),
    /// There is nothing of that kind and name.
    Unknown(Kind, String),
    /// They are not what the writer saw: this is their index now.
    Stale(u64),
    /// The log or the registry did not take them.
    Failed(String),
}

/// The kind under which it is remembered which documents came out of a node's configuration file.
const DECLARED: &str = "declared";

/// See the module.
pub struct Documents {
    registry: Arc<Registry>,
    own: Listener,
}

/// All documents of the catalog.
pub fn read(catalog: &Catalog) -> Result<Vec<Document>, String> {
    let mut documents = Vec::new();
    for kind in Kind::ALL {
        for (name, stored) in catalog.documents(kind.word()) {
            let document = Document::from_stored(kind, name, &stored.body.0);
            documents.push(document.map_err(|why: Unreadable| format!("{}.{name}: {why}", kind.word()))?);
        }
    }
    Ok(documents)
}

/// The documents and, where none has its name, the node's own listener.
pub fn with_own(mut documents: Vec<Document>, own: &Listener) -> Vec<Document> {
    let named = |document: &Document| document.kind() == Kind::Listener && document.name == OWN_LISTENER;
    if !documents.iter().any(named) {
        documents.push(own_document(own));
    }
    documents
}

impl Documents {
    pub(super) fn new(registry: Arc<Registry>, own: Listener) -> Documents {
        Documents { registry, own }
    }

    /// All of them, and their index.
    pub fn all(&self) -> Result<(u64, Vec<Document>), String> {
        let catalog = self.registry.read();
        Ok((catalog.documents_index(), read(&catalog)?))
    }

    /// Makes the edits, all or none, where the whole makes sense afterwards. `edits` sees what there is and says what to change; it is
    /// asked again where somebody else was faster. With `expected` only what has that index is changed. Returns the index of what is
    /// there now.
    pub async fn edit(
        &self,
        expected: Option<u64>,
        mut edits: impl FnMut(&[Document]) -> Result<Vec<Edit>, NotApplied>,
    ) -> Result<u64, NotApplied> {
        for _ in 0..RACES_MAX {
            let (index, before) = self.all().map_err(NotApplied::Failed)?;
            if expected.is_some_and(|expected| expected != index) {
                return Err(NotApplied::Stale(index));
            }
            let changes = self.judge(&before, edits(&before)?)?;
            if changes.is_empty() {
                return Ok(index);
            }
            let change = Change::Documents { expected: Some(index), changes };
            match self.registry.change(&change).await {
                Ok(Outcome::Done(index)) => return Ok(index),
                Ok(Outcome::Stale(index)) if expected.is_some() => return Err(NotApplied::Stale(index)),
                Ok(Outcome::Stale(_)) => {}
                Ok(Outcome::Refused(_, why)) => return Err(NotApplied::Failed(why)),
                Ok(other) => return Err(NotApplied::Failed(format!("the registry answered {other:?}"))),
                Err(error @ (ChangeError::Refused(_) | ChangeError::Unknown)) => {
                    return Err(NotApplied::Failed(error.to_string()));
                }
            }
        }
        Err(NotApplied::Failed("others change the configuration all the time; try again".into()))
    }

    /// Writes what a node's configuration file says, and takes away what it said at an earlier start and no longer does. `node` is
    /// the file's node.
    pub async fn declare(&self, node: &str, documents: &[Document]) -> Result<(), NotApplied> {
        let before: BTreeSet<String> = {
            let catalog = self.registry.read();
            let remembered = catalog.document(DECLARED, node);
            remembered.and_then(|document| serde_json::from_slice(&document.body.0).ok()).unwrap_or_default()
        };
        let now: BTreeSet<String> = documents.iter().map(Document::key).collect();
        let edits = |there: &[Document]| {
            let gone = there.iter().filter(|one| before.contains(&one.key()) && !now.contains(&one.key()));
            let gone = gone.map(|one| Edit::Remove(one.kind(), one.name.clone()));
            Ok(gone.chain(documents.iter().cloned().map(Edit::Put)).collect())
        };
        self.edit(None, edits).await?;
        if before == now {
            return Ok(());
        }
        let body = serde_json::to_vec(&now).map_err(|error| NotApplied::Failed(error.to_string()))?;
        let body = Some(body).filter(|_| !now.is_empty()).map(Blob);
        let changes = vec![DocumentChange { kind: DECLARED.into(), name: node.into(), body }];
        match self.registry.change(&Change::Documents { expected: None, changes }).await {
            Ok(Outcome::Done(_)) => Ok(()),
            Ok(other) => Err(NotApplied::Failed(format!("the registry answered {other:?}"))),
            Err(error) => Err(NotApplied::Failed(error.to_string())),
        }
    }

    /// Says what the edits would change, without changing it.
    pub fn check(
        &self,
        edits: impl FnOnce(&[Document]) -> Result<Vec<Edit>, NotApplied>,
    ) -> Result<Vec<String>, NotApplied> {
        let (_, before) = self.all().map_err(NotApplied::Failed)?;
        let changes = self.judge(&before, edits(&before)?)?;
        let word = |change: &DocumentChange| match &change.body {
            Some(_) => format!("{}.{} is written", change.kind, change.name),
            None => format!("{}.{} is removed", change.kind, change.name),
        };
        Ok(changes.iter().map(word).collect())
    }

    /// What the edits change, if what comes of them makes sense.
    fn judge(&self, before: &[Document], edits: Vec<Edit>) -> Result<Vec<DocumentChange>, NotApplied> {
        let before: BTreeMap<(Kind, &str), &Document> = before.iter().map(|one| (key(one), one)).collect();
        let mut after = before.clone();
        for edit in &edits {
            match edit {
                Edit::Put(document) => {
                    after.insert(key(document), document);
                }
                Edit::Remove(kind, name) => {
                    let gone = after.remove(&(*kind, name.as_str()));
                    gone.ok_or_else(|| NotApplied::Unknown(*kind, name.clone()))?;
                }
            }
        }
        let whole = after.values().map(|document| (*document).clone()).collect();
        Config::new(with_own(whole, &self.own)).map_err(NotApplied::Wrong)?;
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        for edit in &edits {
            let key = match edit {
                Edit::Put(document) => key(document),
                Edit::Remove(kind, name) => (*kind, name.as_str()),
            };
            let stored = |all: &BTreeMap<_, &Document>| all.get(&key).map(|document: &&Document| document.to_stored());
            let (old, new) = (stored(&before), stored(&after));
            if seen.insert(key) && old != new {
                let (kind, name) = key;
                changes.push(DocumentChange { kind: kind.word().into(), name: name.into(), body: new.map(Blob) });
            }
        }
        Ok(changes)
    }
}

fn key(document: &Document) -> (Kind, &str) {
    (document.kind(), &document.name)
}

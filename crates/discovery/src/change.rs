//! What an entry may do to the registry, and what came of it.
//!
//! ```text
//!   change   version:u8=1  kind:u8  fields
//! ```

use store::codec::{Corrupt, Input};

use crate::config::ConfigChange;
use crate::form::{Blob, Form, form, form_enum};
use crate::model::{CheckForm, KvEntry, NodeForm, ServiceForm, Status};
use crate::session::{Session, SessionChange};

const VERSION: u8 = 1;

/// One change, applied whole or not at all. A box for the large one would spare nothing: it lives for one apply.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Registers a node and, with it, an instance and checks. What is the same already keeps its indexes.
    Register {
        /// The node.
        node: NodeForm,
        /// Whether a node that exists is left as it is.
        keep_node: bool,
        /// An instance on it.
        service: Option<ServiceForm>,
        /// Checks on it; those that name an instance need it to exist.
        checks: Vec<CheckForm>,
        /// Whether other checks of that instance go.
        replace_checks: bool,
    },
    /// Takes away a node with all that is on it, an instance with its checks, or one check.
    Deregister {
        /// The node's name.
        node: String,
        /// What of it.
        what: Registered,
    },
    /// A check has a new status or output.
    CheckStatus {
        /// The node's name.
        node: String,
        /// The check's id.
        check: String,
        /// How it is now.
        status: Status,
        /// What it said.
        output: String,
    },
    /// Takes away the instance whose check is critical since that index, unless it has recovered meanwhile.
    Reap {
        /// The node's name.
        node: String,
        /// The check's id.
        check: String,
        /// [`Check::since`](crate::model::Check::since) as the proposer saw it.
        since: u64,
    },
    /// Operations on the key-value tree: all or none.
    Kv(Vec<KvOp>),
    /// Writes and removes documents, if none has changed since `expected`.
    Documents {
        /// The index of the documents that the proposer validated against; `None` for whatever it is.
        expected: Option<u64>,
        /// Kind, name and the new body; no body removes.
        changes: Vec<DocumentChange>,
    },
    /// What holds locks comes, goes, or goes on.
    Session(SessionChange),
    /// Configuration: which keys are, and changes of them by somebody who has a name.
    Config(ConfigChange),
}

form_enum!(Change {
    1 = Register { node, keep_node, service, checks, replace_checks },
    2 = Deregister { node, what },
    3 = CheckStatus { node, check, status, output },
    4 = Reap { node, check, since },
    5 = Kv(ops),
    6 = Documents { expected, changes },
    7 = Session(change),
    8 = Config(change),
});

/// What is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The node.
    Node,
    /// An instance.
    Service(String),
    /// A check.
    Check(String),
}

form_enum!(Registered { 0 = Node, 1 = Service(id), 2 = Check(id) });

/// One document of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// The kind: `route`, `upstream`, …
    pub kind: String,
    /// The name within the kind.
    pub name: String,
    /// The JSON text; `None` removes.
    pub body: Option<Blob>,
}

form!(DocumentChange { kind, name, body });

/// An operation on the key-value tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvOp {
    /// What.
    pub verb: Verb,
    /// The key, or the prefix of a tree.
    pub key: String,
    /// The value of a set.
    pub value: Blob,
    /// The flags of a set.
    pub flags: u64,
    /// The index that a check or a compare-and-set wants.
    pub index: u64,
    /// The session of a lock, an unlock or a check of who holds.
    pub session: String,
}

// A session stands only where the verb has one: the verbs without were stored before there were sessions.
impl Form for KvOp {
    fn put(&self, out: &mut Vec<u8>) {
        self.verb.put(out);
        self.key.put(out);
        self.value.put(out);
        self.flags.put(out);
        self.index.put(out);
        if self.verb.has_session() {
            self.session.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<KvOp, Corrupt> {
        let verb = Verb::take(input)?;
        let (key, value) = (String::take(input)?, Blob::take(input)?);
        let (flags, index) = (u64::take(input)?, u64::take(input)?);
        let session = if verb.has_session() { String::take(input)? } else { String::new() };
        Ok(KvOp { verb, key, value, flags, index, session })
    }
}

/// What an operation does, by Consul's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `set`.
    Set,
    /// `cas`: set if the key's index is the one given; 0 if there is no such key.
    Cas,
    /// `delete`.
    Delete,
    /// `delete-cas`.
    DeleteCas,
    /// `delete-tree`.
    DeleteTree,
    /// `get`: an error where the key is not there.
    Get,
    /// `get-or-empty`.
    GetOrEmpty,
    /// `get-tree`.
    GetTree,
    /// `check-index`.
    CheckIndex,
    /// `check-not-exists`.
    CheckNotExists,
    /// `lock`: set by a session that holds the key from now on, unless another one does.
    Lock,
    /// `unlock`: set, and let go of, by the session that holds the key.
    Unlock,
    /// `check-session`: an error unless this session holds the key.
    CheckSession,
}

form_enum!(Verb {
    0 = Set,
    1 = Cas,
    2 = Delete,
    3 = DeleteCas,
    4 = DeleteTree,
    5 = Get,
    6 = GetOrEmpty,
    7 = GetTree,
    8 = CheckIndex,
    9 = CheckNotExists,
    10 = Lock,
    11 = Unlock,
    12 = CheckSession,
});

impl Verb {
    /// The verb of this word.
    pub fn from_word(word: &str) -> Option<Verb> {
        Some(match word {
            "set" => Verb::Set,
            "cas" => Verb::Cas,
            "delete" => Verb::Delete,
            "delete-cas" => Verb::DeleteCas,
            "delete-tree" => Verb::DeleteTree,
            "get" => Verb::Get,
            "get-or-empty" => Verb::GetOrEmpty,
            "get-tree" => Verb::GetTree,
            "check-index" => Verb::CheckIndex,
            "check-not-exists" => Verb::CheckNotExists,
            "lock" => Verb::Lock,
            "unlock" => Verb::Unlock,
            "check-session" => Verb::CheckSession,
            _ => return None,
        })
    }

    /// Whether it changes nothing.
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Verb::Get | Verb::GetOrEmpty | Verb::GetTree | Verb::CheckIndex | Verb::CheckNotExists | Verb::CheckSession
        )
    }

    /// Whether it names a session.
    pub fn has_session(self) -> bool {
        matches!(self, Verb::Lock | Verb::Unlock | Verb::CheckSession)
    }
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so, as of this index.
    Done(u64),
    /// Operations on the key-value tree are done; what they read or wrote.
    Kv(Vec<KvResult>),
    /// Operations were not done: number of the operation and why.
    KvFailed(Vec<KvFailure>),
    /// Documents have changed since; this is their index now. Nothing was done.
    Stale(u64),
    /// Nothing was done, for this reason.
    Refused(Refusal, String),
    /// The session that was made or renewed.
    Session(Box<Session>),
}

form_enum!(Outcome {
    1 = Done(index),
    2 = Kv(results),
    3 = KvFailed(failures),
    4 = Stale(index),
    5 = Refused(refusal, why),
    6 = Session(session),
});

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvFailure {
    /// Its number, from 0.
    pub op: u32,
    /// Whether only the index did not fit.
    pub stale: bool,
    /// Why, as Consul says it.
    pub why: String,
}

form!(KvFailure { op, stale, why });

/// A key that an operation read or wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvResult {
    /// The key.
    pub key: String,
    /// It; a write's without its value. `None` where `get-or-empty` found nothing.
    pub entry: Option<KvEntry>,
    /// Whether the value is told.
    pub has_value: bool,
}

form!(KvResult { key, entry, has_value });

/// Why nothing was done, by what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such node, instance or check.
    Unknown,
    /// Beyond a limit, or not well formed.
    Invalid,
    /// The registry is full.
    Full,
}

form_enum!(Refusal { 0 = Unknown, 1 = Invalid, 2 = Full });

impl Change {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out
    }

    /// Reads the stored form, whole.
    ///
    /// # Errors
    /// A version or a kind that this build does not know, or damage.
    pub fn decode(bytes: &[u8]) -> Result<Change, Corrupt> {
        let mut input = Input::new(bytes);
        if input.u8()? != VERSION {
            return Err(Corrupt("a change of a version that this build does not know"));
        }
        let change = Change::take(&mut input)?;
        if input.is_empty() { Ok(change) } else { Err(Corrupt("a change with more behind it")) }
    }

    /// One word for people: what kind of change it is.
    pub fn word(&self) -> &'static str {
        match self {
            Change::Register { .. } => "register",
            Change::Deregister { .. } => "deregister",
            Change::CheckStatus { .. } => "check",
            Change::Reap { .. } => "reap",
            Change::Kv(_) => "kv",
            Change::Documents { .. } => "documents",
            Change::Session(_) => "session",
            Change::Config(_) => "config",
        }
    }
}

impl Outcome {
    /// The form in which an answer travels from the log back to who asked. Never stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, Corrupt> {
        Outcome::take(&mut Input::new(bytes))
    }
}

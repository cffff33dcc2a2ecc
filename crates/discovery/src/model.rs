//! What the registry holds.

use std::collections::BTreeMap;

use crate::form::{Blob, form, form_enum};

/// How a check, an instance or a node is. Ordered from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Works.
    Passing,
    /// Works, with something to look at.
    Warning,
    /// Gets no traffic. What a check says before it has run.
    #[default]
    Critical,
}

form_enum!(Status { 0 = Passing, 1 = Warning, 2 = Critical });

impl Status {
    /// The word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Status::Passing => "passing",
            Status::Warning => "warning",
            Status::Critical => "critical",
        }
    }

    /// The status of this word.
    pub fn from_word(word: &str) -> Option<Status> {
        [Status::Passing, Status::Warning, Status::Critical].into_iter().find(|status| status.word() == word)
    }
}

/// When a record came and when it last changed, as indexes of the meta group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// The index that made it.
    pub created: u64,
    /// The index of its last change.
    pub modified: u64,
}

form!(Ages { created, modified });

/// A record that knows when it changed.
pub trait Aged {
    /// See [`Ages`].
    fn ages(&self) -> Ages;
}

/// An address under a name (`lan`, `wan`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaggedAddress {
    /// Host name or address.
    pub address: String,
    /// Port; 0 for a node's.
    pub port: u16,
}

form!(TaggedAddress { address, port });

/// What a node is registered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeForm {
    /// Its name, unique without regard to case.
    pub name: String,
    /// A UUID, or empty.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Where it is, by name of a network.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Pairs of its owner's.
    pub meta: BTreeMap<String, String>,
}

form!(NodeForm { name, id, address, tagged_addresses, meta });

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What was registered.
    pub form: NodeForm,
    /// See [`Ages`].
    pub ages: Ages,
    /// The worst of the node's own checks. Derived.
    pub status: Status,
}

/// What an instance is registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceForm {
    /// Unique on its node.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Where it is; empty for the node's address.
    pub address: String,
    /// Its port, 0 for none.
    pub port: u16,
    /// Pairs of its owner's.
    pub meta: BTreeMap<String, String>,
    /// Where it is, by name of a network.
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// Weight in DNS and balancing while it passes.
    pub weight_passing: u32,
    /// Weight while it warns.
    pub weight_warning: u32,
    /// Whether others may change the tags (kept and shown).
    pub enable_tag_override: bool,
}

form!(ServiceForm {
    id,
    name,
    tags,
    address,
    port,
    meta,
    tagged_addresses,
    weight_passing,
    weight_warning,
    enable_tag_override,
});

impl Default for ServiceForm {
    fn default() -> ServiceForm {
        ServiceForm {
            id: String::new(),
            name: String::new(),
            tags: Vec::new(),
            address: String::new(),
            port: 0,
            meta: BTreeMap::new(),
            tagged_addresses: BTreeMap::new(),
            weight_passing: 1,
            weight_warning: 1,
            enable_tag_override: false,
        }
    }
}

/// An instance of a service on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// What was registered.
    pub form: ServiceForm,
    /// See [`Ages`].
    pub ages: Ages,
    /// The worst of the instance's own checks, without the node's. Derived.
    pub status: Status,
}

/// The request of an HTTP check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// `http://…` or `https://…`.
    pub url: String,
    /// `GET` unless told.
    pub method: String,
    /// Further headers.
    pub headers: BTreeMap<String, Vec<String>>,
    /// A body.
    pub body: String,
    /// Whether a redirect is an answer by itself; otherwise one to the same host and port is followed.
    pub no_redirects: bool,
}

form!(HttpRequest { url, method, headers, body, no_redirects });

/// How a check's TLS is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether any certificate will do.
    pub skip_verify: bool,
    /// The name that the certificate must bear; empty for the host that is connected to.
    pub server_name: String,
}

form!(Tls { skip_verify, server_name });

/// How a check is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Nobody here makes it: its status is registered from outside.
    #[default]
    External,
    /// The service says that it is well within every span.
    Ttl,
    /// An HTTP request: 2xx passes, 429 warns, all else is critical.
    Http(HttpRequest),
    /// A TCP connection that comes about.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// The same over TLS.
    Https(HttpRequest, Tls),
    /// A TCP connection over which a TLS session comes about.
    TcpTls {
        /// `host:port`.
        address: String,
        /// How its certificate is judged.
        tls: Tls,
    },
    /// A question to `grpc.health.v1.Health`: SERVING passes.
    Grpc {
        /// `host:port`, or `host:port/service`.
        target: String,
        /// Over TLS, judged so.
        tls: Option<Tls>,
    },
    /// An HTTP/2 connection that answers a ping.
    H2Ping {
        /// `host:port`.
        address: String,
        /// Over TLS, judged so.
        tls: Option<Tls>,
    },
    /// As another node or instance is: the worst of its checks.
    Alias {
        /// The node; empty for this one.
        node: String,
        /// The instance's id; empty for the node by itself.
        service: String,
    },
}

form_enum!(Probe {
    0 = External,
    1 = Ttl,
    2 = Http(request),
    3 = Tcp { address },
    4 = Https(request, tls),
    5 = TcpTls { address, tls },
    6 = Grpc { target, tls },
    7 = H2Ping { address, tls },
    8 = Alias { node, service },
});

impl Probe {
    /// The word of the wire for it.
    pub fn word(&self) -> &'static str {
        match self {
            Probe::External => "",
            Probe::Ttl => "ttl",
            Probe::Http(_) | Probe::Https(..) => "http",
            Probe::Tcp { .. } | Probe::TcpTls { .. } => "tcp",
            Probe::Grpc { .. } => "grpc",
            Probe::H2Ping { .. } => "h2ping",
            Probe::Alias { .. } => "alias",
        }
    }

    /// Whether something is sent from time to time, and not only waited for.
    pub fn runs(&self) -> bool {
        !matches!(self, Probe::External | Probe::Ttl | Probe::Alias { .. })
    }

    /// How its TLS is judged, where it has one.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Probe::Https(_, tls) | Probe::TcpTls { tls, .. } => Some(tls),
            Probe::Grpc { tls, .. } | Probe::H2Ping { tls, .. } => tls.as_ref(),
            _ => None,
        }
    }
}

/// What a node needs to make a check. Spans in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// How.
    pub probe: Probe,
    /// From one to the next; with [`Probe::Ttl`] how long a word holds.
    pub interval_ms: u64,
    /// How long one may take.
    pub timeout_ms: u64,
    /// Critical this long, the instance is deregistered; 0 never.
    pub deregister_after_ms: u64,
    /// Results in a row before the status becomes passing or warning.
    pub successes_before_passing: u32,
    /// Failures in a row before it becomes warning; 0 as `failures_before_critical`.
    pub failures_before_warning: u32,
    /// Failures in a row before it becomes critical.
    pub failures_before_critical: u32,
    /// Bytes of output that are kept.
    pub output_bytes_max: u32,
}

form!(Definition {
    probe,
    interval_ms,
    timeout_ms,
    deregister_after_ms,
    successes_before_passing,
    failures_before_warning,
    failures_before_critical,
    output_bytes_max,
});

/// What a check is registered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckForm {
    /// Unique on its node.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    pub notes: String,
    /// The instance it belongs to; empty for the node itself.
    pub service_id: String,
    /// How it is.
    pub status: Status,
    /// What it said.
    pub output: String,
    /// Whether a check of this id that exists keeps its status and output (an agent's registration).
    pub keeps_status: bool,
    /// How the node makes it; [`Probe::External`] where it does not.
    pub definition: Definition,
    /// A definition that is only shown (an external monitor's), as JSON.
    pub shown_definition: String,
}

form!(CheckForm { id, name, notes, service_id, status, output, keeps_status, definition, shown_definition });

/// A check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Name of its node, as registered.
    pub node: String,
    /// What was registered, with the present status and output.
    pub form: CheckForm,
    /// The index at which the status became what it is.
    pub since: u64,
    /// See [`Ages`].
    pub ages: Ages,
}

/// A key's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvEntry {
    /// Bytes of its owner's.
    pub value: Blob,
    /// A number of its owner's.
    pub flags: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// See [`Ages`].
    pub ages: Ages,
    /// Who holds it, if anybody does.
    pub lock: Option<Box<Lock>>,
}

form!(KvEntry { value, flags, lock_index, ages, lock });

/// That a session holds a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The session's id.
    pub session: String,
    /// A number that is greater at every taking of any lock: who writes shows it, and whoever is written to refuses one that
    /// is smaller than one it has seen.
    pub fence: u64,
}

form!(Lock { session, fence });

/// A key's value as it was stored before there were locks.
pub(crate) struct UnlockedEntry {
    value: Blob,
    flags: u64,
    lock_index: u64,
    ages: Ages,
}

form!(UnlockedEntry { value, flags, lock_index, ages });

impl From<UnlockedEntry> for KvEntry {
    fn from(old: UnlockedEntry) -> KvEntry {
        let UnlockedEntry { value, flags, lock_index, ages } = old;
        KvEntry { value, flags, lock_index, ages, lock: None }
    }
}

/// A named document: configuration of another room (routes, upstreams, listeners), as JSON that this room does not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The JSON text.
    pub body: Blob,
    /// See [`Ages`].
    pub ages: Ages,
}

form!(Document { body, ages });

// Derived statuses are not stored: they follow from the checks.
impl crate::form::Form for Node {
    fn put(&self, out: &mut Vec<u8>) {
        self.form.put(out);
        self.ages.put(out);
    }
    fn take(input: &mut store::codec::Input<'_>) -> Result<Node, store::codec::Corrupt> {
        Ok(Node { form: NodeForm::take(input)?, ages: Ages::take(input)?, status: Status::Passing })
    }
}

impl crate::form::Form for Service {
    fn put(&self, out: &mut Vec<u8>) {
        self.form.put(out);
        self.ages.put(out);
    }
    fn take(input: &mut store::codec::Input<'_>) -> Result<Service, store::codec::Corrupt> {
        Ok(Service { form: ServiceForm::take(input)?, ages: Ages::take(input)?, status: Status::Passing })
    }
}

form!(Check { node, form, since, ages });

macro_rules! aged {
    ($($name:ty),*) => {
        $(impl Aged for $name {
            fn ages(&self) -> Ages {
                self.ages
            }
        })*
    };
}

aged!(Node, Service, Check, KvEntry, Document);

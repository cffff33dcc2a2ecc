//! What the front door is told: documents of three kinds, by name.
//!
//! ```toml
//! [listener.web]                      # where connections come in
//! bind = "127.0.0.1:8080"
//!
//! [upstream.shop]                     # servers that are equals
//! endpoints = ["127.0.0.1:9001", "127.0.0.1:9002"]
//!
//! [route.shop]                        # which requests go where
//! hosts = ["shop.example.com"]
//! path = "/api/*"
//! to = [{ upstream = "shop", weight = 95 }, { upstream = "shop-next", weight = 5 }]
//! sticky = "cookie:session"
//! rate_limit = "100/s"
//! ```
//!
//! The same types have two forms: what people write ([`read_toml`], [`Document::from_human`]: strict, see [`strict`]) and what
//! the log keeps ([`stored`]: canonical JSON, tolerant). Every key has a default, and every protection is on by default.
//! A document by itself may be nonsense (a target that does not exist): [`crate::Config`] judges all of them together.

mod listener;
mod matching;
mod route;
pub mod stored;
pub mod strict;
pub(crate) mod text;
mod upstream;

pub use listener::{AccessLog, Certificate, ForwardedStyle, Listener, Protocol};
pub use matching::{ClientKey, HostPattern, LimitKey, MethodName, PARAMETERS_MAX, PathPattern, Segment, ValueMatch};
pub use route::{Bulkhead, HeaderEdits, Limits, RateLimit, Redirect, Respond, Retry, Rewrite, Route, Target, Timeouts};
pub use strict::{Node, Wrong};
pub use text::{Network, Rate, Size, Span};
pub use upstream::{
    Balance, Breaker, CheckKind, EndpointSpec, HealthCheck, Locality, Outlier, RetryBudget, ServiceSource, Upstream,
    UpstreamProtocol, UpstreamTls,
};

use text::meant;

/// Longest name of a document.
pub const NAME_BYTES_MAX: usize = 64;

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Where connections come in.
    Listener,
    /// Which requests go where.
    Route,
    /// Endpoints that are equals.
    Upstream,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Listener, Kind::Route, Kind::Upstream];

    /// Its word in files, commands and stored keys.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Route => "route",
            Kind::Upstream => "upstream",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What a document says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Where connections come in.
    Listener(Listener),
    /// Which requests go where.
    Route(Box<Route>),
    /// Endpoints that are equals.
    Upstream(Box<Upstream>),
}

/// One document with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name among those of its kind.
    pub name: String,
    /// What it says.
    pub body: Body,
}

impl Document {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Listener(_) => Kind::Listener,
            Body::Route(_) => Kind::Route,
            Body::Upstream(_) => Kind::Upstream,
        }
    }

    /// Its key as people see it: `route.shop`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.kind().word(), self.name)
    }

    /// Reads what a person wrote (a table of TOML, a JSON object).
    pub fn from_human(kind: Kind, name: &str, node: &Node) -> Result<Document, Wrong> {
        let key = || format!("{}.{name}", kind.word());
        check_name(name).map_err(|why| Wrong { line: node.line(), path: key(), what: why })?;
        if node.entries().is_none() {
            let what = format!("wants a table: [{}]", key());
            return Err(Wrong { line: node.line(), path: key(), what });
        }
        let body = match kind {
            Kind::Listener => node.read().map(Body::Listener),
            Kind::Route => node.read().map(|body| Body::Route(Box::new(body))),
            Kind::Upstream => node.read().map(|body| Body::Upstream(Box::new(body))),
        };
        let body = body.map_err(|wrong| wrong.under(&key()))?;
        Ok(Document { name: name.to_owned(), body })
    }

    /// Reads a JSON object that a person wrote (the admin door).
    pub fn from_json(kind: Kind, name: &str, bytes: &[u8]) -> Result<Document, Wrong> {
        let key = format!("{}.{name}", kind.word());
        if bytes.len() > stored::DOCUMENT_BYTES_MAX {
            return Err(Wrong::new(key, format!("at most {} bytes", stored::DOCUMENT_BYTES_MAX)));
        }
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| Wrong::new(key, format!("not JSON: {error}")))?;
        Document::from_human(kind, name, &Node::from_json(&value))
    }
}

/// What a name may be: it stands in headers, log lines and commands.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

/// Reads the documents out of a table that has `listener`, `route` and `upstream` in it (the gateway's part of `quorate.toml`).
/// All that is wrong is told, not only the first.
pub fn read_tables(root: &Node) -> Result<Vec<Document>, Vec<Wrong>> {
    let mut documents = Vec::new();
    let mut wrongs = Vec::new();
    for (word, node) in root.entries().unwrap_or_default() {
        let Some(kind) = Kind::of(word) else {
            let what = format!("no such table; {}", meant(word, Kind::ALL.iter().map(|kind| kind.word())));
            wrongs.push(Wrong { line: node.line(), path: word.clone(), what });
            continue;
        };
        let Some(entries) = node.entries() else {
            let what = format!("wants a table with a name: [{word}.NAME]");
            wrongs.push(Wrong { line: node.line(), path: word.clone(), what });
            continue;
        };
        for (name, node) in entries {
            match Document::from_human(kind, name, node) {
                Ok(document) => documents.push(document),
                Err(wrong) => wrongs.push(wrong),
            }
        }
    }
    if wrongs.is_empty() { Ok(documents) } else { Err(wrongs) }
}

/// Reads documents out of a TOML text that holds nothing else.
pub fn read_toml(text: &str) -> Result<Vec<Document>, Vec<Wrong>> {
    let breaks: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    let line = |offset: usize| 1 + breaks.partition_point(|at| *at < offset) as u32;
    let table = toml::de::DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(span.start));
        vec![Wrong { line: at, path: String::new(), what: error.message().to_owned() }]
    })?;
    read_tables(&Node::from_toml_table(table.get_ref(), table.span(), &line))
}

#[cfg(test)]
mod tests;

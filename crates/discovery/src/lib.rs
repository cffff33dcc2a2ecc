//! The registry: nodes, services, checks, the key-value tree and named documents, as one value that the meta group's log
//! changes.
//!
//! ```text
//!   door ── Change ──► log ──► Catalog::apply ──► Outcome ──► door
//!                                   │
//!                                   └──► indexes (watch) ──► blocking queries, DNS, the gateway
//! ```
//!
//! [`Catalog`](catalog::Catalog) is replicated and deterministic; [`check::Runner`] is one node's own: it decides when its
//! checks run and which of their results are worth an entry.
//!
//! Knows nothing of protocols, sockets or clocks: an entry brings its index, a change returns what it did.

pub mod catalog;
pub mod change;
pub mod check;
pub mod config;
pub mod form;
mod index;
mod kv;
pub mod limits;
pub mod model;
pub mod query;
pub mod schema;
pub mod session;
mod shelf;
pub mod watch;

pub use catalog::Catalog;
pub use change::{Change, Outcome};

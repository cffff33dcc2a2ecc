//! The admin door: what a person, a probe and Prometheus are told about a node.
//!
//! [`guard`] says which requests are let in. Sockets, HTTP and clocks are the host's.
//!
//! **Invariant:** nothing here shows a password or a value; only the tape shows keys, and `/metrics` shows none.

pub mod guard;

//! The Redis door: what its clients send, and what they are answered.
//!
//! [`session`] is one client's conversation, [`door`] what all of them share, [`peer`] a client as others see it; the other
//! modules are the protocol's parts. Sockets are the host's.

mod acl;
pub mod client;
mod commits;
pub mod decode;
pub mod door;
pub mod figures;
mod forward;
pub mod introspect;
pub mod monitor;
mod own;
pub mod peer;
pub mod pubsub;
pub mod session;
pub mod text;
mod topics;
pub mod tracking;
mod whole;

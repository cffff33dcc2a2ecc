//! What etcd's clients share: keys with all their revisions, transactions, leases, users and roles.
//!
//! One number, the *revision*, counts the changes of everything; whoever knows it can read what was then, and hear of all that came
//! after. A [`Coordination`] is changed only by entries of the meta group (see [`Command`]) and takes its time from them.
//!
//! ```text
//!   put a=1     revision 2     a: [2]
//!   put a=2                3     a: [2 3]          changes: (2 a) (3 a) (4 a)
//!   del a                  4     a: [2 3 4†]       compact 3: (3 a) (4 a), a: [3 4†]
//! ```
//!
//! Knows nothing of gRPC, connections or who waits; a watch is somebody who reads [`Store::changes`] on.

pub mod auth;
pub mod command;
pub mod error;
mod form;
pub mod lease;
pub mod limits;
pub mod proto;
mod room;
pub mod span;
pub mod store;
pub mod txn;

pub use command::{Answer, Command, Outcome};
pub use error::Error;
pub use room::Coordination;
pub use span::Span;
pub use store::Store;

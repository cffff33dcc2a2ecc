//! Users: who may come in by any of the doors, and what they may do there, in the words of Redis's access control lists.
//!
//! One grammar is what an administrator writes (`ACL SETUSER`), what is shown (`ACL LIST`), what stands in the log and what stands in a
//! snapshot:
//!
//! ```text
//!   alice  on #5e88… ~orders:* %R~stock:* &news:* +@read +set -keys (%W~audit:* +append)
//!          │  │     │                    │       │                 └ another selector: its commands on its keys
//!          │  │     │                    │       └ commands and categories, the later word wins
//!          │  │     │                    └ channels
//!          │  │     └ keys to read and write, keys only to read
//!          │  └ a password's SHA-256
//!          └ may come in
//! ```
//!
//! Here: [`model`] what a user is, [`rules`] the words that change one, [`room`] all users as entries of the meta group's log change them,
//! [`grant`] what a user may do, compiled so that a command costs a look at a bit, [`commands`] which commands are in which categories.
//!
//! Knows nothing about passwords but their digests: doors make them, and compare.

pub mod commands;
pub mod grant;
pub mod limits;
pub mod model;
pub mod room;
pub mod rules;

pub use grant::{Asked, Denied, Grant};
pub use model::{DEFAULT, Password, Proof, User};
pub use room::{Change, Outcome, Users};

#[cfg(test)]
mod tests;

//! Kafka's messages, as far as they are spoken here; source: the message definitions of Apache Kafka (`clients/src/main/resources/common/message`).
//! The tests hold every version of each against the `kafka-protocol` crate, which is made from those definitions by a machine.

mod admin;
mod data;
mod groups;
mod session;
mod transactions;

pub use admin::*;
pub use data::*;
pub use groups::*;
pub use session::*;
pub use transactions::*;

#[cfg(test)]
mod tests;

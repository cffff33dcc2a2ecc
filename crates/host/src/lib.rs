//! The only room with sockets, files, clocks and threads. It drives the machines of the pure rooms and obeys the order that
//! their outputs give.
//!
//! [`node`] starts and stops everything; [`log`] is the thread that makes appends durable; [`net`] the connections,
//! [`peers`] those between nodes.
//!
//! **Invariant:** decides nothing that the simulator should see: what is answered, in which order, is the pure rooms' word.

pub mod admin;
mod authorities;
pub mod checks;
pub mod clock;
pub mod cluster;
pub mod consul;
pub mod dns;
pub mod etcd;
pub mod files;
mod forward;
pub mod gateway;
mod gather;
pub mod kafka;
pub mod listener;
pub mod log;
pub mod net;
pub mod node;
pub mod peers;
pub mod snapshots;
pub mod start;
pub mod tls;
pub mod topics;
pub mod transfer;

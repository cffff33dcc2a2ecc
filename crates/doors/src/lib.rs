//! The doors: one per protocol, each between bytes and commands.
//!
//! Knows nothing about sockets, clocks, threads or files.

pub mod access;
pub mod admin;
pub mod consul;
pub mod dns;
pub mod etcd;
pub mod kafka;
pub mod registry;
pub mod resp;
pub mod secret;

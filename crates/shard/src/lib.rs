//! What one log drives: commands over tables, one entry type, one apply.
//!
//! Knows nothing about sockets, clocks, threads or files. Deterministic: the same entries leave the same tables.

pub mod board;
pub mod bounds;
pub mod clock;
pub mod command;
pub mod commit;
pub mod driver;
pub mod entry;
pub mod error;
pub mod live;
pub mod manifest;
pub mod meta;
pub mod mover;
pub mod notify;
pub mod open;
pub mod pending;
pub mod rdb;
pub mod recover;
mod repair;
pub mod reply;
pub mod script;
pub mod slots;
pub mod state;
pub mod streams;
pub mod topics;
pub mod waiters;
pub mod whole;

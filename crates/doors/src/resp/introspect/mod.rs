//! What the node tells about itself and its clients: COMMAND, INFO, CONFIG, CLIENT, HELLO.
//!
//! Pure text: whoever calls brings the facts.

mod client;
mod command;
mod config;
mod hello;
mod info;
mod specs;

pub use client::{
    ClientFacts, ClientType, KillFilter, ListFilter, Pause, ReplyMode, SetInfo, Unblock, help as client_help,
    parse_kill, parse_list, parse_on_off, parse_pause, parse_reply, parse_setinfo, parse_unblock, validate_name,
};
pub use command::command;
pub use config::{Change, Config, ConfigFacts};
pub use hello::{Hello, parse_hello, write_hello};
pub use info::{CpuFacts, Facts, KeyspaceFacts, MemoryFacts, ReplicaFacts, StatsFacts, info};
pub use specs::{DOOR_SPECS, DoorSpec, check, find_door};

/// The Redis version whose semantics and texts the node claims.
pub const REDIS_VERSION: &str = "7.2.0";

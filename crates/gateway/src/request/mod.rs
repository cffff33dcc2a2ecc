//! What a request asks for, in one normal form for every decision.

mod host;
mod path;

pub use host::{BadHost, host_and_port};
pub use path::{BadPath, normal_path};

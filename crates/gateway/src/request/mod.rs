//! What a request asks for, in one normal form for every decision.

mod head;
mod host;
mod path;
mod query;

pub use head::{Asked, BadRequest, Head, Peer, PlainHead};
pub use host::{BadHost, host_and_port};
pub use path::{BadPath, normal_path};
pub use query::parameters;

//! What a request asks for, in one normal form for every decision; and what a connection says of itself before any request.

mod head;
mod hello;
mod host;
mod path;
mod proxy_header;
mod query;

pub use head::{Asked, BadRequest, Head, Peer, PlainHead};
pub use hello::{HELLO_BYTES_MAX, HELLO_INPUT_BYTES_MAX, Sni, server_name};
pub use host::{BadHost, host_and_port};
pub use path::{BadPath, normal_path};
pub use proxy_header::{BadProxyHeader, PROXY_HEADER_BYTES_MAX, ProxyHeader, proxy_header};
pub use query::parameters;

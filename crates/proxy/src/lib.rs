//! Moves the gateway's bytes and decides nothing: whoever implements [`Decide`] is asked with a request's head, and what it answers, a
//! [`Plan`] or a [`Reply`], is obeyed.
//!
//! ```text
//!                 serve: a client's connection           exchange: a request               pool: an address
//!  socket ─► Io ─► heads of HTTP/1.1 (head, body) ─┐     asks Decide, makes attempts   ┌─► Endpoint ─► Io ─► socket
//!              └─► streams of HTTP/2 (http2)     ──┴─► Side ◄──── two pumps ────► Side ┘
//! ```
//!
//! A request and its answer are two messages that cross between two *sides*, each a connection of HTTP/1.1 or a stream of HTTP/2
//! ([`side`](crate)); one task polls both, and for HTTP/2 one task polls a client's connection with all its streams. A body that goes from HTTP/1.1 to HTTP/1.1 is copied once, from the buffer that it was read into to
//! the one that it is written from, since it is framed anew.
//!
//! **Worked example.** `GET / HTTP/1.1` comes on a kept connection: its task wakes, borrows a buffer, reads the head, asks [`Decide::on_request`],
//! takes an idle connection from the plan's [`Endpoint`], writes the head to it (one `write`), waits; wakes with the answer, whose head
//! and body are written in one more `write`; the upstream's connection goes back to the endpoint, the buffers to their thread. Four system
//! calls and those of the reactor.
//!
//! Caveats chosen: a client that closes its half of the connection while it waits has left (as nginx sees it); trailers pass where both
//! protocols have a place for them; `Expect: 100-continue` is the upstream's to answer; an upgrade is a WebSocket or nothing.

mod body;
mod buffer;
mod check;
mod exchange;
mod expiry;
mod forward;
mod grpc;
mod head;
mod http2;
mod io;
mod limits;
mod pace;
mod plan;
mod pool;
mod serve;
mod side;
mod timer;
mod tls;
mod tunnel;
mod verifier;

pub use buffer::borrowed_bytes;
pub use head::{AnswerHead, Bad, BodyLength, Fields, RequestHead, Version};
pub use io::Io;
pub use limits::Limits;
pub use plan::{
    Action, Again, Attempt, BODY_GRACE, Decide, End, Ending, FailureKind, Forwarded, HeaderEdits, OnAnswer, OnFailure,
    Peer, PeerTls, Plan, Reply, Rules, Timeouts,
};
pub use pool::{Endpoint, EndpointConfig, Protocol, is_our_own};
pub use serve::{Proxy, Shutdown};
pub use tls::{
    BadCertificate, Certificate, Certificates, Trust, UpstreamAuth, UpstreamTls, client_config, server_config,
};
pub use tokio_rustls::TlsAcceptor;
pub use verifier::{Belief, Shown, Verifier};

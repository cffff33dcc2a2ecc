//! Moves the gateway's bytes and decides nothing: whoever implements [`Decide`] is asked with a request's head, and what it answers, a
//! [`Plan`] or a [`Reply`], is obeyed.

mod buffer;
mod head;
mod io;
mod limits;
mod plan;
mod pool;
mod tls;

pub use head::{AnswerHead, Bad, BodyLength, Fields, RequestHead, Version};
pub use io::Io;
pub use limits::Limits;
pub use plan::{
    Action, Again, Attempt, Decide, End, Ending, FailureKind, Forwarded, HeaderEdits, OnAnswer, OnFailure, Peer,
    PeerTls, Plan, Reply, Rules, Timeouts,
};
pub use pool::{Endpoint, EndpointConfig, Protocol};
pub use tls::{BadCertificate, Certificate, Certificates, UpstreamTls};

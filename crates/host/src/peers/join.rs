//! How a node comes into the cluster: it proves that it holds the token, and is given an id and a certificate.

use base::NodeId;
use bytes::Bytes;

/// What a new node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// SHA-256 of the secret that it showed.
    pub token: [u8; 32],
    /// Its public key (SubjectPublicKeyInfo, DER); the same key asking again is the same node.
    pub key: Bytes,
    /// What else it says of itself (addresses, zone, roles), in the form that the cluster gives it.
    pub details: Bytes,
}

/// What it gets, beside the certificate and the authority that the links add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub node: NodeId,
    /// What it needs to start (founders, number of shards, directory), in the form that the cluster gives it.
    pub details: Bytes,
}

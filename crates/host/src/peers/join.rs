//! How a node comes into the cluster: it proves that it holds a token, and is given an id and a certificate.
//!
//! ```text
//! joiner ── TLS without a certificate, ALPN quorate-join ──▶ any member
//!        the member's chain must hold the authority whose fingerprint the token has: only then
//!        ── join: secret, public key, signature of this connection's own key material, details ─▶
//!                                              the cluster decides (Handler::join): an id
//!        ◀─ joined: id, certificate, authority with its key, details ──
//! ```
//!
//! The signature is of something that only the two ends of this connection know (RFC 9266's idea), so whoever asks has the private key.
//! The secret proves the right to join and is compared as a hash; nobody who listens or stands between learns it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Limit, NodeId};
use bytes::{Bytes, BytesMut};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

use super::dial::read_frame;
use super::frame::{self, Decoder, Kind, SMALL_FRAME_BYTES_MAX};
use super::identity::Identity;
use super::incoming::{bad_hello, refuse};
use super::keys::{Authority, Key, PublicKey, sha256};
use super::shared::Shared;
use super::tls;
use super::token::Token;
use super::words::{self, Join, Joined, MALFORMED};

/// What the proof is derived from.
const EXPORTER: &[u8] = b"EXPORTER-quorate-join";
/// How long the cluster may think about it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer: it may hold a directory.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a new node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// SHA-256 of the secret that it showed.
    pub token: [u8; 32],
    /// Its public key (SubjectPublicKeyInfo, DER), which it has proven to hold; the same key asking again is the same node.
    /// [`super::KeyPin`] is its SHA-256.
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

/// Why somebody is no node yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// The cluster does not want him; trying again will not help.
    Refused(String),
    /// Nobody who could decide was reached; trying again may help.
    Unreachable(String),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Refused(why) => write!(f, "the cluster refuses: {why}"),
            JoinError::Unreachable(why) => write!(f, "the cluster cannot be reached: {why}"),
        }
    }
}

impl std::error::Error for JoinError {}

/// Asks the members at `seeds` (`host:port`) one after the other, until one decides. The identity is not stored yet
/// ([`Identity::store`]); `key` should be the one that the data directory keeps ([`super::identity::joining_key`]), so that who asks twice is one
/// node. `details` and those of the answer are as in [`Request`] and [`Accepted`].
///
/// # Errors
/// See [`JoinError`].
pub async fn join(token: &Token, seeds: &[String], key: &Key, details: Bytes) -> Result<(Identity, Bytes), JoinError> {
    let mut whys = Vec::new();
    for seed in seeds {
        let failed = match tokio::time::timeout(PATIENCE + PATIENCE / 4, ask(token, seed, key, &details)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(JoinError::Refused(why))) => return Err(JoinError::Refused(format!("{seed}: {why}"))),
            Ok(Err(JoinError::Unreachable(why))) => why,
            Err(_) => "it did not answer".to_owned(),
        };
        whys.push(format!("{seed}: {failed}"));
    }
    Err(JoinError::Unreachable(if whys.is_empty() { "no address was given".to_owned() } else { whys.join("; ") }))
}

async fn ask(token: &Token, seed: &str, key: &Key, details: &Bytes) -> Result<(Identity, Bytes), JoinError> {
    let failed = |error: std::io::Error| JoinError::Unreachable(tls::explain(&error));
    let (config, name) = tls::joining(token.cluster, token.authority).map_err(JoinError::Unreachable)?;
    let connect = async {
        let stream = TcpStream::connect(seed).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(config).connect(name, stream).await
    };
    let connected = tokio::time::timeout(Duration::from_secs(10), connect).await;
    let mut stream = connected.map_err(|_| JoinError::Unreachable("nobody answers".to_owned()))?.map_err(failed)?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(tls::JOIN) {
        return Err(JoinError::Unreachable("it is no node of a cluster".to_owned()));
    }
    let material = session.export_keying_material([0; 32], EXPORTER, None);
    let material = material.map_err(|error| JoinError::Unreachable(error.to_string()))?;
    let proof = key.sign(&material).map_err(JoinError::Unreachable)?;
    let join =
        Join { secret: token.secret, key: key.public().to_der().into(), proof: proof.into(), details: details.clone() };
    let body = join.encode();
    if body.len() >= SMALL_FRAME_BYTES_MAX {
        return Err(JoinError::Refused("the node says more of itself than fits".to_owned()));
    }
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Join, &body);
    stream.write_all(&out).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let frame = read_frame(&mut stream, &mut Decoder::new(ANSWER_BYTES_MAX)).await.map_err(JoinError::Unreachable)?;
    match frame.kind {
        Kind::Joined => {
            let joined = Joined::decode(frame.body).ok_or(MALFORMED);
            joined.map_err(str::to_owned).and_then(|joined| settle(token, key, joined)).map_err(JoinError::Unreachable)
        }
        Kind::Refused => Err(JoinError::Refused(words::sentence(&frame.body))),
        _ => Err(JoinError::Unreachable(MALFORMED.to_owned())),
    }
}

/// What was given must be what was asked for.
fn settle(token: &Token, key: &Key, joined: Joined) -> Result<(Identity, Bytes), String> {
    if joined.cluster != token.cluster || sha256(&joined.authority) != token.authority {
        return Err("it answered for another cluster than the token's".to_owned());
    }
    let identity = Identity {
        cluster: joined.cluster,
        node: joined.node,
        authority: Authority::read(joined.cluster, &joined.authority, &joined.authority_key)?,
        certificate: CertificateDer::from(joined.certificate.to_vec()),
        key: key.clone(),
        started: false,
    };
    identity.check()?;
    Ok((identity, joined.details))
}

/// The member's end.
pub(super) async fn serve(shared: &Arc<Shared>, stream: TlsStream<TcpStream>, from: SocketAddr, request: Request) {
    let answer = decide(shared, request).await;
    match answer {
        Ok((node, joined)) => {
            shared.handler.tell(&format!("{from} has joined the cluster as {node}"));
            let mut out = BytesMut::new();
            frame::put(&mut out, Kind::Joined, &joined.encode());
            // If he is gone he will ask again, with the same key, and be given the same.
            let _ = tokio::time::timeout(shared.settings.handshake, finish(stream, &out)).await;
        }
        Err(why) => {
            shared.tell(&from.ip().to_string(), &why, &format!("{from} may not join: {why}"));
            refuse(shared, stream, &why).await;
        }
    }
}

async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, out: &[u8]) -> std::io::Result<()> {
    stream.write_all(out).await?;
    stream.shutdown().await
}

/// What somebody asks for who has shown that he holds his key.
pub(super) async fn request(stream: &mut TlsStream<TcpStream>) -> Result<Request, String> {
    let frame = read_frame(stream, &mut Decoder::new(SMALL_FRAME_BYTES_MAX)).await?;
    if frame.kind != Kind::Join {
        return Err("it did not ask to join".to_owned());
    }
    let join = Join::decode(frame.body).map_err(bad_hello)?;
    let material = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None);
    let material: [u8; 32] = material.map_err(|error| error.to_string())?;
    let key = PublicKey::from_der(&join.key).ok_or("its key is not of the kind that nodes have")?;
    if !key.has_signed(&material, &join.proof) {
        return Err("it does not hold the key that it shows".to_owned());
    }
    Ok(Request { token: sha256(&join.secret), key: join.key, details: join.details })
}

async fn decide(shared: &Arc<Shared>, request: Request) -> Result<(NodeId, Joined), String> {
    let Ok(_place) = shared.joins.clone().try_acquire_owned() else {
        shared.settings.limits.hit(Limit::peer_joins_max);
        return Err("too many nodes want to join at once; try again in a moment".to_owned());
    };
    let key = PublicKey::from_der(&request.key).ok_or(MALFORMED)?;
    let decided = tokio::time::timeout(PATIENCE, shared.handler.join(request)).await;
    let accepted = decided.unwrap_or_else(|_| Err("the cluster cannot decide at the moment".to_owned()))?;
    let authority = &shared.identity.authority;
    let certificate = authority.sign_node(accepted.node, &key)?;
    let joined = Joined {
        cluster: shared.identity.cluster,
        node: accepted.node,
        certificate: Bytes::copy_from_slice(&certificate),
        authority: Bytes::copy_from_slice(authority.certificate()),
        authority_key: Bytes::copy_from_slice(authority.key().pkcs8()),
        details: accepted.details,
    };
    Ok((accepted.node, joined))
}

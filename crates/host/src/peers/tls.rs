//! TLS between nodes: version 1.3 only, both ends with certificates of the cluster's authority, and nothing else believed.
//!
//! Whoever dials asks for the name of the node that it means to reach, so a node that took another's address is noticed before anything
//! is sent. Whoever listens lets connections in without a certificate too, but only to ask for membership ([`JOIN`]): the protocol that
//! was agreed on decides, and a connection that says it is a node's must have shown a node's certificate. Sessions are never resumed,
//! so every connection proves itself anew.

use std::sync::Arc;

use base::{ClusterId, NodeId};
use proxy::{Belief, Shown, Verifier};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::identity::Identity;
use super::keys::{cluster_name, node_name, parse_node_name, sha256};

/// What two nodes agree to speak (ALPN). Their own hello says in which version.
pub const PEER: &[u8] = b"quorate-peer";
/// What somebody speaks who wants to become a node.
pub const JOIN: &[u8] = b"quorate-join";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The node that a certificate speaks of: it must name exactly one.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<(ClusterId, NodeId)> {
    let read = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut nodes = read.valid_dns_names().filter_map(parse_node_name);
    let node = nodes.next()?;
    nodes.next().is_none().then_some(node)
}

fn chain(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![identity.certificate.clone(), identity.authority.certificate().clone()];
    (chain, PrivatePkcs8KeyDer::from(identity.key.pkcs8().to_vec()).into())
}

fn believed(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned()).map_err(|error| format!("the cluster's authority: {error}"))?;
    Ok(Arc::new(roots))
}

/// How this node listens.
///
/// # Errors
/// Its identity is not usable.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, String> {
    let roots = believed(identity.authority.certificate())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("the cluster's authority: {error}"))?;
    let (chain, key) = chain(identity);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("this node's certificate: {error}"))?;
    config.alpn_protocols = vec![PEER.to_vec(), JOIN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// How this node dials others.
///
/// # Errors
/// Its identity is not usable.
pub fn client(identity: &Identity) -> Result<Arc<ClientConfig>, String> {
    let (chain, key) = chain(identity);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(believed(identity.authority.certificate())?)
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("this node's certificate: {error}"))?;
    config.alpn_protocols = vec![PEER.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// How somebody dials who has a token and is no node yet: he believes the authority of that fingerprint.
pub fn joining(cluster: ClusterId, authority: [u8; 32]) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(ByFingerprint { authority }, provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(config), server_name(cluster_name(cluster))))
}

fn server_name(name: String) -> ServerName<'static> {
    ServerName::try_from(name).expect("digits, small letters and dots in labels of 32 at most are a DNS name")
}

/// What to ask for when dialling a node.
pub fn name_of(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    server_name(node_name(cluster, node))
}

/// Believes one authority, known by its fingerprint, which the other end has to show.
#[derive(Debug)]
struct ByFingerprint {
    authority: [u8; 32],
}

impl Belief for ByFingerprint {
    fn judge(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error> {
        let Shown { end, intermediates, name, ocsp, now } = *shown;
        let authority = intermediates.iter().find(|other| sha256(other) == self.authority);
        let authority = authority.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let roots = believed(authority).map_err(|_| bad())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        verifier.map_err(|_| bad())?.verify_server_cert(end, intermediates, name, ocsp, now)
    }
}

/// What went wrong with a connection, for people: TLS's own words say little about what to do.
pub fn explain(error: &std::io::Error) -> String {
    use rustls::{AlertDescription, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not of this cluster's authority: it belongs to another cluster".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another node: the address may have been given away".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or this machine's clock is wrong".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not for links between nodes".to_owned()
            }
            other => format!("its certificate is refused: {other:?}"),
        },
        Some(Error::AlertReceived(alert)) => match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it does not accept this node's certificate: it belongs to another cluster".to_owned()
            }
            AlertDescription::CertificateExpired => "it says that this node's certificate has expired".to_owned(),
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied => "it does not accept this node's certificate".to_owned(),
            AlertDescription::NoApplicationProtocol => "it is no node of a cluster".to_owned(),
            other => format!("it ended the handshake ({other:?})"),
        },
        Some(Error::InvalidMessage(_)) => "it does not speak TLS: not the peer port of a node?".to_owned(),
        Some(other) => format!("TLS: {other}"),
        None => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        },
    }
}

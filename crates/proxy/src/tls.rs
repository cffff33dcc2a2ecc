//! TLS at both ends, by rustls with ring. Certificates are chosen by the name a client asks for and exchanged while connections stand.

use crate::io::Io;
use crate::pool::Protocol;
use crate::verifier::{Belief, Shown, Verifier};
use parking_lot::RwLock;
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Why a certificate or a key is refused.
#[derive(Debug)]
pub struct BadCertificate(String);

impl fmt::Display for BadCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for BadCertificate {}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate chain with its key and the names it is shown for.
#[derive(Clone, Debug)]
pub struct Certificate {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads a chain and its key, both PEM. `names` are host names, `*.example.com` for any one label; none: shown to whoever asks for no
    /// other.
    pub fn from_pem(names: &[&str], chain: &[u8], key: &[u8]) -> Result<Certificate, BadCertificate> {
        let (chain, key) = read_pair(chain, key)?;
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| BadCertificate(format!("certificate and key: {error}")))?;
        Ok(Certificate { names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), key: Arc::new(key) })
    }

    /// Until when the first certificate of the chain, the one that clients look at, is valid: seconds since 1970. Nothing where it does not say.
    pub fn not_after(&self) -> Option<u64> {
        self.key.cert.first().and_then(|der| crate::expiry::not_after(der))
    }

    /// The host names that the certificate itself has (RFC 6125: those of subjectAltName), in small letters.
    pub fn own_names(&self) -> Vec<String> {
        let own = self.key.cert.first().and_then(|own| webpki::EndEntityCert::try_from(own).ok());
        own.iter().flat_map(|own| own.valid_dns_names()).map(str::to_ascii_lowercase).collect()
    }

    /// The same certificate, shown for these names.
    #[must_use]
    pub fn named(&self, names: Vec<String>) -> Certificate {
        Certificate { names, key: self.key.clone() }
    }
}

/// A chain, the own certificate first, and its key, both PEM.
fn read_pair(
    chain: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BadCertificate> {
    let wrong = |what: &str, error: &dyn fmt::Display| BadCertificate(format!("{what}: {error}"));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("the certificate is not PEM", &error))?;
    if chain.is_empty() {
        return Err(BadCertificate("the file has no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("the key is not PEM", &error))?;
    Ok((chain, key))
}

/// What a listener shows: swapped as a whole, [`Certificates::replace`]. Connections that stand keep what they have.
#[derive(Debug, Default)]
pub struct Certificates(RwLock<Arc<Table>>);

#[derive(Debug, Default)]
struct Table {
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Shows these. The first without names is for clients that ask for no name that is here; without one they are refused.
    pub fn new(certificates: &[Certificate]) -> Arc<Certificates> {
        let it = Arc::new(Certificates::default());
        it.replace(certificates);
        it
    }

    /// Shows these from now on.
    pub fn replace(&self, certificates: &[Certificate]) {
        let mut table = Table::default();
        for certificate in certificates {
            if certificate.names.is_empty() {
                table.default.get_or_insert_with(|| certificate.key.clone());
            }
            for name in &certificate.names {
                table.by_name.entry(name.clone()).or_insert_with(|| certificate.key.clone());
            }
        }
        *self.0.write() = Arc::new(table);
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.read().clone();
        let by_name = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
            table.by_name.get(&name).or_else(|| table.by_name.get(&wildcard?)).cloned()
        });
        by_name.or_else(|| table.default.clone())
    }

    /// How a listener that shows them shakes hands. ALPN offers HTTP/2 before HTTP/1.1.
    pub fn acceptor(self: &Arc<Self>) -> tokio_rustls::TlsAcceptor {
        self.acceptor_of(&[b"h2", b"http/1.1"])
    }

    /// The same with these protocols in ALPN, the best first; none: ALPN is not spoken.
    pub fn acceptor_of(self: &Arc<Self>, protocols: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config).into()
    }
}

/// How a door shakes hands that shows `chain` (with its `key`, both PEM). With `clients` (authorities, PEM) it lets in nobody who has no certificate that
/// one of them signed. It chooses no protocol.
///
/// # Errors
/// Which of them cannot be read, and why.
pub fn server_config(chain: &[u8], key: &[u8], clients: Option<&[u8]>) -> Result<rustls::ServerConfig, BadCertificate> {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(roots(pem, true)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| BadCertificate(format!("the clients' authorities: {error}")))?,
            )
        }
    };
    let certificate = Certificate::from_pem(&[], chain, key)?;
    Ok(builder.with_cert_resolver(Certificates::new(&[certificate])))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

/// Whose certificates are believed.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those that one of these authorities (PEM) signed.
    Authorities(&'a [u8]),
    /// The same, but what cannot be understood is passed over: the system's own list, which nobody can be asked to mend.
    System(&'a [u8]),
    /// Anybody's, for any name. Whoever is on the way can read and change everything; for tests.
    Anybody,
}

/// Whom we believe and who we are towards upstreams. Endpoints share it; exchanged while connections stand, [`UpstreamAuth::replace`].
#[derive(Debug, Default)]
pub struct UpstreamAuth(RwLock<Option<Arc<Connectors>>>);

struct Connectors {
    http1: tokio_rustls::TlsConnector,
    http2: tokio_rustls::TlsConnector,
    /// Offers nothing.
    stream: tokio_rustls::TlsConnector,
}

impl fmt::Debug for Connectors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Connectors")
    }
}

impl UpstreamAuth {
    /// Believes `trust`, and shows `own` (a certificate chain and its key, both PEM) to servers that ask for a certificate.
    pub fn new(trust: Trust<'_>, own: Option<(&[u8], &[u8])>) -> Result<Arc<UpstreamAuth>, BadCertificate> {
        let auth = UpstreamAuth::nobody();
        auth.replace(trust, own)?;
        Ok(auth)
    }

    /// Believes nobody: connections fail until it is told more.
    pub fn nobody() -> Arc<UpstreamAuth> {
        Arc::default()
    }

    /// The same for connections from now on; after an error nothing has changed.
    pub fn replace(&self, trust: Trust<'_>, own: Option<(&[u8], &[u8])>) -> Result<(), BadCertificate> {
        let connectors = Arc::new(Connectors::new(trust, own)?);
        *self.0.write() = Some(connectors);
        Ok(())
    }
}

/// How a client shakes hands that believes `trust` and shows `own` (a certificate chain and its key, both PEM) to servers that ask for
/// a certificate. It offers no protocol.
///
/// # Errors
/// Which of the certificates, keys and authorities cannot be read, and why.
pub fn client_config(trust: Trust<'_>, own: Option<(&[u8], &[u8])>) -> Result<rustls::ClientConfig, BadCertificate> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    let builder = match trust {
        Trust::Authorities(pem) => builder.with_root_certificates(roots(pem, true)?),
        Trust::System(pem) => builder.with_root_certificates(roots(pem, false)?),
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(Anybody, provider())))
        }
    };
    let Some((chain, key)) = own else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = read_pair(chain, key)?;
    let wrong = |error| BadCertificate(format!("our certificate and its key: {error}"));
    // It does not compare the two.
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()).map_err(wrong)?;
    builder.with_client_auth_cert(chain, key).map_err(wrong)
}

impl Connectors {
    fn new(trust: Trust<'_>, own: Option<(&[u8], &[u8])>) -> Result<Connectors, BadCertificate> {
        let mut config = client_config(trust, own)?;
        let stream = Arc::new(config.clone()).into();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone()).into();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Connectors { http1, http2: Arc::new(config).into(), stream })
    }
}

fn roots(pem: &[u8], is_strict: bool) -> Result<rustls::RootCertStore, BadCertificate> {
    let mut store = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem) {
        let added = match root {
            Ok(root) => store.add(root).map_err(|error| format!("an authority: {error}")),
            Err(error) => Err(format!("the authorities are not PEM: {error}")),
        };
        if let (Err(why), true) = (added, is_strict) {
            return Err(BadCertificate(why));
        }
    }
    if store.is_empty() { Err(BadCertificate("the file has no authority".into())) } else { Ok(store) }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody;

impl Belief for Anybody {
    fn judge(&self, _: &Shown<'_>, _: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
}

/// How one endpoint is spoken to over TLS.
pub struct UpstreamTls {
    auth: Arc<UpstreamAuth>,
    name: ServerName<'static>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "UpstreamTls({:?})", self.name)
    }
}

impl UpstreamTls {
    /// Believes certificates for `name` that one of the authorities in `roots` (PEM) signed.
    pub fn new(name: &str, roots: &[u8]) -> Result<UpstreamTls, BadCertificate> {
        UpstreamTls::of(name, UpstreamAuth::new(Trust::Authorities(roots), None)?)
    }

    /// Asks for `name` (a host name or an address), which the certificate must have.
    pub fn of(name: &str, auth: Arc<UpstreamAuth>) -> Result<UpstreamTls, BadCertificate> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| BadCertificate(format!("{name} is no host name")))?;
        Ok(UpstreamTls { auth, name })
    }

    /// Offers `protocol` by ALPN; nothing where it is not ours to choose.
    pub(crate) async fn connect(&self, stream: TcpStream, protocol: Option<Protocol>) -> io::Result<Io> {
        let connectors = self.auth.0.read().clone();
        let connectors = connectors.ok_or_else(|| io::Error::other("no authority is known"))?;
        let connector = match protocol {
            Some(Protocol::Http1) => &connectors.http1,
            Some(Protocol::Http2) => &connectors.http2,
            None => &connectors.stream,
        };
        Ok(Io::TlsOut(Box::new(connector.connect(self.name.clone(), stream).await?)))
    }
}

//! TLS at both ends, by rustls with ring. Certificates are chosen by the name a client asks for and exchanged while connections stand.

use crate::io::Io;
use crate::pool::Protocol;
use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
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
        let wrong = |what: &str, error: &dyn fmt::Display| BadCertificate(format!("{what}: {error}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("the certificate is not PEM", &error))?;
        if chain.is_empty() {
            return Err(BadCertificate("the file has no certificate".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("the key is not PEM", &error))?;
        let key =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| wrong("certificate and key", &error))?;
        Ok(Certificate { names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), key: Arc::new(key) })
    }

    /// Until when the first certificate of the chain, the one that clients look at, is valid: seconds since 1970. Nothing where it does not say.
    pub fn not_after(&self) -> Option<u64> {
        self.key.cert.first().and_then(|der| crate::expiry::not_after(der))
    }
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
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

/// How an upstream's certificate is judged.
pub struct UpstreamTls {
    http1: tokio_rustls::TlsConnector,
    http2: tokio_rustls::TlsConnector,
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
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| BadCertificate(format!("{name} is no host name")))?;
        let mut store = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            let root = root.map_err(|error| BadCertificate(format!("the authorities are not PEM: {error}")))?;
            store.add(root).map_err(|error| BadCertificate(format!("an authority: {error}")))?;
        }
        if store.is_empty() {
            return Err(BadCertificate("the file has no authority".into()));
        }
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone()).into();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(UpstreamTls { http1, http2: Arc::new(config).into(), name })
    }

    pub(crate) async fn connect(&self, stream: TcpStream, protocol: Protocol) -> io::Result<Io> {
        let connector = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        Ok(Io::TlsOut(Box::new(connector.connect(self.name.clone(), stream).await?)))
    }
}

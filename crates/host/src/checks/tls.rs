//! TLS of checks, by rustls with ring. Believed are the machine's authorities (`SSL_CERT_FILE`, else where systems keep them);
//! with `TLSSkipVerify` any certificate, for that is what the one who registered the check asked for: nothing secret is said
//! over it that the check's definition does not show.

use std::sync::{Arc, LazyLock};

use discovery::model::Tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::probe::Stream;

/// Where systems keep the authorities that they believe: Debian, Red Hat, Alpine and BSD.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(crypto::ring::default_provider()));
/// Read once, when the first check needs them.
static VERIFYING: LazyLock<Result<ClientConfig, String>> = LazyLock::new(verifying);

fn verifying() -> Result<ClientConfig, String> {
    let named = std::env::var("SSL_CERT_FILE").ok().filter(|path| !path.is_empty());
    let found = BUNDLES.iter().find(|path| std::fs::exists(path).unwrap_or(false)).map(|path| (*path).to_owned());
    let path = named.or(found).ok_or("this machine has no file of certificate authorities: set SSL_CERT_FILE")?;
    let pem = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (_, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("{path} holds no certificate authority"));
    }
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    Ok(config.with_no_client_auth())
}

/// Shakes hands with `host`. `protocol` is offered by ALPN.
pub(super) async fn connect(
    stream: TcpStream,
    host: &str,
    wanted: &Tls,
    protocol: Option<&'static [u8]>,
) -> Result<Box<dyn Stream>, String> {
    let name = if wanted.server_name.is_empty() { host } else { wanted.server_name.as_str() };
    let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no server name"))?;
    let mut config = if wanted.skip_verify { believing() } else { VERIFYING.clone()? };
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| format!("TLS: {error}"))
}

fn believing() -> ClientConfig {
    ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth()
}

/// Believes any certificate, but only the one who has its key.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

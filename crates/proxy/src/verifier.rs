//! Certificates of servers that are judged by a rule of our own. The rule says whose certificate is believed; that whoever shows it has its
//! key is checked here for all of them, as TLS wants it.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt::Debug;
use std::sync::Arc;

/// A certificate that a server has shown.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The server's own.
    pub end: &'a CertificateDer<'a>,
    /// Those that it showed along with it.
    pub intermediates: &'a [CertificateDer<'a>],
    /// The name that was asked for.
    pub name: &'a ServerName<'a>,
    /// What it says of whether the certificate was called back.
    pub ocsp: &'a [u8],
    /// The time.
    pub now: UnixTime,
}

/// Says whose certificates are believed.
pub trait Belief: Debug + Send + Sync {
    /// Believes it, or says why not.
    ///
    /// # Errors
    /// Why not.
    fn judge(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<ServerCertVerified, rustls::Error>;
}

/// A belief as rustls asks for it.
#[derive(Debug)]
pub struct Verifier<B> {
    belief: B,
    provider: Arc<CryptoProvider>,
}

impl<B: Belief> Verifier<B> {
    /// With the provider's signatures.
    pub fn new(belief: B, provider: Arc<CryptoProvider>) -> Verifier<B> {
        Verifier { belief, provider }
    }
}

impl<B: Belief> ServerCertVerifier for Verifier<B> {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.belief.judge(&Shown { end, intermediates, name, ocsp, now }, &self.provider)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

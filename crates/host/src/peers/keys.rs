//! Keys and certificates: the cluster's own authority, and what it signs for a node.
//!
//! Every node holds the authority, for any of them may let a new one in; none of its keys ever stands in the log or a snapshot.
//! Certificates have no practical end: a node's identity ends when the cluster's directory no longer names it, and a cluster that
//! forgot to renew certificates would end as a whole on one day (RFC 5280 §4.1.2.5: 9999-12-31 for "no well-defined end").

use std::fmt;
use std::sync::Arc;

use base::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::CertificateDer;

use super::KeyPin;

/// What stands before the point in a P-256 SubjectPublicKeyInfo (RFC 5480): everything but the 65 bytes of the point itself.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point.
const POINT: usize = 65;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Random bytes that nobody can guess.
///
/// # Errors
/// The operating system has none.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the operating system gives no random bytes".to_owned())?;
    Ok(bytes)
}

/// A private key (ECDSA, P-256). It is never shown.
#[derive(Clone)]
pub struct Key(Arc<Pair>);

struct Pair {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn create() -> Result<Key, String> {
        let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| "no key could be made".to_owned())?;
        Key::read(bytes.as_ref())
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// It is none.
    pub fn read(pkcs8: &[u8]) -> Result<Key, String> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
            .map(|pair| Key(Arc::new(Pair { pkcs8: pkcs8.to_vec(), pair })))
            .map_err(|_| "not a private key of the kind that is used here (P-256)".to_owned())
    }

    /// The stored form, PKCS #8: a secret.
    pub fn pkcs8(&self) -> &[u8] {
        &self.0.pkcs8
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.pair.public_key().as_ref().to_vec())
    }

    /// A signature of these bytes.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.0.pair.sign(&SystemRandom::new(), bytes);
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| "nothing could be signed".to_owned())
    }
}

/// A public key: a point of P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// As SubjectPublicKeyInfo, DER.
    pub fn to_der(&self) -> Vec<u8> {
        [&SPKI_P256[..], &self.0].concat()
    }

    /// Reads that; only this one kind of key.
    pub fn from_der(der: &[u8]) -> Option<PublicKey> {
        let point = der.strip_prefix(&SPKI_P256)?;
        (point.len() == POINT && point[0] == 4).then(|| PublicKey(point.to_vec()))
    }

    /// What a cluster remembers of it.
    pub fn pin(&self) -> KeyPin {
        sha256(&self.to_der())
    }

    /// Whether whoever has the private key signed these bytes.
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(bytes, signature).is_ok()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Key::sign(self, bytes).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The name in a node's certificate.
pub fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{}.{cluster}.quorate", node.0)
}

/// The name that the certificates of all nodes of a cluster share: what somebody asks for who does not know which node he has found.
pub fn cluster_name(cluster: ClusterId) -> String {
    format!("{cluster}.quorate")
}

/// The node that a name in a certificate speaks of, whatever the cluster.
pub fn parse_node_name(name: &str) -> Option<(ClusterId, NodeId)> {
    let (number, rest) = name.strip_prefix("node-")?.split_once('.')?;
    let cluster = ClusterId::parse(rest.strip_suffix(".quorate")?)?;
    let node = NodeId(number.parse().ok().filter(|id| *id != 0)?);
    (node_name(cluster, node) == name).then_some((cluster, node))
}

/// A cluster's certificate authority.
#[derive(Clone, Debug)]
pub struct Authority {
    cluster: ClusterId,
    key: Key,
    certificate: CertificateDer<'static>,
}

/// What is in every certificate. `days` are those of its validity since 1970; without it has no end.
fn params(name: &str, names: &[String], subject: &PublicKey) -> Result<CertificateParams, String> {
    let wrong = |error: rcgen::Error| format!("no certificate could be made: {error}");
    let mut params = CertificateParams::new(names).map_err(wrong)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "quorate");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    let mut serial = random::<16>()?;
    // Positive, and not shorter than it looks (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_identifier_method = KeyIdMethod::PreSpecified(subject.pin()[..20].to_vec());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

impl Authority {
    fn params(cluster: ClusterId, key: &Key) -> Result<CertificateParams, String> {
        let mut params = params(&format!("cluster {cluster}"), &[], &key.public())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    /// The authority of a new cluster.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn found(cluster: ClusterId) -> Result<Authority, String> {
        let key = Key::create()?;
        let certificate = Authority::params(cluster, &key)?.self_signed(&key);
        let certificate = certificate.map_err(|error| format!("no authority could be made: {error}"))?;
        Ok(Authority { cluster, key, certificate: certificate.der().clone() })
    }

    /// The authority as it is kept.
    ///
    /// # Errors
    /// Certificate and key are not those of one authority.
    pub fn read(cluster: ClusterId, certificate: &[u8], pkcs8: &[u8]) -> Result<Authority, String> {
        let key = Key::read(pkcs8)?;
        let certificate = CertificateDer::from(certificate.to_vec());
        if public_key(&certificate)? != key.public() {
            return Err("the authority's key is not that of its certificate".to_owned());
        }
        Ok(Authority { cluster, key, certificate })
    }

    /// Its certificate: what every node believes.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its key: a secret.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// SHA-256 of its certificate: what a join token knows it by.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// A certificate for a node, good for both ends of a link.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn sign_node(&self, node: NodeId, key: &PublicKey) -> Result<CertificateDer<'static>, String> {
        let names = [node_name(self.cluster, node), cluster_name(self.cluster)];
        self.sign(&names[0], &names, key, |_| {})
    }

    /// Any certificate; `change` is what is unusual about it.
    pub(super) fn sign(
        &self,
        name: &str,
        names: &[String],
        key: &PublicKey,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<CertificateDer<'static>, String> {
        let mut params = params(name, names, key)?;
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let issuer = Issuer::new(Authority::params(self.cluster, &self.key)?, self.key.clone());
        let signed = params.signed_by(key, &issuer).map_err(|error| format!("nothing could be signed: {error}"))?;
        Ok(signed.der().clone())
    }
}

/// The key in a certificate.
///
/// # Errors
/// It is no certificate, or one with another kind of key.
pub fn public_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, String> {
    let read = webpki::EndEntityCert::try_from(certificate).map_err(|error| format!("not a certificate: {error}"))?;
    PublicKey::from_der(&read.subject_public_key_info())
        .ok_or_else(|| "a certificate with a kind of key that nodes do not have".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Authority, Key, PublicKey, node_name, parse_node_name, public_key};
    use base::{ClusterId, NodeId};

    #[test]
    fn a_nodes_name_is_read_as_it_is_written_and_no_other_way() {
        let cluster = ClusterId([7; 16]);
        let name = node_name(cluster, NodeId(12));
        assert_eq!(parse_node_name(&name), Some((cluster, NodeId(12))));
        for wrong in [
            name.replace("-12", "-012"),
            name.replace("-12", "-0"),
            name.replace("-12", "-+12"),
            name.replace("node", "Node"),
            name.replace(".quorate", ".example"),
            format!("{name}."),
            format!("x.{name}"),
            name.replace("07", "7"),
        ] {
            assert_eq!(parse_node_name(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_authority_survives_its_stored_form_and_signs_what_can_be_read() {
        let cluster = ClusterId([7; 16]);
        let authority = Authority::found(cluster).expect("random bytes");
        let again = Authority::read(cluster, authority.certificate(), authority.key().pkcs8()).expect("it is one");
        assert_eq!(again.fingerprint(), authority.fingerprint());
        let key = Key::create().expect("random bytes");
        assert_eq!(Key::read(key.pkcs8()).expect("a key").public(), key.public());
        assert_eq!(PublicKey::from_der(&key.public().to_der()), Some(key.public()));
        let certificate = again.sign_node(NodeId(3), &key.public()).expect("random bytes");
        assert_eq!(public_key(&certificate), Ok(key.public()));
        assert!(Authority::read(cluster, authority.certificate(), key.pkcs8()).is_err());
        assert!(Key::read(b"nothing").is_err());
        assert_eq!(PublicKey::from_der(&[]), None);
    }

    #[test]
    fn a_signature_is_good_for_its_bytes_and_its_key_only() {
        let (key, other) = (Key::create().expect("random bytes"), Key::create().expect("random bytes"));
        let signature = key.sign(b"bytes").expect("random bytes");
        assert!(key.public().has_signed(b"bytes", &signature));
        assert!(!key.public().has_signed(b"other", &signature) && !other.public().has_signed(b"bytes", &signature));
        assert!(!format!("{key:?}").contains(&format!("{:?}", key.pkcs8())));
    }
}

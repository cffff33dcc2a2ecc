//! Whom this machine believes: the file of certificate authorities that its system keeps.

/// Names another file.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Where systems keep it: Debian, Red Hat, Alpine and BSD, SUSE.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Where it may be, the best place first.
pub fn places() -> Vec<String> {
    match std::env::var(VARIABLE) {
        Ok(path) if !path.is_empty() => vec![path],
        _ => BUNDLES.map(str::to_owned).into(),
    }
}

/// The first file that can be read: where it is, and what it holds (PEM).
///
/// # Errors
/// What to do where there is none.
pub fn read() -> Result<(String, Vec<u8>), String> {
    let found = places().into_iter().find_map(|path| Some((path.clone(), std::fs::read(&path).ok()?)));
    found.ok_or_else(|| format!("this machine has no file of certificate authorities: set {VARIABLE}"))
}

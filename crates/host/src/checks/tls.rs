//! TLS of checks, by rustls with ring. Believed are the machine's authorities (`SSL_CERT_FILE`, else where systems keep them);
//! with `TLSSkipVerify` any certificate, for that is what the one who registered the check asked for: nothing secret is said
//! over it that the check's definition does not show.

use std::sync::{Arc, LazyLock};

use discovery::model::Tls;
use proxy::{Trust, client_config};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::probe::Stream;
use crate::authorities;

/// Read once, when the first check needs them.
static VERIFYING: LazyLock<Result<ClientConfig, String>> = LazyLock::new(verifying);

fn verifying() -> Result<ClientConfig, String> {
    let (path, pem) = authorities::read()?;
    // Nothing but an empty list is wrong with the system's own.
    client_config(Trust::System(&pem), None).map_err(|_| format!("{path} holds no certificate authority"))
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
    let mut config = match wanted.skip_verify {
        true => client_config(Trust::Anybody, None).map_err(|error| error.to_string())?,
        false => VERIFYING.clone()?,
    };
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| format!("TLS: {error}"))
}

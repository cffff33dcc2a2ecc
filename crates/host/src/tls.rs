//! TLS in front of the Redis, admin and Consul doors: a certificate with its key, and the authorities of those who may come in, all files that are read
//! again when they change. Connections that stand go on; what cannot be read is told once and the old stays.

use std::fmt;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use proxy::{Trust, client_config};
use rustls::{ClientConnection, StreamOwned};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gateway::files::{Stamp, read};

/// How long a handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(1);

/// Where a door's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the own certificate first; PEM.
    pub cert: String,
    /// Its key; PEM.
    pub key: String,
    /// Clients must show a certificate that one of these authorities (PEM) signed; absent: they need none.
    pub client_ca: Option<String>,
}

impl TlsFiles {
    fn stamp(&self) -> Stamp {
        Stamp::of([self.cert.as_str(), &self.key].into_iter().chain(self.client_ca.as_deref()))
    }

    fn read(&self, protocols: &[&[u8]]) -> Result<TlsAcceptor, String> {
        let clients = self.client_ca.as_deref().map(read).transpose()?;
        let (cert, key) = (read(&self.cert)?, read(&self.key)?);
        let mut config = proxy::server_config(&cert, &key, clients.as_deref()).map_err(|error| {
            let more = self.client_ca.as_ref().map_or(String::new(), |path| format!(", {path}"));
            format!("{}, {}{more}: {error}", self.cert, self.key)
        })?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config).into())
    }
}

/// TLS of one door.
pub struct DoorTls {
    door: &'static str,
    files: TlsFiles,
    /// Offered by ALPN.
    protocols: &'static [&'static [u8]],
    acceptor: RwLock<TlsAcceptor>,
    seen: RwLock<Stamp>,
}

impl fmt::Debug for DoorTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DoorTls({}, {})", self.door, self.files.cert)
    }
}

impl DoorTls {
    /// Reads the files of a door that speaks these protocols (ALPN; none: it is not asked).
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn open(
        door: &'static str,
        files: TlsFiles,
        protocols: &'static [&'static [u8]],
    ) -> Result<Arc<DoorTls>, String> {
        // Stamped first: what changes while it is read is read again.
        let seen = files.stamp();
        let acceptor = files.read(protocols)?;
        Ok(Arc::new(DoorTls { door, files, protocols, acceptor: RwLock::new(acceptor), seen: RwLock::new(seen) }))
    }

    /// Shakes hands; nothing with who cannot, or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().clone();
        timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream)).await.ok()?.ok()
    }

    /// Reads the files again whenever they change, until told to stop.
    pub async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(FILES_EVERY) => self.look(),
            }
        }
    }

    fn look(&self) {
        let now = self.files.stamp();
        if now == *self.seen.read() {
            return;
        }
        *self.seen.write() = now;
        match self.files.read(self.protocols) {
            Ok(acceptor) => {
                *self.acceptor.write() = acceptor;
                eprintln!("quorate: the {} door shows the certificate that its files have now", self.door);
            }
            Err(why) => {
                eprintln!("quorate: the {} door: {why}; what was read before is still shown", self.door);
            }
        }
    }
}

/// Speaks TLS to a door at this address, whose certificate must be good for it and signed by one of these authorities (PEM). It blocks.
///
/// # Errors
/// The authorities cannot be read. What is wrong with the other side is told when something is sent.
pub fn to_door(
    stream: std::net::TcpStream,
    address: SocketAddr,
    authorities: &[u8],
) -> Result<impl Read + Write + use<>, String> {
    let config = client_config(Trust::Authorities(authorities), None).map_err(|error| error.to_string())?;
    let connection = ClientConnection::new(Arc::new(config), address.ip().into()).map_err(|error| error.to_string())?;
    Ok(StreamOwned::new(connection, stream))
}

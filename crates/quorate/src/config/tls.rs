//! `tls_cert`, `tls_key` and `tls_client_ca` of a door.

use std::path::PathBuf;
use std::sync::Arc;

use host::tls::{DoorTls, TlsFiles};

/// A door's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The chain, the own certificate first.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The authorities of clients that may come in.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// Whether the door speaks TLS.
    pub fn is_on(&self) -> bool {
        self.cert.is_some()
    }

    /// The files, if the door of this table speaks TLS.
    fn files(&self, table: &str) -> Result<Option<TlsFiles>, String> {
        let text = |path: &PathBuf| path.display().to_string();
        match (&self.cert, &self.key, &self.client_ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), client_ca) => {
                Ok(Some(TlsFiles { cert: text(cert), key: text(key), client_ca: client_ca.as_ref().map(text) }))
            }
            (Some(_), None, _) => Err(format!("{table}.tls_cert needs {table}.tls_key, the key of that certificate")),
            (None, _, _) => {
                let given = if self.key.is_some() { "tls_key" } else { "tls_client_ca" };
                Err(format!("{table}.{given} needs {table}.tls_cert and {table}.tls_key: without them there is no TLS"))
            }
        }
    }

    /// That the keys fit each other.
    pub fn check(&self, table: &str) -> Result<(), String> {
        self.files(table).map(|_| ())
    }

    /// Reads the files.
    pub fn open(
        &self,
        table: &'static str,
        protocols: &'static [&'static [u8]],
    ) -> Result<Option<Arc<DoorTls>>, String> {
        let open = |files| DoorTls::open(table, files, protocols).map_err(|why| format!("{why} ({table}.tls_cert)"));
        self.files(table)?.map(open).transpose()
    }
}

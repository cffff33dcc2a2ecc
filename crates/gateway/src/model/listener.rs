//! A listener: where connections come in, and what is believed of them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::text::{Network, Size, Span};

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, HTTP/2 (by ALPN, or in the clear with prior knowledge), gRPC, WebSocket. With certificates: HTTPS.
    #[default]
    Http,
    /// Bytes both ways. With certificates TLS is terminated. Exactly one route without conditions names this listener.
    Tcp,
    /// TLS that is passed through unopened, routed by the server name that the client asks for (routes' `hosts`).
    Tls,
}

/// Which headers tell the upstream who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedStyle {
    /// X-Forwarded-For, -Proto and -Host.
    X,
    /// Forwarded (RFC 7239).
    Rfc7239,
    /// Both.
    #[default]
    Both,
}

/// How the access log's lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// One JSON object a line.
    #[default]
    Json,
    /// One line of words.
    Text,
    /// None.
    Off,
}

/// A certificate with its key, and the names it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// File with the chain, PEM.
    pub chain: String,
    /// File with the private key, PEM.
    pub key: String,
    /// Server names that it serves, `*.example.com` among them; empty: those that the certificate itself names. The first
    /// certificate of a listener also answers clients that name nothing known.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Where connections come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Address and port; 127.0.0.1:8080. Beyond loopback it needs certificates, `protocol = "tls"` or the node's `insecure_bind`.
    pub bind: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// Certificates by server name; none: no TLS is terminated here.
    pub certificates: Vec<Certificate>,
    /// Whether HTTP/2 is spoken beside HTTP/1.1. Only with `protocol = "http"`.
    pub http2: bool,
    /// Whether each connection begins with a PROXY protocol header (v1 or v2) that names the client. Only for listeners that
    /// nobody but the proxy before them can reach.
    pub proxy_protocol: bool,
    /// Proxies before us whose X-Forwarded-* and Forwarded are believed. From anybody else they are dropped. With `proxy_protocol` it is the
    /// address in that header that counts.
    pub trusted_proxies: Vec<Network>,
    /// Which of these headers the upstream gets.
    pub forwarded: ForwardedStyle,
    /// Connections at once; further ones wait unaccepted.
    pub connections_max: u32,
    /// The request line and all header lines together; beyond it 431.
    pub head_bytes_max: Size,
    /// Header lines; beyond it 431.
    pub headers_max: u32,
    /// How long a client may take from its first byte to the end of its head; beyond it 408 and closed.
    pub head_timeout: Span,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Span,
    /// How long requests under way may go on after the listener is taken away.
    pub drain_timeout: Span,
    /// The access log of requests that come in here (a route can turn it off for itself).
    pub access_log: AccessLog,
}

impl Default for Listener {
    fn default() -> Listener {
        Listener {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            protocol: Protocol::Http,
            certificates: Vec::new(),
            http2: true,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            forwarded: ForwardedStyle::Both,
            connections_max: 10_000,
            head_bytes_max: Size(32 << 10),
            headers_max: 100,
            head_timeout: Span::secs(10),
            idle_timeout: Span::secs(60),
            drain_timeout: Span::secs(30),
            access_log: AccessLog::Json,
        }
    }
}

impl Listener {
    /// Whether requests come in encrypted and are decrypted here.
    pub fn terminates_tls(&self) -> bool {
        self.protocol != Protocol::Tls && !self.certificates.is_empty()
    }
}

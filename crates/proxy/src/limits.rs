//! The bounds that hold for a connection before anything is known of its route. Those of routes and upstreams are in [`crate::Rules`] and
//! [`crate::EndpointConfig`].

use base::Duration;

/// Bounds of a listener's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest head of a request, bytes; beyond it 431. At least [`Limits::target_bytes_max`].
    pub head_bytes_max: usize,
    /// Longest request target, bytes; beyond it 414.
    pub target_bytes_max: usize,
    /// Most header fields of a request, and of trailers; beyond it 431.
    pub fields_max: usize,
    /// Largest trailers of a request or an answer, bytes; beyond it 431, or the answer is cut.
    pub trailer_bytes_max: usize,
    /// From the first byte of a request to the end of its head; beyond it 408. Also the TLS handshake's.
    pub head_timeout: Duration,
    /// How long a client's connection may wait for its next request, the first included.
    pub idle_timeout: Duration,
    /// How long a connection that waits for its next request may go on waiting when all are to end: a request that is on its way then gets its
    /// answer, which says `close`.
    pub drain_idle: Duration,
    /// How long a client may take to read an answer that is not moving, or to receive an answer of our own.
    pub write_timeout: Duration,
    /// Requests of one HTTP/1.1 connection; the last one's answer says `close`.
    pub requests_max: u32,
    /// Whether HTTP/2 is spoken to clients that begin it without TLS (RFC 9113 §3.3). By ALPN it is spoken where the acceptor offers it.
    pub h2_in_the_clear: bool,
    /// Streams that one HTTP/2 connection may have open.
    pub h2_streams_max: u32,
    /// Streams of an HTTP/2 connection that may be reset in ten seconds before their answer is whole, by the client or for its faults, less those
    /// that ended well; beyond it the connection ends (CVE-2023-44487).
    pub h2_resets_max: usize,
    /// Frames that move nothing (PING, SETTINGS, PRIORITY, empty DATA, data cut small by the client's window) in ten seconds, less the frames of
    /// data that moved something; beyond it the connection ends.
    pub h2_nuisance_max: u32,
    /// HTTP/2 window of one stream, bytes: what a client may send before an upstream took it.
    pub h2_stream_window: u32,
    /// HTTP/2 window of a whole connection, bytes.
    pub h2_connection_window: u32,
    /// After an error, how many bytes of a client's body are read and thrown away so that it can read our answer.
    pub linger_bytes_max: u64,
    /// See `linger_bytes_max`: how long.
    pub linger_timeout: Duration,
}

impl Limits {
    /// The documented defaults.
    pub const DEFAULT: Limits = Limits {
        head_bytes_max: 32 << 10,
        target_bytes_max: 8 << 10,
        fields_max: 100,
        trailer_bytes_max: 8 << 10,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        drain_idle: Duration::from_millis(250),
        write_timeout: Duration::from_secs(30),
        requests_max: 1_000_000,
        h2_in_the_clear: true,
        h2_streams_max: 128,
        h2_resets_max: 200,
        h2_nuisance_max: 1000,
        h2_stream_window: 256 << 10,
        h2_connection_window: 1 << 20,
        linger_bytes_max: 256 << 10,
        linger_timeout: Duration::from_secs(2),
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

const _: () = assert!(Limits::DEFAULT.target_bytes_max <= Limits::DEFAULT.head_bytes_max);

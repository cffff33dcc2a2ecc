//! What headers say about the client, its cookies and its trace. Framing, hop-by-hop fields (RFC 9110 §7.6.1) and the writing of
//! `X-Forwarded-*` are the engine's.

mod cookies;
mod forwarded;
mod trace;

pub use cookies::{cookie, cookies_without};
pub use forwarded::client_address;
pub use trace::{TraceContext, TraceId, next_trace};

/// Fields that frame a message or belong to one connection (RFC 9110 §7.6.1): no route edits them.
pub const CONNECTION_FIELDS: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether it may be a field's name: a token (RFC 9110 §5.6.2).
pub fn is_token(text: &str) -> bool {
    let of_token = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
    };
    !text.is_empty() && text.bytes().all(of_token)
}

/// Whether it may be a field's value: no controls but tabs (RFC 9110 §5.5).
pub fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20 && byte != 0x7f || byte == b'\t')
}

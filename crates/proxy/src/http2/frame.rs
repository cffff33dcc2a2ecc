//! Frames of HTTP/2 (RFC 9113 §4 and §6): their head, their numbers, and how ours are written.

/// What a client says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(crate) const HEAD_BYTES: usize = 9;
/// Largest payload that we take: what every client may send without being told (SETTINGS_MAX_FRAME_SIZE's first value).
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;
/// Largest window (RFC 9113 §6.9.1).
pub(crate) const WINDOW_MAX: i64 = (1 << 31) - 1;
/// Every window's first size (RFC 9113 §6.9.2).
pub(crate) const FIRST_WINDOW: i64 = 65_535;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

/// Settings (RFC 9113 §6.5.2).
pub(crate) mod setting {
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Error codes (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
}

impl Head {
    /// Reads it; nothing where there are too few bytes.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let id = word(&bytes[5..]) & 0x7fff_ffff;
        Some(Head { len, kind: bytes[3], flags: bytes[4], id })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn write(self, out: &mut Vec<u8>) {
        let len = (self.len as u32).to_be_bytes();
        let id = self.id.to_be_bytes();
        out.extend_from_slice(&[len[1], len[2], len[3], self.kind, self.flags, id[0], id[1], id[2], id[3]]);
    }
}

/// Four bytes as a number; zero where there are fewer.
pub(crate) fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |it| u32::from_be_bytes(*it))
}

/// Writes a frame.
pub(crate) fn push(kind: u8, flags: u8, id: u32, payload: &[u8], out: &mut Vec<u8>) {
    Head { len: payload.len(), kind, flags, id }.write(out);
    out.extend_from_slice(payload);
}

pub(crate) fn push_reset(id: u32, code: Code, out: &mut Vec<u8>) {
    push(RST_STREAM, 0, id, &(code as u32).to_be_bytes(), out);
}

pub(crate) fn push_window(id: u32, more: u32, out: &mut Vec<u8>) {
    push(WINDOW_UPDATE, 0, id, &more.to_be_bytes(), out);
}

pub(crate) fn push_goaway(last: u32, code: Code, why: &str, out: &mut Vec<u8>) {
    Head { len: 8 + why.len(), kind: GOAWAY, flags: 0, id: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
    out.extend_from_slice(why.as_bytes());
}

/// Writes a block of fields as HEADERS and, where it is larger than a frame may be, CONTINUATION. `block` appends it.
pub(crate) fn push_headers(
    id: u32,
    end_stream: bool,
    frame_bytes_max: usize,
    out: &mut Vec<u8>,
    block: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    let end = if end_stream { END_STREAM } else { 0 };
    Head { len: 0, kind: HEADERS, flags: END_HEADERS | end, id }.write(out);
    block(out);
    let len = out.len() - start - HEAD_BYTES;
    if len <= frame_bytes_max {
        out[start..start + 3].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
        return;
    }
    let block = out.split_off(start + HEAD_BYTES);
    out.truncate(start);
    let mut parts = block.chunks(frame_bytes_max).peekable();
    let (mut kind, mut flags) = (HEADERS, end);
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        push(kind, flags | last, id, part, out);
        (kind, flags) = (CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_written() {
        let mut out = Vec::new();
        push(DATA, END_STREAM, 0x7fff_fffe, b"abc", &mut out);
        assert_eq!(out, b"\0\0\x03\0\x01\x7f\xff\xff\xfeabc");
        let head = Head { len: 3, kind: DATA, flags: END_STREAM, id: 0x7fff_fffe };
        assert_eq!(Head::read(&out), Some(head));
        // RFC 9113 §4.1: the reserved bit is ignored.
        out[5] = 0xff;
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
    }

    #[test]
    fn a_block_larger_than_a_frame_goes_on_in_continuations() {
        for (len, frames) in [(0, 1), (10, 1), (11, 2), (30, 3)] {
            let mut out = b"before".to_vec();
            push_headers(5, true, 10, &mut out, |out| out.resize(out.len() + len, 7));
            let (mut at, mut seen, mut bytes) = (6, 0, 0);
            while let Some(head) = Head::read(&out[at..]) {
                seen += 1;
                bytes += head.len;
                at += HEAD_BYTES + head.len;
                assert_eq!((head.kind, head.id), (if seen == 1 { HEADERS } else { CONTINUATION }, 5));
                assert_eq!(head.has(END_HEADERS), seen == frames);
                assert_eq!(head.has(END_STREAM), seen == 1);
            }
            assert_eq!((seen, bytes, at), (frames, len, out.len()), "{len}");
        }
    }
}

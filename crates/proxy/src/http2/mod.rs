//! A client's connection of HTTP/2 (RFC 9113), framing, HPACK and flow control by our own code.
//!
//! ```text
//!  socket ─► Inbox ─► frames ─► head ─► a future for each stream (an exchange) ─┐
//!     ▲                 │ data, windows, resets: the stream is marked           │ polled by this task when marked
//!     └──── Outbox ◄────┴──────────────── frames ◄──────────────────────────────┘
//! ```
//!
//! **One task polls the connection and all its streams.** It reads what came, polls the streams that can go on, and writes what they said at once: however
//! many streams a wake concerned, it costs one read and one write on the client's side, and no lock is ever waited for.
//!
//! **Floods.** Everything a client can make us keep or do is bounded, each by a test: open streams (those that were reset count until their exchange is
//! over), resets ([`Limits::h2_resets_max`]; CVE-2023-44487, and CVE-2025-8671 since ours count too), frames that move nothing
//! ([`Limits::h2_nuisance_max`]: PING, SETTINGS, PRIORITY, empty DATA, dribbling windows; CVE-2019-9511 to 9518), a block's bytes and CONTINUATION frames
//! (CVE-2024-27316), the table, and what waits to be sent: beyond [`stream::OUT_MAX`] nothing is read.

mod control;
mod frame;
mod head;
pub(crate) mod hpack;
mod huffman;
mod requests;
mod session;
mod stream;
mod wake;

pub(crate) use frame::Code;
pub(crate) use session::serve;
pub(crate) use stream::Stream;

//! A client's stream, as an exchange sees it, and what all streams of a connection share.
//!
//! One task polls a connection and all its streams, so the lock around the [`Line`] is never waited for. A stream writes its frames into the
//! line's buffer; they leave together when all streams that could go on have been polled.

use super::frame::{self, Code, DATA, END_STREAM, FIRST_WINDOW, FRAME_BYTES_MAX, WINDOW_MAX};
use super::hpack;
use crate::buffer::Outbox;
use crate::head::Fields;
use crate::limits::Limits;
use crate::side::{Broken, Ready};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

/// Bytes that wait for the client beyond which streams write no more of their bodies.
pub(crate) const OUT_HIGH: usize = 64 << 10;
/// Bytes that wait for the client beyond which nothing is read from it: answers to what it sends cannot pile up.
pub(crate) const OUT_MAX: usize = 256 << 10;
/// A frame of data that is shorter because the client's window is: it counts as a nuisance (CVE-2019-9511).
const DRIBBLE_BYTES: usize = 64;
/// Streams ended by us whose last frames may still come.
const RESETS_KEPT: usize = 256;

/// What all streams of a connection share.
pub(crate) struct Line {
    pub out: Outbox,
    pub streams: Vec<State>,
    /// Our window at the client.
    pub window: i64,
    /// What a new stream's is.
    pub first_window: i64,
    /// Some stream is blocked.
    pub any_blocked: bool,
    /// The client's window with us, and what of it was used up but not given back yet.
    pub recv_window: i64,
    pub recv_used: u32,
    recv_full: u32,
    stream_full: u32,
    /// The block in front of which it stands that we keep no table was written.
    no_table_said: bool,
    /// What costs us something and moves nothing; see [`Limits::h2_nuisance_max`].
    pub nuisance: u32,
    /// Streams that we ended and the client perhaps not: its frames for them are no error.
    reset: VecDeque<u32>,
}

/// One stream; its place is used again.
#[derive(Default)]
pub(crate) struct State {
    /// Zero: nobody's.
    pub id: u32,
    /// What came and nobody has taken.
    pub body: Vec<u8>,
    /// Its end came.
    pub ended: bool,
    pub trailers: Option<Fields>,
    /// What Content-Length lets come.
    pub length_left: Option<u64>,
    pub recv_window: i64,
    recv_used: u32,
    pub window: i64,
    /// The end of our answer is written.
    pub sent_end: bool,
    /// Reset, by whomever.
    pub reset: bool,
    /// It waits for a window, or for the client to read.
    pub blocked: bool,
}

impl Line {
    pub fn new(limits: &Limits) -> Line {
        Line {
            out: Outbox::default(),
            streams: Vec::new(),
            window: FIRST_WINDOW,
            first_window: FIRST_WINDOW,
            any_blocked: false,
            recv_window: i64::from(limits.h2_connection_window).max(FIRST_WINDOW),
            recv_used: 0,
            recv_full: limits.h2_connection_window.max(FIRST_WINDOW as u32),
            stream_full: limits.h2_stream_window,
            no_table_said: false,
            nuisance: 0,
            reset: VecDeque::new(),
        }
    }

    /// A stream begins in a place that nobody has.
    pub fn open(&mut self, at: usize, id: u32, ended: bool, length: Option<u64>) {
        if self.streams.len() <= at {
            self.streams.resize_with(at + 1, State::default);
        }
        self.streams[at] = State {
            id,
            ended,
            length_left: length,
            recv_window: i64::from(self.stream_full),
            window: self.first_window,
            ..State::default()
        };
    }

    /// Ends a stream in the middle.
    pub fn reset(&mut self, at: usize, code: Code) {
        let stream = &mut self.streams[at];
        if !stream.reset {
            stream.reset = true;
            let (id, unread) = (stream.id, stream.body.len());
            stream.body = Vec::new();
            self.reset_id(id, code);
            self.used(unread);
        }
    }

    /// Refuses a stream that has no place.
    pub fn reset_id(&mut self, id: u32, code: Code) {
        frame::push_reset(id, code, self.out.buffer());
        if self.reset.len() == RESETS_KEPT {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether we ended it, so that frames for it may still come.
    pub fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    /// The exchange of a stream is over.
    pub fn close(&mut self, at: usize) {
        let stream = &self.streams[at];
        if !stream.sent_end {
            self.reset(at, Code::Internal);
        } else if !stream.ended {
            // RFC 9113 §8.1: the answer is whole, and the rest of the request would be for nothing.
            self.reset(at, Code::NoError);
        }
        let unread = self.streams[at].body.len();
        self.used(unread);
        self.streams[at] = State::default();
        self.nuisance = self.nuisance.saturating_sub(1);
    }

    /// Bytes of data were taken, or thrown away: the client may send as many more.
    pub fn used(&mut self, bytes: usize) {
        self.recv_used += bytes as u32;
        if self.recv_used >= self.recv_full / 2 {
            frame::push_window(0, self.recv_used, self.out.buffer());
            self.recv_window += i64::from(self.recv_used);
            self.recv_used = 0;
        }
    }

    fn used_of(&mut self, at: usize, bytes: usize) {
        self.used(bytes);
        let stream = &mut self.streams[at];
        stream.recv_used += bytes as u32;
        if stream.recv_used >= self.stream_full / 2 && !stream.ended && !stream.reset {
            frame::push_window(stream.id, stream.recv_used, self.out.buffer());
            stream.recv_window += i64::from(stream.recv_used);
            stream.recv_used = 0;
        }
    }

    /// What was not data of the frame (padding) is used up at once.
    pub fn padding(&mut self, at: usize, bytes: usize) {
        self.used_of(at, bytes);
    }

    /// The client's SETTINGS_INITIAL_WINDOW_SIZE changes open streams too (RFC 9113 §6.9.2). False: a window would be too large.
    pub fn set_first_window(&mut self, window: i64) -> bool {
        let change = window - self.first_window;
        self.first_window = window;
        let mut open = self.streams.iter_mut().filter(|it| it.id != 0);
        open.all(|stream| {
            stream.window += change;
            stream.window <= WINDOW_MAX
        })
    }

    fn push_head(&mut self, at: usize, end: bool, block: impl FnOnce(&mut Vec<u8>)) {
        let stream = &mut self.streams[at];
        stream.sent_end |= end;
        let first = !std::mem::replace(&mut self.no_table_said, true);
        frame::push_headers(stream.id, end, FRAME_BYTES_MAX, self.out.buffer(), |out| {
            if first {
                hpack::push_no_table(out);
            }
            block(out);
        });
    }
}

/// A stream that a client opened, in the hands of its exchange.
pub(crate) struct Stream {
    line: Arc<Mutex<Line>>,
    at: usize,
    data: Vec<u8>,
    taken: usize,
    out: Vec<u8>,
    sent: usize,
    /// The answer's end is to follow `out`, with these trailers.
    end: Option<Option<Fields>>,
    pub trailers: Option<Fields>,
    pub read_all: bool,
    pub moved: u64,
}

impl Stream {
    pub fn new(line: Arc<Mutex<Line>>, at: usize, read_all: bool) -> Stream {
        Stream {
            line,
            at,
            data: Vec::new(),
            taken: 0,
            out: Vec::new(),
            sent: 0,
            end: None,
            trailers: None,
            read_all,
            moved: 0,
        }
    }

    /// Writes a head, 1xx included; `end`: there is no body.
    pub fn head(&mut self, end: bool, block: impl FnOnce(&mut Vec<u8>)) -> Result<(), Broken> {
        let mut line = self.line.lock();
        let stream = &line.streams[self.at];
        if stream.reset || stream.sent_end {
            return Err(Broken::Ended);
        }
        line.push_head(self.at, end, block);
        Ok(())
    }

    pub fn ready(&self) -> Ready {
        match self.data.len() - self.taken {
            0 if self.read_all => Ready::End,
            0 => Ready::Nothing,
            len => Ready::Data(len),
        }
    }

    pub fn data(&self, len: usize) -> &[u8] {
        &self.data[self.taken..self.taken + len]
    }

    pub fn consume(&mut self, len: usize) {
        self.taken += len;
        if self.taken == self.data.len() {
            self.data.clear();
            self.taken = 0;
        }
        if !base::is_planted(base::Bug::WindowKept) {
            self.line.lock().used_of(self.at, len);
        }
    }

    pub fn poll_fill(&mut self) -> Poll<Result<(), Broken>> {
        let mut line = self.line.lock();
        let stream = &mut line.streams[self.at];
        if !stream.body.is_empty() {
            debug_assert!(self.data.is_empty(), "all that was there was taken");
            std::mem::swap(&mut self.data, &mut stream.body);
            self.moved += self.data.len() as u64;
            return Poll::Ready(Ok(()));
        }
        if stream.reset {
            return Poll::Ready(Err(Broken::Ended));
        }
        if !stream.ended {
            return Poll::Pending;
        }
        self.trailers = stream.trailers.take();
        self.read_all = true;
        self.moved += 1;
        Poll::Ready(Ok(()))
    }

    pub fn queue(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
    }

    pub fn finish(&mut self, trailers: Option<&Fields>) {
        self.end = Some(trailers.cloned());
    }

    pub fn queued(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Writes what the windows let through.
    pub fn poll_flush(&mut self) -> Poll<Result<(), Broken>> {
        if self.queued() == 0 && self.end.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut line = self.line.lock();
        let line = &mut *line;
        let stream = &mut line.streams[self.at];
        if stream.reset || stream.sent_end {
            return Poll::Ready(Err(Broken::Ended));
        }
        while self.sent < self.out.len() {
            let left = self.out.len() - self.sent;
            let window = stream.window.min(line.window).max(0) as usize;
            if window == 0 || line.out.len() >= OUT_HIGH {
                stream.blocked = true;
                line.any_blocked = true;
                return Poll::Pending;
            }
            let len = left.min(window).min(FRAME_BYTES_MAX);
            if len == window && len < left && len < DRIBBLE_BYTES {
                line.nuisance += 1;
            } else {
                line.nuisance = line.nuisance.saturating_sub(1);
            }
            let last = len == left && matches!(self.end, Some(None));
            let flags = if last { END_STREAM } else { 0 };
            frame::push(DATA, flags, stream.id, &self.out[self.sent..self.sent + len], line.out.buffer());
            stream.window -= len as i64;
            line.window -= len as i64;
            self.sent += len;
            self.moved += len as u64;
            if last {
                stream.sent_end = true;
                self.end = None;
            }
        }
        self.out.clear();
        self.sent = 0;
        match self.end.take() {
            None => {}
            Some(None) => {
                stream.sent_end = true;
                frame::push(DATA, END_STREAM, stream.id, &[], line.out.buffer());
            }
            Some(Some(trailers)) => line.push_head(self.at, true, |out| {
                trailers.iter().for_each(|(name, value)| hpack::push_field(name, value, out));
            }),
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream in the middle.
    pub fn reset(&mut self, code: Code) {
        self.line.lock().reset(self.at, code);
    }

    /// Whether the client gave the stream up, or the connection ended.
    pub fn poll_gone(&self) -> Poll<()> {
        if self.line.lock().streams[self.at].reset { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What was taken over and not used counts as used, or the connection's window would shrink for good.
        let left = self.data.len() - self.taken;
        if left > 0 {
            self.line.lock().used(left);
        }
    }
}

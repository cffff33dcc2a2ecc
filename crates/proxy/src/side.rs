//! One side of an exchange: a connection of HTTP/1.1 or a stream of HTTP/2, the client's or the upstream's. Both sides read one message and write
//! another, so they are the same type, and [`poll_pump`] moves a body from any to any.
//!
//! Nothing here waits: everything is polled by the one task that drives both sides of an exchange.

use crate::body::{Decoder, Encoder, Step};
use crate::buffer::{BUFFER_BYTES, Inbox, Outbox};
use crate::forward::{fields_of, headers_of};
use crate::head::{AnswerHead, Bad, Fields, Scan, parse_answer};
use crate::http2::Stream;
use crate::io::Io;
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Why a side can go no further.
#[derive(Debug)]
pub(crate) enum Broken {
    /// What came is not HTTP.
    Bad(Bad),
    /// It ended, or broke, before its message did.
    Ended,
    /// We would have to write a body that is not as long as its head says.
    WrongLength,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken::Ended
    }
}

impl From<Bad> for Broken {
    fn from(error: Bad) -> Broken {
        Broken::Bad(error)
    }
}

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Broken {
        Broken::Ended
    }
}

impl From<crate::body::WrongLength> for Broken {
    fn from(_: crate::body::WrongLength) -> Broken {
        Broken::WrongLength
    }
}

/// What there is to read without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// So many bytes of the body: [`Side::data`].
    Data(usize),
    /// The body's end.
    End,
    /// Nothing: [`Side::poll_fill`].
    Nothing,
}

/// A connection of HTTP/1.1.
pub(crate) struct H1 {
    pub io: Io,
    pub inbox: Inbox,
    pub outbox: Outbox,
    pub scan: Scan,
    pub decoder: Decoder,
    pub encoder: Encoder,
    /// The body was read to its end.
    pub read_all: bool,
    /// Counts what moved, to see whether anything does.
    pub moved: u64,
}

/// A stream of HTTP/2 to an upstream.
pub(crate) struct H2 {
    pub recv: Option<RecvStream>,
    pub send: Option<SendStream<Bytes>>,
    pub answer: Option<h2::client::ResponseFuture>,
    /// Keeps the stream counted.
    _shares: Option<crate::pool::Shares>,
    data: Bytes,
    out: BytesMut,
    end: Option<Option<http::HeaderMap>>,
    trailers: Option<Fields>,
    pub read_all: bool,
    pub moved: u64,
}

pub(crate) enum Side {
    H1(H1),
    /// A client's stream.
    Stream(Box<Stream>),
    /// An upstream's stream.
    H2(Box<H2>),
}

impl H1 {
    pub fn new(io: Io) -> H1 {
        H1 {
            io,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            scan: Scan::default(),
            decoder: Decoder::Done,
            encoder: Encoder::None,
            read_all: true,
            moved: 0,
        }
    }

    /// Reads once into the inbox; zero is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = ready!(self.inbox.poll_fill(&mut self.io, cx))?;
        self.moved += count as u64;
        Poll::Ready(Ok(count))
    }

    /// A whole head's bytes are in the inbox: how many. `started` is whether anything came when there is no more.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head_bytes_max: usize,
        too_large: Bad,
    ) -> Poll<Result<usize, Broken>> {
        loop {
            if let Some(end) = self.scan.run(self.inbox.bytes())? {
                self.scan = Scan::default();
                return Poll::Ready(if end > head_bytes_max { Err(too_large.into()) } else { Ok(end) });
            }
            if self.inbox.bytes().len() >= head_bytes_max {
                return Poll::Ready(Err(too_large.into()));
            }
            if self.inbox.is_full() {
                self.inbox.grow();
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(Broken::Ended));
            }
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut AnswerHead,
        bytes_max: usize,
        fields_max: usize,
    ) -> Poll<Result<(), Broken>> {
        let too_large = Bad { status: 502, why: "an answer's head that is too large" };
        let end = ready!(self.poll_head(cx, bytes_max, too_large))?;
        parse_answer(&self.inbox.bytes()[..end], head, fields_max)?;
        self.inbox.consume(end);
        Poll::Ready(Ok(()))
    }

    fn ready(&mut self) -> Result<Ready, Broken> {
        if self.read_all {
            return Ok(Ready::End);
        }
        let (skip, ready) = match self.decoder.next(self.inbox.bytes())? {
            Step::Data { skip, len } => (skip, Ready::Data(len)),
            Step::More { skip } => (skip, Ready::Nothing),
            Step::End { skip } => {
                self.read_all = true;
                (skip, Ready::End)
            }
        };
        self.inbox.consume(skip);
        Ok(ready)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if ready!(self.poll_read(cx))? == 0 {
            if !matches!(self.decoder, Decoder::UntilClose) && !base::is_planted(base::Bug::CutAnswerWhole) {
                return Poll::Ready(Err(Broken::Ended));
            }
            self.read_all = true;
        }
        Poll::Ready(Ok(()))
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let before = self.outbox.len();
        if before > 0 {
            let sent = self.outbox.poll_send(&mut self.io, cx);
            self.moved += (before - self.outbox.len()) as u64;
            ready!(sent)?;
        }
        if !matches!(self.io, Io::Tcp(_)) {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl H2 {
    fn new() -> H2 {
        H2 {
            recv: None,
            send: None,
            answer: None,
            _shares: None,
            data: Bytes::new(),
            out: BytesMut::new(),
            end: None,
            trailers: None,
            read_all: true,
            moved: 0,
        }
    }

    /// A stream that we opened.
    pub fn outgoing(answer: h2::client::ResponseFuture, send: SendStream<Bytes>, shares: crate::pool::Shares) -> H2 {
        H2 { answer: Some(answer), send: Some(send), _shares: Some(shares), read_all: false, ..H2::new() }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, head: &mut AnswerHead) -> Poll<Result<(), Broken>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(Broken::Ended)) };
        if let Poll::Ready(Some(informational)) = answer.poll_informational(cx) {
            head.take_h2(&informational?.into_parts().0)?;
            return Poll::Ready(Ok(()));
        }
        let (parts, recv) = ready!(Pin::new(answer).poll(cx))?.into_parts();
        head.take_h2(&parts)?;
        self.read_all = recv.is_end_stream();
        (self.answer, self.recv) = (None, Some(recv));
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Err(Broken::Ended)) };
        match ready!(recv.poll_data(cx)) {
            Some(data) => {
                self.data = data?;
                self.moved += self.data.len() as u64 + 1;
            }
            None => {
                self.trailers = ready!(recv.poll_trailers(cx))?.as_ref().map(fields_of);
                self.read_all = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        while !self.out.is_empty() {
            send.reserve_capacity(self.out.len());
            if send.capacity() == 0 {
                ready!(send.poll_capacity(cx)).ok_or(Broken::Ended)??;
                continue;
            }
            let data = self.out.split_to(send.capacity().min(self.out.len())).freeze();
            self.moved += data.len() as u64;
            let last = self.out.is_empty() && matches!(self.end, Some(None));
            send.send_data(data, last)?;
            if last {
                (self.end, self.send) = (None, None);
                return Poll::Ready(Ok(()));
            }
        }
        match self.end.take() {
            None => return Poll::Ready(Ok(())),
            Some(None) => send.send_data(Bytes::new(), true)?,
            Some(Some(trailers)) => send.send_trailers(trailers)?,
        }
        self.send = None;
        Poll::Ready(Ok(()))
    }
}

impl Side {
    pub fn moved(&self) -> u64 {
        match self {
            Side::H1(it) => it.moved,
            Side::Stream(it) => it.moved,
            Side::H2(it) => it.moved,
        }
    }

    /// Whether the body was read to its end.
    pub fn read_all(&self) -> bool {
        match self {
            Side::H1(it) => it.read_all,
            Side::Stream(it) => it.read_all,
            Side::H2(it) => it.read_all,
        }
    }

    /// What there is to read without waiting. What it tells must be used: [`Side::data`], then [`Side::consume`] all of it.
    pub fn ready(&mut self) -> Result<Ready, Broken> {
        match self {
            Side::H1(it) => it.ready(),
            Side::Stream(it) => Ok(it.ready()),
            Side::H2(it) if !it.data.is_empty() => Ok(Ready::Data(it.data.len())),
            Side::H2(it) => Ok(if it.read_all { Ready::End } else { Ready::Nothing }),
        }
    }

    pub fn data(&self, len: usize) -> &[u8] {
        match self {
            Side::H1(it) => &it.inbox.bytes()[..len],
            Side::Stream(it) => it.data(len),
            Side::H2(it) => &it.data[..len],
        }
    }

    pub fn consume(&mut self, len: usize) -> Result<(), Broken> {
        match self {
            Side::H1(it) => it.inbox.consume(len),
            Side::Stream(it) => it.consume(len),
            Side::H2(it) => {
                it.data.advance(len);
                if let Some(recv) = &mut it.recv {
                    recv.flow_control().release_capacity(len)?;
                }
            }
        }
        Ok(())
    }

    /// Reads once.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Side::H1(it) => it.poll_fill(cx),
            Side::Stream(it) => it.poll_fill(),
            Side::H2(it) => it.poll_fill(cx),
        }
    }

    /// The trailers of a body that was read to its end.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            _ if base::is_planted(base::Bug::TrailersLost) => None,
            Side::H1(it) => it.decoder.trailers(),
            Side::Stream(it) => it.trailers.as_ref().filter(|it| !it.is_empty()),
            Side::H2(it) => it.trailers.as_ref().filter(|it| !it.is_empty()),
        }
    }

    /// Appends to what is to be sent.
    pub fn queue(&mut self, data: &[u8]) -> Result<(), Broken> {
        match self {
            Side::H1(it) => it.encoder.data(data, it.outbox.buffer())?,
            Side::Stream(it) => it.queue(data),
            Side::H2(it) => it.out.extend_from_slice(data),
        }
        Ok(())
    }

    /// Appends the body's end.
    pub fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Broken> {
        match self {
            Side::H1(it) => it.encoder.end(trailers, it.outbox.buffer())?,
            Side::Stream(it) => it.finish(trailers),
            Side::H2(it) => it.end = Some(trailers.map(headers_of)),
        }
        Ok(())
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        match self {
            Side::H1(it) => it.outbox.len(),
            Side::Stream(it) => it.queued(),
            Side::H2(it) => it.out.len(),
        }
    }

    /// Sends what waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Side::H1(it) => it.poll_flush(cx),
            Side::Stream(it) => it.poll_flush(),
            Side::H2(it) => it.poll_flush(cx),
        }
    }

    /// The next head of an answer, 1xx included.
    pub fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut AnswerHead,
        bytes_max: usize,
        fields_max: usize,
    ) -> Poll<Result<(), Broken>> {
        match self {
            Side::H1(it) => it.poll_answer(cx, head, bytes_max, fields_max),
            // Clients do not answer.
            Side::Stream(_) => Poll::Ready(Err(Broken::Ended)),
            Side::H2(it) => it.poll_answer(cx, head),
        }
    }

    /// Whether a client that waits for its answer has left: its end, an error, a reset. Next requests that it sends meanwhile are kept. A
    /// client of HTTP/1 that closes only its own half has left too.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let it = match self {
            Side::H1(it) => it,
            Side::Stream(it) => return it.poll_gone(),
            // Only clients are asked.
            Side::H2(_) => return Poll::Pending,
        };
        // Without a buffer until something is there; not beyond one buffer.
        while it.inbox.bytes().len() < BUFFER_BYTES && !it.inbox.is_full() {
            if let Io::Tcp(stream) = &it.io
                && ready!(stream.poll_read_ready(cx)).is_err()
            {
                return Poll::Ready(());
            }
            match ready!(it.inbox.poll_fill(&mut it.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }
}

/// Most bytes that one side waits to send; beyond it the other is not read.
const QUEUED_MAX: usize = 64 << 10;

/// A body on its way.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes of data so far.
    pub bytes: u64,
    /// Most bytes; zero: any.
    pub bytes_max: u64,
    /// Its end is queued.
    pub ended: bool,
    /// Its end is sent.
    pub done: bool,
    /// What is kept for another attempt.
    pub kept: Kept,
}

/// The beginning of a request's body, as long as it is all of it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub bytes: Vec<u8>,
    pub bytes_max: usize,
    /// It was longer than may be kept.
    pub lost: bool,
}

impl Kept {
    fn add(&mut self, data: &[u8]) {
        if self.bytes.len() + data.len() > self.bytes_max {
            self.lost = true;
            self.bytes = Vec::new();
        } else if !self.lost {
            self.bytes.extend_from_slice(data);
        }
    }
}

/// Which side could not go on.
#[derive(Debug)]
pub(crate) enum PumpError {
    From(Broken),
    To,
    TooLarge,
}

/// Moves a body from one side to the other until its end is sent. Reads no further while more than [`QUEUED_MAX`] waits.
pub(crate) fn poll_pump(
    from: &mut Side,
    to: &mut Side,
    flow: &mut Flow,
    cx: &mut Context<'_>,
) -> Poll<Result<(), PumpError>> {
    if flow.done {
        return Poll::Ready(Ok(()));
    }
    // A fast pair of connections must not keep the thread to itself.
    for _ in 0..16 {
        let mut dry = false;
        while !flow.ended && !dry && to.queued() < QUEUED_MAX {
            let ready = from.ready().map_err(|broken| {
                // What came before goes on as far as it can, so that the break is seen where it is.
                let _ = to.poll_flush(cx);
                PumpError::From(broken)
            });
            match ready? {
                Ready::Data(len) => {
                    flow.bytes += len as u64;
                    if flow.bytes_max > 0 && flow.bytes > flow.bytes_max {
                        return Poll::Ready(Err(PumpError::TooLarge));
                    }
                    flow.kept.add(from.data(len));
                    to.queue(from.data(len)).map_err(|_| PumpError::To)?;
                    from.consume(len).map_err(PumpError::From)?;
                }
                Ready::End => {
                    to.finish(from.trailers()).map_err(|_| PumpError::To)?;
                    flow.ended = true;
                }
                Ready::Nothing => dry = true,
            }
        }
        ready!(to.poll_flush(cx)).map_err(|_| PumpError::To)?;
        if flow.ended {
            flow.done = true;
            return Poll::Ready(Ok(()));
        }
        if dry {
            ready!(from.poll_fill(cx)).map_err(PumpError::From)?;
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

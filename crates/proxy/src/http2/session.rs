//! The connection: reads frames, starts and polls streams, writes. See the module above.

use super::frame::{self, Code, HEAD_BYTES, Head, PREFACE, WINDOW_MAX, setting, word};
use super::head::{NoHead, Taking, TakingTrailers};
use super::hpack;
use super::stream::{Line, OUT_HIGH, OUT_MAX, Stream};
use super::wake::{Mark, Marks};
use crate::buffer::Inbox;
use crate::exchange::Scratch;
use crate::head::BodyLength;
use crate::io::Io;
use crate::limits::Limits;
use crate::plan::Decide;
use crate::serve::{Company, Drain, Proxy, give_scratch, take_scratch};
use crate::timer::{Timer, after};
use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

/// Reads of one turn; then other connections come.
const READS_MAX: usize = 4;
/// Turns before other tasks come.
const TURNS_MAX: usize = 8;
/// CONTINUATION frames of one block.
const CONTINUATIONS_MAX: usize = 32;
/// Nuisances and resets are counted over so long.
const COUNTED_OVER: base::Duration = base::Duration::from_secs(10);
/// How long a client may take to say that it has seen the first GOAWAY.
const GOAWAY_PATIENCE: base::Duration = base::Duration::from_secs(1);
/// The PING behind the first GOAWAY.
const LAST_PING: &[u8; 8] = b"quorate!";

/// The connection ends: why.
struct Fatal(Code, &'static str);

type Step<T> = Result<T, Fatal>;

/// How a connection came to its end.
enum Over {
    /// Nothing is left to say.
    Clean,
    /// The socket ended or broke.
    Gone,
    /// What came was wrong; a GOAWAY stands in the buffer.
    Wrong(&'static str),
}

/// How far a graceful end is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    No,
    /// The client was told that no new streams are wanted; those that it opened before it heard of it are still served (RFC 9113 §6.8).
    Told,
    /// It has heard, or had its time: later ones are not.
    Heard,
}

/// Where a stream's future stands.
struct Place {
    id: u32,
    future: Option<Pin<Box<dyn Future<Output = Timer> + Send>>>,
    timer: Option<Timer>,
    mark: Arc<Mark>,
    waker: Waker,
}

/// A frame of data of which not all has come.
struct Data {
    /// The stream's place; none for one that is over.
    at: Option<usize>,
    id: u32,
    left: usize,
    padding: usize,
    end: bool,
}

/// A block of which not all frames have come.
struct Block {
    id: u32,
    end_stream: bool,
    bytes: Vec<u8>,
    frames: usize,
    until: Option<Instant>,
}

struct Session<D: Decide> {
    proxy: Arc<Proxy<D>>,
    company: Arc<Company>,
    io: Io,
    inbox: Inbox,
    line: Arc<Mutex<Line>>,
    marks: Arc<Marks>,
    places: Vec<Place>,
    free: Vec<usize>,
    taken: Vec<u32>,
    hpack: hpack::Decoder,
    prefaced: bool,
    set: bool,
    last: u32,
    data: Option<Data>,
    block: Option<Block>,
    drained: Drained,
    resets: u32,
    counted_from: Instant,
    timer: Timer,
    /// Since nothing is under way.
    idle_from: Option<Instant>,
    /// Since the client does not read, and how much it had read then.
    stuck: Option<(Instant, usize)>,
    told_at: Option<Instant>,
    /// Which blocked stream goes on first.
    turn: usize,
}

/// Serves a connection until it ends. `inbox` holds what was read already, from the preface on.
pub(crate) async fn serve<D: Decide>(
    proxy: Arc<Proxy<D>>,
    io: Io,
    inbox: Inbox,
    company: Arc<Company>,
    mut drain: Drain,
) {
    let limits = proxy.limits();
    let mut session = Session {
        line: Arc::new(Mutex::new(Line::new(limits))),
        io,
        inbox,
        company,
        marks: Arc::default(),
        places: Vec::new(),
        free: Vec::new(),
        taken: Vec::new(),
        hpack: hpack::Decoder::new(),
        prefaced: false,
        set: false,
        last: 0,
        data: None,
        block: None,
        drained: Drained::No,
        resets: 0,
        counted_from: Instant::now(),
        timer: Timer::new(),
        idle_from: Some(Instant::now()),
        stuck: None,
        told_at: None,
        turn: 0,
        proxy: proxy.clone(),
    };
    session.greet(limits);
    let over = poll_fn(|cx| session.poll(cx, &mut drain)).await;
    session.end(over).await;
}

impl<D: Decide> Session<D> {
    fn limits(&self) -> &Limits {
        self.proxy.limits()
    }

    /// Our settings, and the connection's window (RFC 9113 §3.4).
    fn greet(&mut self, limits: &Limits) {
        let mut settings = Vec::with_capacity(18);
        for (name, value) in [
            (setting::MAX_CONCURRENT_STREAMS, limits.h2_streams_max),
            (setting::INITIAL_WINDOW_SIZE, limits.h2_stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX)),
        ] {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        let mut line = self.line.lock();
        let more = line.recv_window - frame::FIRST_WINDOW;
        let out = line.out.buffer();
        frame::push(frame::SETTINGS, 0, 0, &settings, out);
        if more > 0 {
            frame::push_window(0, more as u32, out);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, drain: &mut Drain) -> Poll<Over> {
        self.marks.enter(cx.waker());
        for _ in 0..TURNS_MAX {
            if drain.poll(cx) {
                self.tell();
            }
            let more = match self.read(cx) {
                Ok(Poll::Ready(0)) => return Poll::Ready(Over::Gone),
                Ok(it) => it.is_ready(),
                Err(Fatal(code, why)) => {
                    frame::push_goaway(self.last, code, why, self.line.lock().out.buffer());
                    return Poll::Ready(Over::Wrong(why));
                }
            };
            self.run();
            let Ok(room) = self.flush(cx) else { return Poll::Ready(Over::Gone) };
            if let Some(over) = self.look(cx) {
                return Poll::Ready(over);
            }
            if !more && !room && self.marks.leave() {
                if self.inbox.is_empty() {
                    self.inbox.release();
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads and does what came. Ready: there may be more; zero: that was the end.
    fn read(&mut self, cx: &mut Context<'_>) -> Step<Poll<usize>> {
        // Taken out, since frames are read from it while the rest of the session is changed. Dropped with an error: nothing more is read.
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut result = Poll::Ready(1);
        for _ in 0..READS_MAX {
            while self.step(&mut inbox)? {}
            if self.line.lock().out.len() > OUT_MAX {
                // When the client has read some of it we are polled again.
                result = Poll::Pending;
                break;
            }
            if inbox.is_empty()
                && let Io::Tcp(stream) = &self.io
                && stream.poll_read_ready(cx).is_pending()
            {
                // Without a buffer until something is there.
                result = Poll::Pending;
                break;
            }
            if inbox.is_full() {
                inbox.grow();
            }
            result = match inbox.poll_fill(&mut self.io, cx) {
                Poll::Ready(Ok(count)) => Poll::Ready(count),
                Poll::Ready(Err(_)) => Poll::Ready(0),
                Poll::Pending => Poll::Pending,
            };
            if !matches!(result, Poll::Ready(1..)) {
                break;
            }
        }
        self.inbox = inbox;
        Ok(result)
    }

    /// One frame, or a piece of its data. False: more bytes are needed.
    fn step(&mut self, inbox: &mut Inbox) -> Step<bool> {
        let bytes = inbox.bytes();
        if !self.prefaced {
            let len = bytes.len().min(PREFACE.len());
            if bytes[..len] != PREFACE[..len] {
                return Err(Fatal(Code::Protocol, "no preface"));
            }
            self.prefaced = len == PREFACE.len();
            inbox.consume(if self.prefaced { len } else { 0 });
            return Ok(self.prefaced);
        }
        if self.data.is_some() {
            return self.data(inbox);
        }
        let Some(head) = Head::read(bytes) else { return Ok(false) };
        if head.len > frame::FRAME_BYTES_MAX {
            return Err(Fatal(Code::FrameSize, "a frame that is too large"));
        }
        if !self.set && head.kind != frame::SETTINGS {
            return Err(Fatal(Code::Protocol, "the first frame is not SETTINGS"));
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.id != block.id)
        {
            return Err(Fatal(Code::Protocol, "another frame within a block"));
        }
        if head.kind == frame::DATA {
            let padded = usize::from(head.has(frame::PADDED));
            if head.len < padded {
                return Err(Fatal(Code::FrameSize, "a frame that is too short"));
            }
            if bytes.len() < HEAD_BYTES + padded {
                return Ok(false);
            }
            let padding = if padded > 0 { usize::from(bytes[HEAD_BYTES]) } else { 0 };
            inbox.consume(HEAD_BYTES + padded);
            self.begin_data(&head, padded, padding)?;
            return Ok(true);
        }
        let Some(payload) = bytes.get(HEAD_BYTES..HEAD_BYTES + head.len) else { return Ok(false) };
        self.frame(&head, payload)?;
        inbox.consume(HEAD_BYTES + head.len);
        Ok(true)
    }

    fn frame(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        match head.kind {
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::WINDOW_UPDATE => self.window(head, payload),
            frame::RST_STREAM => self.reset(head, payload),
            frame::PING => self.ping(head, payload),
            frame::PRIORITY => {
                if head.id == 0 {
                    return Err(Fatal(Code::Protocol, "PRIORITY without a stream"));
                }
                if payload.len() != 5 {
                    return Err(Fatal(Code::FrameSize, "a PRIORITY that is not five bytes"));
                }
                self.nuisance()
            }
            frame::PUSH_PROMISE => Err(Fatal(Code::Protocol, "PUSH_PROMISE from a client")),
            frame::GOAWAY if head.id != 0 => Err(Fatal(Code::Protocol, "GOAWAY on a stream")),
            frame::GOAWAY if payload.len() < 8 => Err(Fatal(Code::FrameSize, "a GOAWAY that is too short")),
            // The client wants nothing more of us than what is under way; it ends the connection by itself. Others are unknown (§4.1).
            _ => self.nuisance(),
        }
    }

    /// Counts what moves nothing.
    fn nuisance(&mut self) -> Step<()> {
        self.count();
        let mut line = self.line.lock();
        line.nuisance += 1;
        if line.nuisance > self.proxy.limits().h2_nuisance_max {
            return Err(Fatal(Code::EnhanceYourCalm, "too many frames that move nothing"));
        }
        Ok(())
    }

    /// A stream was reset before its answer was whole, by the client or for its fault.
    fn one_reset(&mut self) -> Step<()> {
        self.count();
        self.resets += 1;
        if self.resets as usize > self.limits().h2_resets_max {
            return Err(Fatal(Code::EnhanceYourCalm, "too many resets"));
        }
        Ok(())
    }

    fn count(&mut self) {
        if self.counted_from.elapsed() > COUNTED_OVER {
            self.counted_from = Instant::now();
            self.resets = 0;
            self.line.lock().nuisance = 0;
        }
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|it| it.id == id).filter(|_| id != 0)
    }

    /// A frame for a stream that is over: no error where we ended it and the client may not have known (RFC 9113 §5.1).
    fn late(&self, id: u32, kind: &'static str) -> Step<()> {
        if self.drained == Drained::Heard || self.line.lock().was_reset(id) {
            return Ok(());
        }
        if id > self.last || id.is_multiple_of(2) {
            return Err(Fatal(Code::Protocol, kind));
        }
        Err(Fatal(Code::StreamClosed, kind))
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        const SHORT: Fatal = Fatal(Code::FrameSize, "a HEADERS that is too short");
        if head.id.is_multiple_of(2) {
            return Err(Fatal(Code::Protocol, "HEADERS on a stream that clients do not open"));
        }
        let mut fragment = payload;
        if head.has(frame::PADDED) {
            let (padding, rest) = fragment.split_first().ok_or(SHORT)?;
            let len = rest.len().checked_sub(usize::from(*padding));
            fragment = &rest[..len.ok_or(Fatal(Code::Protocol, "more padding than there is frame"))?];
        }
        if head.has(frame::WITH_PRIORITY) {
            if fragment.len() < 5 {
                return Err(SHORT);
            }
            if word(fragment) & 0x7fff_ffff == head.id {
                return Err(Fatal(Code::Protocol, "a stream that depends on itself"));
            }
            fragment = &fragment[5..];
        }
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.whole_block(head.id, end_stream, fragment);
        }
        let until = after(self.limits().head_timeout);
        self.block = Some(Block { id: head.id, end_stream, bytes: fragment.to_vec(), frames: 0, until });
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        let bytes_max = self.limits().head_bytes_max;
        let Some(block) = &mut self.block else {
            return Err(Fatal(Code::Protocol, "CONTINUATION without a block"));
        };
        block.frames += 1;
        if block.frames > CONTINUATIONS_MAX || block.bytes.len() + payload.len() > bytes_max {
            return Err(Fatal(Code::EnhanceYourCalm, "a block that is too large"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            return self.whole_block(block.id, block.end_stream, &block.bytes);
        }
        Ok(())
    }

    fn whole_block(&mut self, id: u32, ended: bool, block: &[u8]) -> Step<()> {
        const COMPRESSION: Fatal = Fatal(Code::Compression, "a block that is no HPACK");
        if id > self.last && self.drained != Drained::Heard {
            self.last = id;
            let mut scratch = take_scratch();
            let mut taking = Taking::new(&mut scratch.request, self.proxy.limits());
            self.hpack.read(block, |name, value| taking.see(name, value)).map_err(|_| COMPRESSION)?;
            let taken = taking.done(ended);
            return self.open(id, ended, scratch, taken);
        }
        let mut taking = TakingTrailers::new(self.proxy.limits());
        self.hpack.read(block, |name, value| taking.see(name, value)).map_err(|_| COMPRESSION)?;
        let trailers = taking.done();
        let Some(at) = self.find(id) else {
            // A new stream behind the last GOAWAY is ignored (§6.8).
            return if id > self.last { Ok(()) } else { self.late(id, "HEADERS on a stream that is over") };
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        if stream.ended {
            return Err(Fatal(Code::StreamClosed, "HEADERS behind the end of a stream"));
        }
        let short = stream.length_left.is_some_and(|left| left > 0);
        match trailers.filter(|_| ended && !short) {
            Some(trailers) => {
                stream.ended = true;
                stream.trailers = Some(trailers);
                drop(line);
                self.mark(at);
                Ok(())
            }
            None => {
                drop(line);
                self.malformed(at)
            }
        }
    }

    /// A stream whose request is malformed ends (RFC 9113 §8.1.1).
    fn malformed(&mut self, at: usize) -> Step<()> {
        self.break_off(at, Code::Protocol)
    }

    fn break_off(&mut self, at: usize, code: Code) -> Step<()> {
        self.line.lock().reset(at, code);
        self.mark(at);
        self.one_reset()
    }

    fn mark(&self, at: usize) {
        self.places[at].waker.wake_by_ref();
    }

    fn open(&mut self, id: u32, ended: bool, scratch: Box<Scratch>, taken: Result<(), NoHead>) -> Step<()> {
        let bad = match taken {
            Ok(()) => None,
            Err(NoHead::Refused(bad)) => Some(bad),
            Err(NoHead::Malformed(why)) => {
                give_scratch(scratch);
                self.proxy.decider().on_refused(&self.company.peer, 0, why);
                self.line.lock().reset_id(id, Code::Protocol);
                return self.one_reset();
            }
        };
        let running = self.places.len() - self.free.len();
        if running >= self.limits().h2_streams_max as usize {
            give_scratch(scratch);
            self.line.lock().reset_id(id, Code::RefusedStream);
            return self.nuisance();
        }
        let length = match scratch.request.body() {
            BodyLength::Known(length) => Some(length),
            _ => None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            let mark = Mark::new(&self.marks, self.places.len() as u32);
            let waker = Waker::from(mark.clone());
            self.places.push(Place { id: 0, future: None, timer: None, mark, waker });
            self.places.len() - 1
        });
        self.line.lock().open(at, id, ended, length);
        let place = &mut self.places[at];
        let timer = place.timer.take().unwrap_or_else(Timer::new);
        let stream = Stream::new(self.line.clone(), at, ended);
        let (proxy, company) = (self.proxy.clone(), self.company.clone());
        place.id = id;
        place.future = Some(Box::pin(async move { proxy.serve_stream(&company, scratch, stream, timer, bad).await }));
        self.idle_from = None;
        self.mark(at);
        Ok(())
    }

    fn begin_data(&mut self, head: &Head, padded: usize, padding: usize) -> Step<()> {
        if head.id == 0 {
            return Err(Fatal(Code::Protocol, "DATA without a stream"));
        }
        let Some(left) = (head.len - padded).checked_sub(padding) else {
            return Err(Fatal(Code::Protocol, "more padding than there is frame"));
        };
        let at = self.find(head.id);
        if at.is_none() {
            self.late(head.id, "DATA on a stream that is over")?;
        }
        let end = head.has(frame::END_STREAM);
        if left == 0 && !end {
            self.nuisance()?;
        }
        let mut line = self.line.lock();
        line.recv_window -= head.len as i64;
        if line.recv_window < 0 {
            return Err(Fatal(Code::FlowControl, "more data than the connection's window"));
        }
        let mut at = at.filter(|at| !line.streams[*at].reset);
        let mut wrong = None;
        if let Some(at) = at {
            let stream = &mut line.streams[at];
            if stream.ended {
                return Err(Fatal(Code::StreamClosed, "DATA behind the end of a stream"));
            }
            stream.recv_window -= head.len as i64;
            if stream.recv_window < 0 {
                wrong = Some((at, Code::FlowControl));
            }
            let too_long = stream.length_left.as_mut().is_some_and(|length| {
                let more = *length < left as u64;
                *length = length.saturating_sub(left as u64);
                more || end && *length > 0
            });
            if too_long {
                wrong = wrong.or(Some((at, Code::Protocol)));
            }
            line.padding(at, padded);
        } else {
            line.used(padded);
        }
        drop(line);
        if let Some((broken, code)) = wrong {
            self.break_off(broken, code)?;
            at = None;
        }
        self.data = Some(Data { at, id: head.id, left, padding, end });
        Ok(())
    }

    /// Takes what came of a frame of data.
    fn data(&mut self, inbox: &mut Inbox) -> Step<bool> {
        let Some(data) = &mut self.data else { return Ok(true) };
        let mut line = self.line.lock();
        let bytes = inbox.bytes();
        // Its exchange may have ended since the frame began.
        let at = data.at.filter(|at| line.streams[*at].id == data.id && !line.streams[*at].reset);
        let count = data.left.min(bytes.len());
        if count > 0 {
            match at {
                Some(at) => line.streams[at].body.extend_from_slice(&bytes[..count]),
                None => line.used(count),
            }
            line.nuisance = line.nuisance.saturating_sub(1);
        }
        let padding = if count == data.left { data.padding.min(bytes.len() - count) } else { 0 };
        match at {
            Some(at) => line.padding(at, padding),
            None => line.used(padding),
        }
        data.left -= count;
        data.padding -= padding;
        let done = data.left == 0 && data.padding == 0;
        if let Some(at) = at {
            line.streams[at].ended |= done && data.end;
        }
        drop(line);
        inbox.consume(count + padding);
        if let Some(at) = at
            && (count > 0 || done)
        {
            self.mark(at);
        }
        if done {
            self.data = None;
        }
        Ok(done)
    }

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if head.id != 0 {
            return Err(Fatal(Code::Protocol, "SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            return match payload {
                [] => self.nuisance(),
                _ => Err(Fatal(Code::FrameSize, "SETTINGS that say yes and more")),
            };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fatal(Code::FrameSize, "SETTINGS that are cut"));
        }
        let first = !std::mem::replace(&mut self.set, true);
        for one in payload.chunks_exact(6) {
            let (name, value) = (u16::from_be_bytes([one[0], one[1]]), word(&one[2..]));
            let mut line = self.line.lock();
            match name {
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Fatal(Code::Protocol, "an ENABLE_PUSH of neither 0 nor 1"));
                }
                setting::INITIAL_WINDOW_SIZE
                    if i64::from(value) > WINDOW_MAX || !line.set_first_window(value.into()) =>
                {
                    return Err(Fatal(Code::FlowControl, "a window that is too large"));
                }
                // Every client takes what we send at most.
                setting::MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => {
                    return Err(Fatal(Code::Protocol, "a MAX_FRAME_SIZE that may not be"));
                }
                // We keep no table, push nothing, and open no streams; of the size of a list it is only advice.
                _ => {}
            }
        }
        frame::push(frame::SETTINGS, frame::ACK, 0, &[], self.line.lock().out.buffer());
        self.unblock();
        if first { Ok(()) } else { self.nuisance() }
    }

    fn window(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if payload.len() != 4 {
            return Err(Fatal(Code::FrameSize, "a WINDOW_UPDATE that is not four bytes"));
        }
        let more = i64::from(word(payload) & 0x7fff_ffff);
        if head.id == 0 {
            let mut line = self.line.lock();
            line.window += more;
            if more == 0 {
                return Err(Fatal(Code::Protocol, "a WINDOW_UPDATE of nothing"));
            }
            if line.window > WINDOW_MAX {
                return Err(Fatal(Code::FlowControl, "a window that is too large"));
            }
            drop(line);
            self.unblock();
            return Ok(());
        }
        let Some(at) = self.find(head.id) else {
            // It may come long behind the end of an answer (§5.1).
            return if head.id > self.last && self.drained != Drained::Heard {
                Err(Fatal(Code::Protocol, "WINDOW_UPDATE on a stream that was not opened"))
            } else {
                self.nuisance()
            };
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        stream.window += more;
        let wrong = match more {
            0 => Some(Code::Protocol),
            _ if stream.window > WINDOW_MAX => Some(Code::FlowControl),
            _ => None,
        };
        let blocked = std::mem::take(&mut stream.blocked);
        drop(line);
        match wrong {
            Some(code) => return self.break_off(at, code),
            None if blocked => self.mark(at),
            None => {}
        }
        Ok(())
    }

    /// Streams that waited for a window, or for the client to read, go on.
    fn unblock(&mut self) {
        let mut line = self.line.lock();
        if !std::mem::take(&mut line.any_blocked) {
            return;
        }
        // Another one is the first each time, or it would take the whole window each time.
        let count = self.places.len();
        self.turn = (self.turn + 1) % count.max(1);
        for at in (self.turn..count).chain(0..self.turn) {
            if line.streams.get_mut(at).is_some_and(|it| std::mem::take(&mut it.blocked)) {
                self.places[at].waker.wake_by_ref();
            }
        }
    }

    fn reset(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if payload.len() != 4 {
            return Err(Fatal(Code::FrameSize, "a RST_STREAM that is not four bytes"));
        }
        let Some(at) = self.find(head.id) else {
            if head.id == 0 || head.id > self.last && self.drained != Drained::Heard {
                return Err(Fatal(Code::Protocol, "RST_STREAM on a stream that was not opened"));
            }
            // Our answer and its reset crossed.
            return self.nuisance();
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        stream.reset = true;
        let whole = stream.sent_end;
        let unread = std::mem::take(&mut stream.body).len();
        line.used(unread);
        drop(line);
        self.mark(at);
        if whole { Ok(()) } else { self.one_reset() }
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if head.id != 0 {
            return Err(Fatal(Code::Protocol, "PING on a stream"));
        }
        if payload.len() != 8 {
            return Err(Fatal(Code::FrameSize, "a PING that is not eight bytes"));
        }
        if !head.has(frame::ACK) {
            frame::push(frame::PING, frame::ACK, 0, payload, self.line.lock().out.buffer());
        } else if payload == LAST_PING && self.drained == Drained::Told {
            self.heard();
        }
        self.nuisance()
    }

    /// Polls the streams that are marked.
    fn run(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        self.marks.take(&mut taken);
        for at in taken.drain(..) {
            let at = at as usize;
            let place = &mut self.places[at];
            place.mark.clear();
            let Some(future) = &mut place.future else { continue };
            let Poll::Ready(timer) = future.as_mut().poll(&mut Context::from_waker(&place.waker)) else { continue };
            place.future = None;
            place.timer = Some(timer);
            place.id = 0;
            self.free.push(at);
            let mut line = self.line.lock();
            let whole = line.streams[at].sent_end && !line.streams[at].reset;
            line.close(at);
            self.resets = self.resets.saturating_sub(u32::from(whole));
        }
        self.taken = taken;
        if self.free.len() == self.places.len() && self.idle_from.is_none() {
            self.idle_from = Some(Instant::now());
        }
    }

    /// Writes what waits. True: streams that waited for that can go on.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        let mut line = self.line.lock();
        let before = line.out.len();
        // TLS may hold back what it took.
        if before == 0 && self.stuck.is_none() {
            return Ok(false);
        }
        let sent = line.out.poll_send(&mut self.io, cx);
        let after = line.out.len();
        let sent = match sent {
            Poll::Ready(Ok(())) => {
                line.out.release();
                if matches!(self.io, Io::Tcp(_)) { Poll::Ready(Ok(())) } else { Pin::new(&mut self.io).poll_flush(cx) }
            }
            other => other,
        };
        drop(line);
        self.stuck = match (&sent, self.stuck) {
            (Poll::Pending, Some((since, left))) if after >= left => Some((since, after)),
            (Poll::Pending, _) => Some((Instant::now(), after)),
            (Poll::Ready(Ok(())), _) => None,
            (Poll::Ready(Err(_)), _) => return Err(()),
        };
        if after >= OUT_HIGH || after == before {
            return Ok(false);
        }
        self.unblock();
        Ok(before > OUT_MAX && after <= OUT_MAX)
    }

    /// What time says, and whether this is the end.
    fn look(&mut self, cx: &mut Context<'_>) -> Option<Over> {
        let proxy = self.proxy.clone();
        let limits = proxy.limits();
        let idle = self.free.len() == self.places.len();
        if idle && self.drained == Drained::Heard && self.stuck.is_none() {
            return Some(Over::Clean);
        }
        let at = |since: Option<Instant>, span: base::Duration| since.filter(|_| !span.is_zero()).map(|it| it + span);
        for _ in 0..4 {
            let stuck = at(self.stuck.map(|it| it.0), limits.write_timeout);
            let begun = if self.set { None } else { at(Some(self.counted_from), limits.head_timeout) };
            let block = self.block.as_ref().and_then(|it| it.until);
            let told = at(self.told_at.filter(|_| self.drained == Drained::Told), GOAWAY_PATIENCE);
            let quiet = at(self.idle_from.filter(|_| self.drained == Drained::No), limits.idle_timeout);
            self.timer.set([stuck, begun, block, told, quiet].into_iter().flatten().min());
            if self.timer.poll(cx).is_pending() {
                return None;
            }
            let now = Instant::now();
            let over = |it: Option<Instant>| it.is_some_and(|it| it <= now);
            if over(stuck) || over(begun) || over(block) {
                return Some(Over::Gone);
            }
            if over(told) {
                self.heard();
                // Not before it is sent.
                self.stuck = self.stuck.or(Some((now, usize::MAX)));
                cx.waker().wake_by_ref();
            }
            if over(quiet) {
                self.tell();
                cx.waker().wake_by_ref();
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Begins a graceful end.
    fn tell(&mut self) {
        if self.drained == Drained::No {
            self.drained = Drained::Told;
            self.told_at = Some(Instant::now());
            let mut line = self.line.lock();
            let out = line.out.buffer();
            frame::push_goaway(WINDOW_MAX as u32, Code::NoError, "", out);
            frame::push(frame::PING, 0, 0, LAST_PING, out);
        }
    }

    /// The client knows: from here on streams are not opened.
    fn heard(&mut self) {
        self.drained = Drained::Heard;
        frame::push_goaway(self.last, Code::NoError, "", self.line.lock().out.buffer());
    }

    /// Streams hear that the client is gone; then the socket is closed so that our last words arrive.
    async fn end(mut self, over: Over) {
        for stream in &mut self.line.lock().streams {
            stream.reset = true;
        }
        for at in 0..self.places.len() {
            self.mark(at);
        }
        self.run();
        // What cannot end at once (it waits for a connection) is dropped.
        self.places.clear();
        if let Over::Wrong(why) = over {
            self.proxy.decider().on_refused(&self.company.peer, 0, why);
        }
        if matches!(over, Over::Gone) {
            return;
        }
        let limits = self.proxy.limits();
        let (io, line) = (&mut self.io, &self.line);
        let bytes_max = limits.linger_bytes_max;
        let last_words = async {
            let sent = poll_fn(|cx| line.lock().out.poll_send(io, cx)).await;
            if sent.is_err() || poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await.is_err() {
                return;
            }
            // A reset of the socket would take our last words from the client, so what it still sends is read for a while.
            let (mut inbox, mut bytes) = (Inbox::default(), 0);
            while let Ok(count @ 1..) = poll_fn(|cx| inbox.poll_fill(io, cx)).await {
                inbox.consume(count);
                bytes += count as u64;
                if bytes > bytes_max {
                    return;
                }
            }
        };
        let _ = self.timer.until(after(limits.linger_timeout), last_words).await;
    }
}

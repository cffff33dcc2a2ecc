//! The connection: reads frames, starts and polls streams, writes. See the module above.

use super::frame::{self, Code, HEAD_BYTES, Head, PREFACE, WINDOW_MAX, setting};
use super::hpack;
use super::stream::{Line, OUT_HIGH, OUT_MAX};
use super::wake::{Mark, Marks};
use crate::buffer::Inbox;
use crate::io::Io;
use crate::limits::Limits;
use crate::plan::Decide;
use crate::serve::{Company, Drain, Proxy};
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
pub(super) const CONTINUATIONS_MAX: usize = 32;
/// Nuisances and resets are counted over so long.
pub(super) const COUNTED_OVER: base::Duration = base::Duration::from_secs(10);
/// How long a client may take to say that it has seen the first GOAWAY.
const GOAWAY_PATIENCE: base::Duration = base::Duration::from_secs(1);
/// The PING behind the first GOAWAY.
pub(super) const LAST_PING: &[u8; 8] = b"quorate!";

/// The connection ends: why.
pub(super) struct Fatal(pub Code, pub &'static str);

pub(super) type Step<T> = Result<T, Fatal>;

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
pub(super) enum Drained {
    No,
    /// The client was told that no new streams are wanted; those that it opened before it heard of it are still served (RFC 9113 §6.8).
    Told,
    /// It has heard, or had its time: later ones are not.
    Heard,
}

/// Where a stream's future stands.
pub(super) struct Place {
    pub id: u32,
    pub future: Option<Pin<Box<dyn Future<Output = Timer> + Send>>>,
    pub timer: Option<Timer>,
    pub mark: Arc<Mark>,
    pub waker: Waker,
}

/// A frame of data of which not all has come.
pub(super) struct Data {
    /// The stream's place; none for one that is over.
    pub at: Option<usize>,
    pub id: u32,
    pub left: usize,
    pub padding: usize,
    pub end: bool,
}

/// A block of which not all frames have come.
pub(super) struct Block {
    pub id: u32,
    pub end_stream: bool,
    pub bytes: Vec<u8>,
    pub frames: usize,
    pub until: Option<Instant>,
}

pub(super) struct Session<D: Decide> {
    pub proxy: Arc<Proxy<D>>,
    pub company: Arc<Company>,
    pub io: Io,
    pub inbox: Inbox,
    pub line: Arc<Mutex<Line>>,
    pub marks: Arc<Marks>,
    pub places: Vec<Place>,
    pub free: Vec<usize>,
    pub taken: Vec<u32>,
    pub hpack: hpack::Decoder,
    pub prefaced: bool,
    pub set: bool,
    pub last: u32,
    pub data: Option<Data>,
    pub block: Option<Block>,
    pub drained: Drained,
    pub resets: u32,
    pub counted_from: Instant,
    pub timer: Timer,
    /// Since nothing is under way.
    pub idle_from: Option<Instant>,
    /// Since the client does not read, and how much it had read then.
    pub stuck: Option<(Instant, usize)>,
    pub told_at: Option<Instant>,
    /// Which blocked stream goes on first.
    pub turn: usize,
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
    pub(super) fn limits(&self) -> &Limits {
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
    pub(super) fn heard(&mut self) {
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

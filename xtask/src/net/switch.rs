//! The switch: a thread that reads frames from taps and writes them to others, as each line allows.
//!
//! Which frames are lost, doubled or overtaken depends on the seed and on how many went over that line before; when they come is the machine's.

use crate::rng::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest frame that a tap gives (its MTU is 1500).
const FRAME_BYTES_MAX: usize = 2048;
/// Frames taken from one tap before the next one's turn.
const BURST: usize = 64;
/// How long nothing may happen before the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// A line that is slower than what is sent holds back so much time's worth of frames; the rest is lost.
const QUEUE: Duration = Duration::from_millis(400);
/// Frames under way at once, over all lines; more are lost.
const FRAMES_MAX: usize = 100_000;

/// One direction of one line. The default is perfect.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Nothing passes.
    pub cut: bool,
    /// Passes for so long, then nothing for so long, and again.
    pub flap: Option<Duration>,
    /// How long a frame takes.
    pub delay: Duration,
    /// And up to so much more, evenly spread, order kept.
    pub jitter: Duration,
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The share that comes twice.
    pub duplicate: f64,
    /// The share that is held back long enough to be overtaken.
    pub reorder: f64,
    /// What passes in a second.
    pub bytes_per_second: Option<u64>,
}

impl Line {
    /// Nothing passes.
    pub fn cut() -> Line {
        Line { cut: true, ..Line::default() }
    }
}

/// What was done to frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Came to where they should.
    pub passed: u64,
    /// Met a cut.
    pub cut: u64,
    /// Lost by chance or because a slow line was full.
    pub lost: u64,
    /// Came twice.
    pub doubled: u64,
    /// Held back to be overtaken.
    pub reordered: u64,
    /// Took longer than the switch itself.
    pub delayed: u64,
}

impl Counts {
    /// Frames that something was done to.
    pub fn harmed(&self) -> u64 {
        self.cut + self.lost + self.doubled + self.reordered + self.delayed
    }
}

struct Lines {
    /// By `from * ports + to`.
    lines: Vec<Line>,
    /// What passed on each: frames, bytes.
    traffic: Vec<(u64, u64)>,
    counts: Counts,
}

/// The running thread; it ends when this is dropped.
pub struct Switch {
    ports: usize,
    shared: Arc<Mutex<Lines>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(shared: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// Takes over the taps, in the order of their ports.
    pub fn start(taps: Vec<File>, seed: u64) -> Result<Switch, String> {
        let ports = taps.len();
        let lines = vec![Line::default(); ports * ports];
        let shared =
            Arc::new(Mutex::new(Lines { lines, traffic: vec![(0, 0); ports * ports], counts: Counts::default() }));
        let end = Arc::new(AtomicBool::new(false));
        let work = Work {
            rngs: (0..ports * ports).map(|line| Rng::new(seed ^ (line as u64) << 48)).collect(),
            last: vec![None; ports * ports],
            free: vec![None; ports * ports],
            waiting: BinaryHeap::new(),
            number: 0,
            start: Instant::now(),
            taps,
            shared: Arc::clone(&shared),
            end: Arc::clone(&end),
        };
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || work.run());
        Ok(Switch { ports, shared, end, thread: Some(thread.map_err(|error| format!("the switch: {error}"))?) })
    }

    /// Changes one direction of a line.
    pub fn set(&self, from: usize, to: usize, line: Line) {
        lock(&self.shared).lines[from * self.ports + to] = line;
    }

    /// Frames and bytes that passed from one port to another so far.
    pub fn traffic(&self, from: usize, to: usize) -> (u64, u64) {
        lock(&self.shared).traffic[from * self.ports + to]
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A frame that is under way. The heap gives out the largest, so the order is turned round: soonest first, then first come.
#[derive(PartialEq, Eq)]
struct Frame {
    due: Instant,
    number: u64,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

impl Ord for Frame {
    fn cmp(&self, other: &Frame) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Frame) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Work {
    taps: Vec<File>,
    shared: Arc<Mutex<Lines>>,
    end: Arc<AtomicBool>,
    rngs: Vec<Rng>,
    /// When the last frame of each line comes, for the order.
    last: Vec<Option<Instant>>,
    /// When each slow line has sent what it holds.
    free: Vec<Option<Instant>>,
    waiting: BinaryHeap<Frame>,
    number: u64,
    start: Instant,
}

/// Whether a line lets nothing pass now.
fn is_cut(line: &Line, since_start: Duration) -> bool {
    let off = |half: Duration| since_start.as_nanos() / half.as_nanos().max(1) % 2 == 1;
    line.cut || line.flap.is_some_and(off)
}

/// True in so many of all cases.
fn chance(rng: &mut Rng, share: f64) -> bool {
    share > 0.0 && ((rng.next() >> 11) as f64 / (1_u64 << 53) as f64) < share
}

impl Work {
    fn run(mut self) {
        let mut buf = [0; FRAME_BYTES_MAX];
        let shared = Arc::clone(&self.shared);
        while !self.end.load(Ordering::Relaxed) {
            let now = Instant::now();
            let wait = self.waiting.peek().map_or(LOOK, |frame| frame.due.saturating_duration_since(now).min(LOOK));
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut fds: Vec<PollFd> = self.taps.iter().map(|tap| PollFd::new(tap, PollFlags::IN)).collect();
            let _ = poll(&mut fds, Some(&wait));
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let mut lines = lock(&shared);
            for (from, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                for _ in 0..BURST {
                    match (&self.taps[from]).read(&mut buf) {
                        Ok(count) if count >= 14 => self.frame(from, &buf[..count], &mut lines),
                        _ => break,
                    }
                }
            }
            self.deliver(&mut lines);
        }
    }

    /// A frame comes in at a port.
    fn frame(&mut self, from: usize, bytes: &[u8], lines: &mut Lines) {
        let ports = self.taps.len();
        // The last byte of a hardware address is its port; the first says whether all are meant.
        let all = bytes[0] & 1 == 1;
        let to = usize::from(bytes[5]);
        for to in (0..ports).filter(|port| *port != from && (all || *port == to)) {
            self.send(from, to, bytes, lines);
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8], lines: &mut Lines) {
        let at = from * self.taps.len() + to;
        let now = Instant::now();
        let (line, counts) = (&lines.lines[at], &mut lines.counts);
        let rng = &mut self.rngs[at];
        if is_cut(line, now - self.start) {
            counts.cut += 1;
            return;
        }
        if chance(rng, line.loss) || self.waiting.len() >= FRAMES_MAX {
            counts.lost += 1;
            return;
        }
        let mut due = now + line.delay;
        if !line.jitter.is_zero() {
            due += Duration::from_nanos(rng.next() % line.jitter.as_nanos() as u64);
        }
        if let Some(rate) = line.bytes_per_second {
            let free =
                self.free[at].unwrap_or(now).max(now) + Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            if free - now > QUEUE {
                counts.lost += 1;
                return;
            }
            self.free[at] = Some(free);
            due += free - now;
        }
        if chance(rng, line.reorder) {
            due += line.delay.max(Duration::from_millis(1)) + Duration::from_micros(rng.next() % 3000);
            counts.reordered += 1;
        } else {
            due = self.last[at].map_or(due, |last| last.max(due));
            self.last[at] = Some(due);
        }
        counts.delayed += u64::from(due > now);
        let twice = chance(rng, line.duplicate);
        counts.doubled += u64::from(twice);
        for _ in 0..1 + usize::from(twice) {
            self.number += 1;
            self.waiting.push(Frame { due, number: self.number, from, to, bytes: bytes.to_vec() });
        }
    }

    /// Hands over what is due. What meets a cut on its way is lost.
    fn deliver(&mut self, lines: &mut Lines) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|frame| frame.due <= now) {
            let Some(frame) = self.waiting.pop() else { return };
            let at = frame.from * self.taps.len() + frame.to;
            if is_cut(&lines.lines[at], now - self.start) {
                lines.counts.cut += 1;
            } else if (&self.taps[frame.to]).write(&frame.bytes).is_ok() {
                lines.counts.passed += 1;
                let (frames, bytes) = &mut lines.traffic[at];
                (*frames, *bytes) = (*frames + 1, *bytes + frame.bytes.len() as u64);
            }
        }
    }
}

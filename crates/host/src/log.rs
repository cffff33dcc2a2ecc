//! The thread that makes appends durable, and the same work done in place where nobody else is there to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base::GroupId;
use consensus::Position;
use parking_lot::Mutex;
use shard::driver::{Append, Input};
use shard::open;
use store::log::{self, Batch, Log, LogError};

use crate::files::Directory;

/// How long the log is idle before it writes down that everything is durable.
const IDLE: Duration = Duration::from_millis(200);
/// How often a full disk is asked whether there is room again.
const RETRY: Duration = Duration::from_millis(500);
/// An append is written in place only while flushes are about this quick; a slow one would hold up everybody.
const IN_PLACE_MICROS_MAX: u64 = 1_000;

/// Where what comes of the work is told.
pub type Tell = Arc<dyn Fn(Input) + Send + Sync>;

/// What the log thread is asked to do.
enum Job {
    Append(Append),
    Compact(GroupId, Position),
    Upkeep,
    Stop(mpsc::Sender<Result<(), String>>),
}

struct Inner {
    log: Log<Directory>,
    batch: Batch,
    segment: u64,
}

/// Figures of the log.
#[derive(Debug, Default)]
pub struct LogFigures {
    /// Appends made durable.
    pub appends: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Time spent in them, microseconds.
    pub micros: AtomicU64,
    /// Moving average of one append, microseconds.
    pub average_micros: AtomicU64,
    /// The longest, microseconds.
    pub longest_micros: AtomicU64,
    /// When the append that is under way began, on this machine's monotonic clock; 0 where none is.
    pub under_way_since: AtomicU64,
}

/// The log, with its thread.
pub struct LogThread {
    inner: Arc<Mutex<Inner>>,
    jobs: mpsc::Sender<Job>,
    figures: Arc<LogFigures>,
    watched: Arc<Watched>,
}

/// See [`LogThread::watch`].
#[derive(Debug, Default)]
struct Watched {
    wanted: AtomicBool,
    micros: AtomicU64,
}

impl LogThread {
    /// Starts the thread. What comes of its work goes to `tell`, in order.
    pub fn start(log: Log<Directory>, tell: Tell) -> LogThread {
        let segment = log.status().current;
        let inner = Arc::new(Mutex::new(Inner { log, batch: Batch::new(), segment }));
        let figures = Arc::new(LogFigures::default());
        let (jobs, queue) = mpsc::channel();
        let watched = Arc::<Watched>::default();
        let worker = Worker {
            inner: inner.clone(),
            figures: figures.clone(),
            queue,
            full: None,
            tell,
            watched: watched.clone(),
            fresh: false,
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || worker.run())
            .expect("the operating system lets a process have a few threads");
        LogThread { inner, jobs, figures, watched }
    }

    /// Whether the driver wants to be told when so much time has passed since the last append: the runtime's own timers are too
    /// coarse for that. How much it is counts from the next append on.
    pub fn watch(&self, wanted: Option<Duration>) {
        self.watched.wanted.store(wanted.is_some(), Ordering::Release);
        if let Some(span) = wanted {
            self.watched.micros.store(span.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Hands an append to the thread.
    pub fn append(&self, append: Append) {
        // The thread ends only after Stop, and nothing is appended after that.
        let _ = self.jobs.send(Job::Append(append));
    }

    /// Writes an append in place if that is quick and the thread is not busy; else gives it back.
    pub fn append_here(&self, append: Append) -> Result<Input, Append> {
        if !append.lone_client || self.figures.average_micros.load(Ordering::Relaxed) > IN_PLACE_MICROS_MAX {
            return Err(append);
        }
        let Some(mut inner) = self.inner.try_lock() else {
            return Err(append);
        };
        match write(&mut inner, &append, &self.figures) {
            Ok(()) => {
                if inner.log.end().segment != inner.segment {
                    inner.segment = inner.log.end().segment;
                    let _ = self.jobs.send(Job::Upkeep);
                }
                Ok(Input::Appended)
            }
            Err(LogError::Full) => Err(append),
            Err(error) => Ok(stopped(error)),
        }
    }

    /// A durable snapshot covers the group up to here.
    pub fn compact(&self, group: GroupId, position: Position) {
        let _ = self.jobs.send(Job::Compact(group, position));
    }

    /// Somebody found the disk full: what the log keeps for its next growth is given back.
    pub fn save_room(&self) {
        self.inner.lock().log.save_room();
        let _ = self.jobs.send(Job::Upkeep);
    }

    /// Seals the log and ends the thread.
    pub fn stop(&self) -> Result<(), String> {
        let (answer, done) = mpsc::channel();
        if self.jobs.send(Job::Stop(answer)).is_err() {
            return Err("the log's thread has ended".into());
        }
        done.recv().unwrap_or_else(|_| Err("the log's thread has ended".into()))
    }

    /// The log's state.
    pub fn status(&self) -> log::Status {
        self.inner.lock().log.status()
    }

    /// See [`LogFigures`].
    pub fn figures(&self) -> &LogFigures {
        &self.figures
    }
}

fn write(inner: &mut Inner, append: &Append, figures: &LogFigures) -> Result<(), LogError> {
    let begun = Instant::now();
    let Inner { log, batch, .. } = inner;
    figures.under_way_since.store(crate::clock::now().0, Ordering::Relaxed);
    let appended = open::append(log, batch, append);
    // One that failed stays under way: the log has stopped, or is full, and somebody else should lead.
    let appended = appended?;
    figures.under_way_since.store(0, Ordering::Relaxed);
    let micros = begun.elapsed().as_micros() as u64;
    figures.appends.fetch_add(1, Ordering::Relaxed);
    figures.bytes.fetch_add(appended.bytes, Ordering::Relaxed);
    figures.micros.fetch_add(micros, Ordering::Relaxed);
    figures.longest_micros.fetch_max(micros, Ordering::Relaxed);
    let average = figures.average_micros.load(Ordering::Relaxed);
    figures.average_micros.store((average * 15 + micros) / 16, Ordering::Relaxed);
    Ok(())
}

struct Worker {
    inner: Arc<Mutex<Inner>>,
    figures: Arc<LogFigures>,
    queue: mpsc::Receiver<Job>,
    /// An append that found no room, to be tried again.
    full: Option<Append>,
    tell: Tell,
    watched: Arc<Watched>,
    /// An append has just ended.
    fresh: bool,
}

impl Worker {
    fn run(mut self) {
        self.upkeep();
        loop {
            let patience = match (&self.full, self.fresh) {
                (Some(_), _) => RETRY,
                (None, true) => Duration::from_micros(self.watched.micros.load(Ordering::Relaxed)).min(IDLE),
                (None, false) => IDLE,
            };
            match self.queue.recv_timeout(patience) {
                Ok(Job::Append(append)) => self.append(append),
                Ok(Job::Compact(group, position)) => {
                    let compacted = self.inner.lock().log.compact(group, position.index, position.term);
                    if let Err(LogError::Stopped(why)) = compacted {
                        (self.tell)(Input::LogStopped(why));
                    }
                    self.upkeep();
                }
                Ok(Job::Upkeep) => self.upkeep(),
                Ok(Job::Stop(answer)) => {
                    let sealed = self.inner.lock().log.seal().map_err(|error| error.to_string());
                    let _ = answer.send(sealed);
                    return;
                }
                Err(mpsc::RecvTimeoutError::Timeout) if std::mem::take(&mut self.fresh) => {
                    if self.watched.wanted.swap(false, Ordering::AcqRel) {
                        (self.tell)(Input::Wake);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => self.idle(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn append(&mut self, mut append: Append) {
        let mut inner = self.inner.lock();
        let mut written = write(&mut inner, &append, &self.figures);
        if matches!(written, Err(LogError::Full)) && !append.frees_only {
            (self.tell)(Input::AppendFull);
            append.use_reserve();
            written = write(&mut inner, &append, &self.figures);
        }
        match written {
            Ok(()) => {
                let turned = inner.log.end().segment != inner.segment;
                inner.segment = inner.log.end().segment;
                drop(inner);
                self.fresh = true;
                (self.tell)(Input::Appended);
                if turned {
                    self.upkeep();
                }
            }
            Err(LogError::Full) => {
                drop(inner);
                (self.tell)(Input::AppendFull);
                self.full = Some(append);
                self.upkeep();
            }
            Err(error) => {
                drop(inner);
                (self.tell)(stopped(error));
            }
        }
    }

    /// Makes spare segments, and says what the log can take.
    fn upkeep(&mut self) {
        let Some(mut upkeep) = self.inner.lock().log.upkeep() else {
            return tell_room(&self.inner, &self.tell);
        };
        // A helper does the writing of zeros: the next append must not wait for it.
        let (inner, tell) = (self.inner.clone(), self.tell.clone());
        let work = move || {
            while let Ok(true) = upkeep.step() {}
            inner.lock().log.finish_upkeep(upkeep);
            tell_room(&inner, &tell);
        };
        if let Err(error) = std::thread::Builder::new().name("log-upkeep".into()).spawn(work) {
            (self.tell)(Input::LogStopped(format!("no thread for the log's upkeep: {error}")));
        }
    }

    fn idle(&mut self) {
        self.upkeep();
        if let Some(append) = self.full.take() {
            return self.append(append);
        }
        let marked = self.inner.lock().log.mark_durable();
        if let Err(LogError::Stopped(why)) = marked {
            (self.tell)(Input::LogStopped(why));
        }
    }
}

/// The log takes no more: the reason alone, since whoever says it also says that the log has stopped.
fn stopped(error: LogError) -> Input {
    Input::LogStopped(match error {
        LogError::Stopped(why) => why,
        other => other.to_string(),
    })
}

fn tell_room(inner: &Mutex<Inner>, tell: &Tell) {
    let status = inner.lock().log.status();
    tell(Input::Room(open::room(&status)));
}

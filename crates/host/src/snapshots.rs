//! The thread that writes snapshot files, a chunk at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use base::GroupId;
use consensus::{Membership, Position};
use queue::extents::Copying;
use shard::driver::Input;
use shard::state::State;
use shard::topics::Stored;
use store::extent::{self, ExtentId};
use store::log::LogError;
use store::snapshot::{SnapshotWriter, adopt, discard, hold_ballast, release_ballast, remove_older};

use crate::files::Directory;
use crate::log::LogThread;

/// Kept free for the snapshot that a full disk needs most.
const BALLAST_BYTES: u64 = 8 << 20;

/// What the thread is asked to do.
pub enum Job {
    /// Begin a file with this first chunk.
    Begin(GroupId, Position, Membership, Vec<u8>),
    /// Append a chunk.
    Chunk(GroupId, Vec<u8>),
    /// Copy this out of the log into an extent file.
    Copy(Copying),
    /// No other extent files of the group are needed.
    KeepExtents(GroupId, Vec<ExtentId>),
    /// Make it durable.
    End(GroupId),
    /// Drop it.
    Abort(GroupId),
    /// The log speaks of the one that arrived at this index; the state that it replaced is dropped, which may take a while.
    Adopt(GroupId, u64, Box<State>),
    /// The one that arrived at this index is of no use.
    Discard(GroupId, u64),
    /// This node's word counts in the group again.
    Lift(GroupId, u64),
    /// The log has been told: older ones may go.
    Sweep(GroupId, u64),
}

/// Figures of snapshots.
#[derive(Debug, Default)]
pub struct SnapshotFigures {
    /// Finished ones.
    pub finished: AtomicU64,
    /// Failed ones.
    pub failed: AtomicU64,
    /// 1 where the last one failed.
    pub failed_last: AtomicU64,
    /// Bytes of the last one.
    pub bytes: AtomicU64,
    /// How long the last one took, milliseconds.
    pub millis: AtomicU64,
    /// When the last one was finished, wall clock milliseconds.
    pub finished_at: AtomicU64,
    /// Being written now.
    pub running: AtomicU64,
}

/// The thread's end of the line.
pub struct SnapshotThread {
    jobs: mpsc::Sender<Job>,
    /// See [`SnapshotFigures`].
    pub figures: Arc<SnapshotFigures>,
}

impl SnapshotThread {
    /// Starts it. What comes of its work goes to `tell`.
    pub fn start(
        disk: Directory,
        stored: Arc<Stored<Directory>>,
        log: Arc<LogThread>,
        tell: impl Fn(Input) + Send + 'static,
    ) -> SnapshotThread {
        let (jobs, queue) = mpsc::channel();
        let figures = Arc::new(SnapshotFigures::default());
        let counted = figures.clone();
        let work = move || {
            let _ = hold_ballast(&disk, BALLAST_BYTES);
            let mut worker = Worker { disk, stored, log, figures: counted, open: HashMap::new() };
            for job in queue {
                worker.run(job, &tell);
            }
        };
        std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(work)
            .expect("the operating system lets a process have a few threads");
        SnapshotThread { jobs, figures }
    }

    /// Hands a job to the thread.
    pub fn ask(&self, job: Job) {
        // The thread lives as long as this end.
        let _ = self.jobs.send(job);
    }
}

struct Open {
    writer: SnapshotWriter<Directory>,
    begun: Instant,
    bytes: u64,
}

struct Worker {
    disk: Directory,
    stored: Arc<Stored<Directory>>,
    log: Arc<LogThread>,
    figures: Arc<SnapshotFigures>,
    open: HashMap<GroupId, Open>,
}

impl Worker {
    fn run(&mut self, job: Job, tell: &impl Fn(Input)) {
        let (group, done) = match job {
            Job::Begin(group, position, membership, chunk) => (group, self.begin(group, position, &membership, &chunk)),
            Job::Chunk(group, chunk) => (group, self.chunk(group, &chunk)),
            Job::Copy(copying) => {
                let group = copying.file.group;
                let filed = shard::topics::file_away(&self.disk, &self.stored, &copying);
                (group, filed.map(|filed| Input::FiledAway(group, filed)))
            }
            Job::KeepExtents(group, files) => {
                // One that stays costs room, nothing else, and the next start removes it.
                let _ = extent::remove_others(&self.disk, group, &files);
                return self.stored.forget_others(group, &files);
            }
            Job::End(group) => (group, self.end(group)),
            Job::Abort(group) => {
                self.open.remove(&group);
                self.figures.running.store(0, Ordering::Relaxed);
                return;
            }
            Job::Adopt(group, index, old) => {
                if let Err(error) = adopt(&self.disk, group, index) {
                    eprintln!("quorate: a snapshot of {group} keeps its first name until the next start: {error}");
                }
                return drop(old);
            }
            Job::Discard(group, index) => {
                // It only costs room.
                let _ = discard(&self.disk, group, index);
                return;
            }
            Job::Lift(group, name) => {
                // If it is not written down, the next start finds the fence again, and it is lifted again.
                match store::fence::lift(&self.disk, group, name) {
                    Ok(()) => eprintln!("quorate: {group} has everything back that this node's disk had lost"),
                    Err(error) => eprintln!("quorate: {group} is whole, which could not be written down: {error}"),
                }
                return;
            }
            Job::Sweep(group, keep) => {
                // An older snapshot that stays costs room, nothing else.
                let _ = remove_older(&self.disk, group, keep);
                let _ = hold_ballast(&self.disk, BALLAST_BYTES);
                return;
            }
        };
        match done {
            Ok(input) => tell(input),
            Err(error) => {
                self.open.remove(&group);
                self.figures.failed.fetch_add(1, Ordering::Relaxed);
                self.figures.failed_last.store(1, Ordering::Relaxed);
                self.figures.running.store(0, Ordering::Relaxed);
                eprintln!("quorate: the snapshot of {group} failed: {error}");
                tell(Input::SnapshotFailed(group));
                if error == LogError::Full {
                    self.log.save_room();
                }
                if error == LogError::Full && release_ballast(&self.disk).unwrap_or(false) {
                    tell(Input::SnapshotWanted(group));
                }
            }
        }
    }

    fn begin(
        &mut self,
        group: GroupId,
        position: Position,
        membership: &Membership,
        chunk: &[u8],
    ) -> Result<Input, LogError> {
        let meta = membership.to_bytes();
        let mut writer = SnapshotWriter::begin(&self.disk, group, position.index, position.term, &meta)?;
        writer.chunk(chunk)?;
        self.open.insert(group, Open { writer, begun: Instant::now(), bytes: chunk.len() as u64 });
        self.figures.running.store(1, Ordering::Relaxed);
        Ok(Input::SnapshotWritten(group))
    }

    fn chunk(&mut self, group: GroupId, chunk: &[u8]) -> Result<Input, LogError> {
        if let Some(open) = self.open.get_mut(&group)
            && !chunk.is_empty()
        {
            open.writer.chunk(chunk)?;
            open.bytes += chunk.len() as u64;
        }
        Ok(Input::SnapshotWritten(group))
    }

    fn end(&mut self, group: GroupId) -> Result<Input, LogError> {
        let Some(open) = self.open.remove(&group) else {
            return Err(LogError::Misuse("no snapshot is being written".into()));
        };
        open.writer.finish()?;
        self.figures.bytes.store(open.bytes, Ordering::Relaxed);
        self.figures.millis.store(open.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.figures.finished.fetch_add(1, Ordering::Relaxed);
        self.figures.failed_last.store(0, Ordering::Relaxed);
        self.figures.finished_at.store(crate::clock::wall(), Ordering::Relaxed);
        self.figures.running.store(0, Ordering::Relaxed);
        Ok(Input::SnapshotDurable(group))
    }
}

//! The log's words: how it is kept, what it answers, why it refuses.

use super::Record;
use crate::disk::DiskError;
use base::GroupId;
use std::fmt;

/// What receives the records of a replay. An error stops it and comes back as [`LogError::Refused`].
pub type Visit<'a> = &'a mut dyn FnMut(Record<'_>) -> Result<(), String>;

/// Bugs put in on purpose, for the tests that must catch them.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// Reading believes bytes whose checksum is wrong.
    pub crc_not_checked: bool,
    /// An append returns before its bytes are durable.
    pub ack_before_fsync: bool,
    /// A sync that failed is tried again.
    pub failed_sync_retried: bool,
    /// A segment that is an extent file, too, is written over.
    pub links_ignored: bool,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Length of a segment file, bytes; a batch that does not fit gets a segment of its own size.
    pub segment_bytes: u64,
    /// Spare segments to keep ready; at least 2, of which the last is the reserve.
    pub spares: usize,
    /// Most bytes of all the log's files together; 0 = as much as the disk has. Reached, it is like a full disk.
    pub bytes_max: u64,
    /// Identity given to the log if it is new: random, so that no other log's bytes (nor a client's, made up to look like
    /// a batch) are taken for this one's.
    pub log_id: u64,
    /// The node given to the log if it is new.
    pub node: u64,
    /// See [`Planted`].
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            spares: 2,
            bytes_max: 0,
            log_id: 0,
            node: 1,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }
}

impl LogOptions {
    pub(super) fn crc_checked(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.crc_not_checked {
            return false;
        }
        true
    }

    /// Whether a segment that has grown is left alone.
    pub(super) fn links_respected(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.links_ignored {
            return false;
        }
        true
    }

    pub(super) fn sync_once(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.failed_sync_retried {
            return false;
        }
        true
    }

    pub(super) fn sync_before_ack(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.ack_before_fsync {
            return false;
        }
        true
    }
}

/// Why the log did not do it, by what the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// Something that was durable cannot be read. Do not start; tell the operator the file and offset.
    Damaged {
        /// Name within the data directory.
        file: String,
        /// Where in it, bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// No room. Nothing was appended; the log is usable. Refuse writes, free room, call [`Log::prepare`].
    Full,
    /// The log has stopped for good (a failed write or fsync, or a seal). Answer errors; restart to go on.
    Stopped(String),
    /// The batch can never be appended: bytes and the limit. Nothing was appended.
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// Most that a batch may have.
        limit: u64,
    },
    /// The batch contradicts the log (a hole in a group's entries, a mark that goes back): a bug of the caller. Nothing was
    /// appended.
    Misuse(String),
    /// The disk failed while reading or during upkeep; the log itself is not in doubt.
    Disk(String),
    /// The visitor of a replay refused a record.
    Refused(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Damaged { file, offset, what } => write!(f, "{file} is damaged at byte {offset}: {what}"),
            LogError::Full => f.write_str("no room for the log"),
            LogError::Stopped(why) => write!(f, "the log has stopped: {why}"),
            LogError::TooLarge { bytes, limit } => write!(f, "a batch of {bytes} bytes is above the limit of {limit}"),
            LogError::Misuse(what) => write!(f, "wrong use of the log: {what}"),
            LogError::Disk(why) => write!(f, "disk: {why}"),
            LogError::Refused(why) => write!(f, "the log's content was refused: {why}"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> LogError {
        match error {
            DiskError::Full => LogError::Full,
            DiskError::NotFound => LogError::Disk("a file vanished while in use".to_string()),
            DiskError::Failed(why) => LogError::Disk(why),
        }
    }
}

/// Which room an append may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All but the reserve.
    Normal,
    /// The reserve too: deletes, expiry, whatever frees room.
    Reserve,
    /// Down to the last byte: snapshot marks and hard states that go with them.
    Compaction,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the batch, from 1, without gaps.
    pub sequence: u64,
    /// Number of the segment.
    pub segment: u64,
    /// Where in the segment's file the batch starts.
    pub offset: u64,
}

/// A batch that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where.
    pub position: Position,
    /// Bytes that it took.
    pub bytes: u64,
}

/// A torn tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which file.
    pub file: String,
    /// From where.
    pub offset: u64,
    /// Up to how many bytes of it showed traces of a batch.
    pub bytes: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was no log; a new one was made.
    pub fresh: bool,
    /// The log ended with a clean stop.
    pub sealed: bool,
    /// What was cut off: never acknowledged, or see "What a lone node cannot tell".
    pub cut: Option<Cut>,
    /// Batches read.
    pub batches: u64,
    /// Records read.
    pub records: u64,
    /// Entries delivered.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Sequence of the last batch.
    pub sequence: u64,
    /// Identity of the log.
    pub log_id: u64,
    /// The node that it belongs to.
    pub node: u64,
}

/// The log's state, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Segments of the log.
    pub segments: usize,
    /// Spare files ready.
    pub spares: usize,
    /// Old segments waiting for upkeep.
    pub retired: usize,
    /// Bytes of batches.
    pub used_bytes: u64,
    /// Bytes of all the log's files.
    pub disk_bytes: u64,
    /// Sequence of the last batch; all up to it is durable.
    pub sequence: u64,
    /// Number of the oldest segment and of the one being written.
    pub oldest: u64,
    /// See `oldest`.
    pub current: u64,
    /// Only deletes and compaction are taken, out of the reserve.
    pub in_reserve: bool,
    /// The last try to make a spare found no room.
    pub full: bool,
    /// Why the log stopped, if it did.
    pub stopped: Option<String>,
    /// Segments that had to be made while an append waited.
    pub unprepared: u64,
    /// The group that keeps the oldest segment, and the index up to which it would have to be compacted.
    pub pinned: Option<(GroupId, u64)>,
}

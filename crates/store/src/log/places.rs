//! Where entries lie in the log's files, so that what an entry carries can be read from where it was written once.
//!
//! Node-local: the same entry lies elsewhere in every node's log. Eight bytes for each entry that the log holds; it is noted when
//! the entry is durable, and at the start from the replay, so it needs no file of its own. Segments are recycled while somebody
//! may be reading: whoever reads checks what the bytes say of themselves ([`Reader::read`]) and looks again if they are another's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::GroupId;
use parking_lot::RwLock;

use super::format::{BATCHES_AT, RECORD_HEADER, get_u32, get_u64, kind};
use super::open::segment_name;
use super::reader::segment_capacity;
use crate::disk::{Disk, OpenFiles, ReadError, Wait, read_whole};

/// Segments whose files a [`Reader`] keeps open.
const FILES_MAX: usize = 16;
/// What stands before the wanted bytes of an entry is read along with them up to so many bytes: one call instead of two.
const LEAD_BYTES_MAX: usize = 4 << 10;

/// Where one entry's record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    segment: u32,
    offset: u32,
}

/// Where some of what an entry carries lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's number ([`segment_name`]); they grow.
    pub segment: u32,
    /// The byte in it.
    pub position: u64,
}

impl Place {
    /// The file's name.
    pub fn file(&self) -> String {
        segment_name(u64::from(self.segment))
    }
}

#[derive(Debug, Default)]
struct Lane {
    /// Index of the first spot's entry.
    first: u64,
    spots: VecDeque<Spot>,
}

impl Lane {
    fn next(&self) -> u64 {
        self.first + self.spots.len() as u64
    }

    fn note(&mut self, index: u64, spot: Spot) {
        if index < self.first || index > self.next() {
            // Behind a snapshot, or the first one.
            self.spots.clear();
            self.first = index;
        }
        // It replaces the entry of its index and all that follow.
        self.spots.truncate((index - self.first) as usize);
        self.spots.push_back(spot);
    }
}

/// Where the entries of all groups lie.
#[derive(Debug, Default)]
pub struct Places {
    lanes: RwLock<BTreeMap<GroupId, Lane>>,
}

impl Places {
    /// Entries that became durable with a batch whose records begin at `offset` of this segment.
    pub(super) fn note(&self, segment: u64, offset: u64, entries: impl Iterator<Item = (GroupId, u64, u32)>) {
        let mut lanes = self.lanes.write();
        for (group, index, at) in entries {
            let (Ok(segment), Ok(offset)) = (u32::try_from(segment), u32::try_from(offset + u64::from(at))) else {
                // Four billion segments, or a segment of four gigabytes: both far beyond what the log makes.
                continue;
            };
            lanes.entry(group).or_default().note(index, Spot { segment, offset });
        }
    }

    /// Whether an entry follows the last one of its group, or replaces one. In a log with holes only what stands before the first of
    /// them counts.
    pub(super) fn follows(&self, group: GroupId, index: u64) -> bool {
        self.lanes.read().get(&group).is_none_or(|lane| index <= lane.next())
    }

    /// A snapshot took the place of the group's entries up to this index: what follows it follows in the log, though that jumps.
    pub(super) fn restart(&self, group: GroupId, index: u64) {
        let mut lanes = self.lanes.write();
        let lane = lanes.entry(group).or_default();
        lane.spots.clear();
        lane.first = index + 1;
    }

    /// Segments below this number are no part of the log any more.
    pub(super) fn forget_before(&self, oldest: u64) {
        let mut lanes = self.lanes.write();
        for lane in lanes.values_mut() {
            while lane.spots.front().is_some_and(|spot| u64::from(spot.segment) < oldest) {
                lane.spots.pop_front();
                lane.first += 1;
            }
            if lane.spots.capacity() > 1024 && lane.spots.len() < lane.spots.capacity() / 4 {
                lane.spots.shrink_to(lane.spots.len() * 2);
            }
        }
    }

    fn find(&self, group: GroupId, index: u64) -> Option<Spot> {
        let lanes = self.lanes.read();
        let lane = lanes.get(&group)?;
        let at = usize::try_from(index.checked_sub(lane.first)?).ok()?;
        lane.spots.get(at).copied()
    }

    /// How many entries are known.
    pub fn len(&self) -> usize {
        self.lanes.read().values().map(|lane| lane.spots.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads parts of entries, from any thread.
pub struct Reader<D: Disk> {
    disk: D,
    places: Arc<Places>,
    files: OpenFiles<u32, D::File>,
}

impl<D: Disk> Reader<D> {
    /// Reads from the files of the log that these are the places of.
    pub fn new(disk: D, places: Arc<Places>) -> Reader<D> {
        Reader { disk, places, files: OpenFiles::new(FILES_MAX) }
    }

    /// `len` bytes from byte `at` of an entry's data, appended to `out`.
    ///
    /// Whether they are sound is for their own checksum to say: a segment may be recycled under the reader's hands, so if that
    /// fails, ask once more; what the log holds is found again, the rest is [`ReadError::Gone`].
    ///
    /// # Errors
    /// See [`ReadError`]; then nothing was appended.
    pub fn read(
        &self,
        group: GroupId,
        index: u64,
        (at, len): (u32, u32),
        out: &mut Vec<u8>,
        wait: Wait,
    ) -> Result<(), ReadError> {
        let (begin, mut tried) = (out.len(), None);
        loop {
            // The same place a second time, and it is another's: the places are behind, so the entry has gone.
            let spot = self.places.find(group, index).filter(|spot| tried != Some(*spot)).ok_or(ReadError::Gone)?;
            let read = self.read_at(spot, group, index, (at as usize, len as usize), out, wait);
            if read.is_err() {
                out.truncate(begin);
            }
            if read != Err(ReadError::Gone) {
                return read;
            }
            self.files.forget(|segment| segment == spot.segment);
            tried = Some(spot);
        }
    }

    /// The file that holds this byte of an entry's data now, and where in it. `None`: the log does not hold the entry.
    pub fn place(&self, group: GroupId, index: u64, at: u32) -> Option<Place> {
        let Spot { segment, offset } = self.places.find(group, index)?;
        Some(Place { segment, position: u64::from(offset) + RECORD_HEADER as u64 + u64::from(at) })
    }

    /// Bytes that the segment of this place has room for. `None`: it has gone.
    pub fn room(&self, place: Place) -> Option<u64> {
        let capacity = segment_capacity(&self.disk.open(&place.file()).ok()?).ok()??;
        Some(capacity.saturating_sub(BATCHES_AT))
    }

    /// `Gone` where another record stands there.
    fn read_at(
        &self,
        spot: Spot,
        group: GroupId,
        index: u64,
        (at, len): (usize, usize),
        out: &mut Vec<u8>,
        wait: Wait,
    ) -> Result<(), ReadError> {
        let file = self.files.get(spot.segment, || self.disk.open(&segment_name(u64::from(spot.segment))))?;
        let (offset, begin) = (u64::from(spot.offset), out.len());
        // One read for all, or one for the head and one for what is wanted.
        let (lead, first) =
            if at <= LEAD_BYTES_MAX { (RECORD_HEADER + at, RECORD_HEADER + at + len) } else { (0, RECORD_HEADER) };
        out.resize(begin + first, 0);
        read_whole(&*file, offset, &mut out[begin..], wait)?;
        let head = &out[begin..begin + RECORD_HEADER];
        let holds = head[8] == kind::ENTRY
            && get_u32(head, 12) == group.0
            && get_u64(head, 16) == index
            && at + len <= get_u32(head, 4) as usize;
        if !holds {
            return Err(ReadError::Gone);
        }
        if lead > 0 {
            out.drain(begin..begin + lead);
            return Ok(());
        }
        out.resize(begin + len, 0);
        read_whole(&*file, offset + (RECORD_HEADER + at) as u64, &mut out[begin..], wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;
    use crate::log::{Batch, Log, LogOptions, Room};

    fn body(group: u32, index: u64, length: usize) -> Vec<u8> {
        (0..length).map(|at| (u64::from(group) * 31 + index * 7 + at as u64) as u8).collect()
    }

    fn options() -> LogOptions {
        LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
    }

    fn expect(reader: &Reader<MemDisk>, group: u32, index: u64, at: usize, length: usize) {
        let mut out = b"before".to_vec();
        let whole = body(group, index, 300 + index as usize * 50);
        reader.read(GroupId(group), index, (at as u32, length as u32), &mut out, Wait::No).expect("it is in the log");
        assert_eq!(out[6..], whole[at..at + length], "group {group}, entry {index}");
        assert_eq!(&out[..6], b"before");
    }

    #[test]
    fn every_entry_is_found_where_it_was_written_also_after_a_restart() {
        let disk = MemDisk::new();
        let (mut log, _) = Log::open(disk.clone(), options(), &mut |_| Ok(())).expect("a new log");
        log.prepare().expect("room");
        for round in 0..60u64 {
            let mut batch = Batch::new();
            for group in 1..=3 {
                for index in [2 * round + 1, 2 * round + 2] {
                    batch.entry(GroupId(group), index, 1, 0, &body(group, index, 300 + index as usize * 50));
                }
            }
            log.append(&mut batch, Room::Normal).expect("room");
            log.prepare().expect("room");
        }
        let reader = Reader::new(disk.clone(), log.places().clone());
        let check = |reader: &Reader<MemDisk>| {
            for group in 1..=3 {
                for index in 1..=120 {
                    let length = 300 + index as usize * 50;
                    expect(reader, group, index, 0, length);
                    expect(reader, group, index, 17, 100);
                    expect(reader, group, index, length - 5, 5);
                }
            }
        };
        check(&reader);
        let mut out = Vec::new();
        assert_eq!(reader.read(GroupId(1), 121, (0, 1), &mut out, Wait::Yes), Err(ReadError::Gone));
        assert_eq!(reader.read(GroupId(9), 1, (0, 1), &mut out, Wait::Yes), Err(ReadError::Gone));
        assert_eq!(
            reader.read(GroupId(1), 1, (340, 20), &mut out, Wait::Yes),
            Err(ReadError::Gone),
            "longer than the entry"
        );
        drop(log);
        let (log, _) = Log::open(disk.clone(), options(), &mut |_| Ok(())).expect("it opens again");
        assert_eq!(log.places().len(), 360);
        check(&Reader::new(disk, log.places().clone()));
    }

    #[test]
    fn what_was_replaced_or_compacted_is_gone_and_a_recycled_segment_is_not_taken_for_it() {
        let disk = MemDisk::new();
        let (mut log, _) = Log::open(disk.clone(), options(), &mut |_| Ok(())).expect("a new log");
        log.prepare().expect("room");
        let put = |log: &mut Log<MemDisk>, index: u64, byte: u8| {
            let mut batch = Batch::new();
            batch.entry(GroupId(1), index, 1, 0, &vec![byte; 9000]);
            log.append(&mut batch, Room::Normal).expect("room");
            log.prepare().expect("room");
        };
        for index in 1..=5 {
            put(&mut log, index, index as u8);
        }
        put(&mut log, 3, 33);
        let reader = Reader::new(disk.clone(), log.places().clone());
        let read = |index: u64| {
            let mut out = Vec::new();
            reader.read(GroupId(1), index, (8000, 2), &mut out, Wait::Yes).map(|()| out)
        };
        assert_eq!(read(2), Ok(vec![2, 2]));
        assert_eq!(read(3), Ok(vec![33, 33]));
        assert_eq!(read(4), Err(ReadError::Gone));
        for index in 4..=20 {
            put(&mut log, index, index as u8);
        }
        assert_eq!(read(1), Ok(vec![1, 1]));
        log.compact(GroupId(1), 15, 1).expect("compacted");
        for index in 21..=60 {
            put(&mut log, index, index as u8);
        }
        assert_eq!(read(1), Err(ReadError::Gone));
        assert_eq!(read(60), Ok(vec![60, 60]));
        assert!(log.places().len() < 60);
    }
}

//! Extent files: what outlives the log's truncation and is too large for a snapshot, copied out of the log once, or left where it lies.
//!
//! ```text
//! header   0  magic u32   4  version u32   8  group u32   12 zero u32   16 index u64   24 node u64   32 zero u32
//!         36  crc u32 (of 0..36)
//! items    the bytes of stretch after stretch
//! index    count, then for each stretch: owner 16 bytes, part, base, end, position, bytes, rows, (base, position, stamp)*
//! trailer  0  index position u64   8  index length u64   16  index crc u32   20  magic u32
//!         24  crc u32 (of the header's crc, and 0..24)      28  zero u32
//! ```
//!
//! A *stretch* is a run of items of one owner without a gap, numbered by their owner; its *rows* say where about every 64 KiB begins,
//! so that a file needs no more memory than that. What an item is, and its checksum, are its owner's business. A file is
//! written under another name, synced and renamed; one that bears its name was whole once. Snapshots name the files that they need.
//!
//! A *linked* file ([`link`]) is a segment of the log that holds little else than what is wanted: index and trailer are written behind
//! its end, and it gets a second name, under which it stays when the log lets go of it. Nothing is copied. Its trailer has a magic of
//! its own, a stretch for each entry, and the items are *raw*: as they came, which their owner knows to put right.

use base::GroupId;

use crate::codec::{Corrupt, Input, put_u64, put_varint};
use crate::disk::{Disk, DiskError, DiskFile, OpenFiles, ReadError, Wait, read_whole};
use crate::log::{LogError, segment_capacity};

const MAGIC: u32 = u32::from_le_bytes(*b"QEXT");
/// In the trailer of a linked file.
const LINKED: u32 = u32::from_le_bytes(*b"QEXL");
const VERSION: u32 = 1;
const HEADER: usize = 40;
const TRAILER: usize = 32;
/// Bytes of a stretch for which there is a row.
const ROW_BYTES: u64 = 64 << 10;
/// Bytes after which the writer syncs by itself: an append on the same disk never waits behind a heap of dirty pages.
const SYNC_BYTES: u64 = 4 << 20;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Largest index that is believed: a rotten trailer can cost no more memory.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Which file: the group's entries up to `index` that this node copied out. Files move between nodes, so the node is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentId {
    /// Whose log.
    pub group: GroupId,
    /// Everything in it was in the log up to here.
    pub index: u64,
    /// Who wrote it.
    pub node: u64,
}

/// Whose items: a number of the owner's choice, and one of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The owner.
    pub id: u128,
    /// Its part.
    pub part: u32,
}

/// Where some of a stretch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The first item there.
    pub base: u64,
    /// Its byte in the file.
    pub position: u64,
    /// The greatest stamp of the items up to the next row.
    pub stamp: i64,
}

/// Items of one owner without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whose.
    pub owner: Owner,
    /// The first item.
    pub base: u64,
    /// Behind the last one.
    pub end: u64,
    /// Its first byte in the file.
    pub position: u64,
    /// Its bytes.
    pub bytes: u64,
    /// In order; the first one is its beginning.
    pub rows: Vec<Row>,
    /// Whether the items are as they came, in a linked file: then there is one row.
    pub is_raw: bool,
}

/// The name of a file.
pub fn extent_name(id: ExtentId) -> String {
    format!("extent-{:08x}-{:016x}-{:x}.ext", id.group.0, id.index, id.node)
}

/// Which file a name speaks of.
pub fn parse_name(name: &str) -> Option<ExtentId> {
    let mut words = name.strip_prefix("extent-")?.strip_suffix(".ext")?.split('-');
    let group = GroupId(u32::from_str_radix(words.next()?, 16).ok()?);
    let index = u64::from_str_radix(words.next()?, 16).ok()?;
    let node = u64::from_str_radix(words.next()?, 16).ok()?;
    let id = ExtentId { group, index, node };
    (extent_name(id) == name).then_some(id)
}

fn unfinished_name(id: ExtentId) -> String {
    format!("{}.tmp", extent_name(id))
}

/// The name of a file of which parts are missing: it comes from another node ([`crate::snapshot::Arrival`]).
pub(crate) fn part_name(id: ExtentId) -> String {
    format!("{}.part", extent_name(id))
}

/// The name of a file that has come together with the snapshot at `index` and belongs to that one alone, until it is adopted: whatever
/// becomes of the group's other files, or of what other nodes send, is none of its business.
fn arrived_name(id: ExtentId, index: u64) -> String {
    format!("{}.inst-{index:016x}", extent_name(id))
}

/// Which file a name of that form speaks of, and with which snapshot it came.
fn parse_arrived(name: &str) -> Option<(ExtentId, u64)> {
    let (name, index) = name.split_once(".inst-")?;
    let (id, index) = (parse_name(name)?, u64::from_str_radix(index, 16).ok()?);
    Some((id, index))
}

/// The group's files that came with the snapshot at `index`.
fn arrived_with<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<Vec<ExtentId>, LogError> {
    let names = disk.list()?;
    let own = names.iter().filter_map(|name| parse_arrived(name));
    Ok(own.filter(|(id, with)| id.group == group && *with == index).map(|(id, _)| id).collect())
}

/// A file that has come with the snapshot at `index` is whole. The directory is not synced.
pub(crate) fn arrived<D: Disk>(disk: &D, id: ExtentId, index: u64) -> Result<(), LogError> {
    let part = part_name(id);
    index_of(disk, &part, id)?;
    Ok(disk.rename(&part, &arrived_name(id, index))?)
}

/// The snapshot at `index`, which came from another node, is one like the others now, and so are its files. The directory is not
/// synced.
pub(crate) fn adopt<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<(), LogError> {
    for id in arrived_with(disk, group, index)? {
        disk.rename(&arrived_name(id, index), &extent_name(id))?;
    }
    Ok(())
}

/// Nobody wants the snapshot at `index`, nor what came with it.
pub(crate) fn discard<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<(), LogError> {
    for id in arrived_with(disk, group, index)? {
        disk.remove(&arrived_name(id, index))?;
    }
    Ok(())
}

/// A file, also where it has come and has not been adopted yet: files of one name hold the same.
fn open<D: Disk>(disk: &D, id: ExtentId) -> Result<D::File, DiskError> {
    match disk.open(&extent_name(id)) {
        Err(DiskError::NotFound) => {}
        other => return other,
    }
    let names = disk.list()?;
    let arrived = names.iter().find(|name| parse_arrived(name).is_some_and(|(other, _)| other == id));
    match disk.open(arrived.ok_or(DiskError::NotFound)?) {
        // It was adopted just now.
        Err(DiskError::NotFound) => disk.open(&extent_name(id)),
        other => other,
    }
}

fn encode_header(id: ExtentId) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    head[4..8].copy_from_slice(&VERSION.to_le_bytes());
    head[8..12].copy_from_slice(&id.group.0.to_le_bytes());
    head[16..24].copy_from_slice(&id.index.to_le_bytes());
    head[24..32].copy_from_slice(&id.node.to_le_bytes());
    let crc = crc32c::crc32c(&head[..36]);
    head[36..40].copy_from_slice(&crc.to_le_bytes());
    head
}

fn encode_index(stretches: &[Stretch], out: &mut Vec<u8>) {
    put_varint(out, stretches.len() as u64);
    for stretch in stretches {
        out.extend_from_slice(&stretch.owner.id.to_le_bytes());
        put_varint(out, u64::from(stretch.owner.part));
        put_varint(out, stretch.base);
        put_varint(out, stretch.end - stretch.base);
        put_varint(out, stretch.position);
        put_varint(out, stretch.bytes);
        put_varint(out, stretch.rows.len() as u64);
        for row in &stretch.rows {
            put_varint(out, row.base - stretch.base);
            put_varint(out, row.position - stretch.position);
            put_u64(out, row.stamp as u64);
        }
    }
}

fn decode_index(mut input: Input<'_>, items_end: u64, is_raw: bool) -> Result<Vec<Stretch>, Corrupt> {
    let count = input.count()?;
    let mut stretches = Vec::with_capacity(count.min(1 << 16));
    for _ in 0..count {
        let id: [u8; 16] = input.take(16)?.try_into().expect("sixteen bytes were taken");
        let part = u32::try_from(input.varint()?).map_err(|_| Corrupt("a part's number is too large"))?;
        let base = input.varint()?;
        let end = base.checked_add(input.varint()?).ok_or(Corrupt("a stretch has no end"))?;
        let (position, bytes) = (input.varint()?, input.varint()?);
        let last = position.checked_add(bytes).filter(|last| *last <= items_end);
        if position < HEADER as u64 || last.is_none() || end == base {
            return Err(Corrupt("a stretch lies outside the file"));
        }
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..input.count()? {
            let row = Row {
                base: base.saturating_add(input.varint()?),
                position: position.saturating_add(input.varint()?),
                stamp: input.u64()? as i64,
            };
            let follows = rows.last().is_none_or(|last| last.base < row.base && last.position < row.position);
            let begins = !rows.is_empty() || (row.base == base && row.position == position);
            if !follows || !begins || row.base >= end || row.position >= position + bytes {
                return Err(Corrupt("a row lies outside its stretch"));
            }
            rows.push(row);
        }
        if rows.is_empty() || is_raw && rows.len() > 1 {
            return Err(Corrupt("a stretch without rows, or one of a linked file with several"));
        }
        stretches.push(Stretch {
            owner: Owner { id: u128::from_le_bytes(id), part },
            base,
            end,
            position,
            bytes,
            rows,
            is_raw,
        });
    }
    if input.is_empty() { Ok(stretches) } else { Err(Corrupt("bytes behind the index")) }
}

/// A file being written. Dropped before [`Writer::finish`] it leaves only a file that [`sweep`] removes.
pub struct Writer<D: Disk> {
    disk: D,
    file: D::File,
    id: ExtentId,
    stretches: Vec<Stretch>,
    buffer: Vec<u8>,
    /// Where the buffer begins.
    written: u64,
    synced: u64,
}

impl<D: Disk> Writer<D> {
    /// Begins a file; one of the same name that was begun before is void.
    ///
    /// # Errors
    /// `Full`, `Disk`.
    pub fn begin(disk: &D, id: ExtentId) -> Result<Writer<D>, LogError> {
        let name = unfinished_name(id);
        match disk.remove(&name) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let file = disk.create(&name)?;
        let buffer = encode_header(id).to_vec();
        Ok(Writer { disk: disk.clone(), file, id, stretches: Vec::new(), buffer, written: 0, synced: 0 })
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends `count` items from `base` on, whose greatest stamp is `stamp`. They join the last stretch where they follow it.
    /// No item is torn: a read by rows gets whole calls of this.
    ///
    /// # Errors
    /// `Full`, `Disk`: the file is void then.
    pub fn put(&mut self, owner: Owner, base: u64, count: u64, stamp: i64, bytes: &[u8]) -> Result<(), LogError> {
        assert!(count > 0 && !bytes.is_empty(), "nothing is not copied out");
        let position = self.position();
        let joins = self.stretches.last_mut().filter(|last| last.owner == owner && last.end == base);
        match joins {
            Some(stretch) => {
                stretch.end += count;
                stretch.bytes += bytes.len() as u64;
                let last = stretch.rows.last_mut().expect("a stretch begins with a row");
                if position - last.position >= ROW_BYTES {
                    stretch.rows.push(Row { base, position, stamp });
                } else {
                    last.stamp = last.stamp.max(stamp);
                }
            }
            None => {
                let rows = vec![Row { base, position, stamp }];
                let (end, bytes) = (base + count, bytes.len() as u64);
                self.stretches.push(Stretch { owner, base, end, position, bytes, rows, is_raw: false });
            }
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.file.write_at(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Makes the file whole and durable under its name. Returns what is in it.
    ///
    /// # Errors
    /// `Full`, `Disk`: then it is not there.
    pub fn finish(mut self) -> Result<Vec<Stretch>, LogError> {
        let mut end = encode_end(self.id, MAGIC, self.position(), &self.stretches);
        self.buffer.append(&mut end);
        self.flush()?;
        self.file.sync()?;
        self.disk.rename(&unfinished_name(self.id), &extent_name(self.id))?;
        self.disk.sync_dir()?;
        Ok(self.stretches)
    }
}

/// Makes a segment of the log an extent file, too, in which these raw stretches lie; it is durable under that name then. `None`: it
/// cannot be one, for it is one already, or has gone, or the file system gives no file two names; copy, then. `is_there` says, asked
/// when the name is made, whether the log still has the segment: what happens to it afterwards happens to a name.
///
/// The segment must be one that the log appends to no more.
///
/// # Errors
/// `Full`, `Disk`.
pub fn link<D: Disk>(
    disk: &D,
    id: ExtentId,
    segment: &str,
    stretches: &[Stretch],
    is_there: impl FnOnce() -> bool,
) -> Result<Option<()>, LogError> {
    let mut file = match disk.open(segment) {
        Err(DiskError::NotFound) => return Ok(None),
        opened => opened?,
    };
    let len = file.len()?;
    if segment_capacity(&file)? != Some(len) {
        return Ok(None);
    }
    file.write_at(len, &encode_end(id, LINKED, len, stretches))?;
    file.sync()?;
    let name = extent_name(id);
    match disk.remove(&name) {
        Ok(()) | Err(DiskError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    match disk.link(segment, &name) {
        Ok(()) => {}
        Err(DiskError::Full) => return Err(LogError::Full),
        // Whatever ails the disk is found by the copy.
        Err(_) => return Ok(None),
    }
    if !is_there() {
        disk.remove(&name)?;
        return Ok(None);
    }
    disk.sync_dir()?;
    Ok(Some(()))
}

/// Index and trailer of a file whose items end at `position`.
fn encode_end(id: ExtentId, magic: u32, position: u64, stretches: &[Stretch]) -> Vec<u8> {
    let mut end = Vec::new();
    encode_index(stretches, &mut end);
    let mut trailer = [0; TRAILER];
    trailer[0..8].copy_from_slice(&position.to_le_bytes());
    trailer[8..16].copy_from_slice(&(end.len() as u64).to_le_bytes());
    trailer[16..20].copy_from_slice(&crc32c::crc32c(&end).to_le_bytes());
    trailer[20..24].copy_from_slice(&magic.to_le_bytes());
    let crc = trailer_crc(id, &trailer[..24]);
    trailer[24..28].copy_from_slice(&crc.to_le_bytes());
    end.extend_from_slice(&trailer);
    end
}

fn trailer_crc(id: ExtentId, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&encode_header(id)), rest)
}

/// Reads what is in a file: its index, not its items.
///
/// # Errors
/// `Damaged`, with the place; `Disk`.
pub fn stretches<D: Disk>(disk: &D, id: ExtentId) -> Result<Vec<Stretch>, LogError> {
    index_in(open(disk, id), &extent_name(id), id)
}

fn index_of<D: Disk>(disk: &D, name: &str, id: ExtentId) -> Result<Vec<Stretch>, LogError> {
    index_in(disk.open(name), name, id)
}

fn index_in<F: DiskFile>(opened: Result<F, DiskError>, name: &str, id: ExtentId) -> Result<Vec<Stretch>, LogError> {
    let damaged = |offset: u64, what: &str| LogError::Damaged { file: name.to_owned(), offset, what: what.to_owned() };
    let file = match opened {
        Ok(file) => file,
        Err(DiskError::NotFound) => return Err(damaged(0, "the file is missing, and a snapshot needs it")),
        Err(error) => return Err(error.into()),
    };
    let len = file.len()?;
    let trailer_at = len.checked_sub(TRAILER as u64).filter(|at| *at >= HEADER as u64);
    let trailer_at = trailer_at.ok_or_else(|| damaged(len, "the file is cut short"))?;
    let mut trailer = [0; TRAILER];
    file.read_at(trailer_at, &mut trailer)?;
    let word = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes"));
    let is_raw = half(20) == LINKED;
    if half(20) != MAGIC && !is_raw || half(24) != trailer_crc(id, &trailer[..24]) {
        return Err(damaged(trailer_at, "the trailer fails its checksum"));
    }
    let mut head = [0; HEADER];
    if !is_raw && (file.read_at(0, &mut head)? < HEADER || head != encode_header(id)) {
        return Err(damaged(0, "this is not the header of this extent file"));
    }
    let (position, length) = (word(0), word(8));
    if length > INDEX_BYTES_MAX || position.checked_add(length) != Some(trailer_at) {
        return Err(damaged(trailer_at, "the index is not where the trailer says"));
    }
    let mut index = vec![0; length as usize];
    file.read_at(position, &mut index)?;
    if crc32c::crc32c(&index) != half(16) {
        return Err(damaged(position, "the index fails its checksum"));
    }
    decode_index(Input::new(&index), position, is_raw).map_err(|corrupt| damaged(position, corrupt.0))
}

/// Files that a [`Reader`] keeps open.
const FILES_MAX: usize = 64;

/// Reads items out of files, from any thread.
pub struct Reader<D: Disk> {
    disk: D,
    files: OpenFiles<ExtentId, D::File>,
}

impl<D: Disk> Reader<D> {
    /// Reads the files of this directory.
    pub fn new(disk: D) -> Reader<D> {
        Reader { disk, files: OpenFiles::new(FILES_MAX) }
    }

    /// `len` bytes from `position` of a file, appended to `out`. Whether they are sound is for their own checksum to say.
    ///
    /// # Errors
    /// See [`ReadError`]; then nothing was appended.
    pub fn read(
        &self,
        id: ExtentId,
        (position, len): (u64, u32),
        out: &mut Vec<u8>,
        wait: Wait,
    ) -> Result<(), ReadError> {
        let file = self.files.get(id, || open(&self.disk, id))?;
        let begin = out.len();
        out.resize(begin + len as usize, 0);
        read_whole(&*file, position, &mut out[begin..], wait).inspect_err(|_| out.truncate(begin))
    }

    /// These files have gone: their room is free once nobody holds them open.
    pub fn forget(&self, gone: impl Fn(ExtentId) -> bool) {
        self.files.forget(gone);
    }
}

/// The names of the group's files that are there; not those that came with a snapshot which has not been adopted.
///
/// # Errors
/// `Disk`.
pub fn list<D: Disk>(disk: &D, group: GroupId) -> Result<Vec<ExtentId>, LogError> {
    let names = disk.list()?;
    Ok(names.iter().filter_map(|name| parse_name(name)).filter(|id| id.group == group).collect())
}

/// Removes the group's files that are not named. Returns how many went.
///
/// # Errors
/// `Disk`; what is left only costs room.
pub fn remove_others<D: Disk>(disk: &D, group: GroupId, keep: &[ExtentId]) -> Result<usize, LogError> {
    let mut gone = 0;
    for id in list(disk, group)?.into_iter().filter(|id| !keep.contains(id)) {
        disk.remove(&extent_name(id))?;
        gone += 1;
    }
    if gone > 0 {
        disk.sync_dir()?;
    }
    Ok(gone)
}

/// Removes files that were begun and never finished, here or by another node, and those that came with a snapshot which is not
/// there. For the start, when nobody is writing one.
///
/// # Errors
/// `Disk`.
pub fn sweep<D: Disk>(disk: &D) -> Result<(), LogError> {
    for name in disk.list()? {
        let unfinished = name.strip_suffix(".tmp").or(name.strip_suffix(".part")).and_then(parse_name).is_some();
        let orphan = || parse_arrived(&name).map(|(id, index)| crate::snapshot::has_arrived(disk, id.group, index));
        if unfinished || matches!(orphan().transpose()?, Some(false)) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    const ID: ExtentId = ExtentId { group: GroupId(3), index: 77, node: 2 };

    fn written() -> (MemDisk, Vec<Stretch>) {
        let disk = MemDisk::new();
        let mut writer = Writer::begin(&disk, ID).expect("a file");
        for part in 0..3u32 {
            let owner = Owner { id: 7 << 100, part };
            for n in 0..200u64 {
                let bytes = vec![(n + u64::from(part)) as u8; 2000];
                // Part 1 has a gap in the middle.
                let base = 10 * n + if part == 1 && n >= 100 { 5 } else { 0 };
                writer.put(owner, base, 10, n as i64, &bytes).expect("room");
            }
        }
        let stretches = writer.finish().expect("room");
        (disk, stretches)
    }

    #[test]
    fn what_was_put_is_found_by_its_rows() {
        let (disk, stretches) = written();
        assert_eq!(super::stretches(&disk, ID).expect("sound"), stretches);
        assert_eq!(stretches.len(), 4);
        let reader = Reader::new(disk.clone());
        for stretch in &stretches {
            assert!(stretch.rows.len() > 2);
            for row in &stretch.rows {
                let n = (row.base - if row.base >= 1005 && stretch.base > 0 { 5 } else { 0 }) / 10;
                let mut bytes = Vec::new();
                reader.read(ID, (row.position, 2000), &mut bytes, Wait::No).expect("there");
                assert_eq!(bytes, [(n + u64::from(stretch.owner.part)) as u8; 2000]);
                assert!(row.stamp >= n as i64);
            }
        }
        assert_eq!(parse_name(&extent_name(ID)), Some(ID));
        assert_eq!(list(&disk, GroupId(3)).expect("a list"), [ID]);
        assert_eq!(remove_others(&disk, GroupId(3), &[ID]).expect("removed"), 0);
        assert_eq!(remove_others(&disk, GroupId(3), &[]).expect("removed"), 1);
    }

    #[test]
    fn any_flipped_bit_of_header_index_or_trailer_is_seen_and_a_cut_file_too() {
        let (disk, stretches) = written();
        let name = extent_name(ID);
        let whole = disk.get(&name).expect("there");
        let items: u64 = stretches.iter().map(|stretch| stretch.bytes).sum();
        let outside = (0..HEADER).chain(HEADER + items as usize..whole.len() - 4);
        for at in outside {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            disk.put(&name, bytes);
            assert!(matches!(super::stretches(&disk, ID), Err(LogError::Damaged { .. })), "byte {at}");
        }
        for len in [0, 39, 40, 71, whole.len() - 1, whole.len() / 2] {
            disk.put(&name, whole[..len].to_vec());
            assert!(matches!(super::stretches(&disk, ID), Err(LogError::Damaged { .. })), "cut at {len}");
        }
        disk.remove(&name).expect("there");
        assert!(matches!(super::stretches(&disk, ID), Err(LogError::Damaged { .. })));
    }

    #[test]
    fn a_segment_of_the_log_is_linked_once_and_only_while_the_log_has_it() {
        use crate::log::{Batch, Log, LogOptions, Reader as Entries, Room};
        let disk = MemDisk::new();
        let options = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
        let (mut log, _) = Log::open(disk.clone(), options, &mut |_| Ok(())).expect("a new log");
        for index in 1..=4 {
            let mut batch = Batch::new();
            batch.entry(ID.group, index, 1, 0, &vec![index as u8; 5000]);
            log.append(&mut batch, Room::Normal).expect("room");
        }
        let entries = Entries::new(disk.clone(), log.places().clone());
        let place = entries.place(ID.group, 2, 0).expect("it is in the log");
        let row = Row { base: 20, position: place.position, stamp: 7 };
        let (owner, rows) = (Owner { id: 9, part: 1 }, vec![row]);
        let (position, bytes) = (place.position, 5000);
        let stretches = [Stretch { owner, base: 20, end: 30, position, bytes, rows, is_raw: true }];
        let link = |is_there| super::link(&disk, ID, &place.file(), &stretches, || is_there).expect("room");
        assert_eq!(link(true), Some(()));
        assert_eq!(super::stretches(&disk, ID).expect("sound"), stretches);
        let mut out = Vec::new();
        let reader = Reader::new(disk.clone());
        reader.read(ID, (position, 5000), &mut out, Wait::No).expect("there");
        assert_eq!(out, [2; 5000]);
        // The index of a second file would stand where the first one's reader looks for its own.
        assert_eq!(link(true), None);
        assert_eq!(super::link(&disk, ID, "nothing.log", &stretches, || true).expect("no harm"), None);
        // The log lets go of it, makes a new segment, and goes on: what was linked is as it was.
        log.compact(ID.group, 3, 1).expect("compacted");
        log.prepare().expect("room");
        for index in 5..=20 {
            let mut batch = Batch::new();
            batch.entry(ID.group, index, 1, 0, &vec![index as u8; 5000]);
            log.append(&mut batch, Room::Normal).expect("room");
            log.prepare().expect("room");
        }
        assert_eq!(disk.open(&place.file()).err(), Some(DiskError::NotFound));
        assert_eq!(super::stretches(&disk, ID).expect("sound"), stretches);
        let place = entries.place(ID.group, 8, 0).expect("it is in the log");
        let gone = super::link(&disk, ID, &place.file(), &stretches, || false).expect("room");
        assert_eq!((gone, list(&disk, ID.group).expect("a list")), (None, vec![]));
    }

    #[test]
    fn what_was_begun_and_not_finished_is_swept() {
        let disk = MemDisk::new();
        let writer = Writer::begin(&disk, ID).expect("a file");
        drop(writer);
        assert_eq!(disk.list().expect("a list").len(), 1);
        sweep(&disk).expect("swept");
        assert!(disk.list().expect("a list").is_empty());
    }
}

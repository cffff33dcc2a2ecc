//! What of the partitions lies in extent files instead of the log, and how it gets there.
//!
//! ```text
//!   rows of the log ──(a snapshot begins)──► Copying ──(host: read, stamp)──► extent file ──(snapshot durable)──► held
//!                                                    └─(a segment full of it: link)─► linked one, stamped when read
//! ```
//!
//! All of this is a node's own: the same offsets lie elsewhere on another node. A snapshot holds no row of the log, for it lets go of
//! that; it names the files, and their indexes say the rest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::GroupId;
use store::codec::{Corrupt, Input, put_u64, put_varint};
use store::extent::{ExtentId, Owner, Stretch};

use crate::partition::{Chunk, Partition, Piece, Source, epoch_at};
use crate::state::{PartitionId, Queue};

/// Files that one group may need at a time.
const FILES_MAX: usize = 1 << 18;

/// A stretch, the file that it lies in, and what of it counts: compaction may have written the rest anew elsewhere. Both bounds lie
/// between runs.
#[derive(Debug)]
struct Kept {
    file: ExtentId,
    stretch: Arc<Stretch>,
    from: u64,
    until: u64,
    bytes: u64,
}

impl Kept {
    /// None where nothing counts.
    fn new(file: ExtentId, stretch: &Arc<Stretch>, from: u64, until: u64) -> Option<Arc<Kept>> {
        let mut kept = Kept { file, stretch: stretch.clone(), from, until, bytes: 0 };
        kept.bytes = kept.parts().map(|part| part.bytes).sum();
        (from < until && kept.bytes > 0).then(|| Arc::new(kept))
    }

    /// What is left of it without this range.
    fn without(&self, from: u64, to: u64) -> impl Iterator<Item = Arc<Kept>> {
        let before = Kept::new(self.file, &self.stretch, self.from, self.until.min(from));
        let behind = Kept::new(self.file, &self.stretch, self.from.max(to), self.until);
        before.into_iter().chain(behind)
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let stretch = &self.stretch;
        let parts = stretch.rows.iter().enumerate().map(move |(at, row)| {
            let next = stretch.rows.get(at + 1);
            let end = next.map_or(stretch.end, |next| next.base).min(self.until);
            let behind = next.map_or(stretch.position + stretch.bytes, |next| next.position);
            let (base, position, stamp) = (row.base.max(self.from), row.position, row.stamp);
            let (window, is_raw) = ((self.from, self.until), stretch.is_raw);
            Part { file: self.file, base, end, position, bytes: behind - position, stamp, window, is_raw }
        });
        parts.filter(|part| part.base < part.end)
    }
}

/// What of one partition lies in files, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    kept: VecDeque<Arc<Kept>>,
    bytes: u64,
}

/// Which copy a node reads is no part of what a partition is.
impl PartialEq for Held {
    fn eq(&self, _: &Held) -> bool {
        true
    }
}

impl Eq for Held {}

/// Some of a stretch, as its rows say.
struct Part {
    file: ExtentId,
    base: u64,
    end: u64,
    position: u64,
    bytes: u64,
    stamp: i64,
    window: (u64, u64),
    is_raw: bool,
}

impl Part {
    fn piece(&self, (from, until): (u64, u64)) -> Piece {
        // A row is some 64 KiB and one run at most, which is shorter than an entry.
        let bytes = u32::try_from(self.bytes).expect("a row is shorter than 4 GiB");
        let source = Source::Extent { file: self.file, at: self.position, bytes };
        let (from, until) = (from.max(self.window.0), until.min(self.window.1));
        let (base, count) = (self.base, self.end - self.base);
        // Whoever knows the epochs says which is a raw one's ([`Partition`]).
        Piece { base, count, epoch: 0, append_time: None, source, is_stamped: !self.is_raw, from, until }
    }
}

impl Held {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A stretch takes the place of what was held of its range, but for what `newer` ranges say.
    fn add(&mut self, file: ExtentId, stretch: &Stretch, newer: &[(u64, u64)]) {
        self.cut(stretch.base, stretch.end);
        let mut added: Vec<Arc<Kept>> =
            Kept::new(file, &Arc::new(stretch.clone()), stretch.base, stretch.end).into_iter().collect();
        for (from, to) in newer {
            added = added.iter().flat_map(|kept| kept.without(*from, *to)).collect();
        }
        let at = self.kept.partition_point(|kept| kept.from < stretch.base);
        for (nth, kept) in added.into_iter().enumerate() {
            self.bytes += kept.bytes;
            self.kept.insert(at + nth, kept);
        }
    }

    /// What lies in this range does not count any more.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        let first = self.kept.partition_point(|kept| kept.until <= from);
        let last = self.kept.partition_point(|kept| kept.from < to);
        if first >= last {
            return;
        }
        let behind = self.kept.split_off(last);
        let cut = self.kept.split_off(first);
        self.kept.extend(cut.iter().flat_map(|kept| kept.without(from, to)));
        self.kept.extend(behind);
        self.bytes = self.kept.iter().map(|kept| kept.bytes).sum();
    }

    /// Lets go of the stretches that end at or before `to`. Returns how many bytes went.
    pub(crate) fn trim(&mut self, to: u64) -> u64 {
        let mut gone = 0;
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.until <= to) {
            gone += kept.bytes;
        }
        self.bytes -= gone;
        gone
    }

    fn parts_from(&self, offset: u64) -> impl Iterator<Item = Part> {
        let first = self.kept.partition_point(|kept| kept.until <= offset);
        self.kept.range(first..).flat_map(|kept| kept.parts()).skip_while(move |part| part.end <= offset)
    }

    /// Pieces from the one on that holds the window's first offset.
    pub(crate) fn pieces_from(&self, window: (u64, u64)) -> impl Iterator<Item = Piece> {
        self.parts_from(window.0).map(move |part| part.piece(window))
    }

    /// The first piece that has a record of at least this time.
    pub(crate) fn at_time(&self, target: i64, window: (u64, u64)) -> Option<Piece> {
        self.parts_from(window.0).find(|part| part.stamp >= target).map(|part| part.piece(window))
    }

    /// The largest timestamp.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.parts_from(0).map(|part| part.stamp).max()
    }

    /// Ends, bytes and stamps, oldest first: what retention goes by.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, u64, i64)> {
        self.parts_from(0).map(|part| (part.end, part.bytes, part.stamp))
    }

    fn files(&self) -> impl Iterator<Item = ExtentId> {
        self.kept.iter().map(|kept| kept.file)
    }
}

/// What a snapshot that has begun needs copied out of the log.
#[derive(Clone, Debug)]
pub struct Copying {
    /// The file that it goes to.
    pub file: ExtentId,
    parts: Vec<PartOf>,
}

#[derive(Clone, Debug)]
struct PartOf {
    owner: Owner,
    start: u64,
    epochs: Vec<(i32, u64)>,
    chunks: Vec<Arc<Chunk>>,
}

/// A run of batches to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub owner: Owner,
    /// Where it lies and how it is stamped ([`crate::batch::stamp`]).
    pub piece: Piece,
    /// Its largest timestamp.
    pub stamp: i64,
}

impl Copying {
    /// What to copy, in the order in which it is put.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        self.parts.iter().flat_map(|part| {
            let rows = part.chunks.iter().flat_map(|chunk| chunk.rows()).filter(|row| row.end() > part.start);
            rows.map(|row| {
                let piece = row.piece(epoch_at(&part.epochs, row.base), (0, u64::MAX));
                Run { owner: part.owner, piece, stamp: row.stamp }
            })
        })
    }
}

impl Partition {
    /// What the file's entries hold lies in these stretches now.
    fn copied(&mut self, file: ExtentId, stretches: &[&Stretch]) {
        let newer = self.cleaned_behind(file.index);
        for stretch in stretches {
            if stretch.end > self.start {
                self.held.add(file, stretch, &newer);
            }
        }
    }
}

fn owner(id: PartitionId) -> Owner {
    Owner { id: id.0.0, part: id.1 }
}

impl Queue {
    /// What has to be copied out before the log may let go of everything up to `index`, the entry applied last. `None`: nothing.
    pub fn to_copy(&self, group: GroupId, index: u64, node: u64) -> Option<Copying> {
        let parts = self.partitions().filter(|(_, own)| own.row_count() > 0).map(|(id, own)| PartOf {
            owner: owner(id),
            start: own.start,
            epochs: own.epochs.clone(),
            chunks: own.chunks().cloned().collect(),
        });
        let parts: Vec<PartOf> = parts.collect();
        (!parts.is_empty()).then_some(Copying { file: ExtentId { group, index, node }, parts })
    }

    /// A file is durable, and so is the snapshot that names it: what it holds is read from there from now on. File by file from the
    /// oldest on, then [`Queue::forget_rows`]; also after a restore.
    pub fn copied(&mut self, file: ExtentId, stretches: &[Stretch]) {
        let mut owned: BTreeMap<Owner, Vec<&Stretch>> = BTreeMap::new();
        stretches.iter().for_each(|stretch| owned.entry(stretch.owner).or_default().push(stretch));
        for (id, own) in &mut self.partitions {
            if let Some(theirs) = owned.get(&owner(*id)) {
                Arc::make_mut(own).copied(file, theirs);
            }
        }
    }

    /// The log lets go of all entries up to this one; what they hold has been [`Queue::copied`].
    pub fn forget_rows(&mut self, index: u64) {
        for own in self.partitions.values_mut().filter(|own| own.row_count() > 0) {
            Arc::make_mut(own).forget_rows(index);
        }
    }

    /// Files that this group needs, each once, in order.
    pub fn files(&self) -> Vec<ExtentId> {
        let mut files: Vec<ExtentId> = self.partitions().flat_map(|(_, own)| own.held.files()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// The form in which a snapshot names files.
pub fn put_files(files: &[ExtentId], out: &mut Vec<u8>) {
    put_varint(out, files.len() as u64);
    for file in files {
        put_varint(out, u64::from(file.group.0));
        put_u64(out, file.index);
        put_u64(out, file.node);
    }
}

/// Reads that.
///
/// # Errors
/// Bytes that say nothing of the kind.
pub fn read_files(input: &mut Input<'_>) -> Result<Vec<ExtentId>, Corrupt> {
    let count = input.count()?;
    if count > FILES_MAX {
        return Err(Corrupt("more extent files than a group may have"));
    }
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let group = u32::try_from(input.varint()?).map_err(|_| Corrupt("no such group"))?;
        files.push(ExtentId { group: GroupId(group), index: input.u64()?, node: input.u64()? });
    }
    Ok(files)
}

//! The reader over bytes that anybody made: it never panics, never loops, never makes up a record.

use super::format::{self, RECORD_HEADER, SEGMENT_MAGIC};
use super::open::segment_name;
use super::reader::{Records, SegmentReader};
use super::{Log, LogError, LogOptions, Record};
use crate::disk::{Disk, MemDisk};
use crate::snapshot;

/// Feeds `data` to everything that reads the log's files. Panics if a law is broken: that is what a fuzzer looks for.
pub fn fuzz(data: &[u8]) {
    as_segment(data);
    as_directory(data);
    as_snapshot(data);
}

/// Every batch that is believed must be, bit for bit, what writing its records would give.
fn as_segment(data: &[u8]) {
    let disk = MemDisk::new();
    disk.put("file", data.to_vec());
    let file = disk.open("file").expect("it was just put there");
    // Identity is taken from the bytes, so that the fuzzer need not guess it.
    let (log_id, number) =
        if data.len() >= 32 { (format::get_u64(data, 8), format::get_u64(data, 24)) } else { (0, 0) };
    let mut reader = SegmentReader::new(&file, log_id, number, true).expect("memory does not fail");
    let _ = reader.header().expect("memory does not fail");
    let _ = reader.marks().expect("memory does not fail");
    let mut at = reader.offset;
    while let Ok((offset, header, records)) = reader.next().expect("memory does not fail") {
        assert_eq!(offset, at, "batches follow each other");
        let (mut again, mut count, mut crcs) = (Vec::new(), 0, 0);
        for record in Records(records) {
            let data: &[u8] = if let Record::Entry { data, .. } = record { data } else { &[] };
            let bare = match record {
                Record::Entry { group, index, term, kind, .. } => Record::Entry { group, index, term, kind, data: &[] },
                other => other,
            };
            let crc = format::encode_record(&mut again, &bare, &[data]);
            crcs = crc32c::crc32c_append(crcs, &crc.to_le_bytes());
            count += 1;
        }
        assert!(records.len() >= RECORD_HEADER, "a batch has a record");
        assert_eq!(again, records, "a record was read that is not what was written");
        assert_eq!((count, crcs), (header.count, header.records_crc), "a record is missing or too many");
        assert!(reader.offset > at, "reading goes forward");
        at = reader.offset;
    }
    let _ = reader.search().expect("memory does not fail");
}

/// A directory whose only segment is `data`: opening it twice gives the same records, or refuses.
fn as_directory(data: &[u8]) {
    let disk = MemDisk::new();
    let number =
        if data.len() >= 32 && format::get_u32(data, 0) == SEGMENT_MAGIC { format::get_u64(data, 24) } else { 1 };
    disk.put(&segment_name(number), data.to_vec());
    let options = LogOptions { segment_bytes: 8192, ..LogOptions::default() };
    let open = || {
        let mut seen = Vec::new();
        let mut visit = |record: Record<'_>| {
            seen.push(format!("{record:?}"));
            Ok(())
        };
        let result = Log::open(disk.clone(), options.clone(), &mut visit).map(|_| ());
        result.map(|()| seen)
    };
    match open() {
        Ok(first) => assert_eq!(Ok(first), open(), "recovery changed what the log holds"),
        Err(LogError::Damaged { .. } | LogError::Full) => {}
        Err(error) => panic!("bad bytes are damage, not {error:?}"),
    }
}

fn as_snapshot(data: &[u8]) {
    let disk = MemDisk::new();
    let name = match data.get(8..24) {
        Some(head) => snapshot::snapshot_name(base::GroupId(format::get_u32(head, 0)), format::get_u64(head, 8)),
        None => snapshot::snapshot_name(base::GroupId(0), 0),
    };
    disk.put(&name, data.to_vec());
    match snapshot::check(&disk, &name, &mut |_, _| {}) {
        Ok(_) | Err(LogError::Damaged { .. }) => {}
        Err(error) => panic!("bad bytes are damage, not {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Seen, open, small};
    use super::super::{Batch, Log, LogError, Room};
    use super::fuzz;
    use crate::disk::{Disk, MemDisk};
    use base::{GroupId, Rng};

    /// A small log over several segments, and what it held before its last batch.
    fn corpus() -> (MemDisk, Seen, Seen) {
        let disk = MemDisk::new();
        let (mut log, ..) = Log::open(disk.clone(), small(), &mut |_| Ok(())).expect("a new log");
        let mut before = disk.copy();
        for index in 1..=24 {
            before = disk.copy();
            let mut batch = Batch::new();
            for group in 1..=2 {
                batch.entry(GroupId(group), index, 1 + index / 9, 0, &vec![index as u8; 40 * (index as usize % 12)]);
            }
            batch.hard_state(GroupId(1), 1 + index / 9, 0, index - 1);
            if index == 12 {
                batch.snapshot_mark(GroupId(1), 6, 1, false);
            }
            log.append(&mut batch, Room::Normal).expect("room");
        }
        drop(log);
        let last = open(&before).expect("a whole log").2;
        let whole = open(&disk.copy()).expect("a whole log").2;
        (disk, last, whole)
    }

    fn segments(disk: &MemDisk) -> Vec<String> {
        disk.list().expect("memory").into_iter().filter(|name| name.starts_with('0')).collect()
    }

    /// The same records, a clean cut of the last batch, or damage.
    fn judge(disk: &MemDisk, before: &Seen, whole: &Seen, what: &str) -> bool {
        match open(disk) {
            Ok((_, _, seen)) if seen == *whole => true,
            Ok((_, _, seen)) => {
                assert!(seen == *before, "{what}: neither all records nor all but the last batch's");
                false
            }
            Err(LogError::Damaged { file, .. }) => {
                assert!(!file.is_empty(), "{what}: damage has a place");
                false
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }

    #[test]
    fn every_flipped_byte_is_harmless_cut_or_found() {
        let (disk, before, whole) = corpus();
        assert!(segments(&disk).len() >= 3);
        let (mut tried, mut harmless) = (0, 0);
        for name in segments(&disk) {
            let bytes = disk.get(&name).expect("it is listed");
            for at in 0..bytes.len() {
                let copy = disk.copy();
                let mut spoiled = bytes.clone();
                spoiled[at] ^= 1 << (at % 8);
                copy.put(&name, spoiled);
                tried += 1;
                harmless += usize::from(judge(&copy, &before, &whole, &format!("{name} byte {at}")));
            }
        }
        println!("{tried} flipped bytes, {harmless} of them in no record");
        assert!(harmless < tried, "nothing was found at all");
    }

    #[test]
    fn every_truncation_is_found() {
        let (disk, before, whole) = corpus();
        for name in segments(&disk) {
            let bytes = disk.get(&name).expect("it is listed");
            for length in (0..bytes.len()).step_by(7) {
                let copy = disk.copy();
                copy.put(&name, bytes[..length].to_vec());
                assert!(!judge(&copy, &before, &whole, &format!("{name} cut to {length}")), "{name} cut to {length}");
            }
        }
    }

    #[test]
    fn zeroed_and_swapped_ranges_of_a_marked_log_are_harmless_or_found() {
        // A stretch may take every batch from some place to the end, and with them all proof but the mark's.
        let (disk, _, whole) = corpus();
        open(&disk).expect("a whole log").0.mark_durable().expect("memory does not fail");
        let mut rng = Rng::new(5);
        let names = segments(&disk);
        for round in 0..3000 {
            let copy = disk.copy();
            let name = &names[rng.index(names.len())];
            let mut bytes = disk.get(name).expect("it is listed");
            let from = rng.index(bytes.len());
            let to = (from + rng.index(1200)).min(bytes.len());
            if rng.chance(1, 2) {
                bytes[from..to].fill(0);
            } else {
                let other = disk.get(&names[rng.index(names.len())]).expect("it is listed");
                let length = (to - from).min(other.len());
                let source = rng.index(other.len() - length + 1);
                bytes[from..from + length].copy_from_slice(&other[source..source + length]);
            }
            copy.put(name, bytes);
            judge(&copy, &whole, &whole, &format!("round {round}: {name} {from}..{to}"));
        }
    }

    #[test]
    fn the_fuzz_corpus_and_its_mutations_break_no_law() {
        let (disk, ..) = corpus();
        fuzz(b"");
        let mut rng = Rng::new(9);
        for name in segments(&disk) {
            let bytes = disk.get(&name).expect("it is listed");
            fuzz(&bytes);
            for _ in 0..300 {
                let mut mutated = bytes.clone();
                for _ in 0..1 + rng.index(6) {
                    let at = rng.index(mutated.len());
                    match rng.below(4) {
                        0 => mutated[at] ^= 1 << rng.below(8),
                        1 => mutated[at] = [0, 0xff, 0x7f, 0x80][rng.index(4)],
                        2 => mutated.truncate(at.max(1)),
                        _ => {
                            let to = (at + rng.index(64)).min(mutated.len());
                            let copy = mutated[at..to].to_vec();
                            let into = rng.index(mutated.len() - copy.len() + 1);
                            mutated[into..into + copy.len()].copy_from_slice(&copy);
                        }
                    }
                }
                fuzz(&mutated);
            }
        }
        for _ in 0..500 {
            let bytes: Vec<u8> = (0..rng.index(5000)).map(|_| rng.next_u64() as u8).collect();
            fuzz(&bytes);
        }
    }

    #[test]
    fn forged_checksums_break_no_law_either() {
        // With the checksums made right, the reader's other checks are on their own: lengths, kinds, order.
        let (disk, ..) = corpus();
        let bytes = disk.get(&segments(&disk)[0]).expect("it is listed");
        let mut rng = Rng::new(11);
        for _ in 0..4000 {
            let mut forged = bytes.clone();
            let header = 4096;
            let record = header + 64;
            let at = header + 4 + rng.index(60 + 32);
            forged[at] = rng.next_u64() as u8;
            let length = super::format::get_u32(&forged, record + 4) as usize;
            if record + 32 + length <= forged.len() {
                let crc = crc32c::crc32c(&forged[record + 4..record + 32 + length]);
                forged[record..record + 4].copy_from_slice(&crc.to_le_bytes());
                let crcs = crc32c::crc32c_append(0, &crc.to_le_bytes());
                forged[header + 56..header + 60].copy_from_slice(&crcs.to_le_bytes());
            }
            let crc = crc32c::crc32c(&forged[header..header + 60]);
            forged[header + 60..header + 64].copy_from_slice(&crc.to_le_bytes());
            fuzz(&forged);
        }
    }
}

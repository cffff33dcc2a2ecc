//! What a snapshot file promises.

use super::*;
use crate::disk::MemDisk;
use crate::extent::{self, ExtentId};

const G: GroupId = GroupId(3);

fn write(disk: &MemDisk, index: u64, chunks: &[&[u8]]) -> SnapshotId {
    let mut writer = SnapshotWriter::begin(disk, G, index, 2, b"meta").expect("room");
    for chunk in chunks {
        writer.chunk(chunk).expect("room");
    }
    writer.finish().expect("room")
}

fn read(disk: &MemDisk, index: u64) -> Result<Vec<Vec<u8>>, LogError> {
    let mut reader = SnapshotReader::open(disk, G, index)?;
    assert_eq!(reader.meta(), b"meta");
    let (mut all, mut chunk) = (Vec::new(), Vec::new());
    while reader.chunk(&mut chunk)? {
        all.push(chunk.clone());
    }
    Ok(all)
}

#[test]
fn the_same_pieces_come_back() {
    let disk = MemDisk::new();
    let id = write(&disk, 9, &[b"one", b"", b"three"]);
    assert_eq!(id, SnapshotId { group: G, index: 9, term: 2 });
    assert_eq!(read(&disk, 9).expect("whole"), [b"one".to_vec(), b"three".to_vec()]);
    assert_eq!(latest(&disk, G), Ok(Some(9)));
    assert_eq!(latest(&disk, GroupId(4)), Ok(None));
}

#[test]
fn an_unfinished_snapshot_is_none_and_is_swept() {
    let disk = MemDisk::new();
    let mut writer = SnapshotWriter::begin(&disk, G, 5, 1, b"").expect("room");
    writer.chunk(b"x").expect("room");
    drop(writer);
    assert_eq!(latest(&disk, G), Ok(None));
    assert_eq!(sweep(&disk), Ok(1));
    assert!(disk.list().expect("a disk in memory").is_empty());
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    let disk = MemDisk::new();
    write(&disk, 9, &[b"one", b"two", b"three"]);
    let name = snapshot_name(G, 9);
    let whole = disk.get(&name).expect("it was written");
    let damaged = |bytes: Vec<u8>, what: String| {
        let copy = MemDisk::new();
        copy.put(&name, bytes);
        let error = check(&copy, &name, &mut |_, _| {});
        assert!(matches!(error, Err(LogError::Damaged { .. })), "{what}: {error:?}");
    };
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            damaged(bytes, format!("bit {bit} of byte {at}"));
        }
        damaged(whole[..at].to_vec(), format!("cut at {at}"));
    }
    let mut longer = whole.clone();
    longer.push(0);
    damaged(longer, "a byte more".to_string());
}

#[test]
fn chunks_of_another_snapshot_are_not_taken() {
    let disk = MemDisk::new();
    write(&disk, 9, &[b"one", b"two"]);
    write(&disk, 10, &[b"uno", b"dos"]);
    let (nine, ten) = (disk.get(&snapshot_name(G, 9)), disk.get(&snapshot_name(G, 10)));
    let (nine, mut mixed) = (nine.expect("written"), ten.expect("written"));
    let chunk = HEADER + 4..HEADER + 4 + CHUNK_HEADER + 3;
    mixed[chunk.clone()].copy_from_slice(&nine[chunk]);
    disk.put(&snapshot_name(G, 10), mixed);
    assert!(matches!(read(&disk, 10), Err(LogError::Damaged { offset: 44, .. })));
}

#[test]
fn a_damaged_latest_is_replaced_only_if_the_log_reaches_back() {
    let disk = MemDisk::new();
    write(&disk, 5, &[b"five"]);
    write(&disk, 9, &[b"nine"]);
    assert_eq!(pick(&disk, G, (9, 2)).expect("whole").snapshot.map(|id| id.index), Some(9));
    let name = snapshot_name(G, 9);
    let mut bytes = disk.get(&name).expect("written");
    bytes[60] ^= 1;
    disk.put(&name, bytes);
    assert!(matches!(pick(&disk, G, (9, 2)), Err(LogError::Damaged { .. })), "the log starts after 9");
    assert!(matches!(pick(&disk, G, (6, 2)), Err(LogError::Damaged { .. })), "the log starts after 6");
    let picked = pick(&disk, G, (5, 2)).expect("the log starts after 5");
    assert_eq!((picked.snapshot.map(|id| id.index), picked.damaged.len()), (Some(5), 1));
    disk.remove(&name).expect("it is there");
    assert!(matches!(pick(&disk, G, (9, 2)), Err(LogError::Damaged { .. })), "the snapshot is missing");
    assert_eq!(pick(&disk, GroupId(8), (0, 0)), Ok(Picked::default()));
}

#[test]
fn older_ones_go_only_when_the_newer_is_there() {
    let disk = MemDisk::new();
    write(&disk, 5, &[b"five"]);
    assert!(matches!(remove_older(&disk, G, 9), Err(LogError::Misuse(_))));
    write(&disk, 9, &[b"nine"]);
    assert_eq!(remove_older(&disk, G, 9), Ok(1));
    assert_eq!(indexes(&disk, G), Ok(vec![9]));
}

#[test]
fn a_snapshot_arrives_with_the_extent_files_that_come_before_it_and_only_whole_ones_count() {
    let theirs = MemDisk::new();
    write(&theirs, 9, &[b"one", b"two"]);
    let ids: Vec<ExtentId> = [4, 9].map(|index| ExtentId { group: G, index, node: 2 }).to_vec();
    for id in &ids {
        let mut writer = extent::Writer::begin(&theirs, *id).expect("room");
        writer.put(extent::Owner { id: 1, part: 2 }, id.index, 1, 0, &vec![7; 5000]).expect("room");
        writer.finish().expect("room");
    }
    let mut stream = Vec::new();
    let mut extents = Vec::new();
    for id in &ids {
        let bytes = theirs.get(&extent::extent_name(*id)).expect("written");
        extents.push((*id, bytes.len() as u64));
        stream.extend(bytes);
    }
    stream.extend(theirs.get(&snapshot_name(G, 9)).expect("written"));
    let arrive = |ours: &MemDisk, stream: &[u8], piece: usize| {
        let mut arrival = Arrival::begin(ours, G, 9, &extents).expect("room");
        stream.chunks(piece).for_each(|bytes| arrival.write(bytes).expect("room"));
        assert_eq!(arrival.len(), stream.len() as u64);
        arrival.finish()
    };
    for piece in [1, 997, 1 << 20] {
        let ours = MemDisk::new();
        arrive(&ours, &stream, piece).expect("whole");
        // Until then it is found, and nobody else's: what the group needs beside it is swept without it.
        assert_eq!(extent::remove_others(&ours, G, &[]), Ok(0));
        extent::sweep(&ours).expect("swept");
        ids.iter().for_each(|id| assert!(extent::stretches(&ours, *id).is_ok()));
        adopt(&ours, G, 9).expect("adopted");
        for name in theirs.list().expect("a list") {
            assert_eq!(ours.get(&name), theirs.get(&name), "{name}");
        }
        assert_eq!(ours.list(), theirs.list());
        arrive(&ours, &stream, piece).expect("whole");
        discard(&ours, G, 9).expect("gone");
        assert_eq!(ours.list(), theirs.list());
    }
    let spoiled = |at: usize| {
        let mut bytes = stream.clone();
        bytes[at] ^= 1;
        bytes
    };
    for bytes in [spoiled(3), spoiled(stream.len() - 5), stream[..stream.len() - 1].to_vec()] {
        let ours = MemDisk::new();
        assert!(matches!(arrive(&ours, &bytes, 4096), Err(LogError::Damaged { .. })));
        assert_eq!(ours.list(), Ok(Vec::new()), "no parts stay");
    }
}

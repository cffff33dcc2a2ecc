//! The file that says which groups a directory holds: how many data shards it was made with, and those that were made later.
//!
//! ```text
//!   SHARDS    2                       data shards from the beginning: groups 1 and 2
//!             group 3 of 1,2,3        a shard that was made later, and the nodes that made it up at its birth
//!             check 1f2e3d4c          CRC-32C of all before it
//! ```
//!
//! It is there twice, as `SHARDS` and `SHARDS.copy`: without it a whole log could not be read, and it is too small to be worth a peer. Whichever
//! is sound mends the other. Where both are, `SHARDS` counts, since the copy is written first. Older programs wrote no last line, and no copy.
//!
//! A shard stands in it before its first record can reach the log, so whoever replays the log knows its groups.

use std::collections::BTreeMap;

use base::{GroupId, NodeId};
use store::disk::{Disk, DiskError, DiskFile};
use store::log::LogError;

use crate::open::OpenError;

const SHARDS: &str = "SHARDS";
const COPY: &str = "SHARDS.copy";
const SHARDS_UNFINISHED: &str = "SHARDS.tmp";
/// Bytes that the file has at most: a line for each of a thousand shards.
const BYTES_MAX: u64 = 1 << 20;

/// The groups of a directory, beside the meta group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Data shards from the beginning.
    pub founded: usize,
    /// Shards that were made later, and who made up each.
    pub born: BTreeMap<GroupId, Vec<NodeId>>,
}

impl Manifest {
    /// Reads it; `None` where the directory has never held a log. A file that is damaged is mended from its copy, and the other way round.
    ///
    /// # Errors
    /// Neither can be read, or says which shards there are.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<Manifest>, OpenError> {
        let (own, copy) = (Manifest::read_file(disk, SHARDS)?, Manifest::read_file(disk, COPY)?);
        match (own, copy) {
            (File::Absent, File::Absent) => Ok(None),
            (File::Sound(own), File::Sound(copy)) if own == copy => Ok(Some(own)),
            // An older program has added to it since.
            (File::Unchecked(own), File::Sound(copy)) if own.extends(&copy) => {
                let _ = own.write(disk);
                Ok(Some(own))
            }
            // The copy is written first: where a crash came between, it is newer, and nothing has relied on it yet.
            (File::Sound(own), _) | (File::Damaged | File::Absent | File::Unchecked(_), File::Sound(own)) => {
                // A disk that takes nothing now is told of when it matters.
                let _ = own.write(disk);
                Ok(Some(own))
            }
            (File::Unchecked(own), _) => Ok(Some(own)),
            (File::Damaged | File::Absent, _) => Err(OpenError::Refused(format!(
                "{SHARDS}, which says which shards there are, cannot be read (its checksum, at its end, does not fit), nor can {COPY}"
            ))),
        }
    }

    fn read_file<D: Disk>(disk: &D, name: &str) -> Result<File, OpenError> {
        let file = match disk.open(name) {
            Ok(file) => file,
            Err(DiskError::NotFound) => return Ok(File::Absent),
            Err(error) => return Err(LogError::from(error).into()),
        };
        let length = file.len().map_err(LogError::from)?.min(BYTES_MAX);
        let mut bytes = vec![0; length as usize];
        let read = file.read_at(0, &mut bytes).map_err(LogError::from)?;
        Ok(File::of(&bytes[..read]))
    }

    /// Whether these are the bytes of a sound file.
    pub fn is_sound(bytes: &[u8]) -> bool {
        matches!(File::of(bytes), File::Sound(_) | File::Unchecked(_))
    }

    fn extends(&self, other: &Manifest) -> bool {
        self.founded == other.founded && other.born.iter().all(|(group, of)| self.born.get(group) == Some(of))
    }

    fn parse(text: &str) -> Option<Manifest> {
        let mut lines = text.lines();
        let mut manifest = Manifest { founded: lines.next()?.trim().parse().ok()?, born: BTreeMap::new() };
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let (group, founders) = line.strip_prefix("group ")?.split_once(" of ")?;
            let founders = founders.split(',').map(|node| node.trim().parse().ok().map(NodeId));
            manifest.born.insert(GroupId(group.parse().ok()?), founders.collect::<Option<_>>()?);
        }
        Some(manifest)
    }

    /// Writes it: whole or not at all. When this returns, it is durable.
    ///
    /// # Errors
    /// It may be the old one or the new one.
    pub fn write<D: Disk>(&self, disk: &D) -> Result<(), DiskError> {
        match disk.remove(SHARDS_UNFINISHED) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let mut text = format!("{}\n", self.founded);
        for (group, founders) in &self.born {
            let founders: Vec<String> = founders.iter().map(|node| node.0.to_string()).collect();
            text.push_str(&format!("group {} of {}\n", group.0, founders.join(",")));
        }
        text.push_str(&format!("check {:08x}\n", crc32c::crc32c(text.as_bytes())));
        for name in [COPY, SHARDS] {
            let mut file = disk.create(SHARDS_UNFINISHED)?;
            file.write_at(0, text.as_bytes())?;
            file.sync()?;
            disk.rename(SHARDS_UNFINISHED, name)?;
            // One after the other: what is torn by a crash is one of them at most.
            disk.sync_dir()?;
        }
        Ok(())
    }
}

/// What one of the two files says.
enum File {
    Absent,
    Damaged,
    /// Of an older program.
    Unchecked(Manifest),
    Sound(Manifest),
}

impl File {
    fn of(bytes: &[u8]) -> File {
        let Ok(text) = std::str::from_utf8(bytes) else { return File::Damaged };
        let checked = text.strip_suffix('\n').and_then(|text| text.rsplit_once("check "));
        let (text, is_checked) = match checked {
            Some((text, sum)) if u32::from_str_radix(sum, 16) == Ok(crc32c::crc32c(text.as_bytes())) => (text, true),
            Some(_) => return File::Damaged,
            None => (text, false),
        };
        match Manifest::parse(text) {
            None => File::Damaged,
            Some(manifest) if is_checked => File::Sound(manifest),
            Some(manifest) => File::Unchecked(manifest),
        }
    }
}

#[cfg(test)]
mod tests {
    use store::disk::MemDisk;

    use super::*;

    #[test]
    fn a_directory_says_its_groups_in_the_old_form_and_the_new() {
        let disk = MemDisk::new();
        assert_eq!(Manifest::read(&disk), Ok(None));
        disk.put(SHARDS, b"7\n".to_vec());
        let mut manifest = Manifest { founded: 7, born: BTreeMap::new() };
        assert_eq!(Manifest::read(&disk), Ok(Some(manifest.clone())));
        manifest.born.insert(GroupId(8), vec![NodeId(1), NodeId(4)]);
        manifest.born.insert(GroupId(9), vec![NodeId(2)]);
        manifest.write(&disk).expect("there is room");
        assert_eq!(Manifest::read(&disk), Ok(Some(manifest)));
        disk.remove(COPY).expect("it is there");
        for wrong in ["", "x\n", "1\ngroup\n", "1\ngroup 2 of\n", "1\ngroup x of 1\n", "-1\n", "1\ncheck 0\n"] {
            disk.put(SHARDS, wrong.into());
            assert!(Manifest::read(&disk).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn whichever_file_is_sound_mends_the_other() {
        let manifest = Manifest { founded: 2, born: BTreeMap::from([(GroupId(3), vec![NodeId(1), NodeId(2)])]) };
        let disk = MemDisk::new();
        manifest.write(&disk).expect("there is room");
        let sound = disk.get(SHARDS).expect("it is there");
        for (name, other) in [(SHARDS, COPY), (COPY, SHARDS)] {
            for at in 0..sound.len() {
                for damage in [vec![], sound[..at].to_vec(), {
                    let mut bytes = sound.clone();
                    bytes[at] ^= 1;
                    bytes
                }] {
                    disk.put(name, damage);
                    assert_eq!(Manifest::read(&disk), Ok(Some(manifest.clone())), "{name} at {at}");
                    assert_eq!((disk.get(name), disk.get(other)), (Some(sound.clone()), Some(sound.clone())));
                }
            }
            disk.remove(name).expect("it is there");
            assert_eq!(Manifest::read(&disk), Ok(Some(manifest.clone())), "{name} is gone");
            assert_eq!(disk.get(name), Some(sound.clone()));
        }
        // A crash between the two: nothing had relied on the newer one yet.
        let newer = Manifest { founded: 2, born: BTreeMap::from([(GroupId(4), vec![NodeId(1)])]) };
        newer.write(&disk).expect("there is room");
        disk.put(SHARDS, sound.clone());
        assert_eq!(Manifest::read(&disk), Ok(Some(manifest)));
        disk.put(SHARDS, b"7\n".to_vec());
        disk.put(COPY, b"x".to_vec());
        assert_eq!(Manifest::read(&disk).map(|own| own.map(|own| own.founded)), Ok(Some(7)), "of an older program");
        disk.put(SHARDS, b"y".to_vec());
        assert!(Manifest::read(&disk).is_err(), "nothing is left");
    }
}

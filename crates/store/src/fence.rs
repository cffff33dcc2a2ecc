//! Which groups' fences stand, in one small file: what a node is not to vouch for, because its disk lost, or may have lost, something
//! that it had vouched for. Written before anything else is mended, so that no start forgets it.
//!
//! ```text
//! quorate fences 1
//! GROUP NAME lifted|doubt|damage      a line each: group in decimal, name in hexadecimal
//! crc CHECKSUM                        CRC-32C of all before it, hexadecimal
//! ```

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::LogError;
use crate::snapshot::release_ballast;
use base::GroupId;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const FILE: &str = "FENCES";
const UNFINISHED: &str = "FENCES.tmp";
const HEAD: &str = "quorate fences 1\n";
/// Longest file, bytes: more groups than a node ever has.
const BYTES_MAX: u64 = 16 << 20;

/// What is between a group and this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing any more.
    Lifted,
    /// A tail was cut off that may have been vouched for.
    Doubt,
    /// Something durable is lost.
    Damage,
}

/// A group's fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Drawn at random when it was put up.
    pub name: u64,
    /// Whether it stands, and why.
    pub state: State,
}

/// All groups' fences; a group that never had one is not in it.
pub type Fences = BTreeMap<GroupId, Fence>;

/// The fences as they were written down; none where there is no file.
///
/// # Errors
/// `Damaged`: nobody knows which groups had one. `Disk`.
pub fn read<D: Disk>(disk: &D) -> Result<Fences, LogError> {
    let file = match disk.open(FILE) {
        Ok(file) => file,
        Err(DiskError::NotFound) => return Ok(Fences::new()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; file.len()?.min(BYTES_MAX) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    parse(&bytes[..filled]).ok_or_else(|| LogError::Damaged {
        file: FILE.to_owned(),
        offset: 0,
        what: "what it says of fences cannot be read".to_owned(),
    })
}

/// Writes them down; durable when it returns. A full disk's ballast makes room for it.
///
/// # Errors
/// `Full`, `Disk`: what was written before stands.
pub fn write<D: Disk>(disk: &D, fences: &Fences) -> Result<(), LogError> {
    match try_write(disk, fences) {
        Err(LogError::Full) if release_ballast(disk)? => try_write(disk, fences),
        done => done,
    }
}

fn try_write<D: Disk>(disk: &D, fences: &Fences) -> Result<(), LogError> {
    match disk.remove(UNFINISHED) {
        Ok(()) | Err(DiskError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let mut file = disk.create(UNFINISHED)?;
    file.write_at(0, text(fences).as_bytes())?;
    file.sync()?;
    disk.rename(UNFINISHED, FILE)?;
    disk.sync_dir()?;
    Ok(())
}

/// Lifts a group's fence if it still has this name.
///
/// # Errors
/// As [`read`] and [`write`]; the next start finds the fence again, and it is lifted again.
pub fn lift<D: Disk>(disk: &D, group: GroupId, name: u64) -> Result<(), LogError> {
    let mut fences = read(disk)?;
    match fences.get_mut(&group) {
        Some(fence) if fence.name == name && fence.state != State::Lifted => fence.state = State::Lifted,
        _ => return Ok(()),
    }
    write(disk, &fences)
}

fn text(fences: &Fences) -> String {
    let mut text = HEAD.to_owned();
    for (group, Fence { name, state }) in fences {
        let state = match state {
            State::Lifted => "lifted",
            State::Doubt => "doubt",
            State::Damage => "damage",
        };
        let _ = writeln!(text, "{} {name:x} {state}", group.0);
    }
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc {crc:08x}");
    text
}

fn parse(bytes: &[u8]) -> Option<Fences> {
    let whole = std::str::from_utf8(bytes).ok()?;
    let (text, crc) = whole.strip_suffix('\n')?.rsplit_once("crc ")?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(text.as_bytes()) {
        return None;
    }
    let mut fences = Fences::new();
    for line in text.strip_prefix(HEAD)?.lines() {
        let mut words = line.split(' ');
        let group = GroupId(words.next()?.parse().ok()?);
        let name = u64::from_str_radix(words.next()?, 16).ok()?;
        let state = match words.next()? {
            "lifted" => State::Lifted,
            "doubt" => State::Doubt,
            "damage" => State::Damage,
            _ => return None,
        };
        fences.insert(group, Fence { name, state });
    }
    Some(fences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    #[test]
    fn what_was_written_is_read_and_one_is_lifted_by_its_name() {
        let disk = MemDisk::new();
        assert_eq!(read(&disk), Ok(Fences::new()));
        let mut fences = Fences::new();
        fences.insert(GroupId(0), Fence { name: 7, state: State::Doubt });
        fences.insert(GroupId(3), Fence { name: u64::MAX, state: State::Damage });
        write(&disk, &fences).expect("room");
        assert_eq!(read(&disk), Ok(fences.clone()));
        lift(&disk, GroupId(3), 8).expect("room");
        assert_eq!(read(&disk), Ok(fences.clone()), "another name");
        lift(&disk, GroupId(3), u64::MAX).expect("room");
        fences.insert(GroupId(3), Fence { name: u64::MAX, state: State::Lifted });
        assert_eq!(read(&disk), Ok(fences));
    }

    #[test]
    fn any_damage_to_the_file_is_noticed() {
        let disk = MemDisk::new();
        write(&disk, &Fences::from([(GroupId(1), Fence { name: 7, state: State::Damage })])).expect("room");
        let bytes = disk.get(FILE).expect("it is there");
        for at in 0..bytes.len() {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 1;
            disk.put(FILE, spoiled);
            assert!(read(&disk).is_err(), "byte {at}");
            disk.put(FILE, bytes[..at].to_vec());
            assert!(read(&disk).is_err(), "cut at {at}");
        }
    }
}

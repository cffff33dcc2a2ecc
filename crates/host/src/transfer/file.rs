//! An RDB file into a node.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use shard::rdb::file::{Item, Reader};

use super::target::Target;
use super::{Imported, SAY_EVERY, Say, Server, Wishes, size};

/// Bytes that are read at once.
const PIECE: usize = 1 << 18;

/// Takes what the file holds into the node. A file that breaks off, or is damaged, ends it where it is: what came before is in.
///
/// # Errors
/// For people: what is wrong, where in the file, and what to do.
pub fn import_rdb(path: &Path, to: &Server, wishes: &Wishes, say: Say<'_>) -> Result<Imported, String> {
    let shown = path.display();
    let mut file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let whole = file.metadata().map_or(0, |data| data.len());
    let mut reader = Reader::new(Target::bounds(wishes));
    // Its beginning is looked at before anything is flushed.
    let mut piece = vec![0; PIECE];
    let mut read = |piece: &mut Vec<u8>| file.read(piece).map_err(|error| format!("{shown}: {error}"));
    let count = read(&mut piece)?;
    reader.feed(&piece[..count]);
    let mut first = reader.item().map_err(|broken| format!("{shown}, {broken}"))?;
    let mut target = Target::open(to, wishes.existing)?;
    let mut told = Instant::now();
    loop {
        while let Some(item) = match first.take() {
            Some(item) => Some(item),
            None => reader
                .item()
                .map_err(|broken| format!("{shown}, {broken}; {} keys came before it", target.done.keys))?,
        } {
            if item == Item::End {
                target.finish()?;
                return Ok(target.done);
            }
            target.item(item)?;
        }
        if told.elapsed() >= SAY_EVERY {
            told = Instant::now();
            say(&format!("{} keys, {} of {}", target.done.keys, size(reader.position()), size(whole)));
        }
        let count = read(&mut piece)?;
        if count == 0 {
            target.finish()?;
            return Err(format!(
                "{shown} ends at byte {} in the middle of a record: it was not written to its end. {} keys came before that",
                reader.position(),
                target.done.keys
            ));
        }
        reader.feed(&piece[..count]);
    }
}

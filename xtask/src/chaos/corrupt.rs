//! Damaged files: the server refuses to start and names file and offset, or nothing is missing and nothing is wrong.
//!
//! One thing more is allowed to a lone node that did not stop cleanly: the very last batch, which it cannot tell from a torn one. The last
//! writes here are made one by one, so that is the last write alone. After a clean stop nothing is allowed.

use super::history::{Object, check_all, load};
use super::kill9::WRITERS;
use super::server::{NotReady, Server, tail};
use super::{Ask, at};
use crate::rng::Rng;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes at the end, one by one.
const LAST: usize = 8;

/// What was done to one file.
#[derive(Debug)]
struct Damage {
    file: PathBuf,
    offset: u64,
    what: &'static str,
}

/// Bytes of a file that is checked whole: who the node is.
const SHORT_BYTES_MAX: u64 = 4096;

/// Damages copies of one data directory, again and again.
pub fn run(ask: &Ask) -> Result<(), String> {
    let mut rng = ask.rng();
    let (mut refused, mut harmless, mut cut) = (0, 0, 0);
    for clean in [true, false] {
        let name = if clean { "stopped" } else { "killed" };
        let (data, log) = (ask.dir.join(name), ask.dir.join("server.log"));
        at(&data, fs::create_dir_all(&data))?;
        let mut server = Server::start(&ask.template, &data, &log)?;
        let mut conn = server.must_be_ready()?;
        let mut objects: Vec<Object> = (0..WRITERS).map(|writer| Object::new(0, writer)).collect();
        let addr = server.addr.clone();
        load(&addr, &mut objects, &mut rng, |_| std::thread::sleep(Duration::from_millis(400)))?;
        let mut last = Object::new(1, 2);
        for _ in 0..LAST {
            last.write_one(&mut conn)?;
        }
        if clean {
            server.stop()?;
        } else {
            server.kill();
        }
        drop(server);
        for round in 0..ask.rounds.div_ceil(2) {
            let trial = ask.dir.join("trial");
            copy(&data, &trial)?;
            let Some(damage) = harm(&trial, &mut rng)? else {
                return Err(format!("{}: no file to damage", data.display()));
            };
            let told =
                format!("{name}, round {round}: {} at {} of {}", damage.what, damage.offset, damage.file.display());
            let mut server = Server::start(&ask.template, &trial, &log)?;
            match server.ready() {
                Err(NotReady::Ended(status, said)) => {
                    if status.success() {
                        return Err(format!(
                            "{told}: the server ended with success instead of refusing; it said:\n{}",
                            tail(&said)
                        ));
                    }
                    let file = damage.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    // A file of one word has no offsets to speak of, and may hold another valid word: the directory is named at least.
                    let one_word = fs::metadata(&damage.file).is_ok_and(|file| file.len() <= 64);
                    // A file of a few lines is read and checked whole.
                    let is_short = fs::metadata(&damage.file).is_ok_and(|file| file.len() <= SHORT_BYTES_MAX);
                    let told_where = said.contains(&file) && (is_short || names_place(&said, damage.offset));
                    if !(told_where || one_word && said.contains(&*trial.to_string_lossy())) {
                        return Err(format!(
                            "{told}: refused, but without naming {file} and the offset; it said:\n{}",
                            tail(&said)
                        ));
                    }
                    refused += 1;
                }
                Err(NotReady::Silent(said)) => {
                    return Err(format!("{told}: neither refused nor ready; it said:\n{}", tail(&said)));
                }
                Ok(mut conn) => {
                    check_all(&mut conn, &mut objects.clone()).map_err(|why| format!("{told}: {why}"))?;
                    let found = last.found(&mut conn).map_err(|why| format!("{told}: {why}"))?;
                    match LAST as u64 - found {
                        0 => harmless += 1,
                        1 if !clean => cut += 1,
                        missing => return Err(format!("{told}: LOST: {missing} of the last writes are missing")),
                    }
                }
            }
            server.kill();
            at(&trial, fs::remove_dir_all(&trial))?;
        }
    }
    println!(
        "chaos corrupt: {refused} refused by name, {harmless} without harm, {cut} cut of the last batch; nothing wrong was served"
    );
    Ok(())
}

/// Whether the message names a byte or an offset, and one at the damage or before it: the record that holds the damage begins there.
fn names_place(said: &str, offset: u64) -> bool {
    ["byte ", "offset "].iter().flat_map(|word| said.split(word).skip(1)).any(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().is_ok_and(|named| named <= offset + 512)
    })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    for entry in at(dir, fs::read_dir(dir))? {
        let entry = at(dir, entry)?;
        let kind = at(dir, entry.file_type())?;
        if kind.is_dir() {
            files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    at(to, fs::create_dir_all(to))?;
    let mut all = Vec::new();
    files(from, &mut all)?;
    for file in all {
        let rest = file.strip_prefix(from).map_err(|error| error.to_string())?;
        let target = to.join(rest);
        if let Some(parent) = target.parent() {
            at(parent, fs::create_dir_all(parent))?;
        }
        at(&file, fs::copy(&file, &target))?;
    }
    Ok(())
}

/// Damages one file where it holds something: an offset among zeros (room kept free) is drawn only now and then.
fn harm(dir: &Path, rng: &mut Rng) -> Result<Option<Damage>, String> {
    let mut all = Vec::new();
    files(dir, &mut all)?;
    let mut held: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for file in all {
        let bytes = at(&file, fs::read(&file))?;
        if bytes.iter().any(|byte| *byte != 0) {
            held.push((file, bytes));
        }
    }
    if held.is_empty() {
        return Ok(None);
    }
    // By size, so that most hits are in the log, and now and then by count, so that small files have their turn.
    let total: usize = held.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut at_byte = rng.below(total);
    let by_size = held.iter().position(|(_, bytes)| {
        let here = at_byte < bytes.len();
        at_byte = at_byte.saturating_sub(bytes.len());
        here
    });
    let pick = if rng.percent(60) { by_size.unwrap_or(0) } else { rng.below(held.len()) };
    let (file, mut bytes) = held.swap_remove(pick);
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let offset = if rng.percent(90) { rng.below(used) } else { rng.below(bytes.len()) };
    let what = match rng.below(4) {
        0 => {
            bytes[offset] ^= 1 << rng.below(8);
            "one bit flipped"
        }
        1 => {
            bytes[offset] = bytes[offset].wrapping_add(1 + rng.below(254) as u8);
            "one byte changed"
        }
        2 => {
            let end = (offset + 512).min(bytes.len());
            bytes[offset..end].fill(0);
            "512 bytes zeroed"
        }
        _ => {
            let end = (offset + 64).min(bytes.len());
            bytes[offset..end].iter_mut().for_each(|byte| *byte = rng.next() as u8);
            "64 bytes of noise"
        }
    };
    at(&file, fs::write(&file, &bytes))?;
    Ok(Some(Damage { file, offset: offset as u64, what }))
}

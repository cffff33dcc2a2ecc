//! What a node holds into an RDB file.

use std::collections::HashSet;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use doors::resp::client::{Value, write_command};
use shard::rdb::file::Writer;

use super::link::Link;
use super::{SAY_EVERY, Say, Server, size};

/// What stands in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Keys.
    pub keys: u64,
    /// Libraries of functions.
    pub libraries: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keys that are asked for at once.
const BATCH: &str = "256";

/// Writes all keys of the node, or of the cluster that it is of, into a file that Redis 7.0 loads (7.2 where a stream needs it). Each key is as
/// it was when it was read: stop writers for a picture of one moment. The file appears under its name once it is whole.
///
/// # Errors
/// For people; then there is no file.
pub fn export(from: &Server, path: &Path, say: Say<'_>) -> Result<Exported, String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let done = write_all(from, part, say);
    match &done {
        Ok(_) => std::fs::rename(part, path).map_err(|error| format!("{}: {error}", path.display()))?,
        // It may not even have been made.
        Err(_) => drop(std::fs::remove_file(part)),
    }
    done
}

fn write_all(from: &Server, path: &Path, say: Say<'_>) -> Result<Exported, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut link = Link::open(from)?;
    let mut file = BufWriter::with_capacity(1 << 18, File::create(path).map_err(wrong)?);
    let (mut writer, mut out, mut done) = (Writer::default(), Vec::new(), Exported::default());
    writer.begin(&mut out);
    writer.aux(b"redis-ver", b"7.0.0", &mut out);
    writer.aux(b"redis-bits", b"64", &mut out);
    // A node without functions has none to show.
    if let Value::Array(libraries) = link.ask(&["FUNCTION", "LIST", "WITHCODE"])? {
        for source in libraries.iter().filter_map(source_of) {
            writer.functions(source, &mut out);
            done.libraries += 1;
        }
    }
    let mut told = Instant::now();
    // A walk may show a key twice, and Redis takes no file in which it stands twice.
    let mut seen: HashSet<u128> = HashSet::new();
    let hashers = [std::hash::RandomState::new(), std::hash::RandomState::new()];
    for db in 0..store::table::DATABASES as u64 {
        link.ask_ok(&["SELECT", &db.to_string()])?;
        let mut cursor = b"0".to_vec();
        loop {
            let answer = link.ask_ok(&[b"SCAN", &cursor[..], b"COUNT", BATCH.as_bytes()])?;
            let (next, keys) = cursor_and_keys(answer).ok_or("the node's SCAN answers something else")?;
            let new = |key: &Vec<u8>| {
                let [high, low] = [&hashers[0], &hashers[1]].map(|hasher| hasher.hash_one((db, key)));
                seen.insert(u128::from(high) << 64 | u128::from(low))
            };
            let keys: Vec<Vec<u8>> = keys.into_iter().filter(new).collect();
            let mut asked = Vec::new();
            for key in &keys {
                write_command(&[b"DUMP", &key[..]], &mut asked);
                write_command(&[b"PEXPIRETIME", &key[..]], &mut asked);
            }
            link.write(&asked)?;
            for key in &keys {
                let (payload, expiry) = (link.answer()?, link.answer()?);
                match (payload, expiry) {
                    (Value::Bulk(payload), Value::Int(at)) => {
                        let at = u64::try_from(at).ok();
                        writer
                            .key(db, key, at, &payload, &mut out)
                            .map_err(|_| format!("the node's DUMP of '{}' is none", key.escape_ascii()))?;
                        done.keys += 1;
                    }
                    // It has gone meanwhile.
                    (Value::Null, _) => {}
                    (Value::Error(text), _) | (_, Value::Error(text)) => {
                        return Err(format!("the key '{}': {}", key.escape_ascii(), String::from_utf8_lossy(&text)));
                    }
                    _ => return Err("the node's DUMP answers something else".into()),
                }
                if out.len() >= 1 << 18 {
                    done.bytes += out.len() as u64;
                    file.write_all(&out).map_err(wrong)?;
                    out.clear();
                }
            }
            if told.elapsed() >= SAY_EVERY {
                told = Instant::now();
                say(&format!("{} keys, {}", done.keys, size(done.bytes)));
            }
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
    }
    let header = writer.end(&mut out);
    done.bytes += out.len() as u64;
    file.write_all(&out).map_err(wrong)?;
    let mut file = file.into_inner().map_err(|error| wrong(error.into_error()))?;
    if let Some(header) = header {
        file.seek(SeekFrom::Start(0)).map_err(wrong)?;
        file.write_all(&header).map_err(wrong)?;
    }
    file.sync_all().map_err(wrong)?;
    Ok(done)
}

/// Of a library that FUNCTION LIST shows.
fn source_of(library: &Value) -> Option<&[u8]> {
    let Value::Array(words) = library else { return None };
    words.chunks_exact(2).find_map(|pair| match pair {
        [Value::Bulk(name), Value::Bulk(source)] if name == b"library_code" => Some(&source[..]),
        _ => None,
    })
}

fn cursor_and_keys(answer: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Bulk(cursor), Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let keys: Option<Vec<_>> =
        keys.into_iter().map(|key| if let Value::Bulk(key) = key { Some(key) } else { None }).collect();
    Some((cursor, keys?))
}

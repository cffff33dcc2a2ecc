//! A full disk: writes are refused with a clear error, reads and deletes work, and once there is room writes work again, without a restart.

use super::image::Image;
use super::server::Server;
use super::{Ask, at};
use crate::resp::{Conn, Value};
use crate::rng::Rng;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// The disk, and what of it is somebody else's until room is made.
const DISK_MIB: u64 = 400;
const BALLAST_MIB: u64 = 150;
/// One value.
const VALUE_BYTES: usize = 64 * 1024;
/// How soon writes must work again after room was made.
const RECOVERY: Duration = Duration::from_secs(30);

/// Noise that depends on the number alone: nothing that compresses.
fn value(number: usize) -> Vec<u8> {
    let mut rng = Rng::new(number as u64);
    (0..VALUE_BYTES / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}

fn ballast(path: &Path) -> Result<(), String> {
    let mut file = at(path, File::create(path))?;
    let chunk = vec![1u8; 1 << 20];
    for _ in 0..BALLAST_MIB {
        at(path, file.write_all(&chunk))?;
    }
    at(path, file.sync_all())
}

/// The whole course on one image.
pub fn run(ask: &Ask) -> Result<(), String> {
    let log = ask.dir.join("server.log");
    let image = Image::make(&ask.dir, DISK_MIB)?;
    let (data, stone) = (image.path().join("data"), image.path().join("ballast"));
    at(&data, std::fs::create_dir_all(&data))?;
    ballast(&stone)?;
    let mut server = Server::start(&ask.template, &data, &log)?;
    let mut conn = server.must_be_ready()?;

    let mut written = 0;
    let refusal = loop {
        if written * VALUE_BYTES > (DISK_MIB << 20) as usize * 2 {
            return Err(format!(
                "{written} values of {VALUE_BYTES} bytes fit on a disk of {DISK_MIB} MiB: is the data written at all?"
            ));
        }
        match conn.call(&[b"SET", format!("fill:{written}").as_bytes(), &value(written)]) {
            Ok(Value::Simple(_)) => written += 1,
            Ok(Value::Error(text)) => break String::from_utf8_lossy(&text).into_owned(),
            Ok(other) => return Err(format!("SET on a filling disk was answered {other}")),
            Err(error) => {
                return Err(format!(
                    "SET on a full disk was not refused: {error}; the server said:\n{}",
                    super::server::tail(&server.said())
                ));
            }
        }
    };
    println!("  full after {written} values; refused with: {refusal}");
    if !["disk", "space", "full"].iter().any(|word| refusal.to_lowercase().contains(word)) {
        return Err(format!("the refusal does not say that the disk is full: {refusal}"));
    }
    match conn.text("SET small x") {
        Ok(Value::Error(_)) => {}
        other => println!("  a small write after the refusal: {other:?}"),
    }
    read_all(&mut conn, 0, written, &[])?;
    println!("  all {written} values are read");

    // Deletes go on, a tenth of what is there.
    let deleted: Vec<usize> = (0..written).step_by(10).collect();
    for number in &deleted {
        match conn.call(&["DEL", &format!("fill:{number}")]) {
            Ok(Value::Int(1)) => {}
            other => return Err(format!("DEL on a full disk was answered {other:?}")),
        }
    }
    read_all(&mut conn, 0, written, &deleted)?;
    println!("  {} deleted on the full disk", deleted.len());

    at(&stone, std::fs::remove_file(&stone))?;
    let start = Instant::now();
    loop {
        match conn.call(&[b"SET", format!("fill:{written}").as_bytes(), &value(written)]) {
            Ok(Value::Simple(_)) => break,
            Ok(Value::Error(_)) if start.elapsed() < RECOVERY => std::thread::sleep(Duration::from_millis(20)),
            other => {
                return Err(format!("{} s after room was made SET was answered {other:?}", start.elapsed().as_secs()));
            }
        }
    }
    written += 1;
    println!("  writes again {:.1} s after room was made, without a restart", start.elapsed().as_secs_f64());
    for _ in 0..200 {
        match conn.call(&[b"SET", format!("fill:{written}").as_bytes(), &value(written)]) {
            Ok(Value::Simple(_)) => written += 1,
            other => return Err(format!("SET with room again was answered {other:?}")),
        }
    }

    server.kill();
    let mut server = Server::start(&ask.template, &data, &log)?;
    let mut conn = server.must_be_ready()?;
    read_all(&mut conn, 0, written, &deleted)?;
    println!(
        "chaos disk-full: {written} values, {} deletes, all as acknowledged after kill -9 and a restart",
        deleted.len()
    );
    drop(server);
    Ok(())
}

fn read_all(conn: &mut Conn, from: usize, to: usize, deleted: &[usize]) -> Result<(), String> {
    for number in from..to {
        let reply =
            conn.call(&["GET", &format!("fill:{number}")]).map_err(|error| format!("GET fill:{number}: {error}"))?;
        let gone = deleted.binary_search(&number).is_ok();
        let fine = match &reply {
            Value::NullBulk => gone,
            Value::Bulk(text) => !gone && *text == value(number),
            _ => false,
        };
        if !fine {
            let shown: String = reply.to_string().chars().take(60).collect();
            return Err(format!("GET fill:{number} was answered {shown} (deleted: {gone})"));
        }
    }
    Ok(())
}

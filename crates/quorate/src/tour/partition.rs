//! The leader is cut off from the others: nobody hears the one, the one hears nobody, and it answers nothing from the past.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doors::resp::client::Value;

use super::trio::{Load, Trio};
use super::{Connection, grouped};

/// How long the leader is cut off.
const CUT: Duration = Duration::from_secs(4);

pub fn run(directory: &Path) -> Result<(), String> {
    let lines = [Line::new()?, Line::new()?, Line::new()?];
    let flags = [0, 1, 2].map(|at: usize| {
        let Line { outside, inside, .. } = &lines[at];
        vec!["--peer-bind".to_owned(), inside.to_string(), "--advertise".to_owned(), outside.to_string()]
    });
    let mut trio = Trio::start(directory, flags)?;
    let leader = trio.leader(1)?;
    println!(
        "Node {leader} leads. Clients write to the other two; then all lines to node {leader} are cut for {} s.",
        CUT.as_secs()
    );
    let old = trio.node(leader)?.redis;
    let others: Vec<SocketAddr> = trio.doors().into_iter().filter(|door| *door != old).collect();
    let load = Load::new(4, others.clone());
    let (mut stale, mut refused, mut fresh) = (0, 0, 0);
    load.run(|| {
        load.more(300)?;
        let mut writer =
            Connection::open_patient(others[0], Duration::from_secs(10)).map_err(|error| error.to_string())?;
        load.gap();
        lines[leader as usize - 1].cut(true);
        let until = Instant::now() + CUT;
        let mut number: u64 = 0;
        while Instant::now() < until {
            number += 1;
            // Written where the majority is, then asked of the one that is cut off.
            let written = writer.ask(&[b"SET", b"partition:clock", number.to_string().as_bytes()]);
            if !matches!(&written, Ok(Value::Simple(text)) if text == b"OK") {
                if written.is_err() {
                    writer = Connection::open_patient(others[0], Duration::from_secs(10))
                        .map_err(|error| error.to_string())?;
                }
                continue;
            }
            let read = Connection::open_patient(old, Duration::from_millis(300));
            match read.and_then(|mut reader| reader.ask(&[b"GET", b"partition:clock"])) {
                Ok(Value::Bulk(value)) if value == number.to_string().as_bytes() => fresh += 1,
                Ok(Value::Bulk(value)) => {
                    let older: u64 = String::from_utf8_lossy(&value).parse().unwrap_or(0);
                    stale += u64::from(older < number);
                }
                _ => refused += 1,
            }
        }
        println!(
            "  the majority went on after {:.2} s; {} writes answered so far",
            load.gap().as_secs_f64(),
            grouped(load.answered())
        );
        lines[leader as usize - 1].cut(false);
        let healed = trio.wait("cluster that is whole again", |view| {
            view.get("problems").and_then(|problems| problems.as_array()).is_some_and(Vec::is_empty)
        })?;
        println!("  whole again {:.2} s after the lines were mended", healed.as_secs_f64());
        Ok(())
    })?;
    println!(
        "  reads at the node that was cut off: {fresh} right, {refused} without an answer or refused, {stale} from the past"
    );
    if stale > 0 {
        return Err(format!("{stale} reads were answered from the past"));
    }
    let found = load.look(&mut trio.node(leader)?.connect()?)?;
    println!("  every one of {} answered writes is read through node {leader}", grouped(found));
    Ok(())
}

/// A line to a node's peer door that can be cut.
struct Line {
    /// Where others are told to come.
    outside: SocketAddr,
    /// Where the node listens.
    inside: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    fn new() -> Result<Line, String> {
        let door = || TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("no port is free: {error}"));
        let (listener, inside) = (door()?, door()?);
        let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
        let line = Line { outside: address(&listener)?, inside: address(&inside)?, is_cut: Arc::default() };
        let (target, is_cut) = (line.inside, line.is_cut.clone());
        drop(inside);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(node) = TcpStream::connect(target) else { continue };
                let _ = (node.set_nodelay(true), stream.set_nodelay(true));
                let (Ok(a), Ok(b)) = (stream.try_clone(), node.try_clone()) else { continue };
                for (from, to) in [(a, node), (b, stream)] {
                    let is_cut = is_cut.clone();
                    std::thread::spawn(move || pass(from, to, &is_cut));
                }
            }
        });
        Ok(line)
    }

    fn cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::Relaxed);
    }
}

/// Passes bytes on; what comes while the line is cut is lost, and the connection ends when it is mended.
fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    let mut lost = false;
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(_) if is_cut.load(Ordering::Relaxed) => lost = true,
            Ok(count) if !lost => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Ok(_) => break,
        }
    }
    let _: io::Result<()> = from.shutdown(std::net::Shutdown::Both).and(to.shutdown(std::net::Shutdown::Both));
}

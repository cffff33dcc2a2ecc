//! A stream is written, and read again and again: from its beginning, from an offset, from a time, after kill -9, after the log went on.

use std::path::Path;
use std::time::{Duration, Instant};

use base::Rng;

use super::stream::{Doors, Wire, now_ms};
use super::{Server, grouped};

const TOPIC: &str = "measurements";
const PARTITIONS: i32 = 4;
/// Bytes of a record, records of a batch, batches of a partition: 64 MiB in all.
const BYTES: usize = 1 << 10;
const BATCH: i64 = 256;
const BATCHES: i64 = 64;
const RECORDS: i64 = BATCH * BATCHES;
/// Batches under way at once.
const UNDER_WAY: i64 = 5;
/// Milliseconds from one batch's first record to the next one's.
const STEP_MS: i64 = 1000;
/// Small, so that the log of a demonstration goes on as one of days does: what it lets go of is copied out first.
const LOG: [&str; 4] = ["--set", "log.segment_bytes=4MiB", "--set", "log.snapshot_bytes=8MiB"];

/// What the records hold: their partition and number, and bytes that cannot be guessed.
struct Wanted {
    noise: Vec<u8>,
    /// Time of the first record, milliseconds.
    begun: i64,
}

impl Wanted {
    fn put(&self, partition: i32, number: i64, value: &mut Vec<u8>) {
        value.clear();
        value.extend_from_slice(&partition.to_be_bytes());
        value.extend_from_slice(&number.to_be_bytes());
        let from = (number as usize * 7 + partition as usize) % BYTES;
        value.extend_from_slice(&self.noise[from..from + BYTES - value.len()]);
    }

    fn stamp(&self, number: i64) -> i64 {
        self.begun + number / BATCH * STEP_MS + number % BATCH
    }
}

pub fn run(directory: &Path) -> Result<(), String> {
    let data = directory.join("data");
    let mut rng = Rng::new(host::clock::seed());
    let wanted =
        Wanted { noise: (0..2 * BYTES).map(|_| rng.next_u64() as u8).collect(), begun: now_ms() - BATCHES * STEP_MS };
    let mut server = Server::start(&data, &LOG, &[])?;
    let doors = Doors::new(vec![server.kafka]);
    doors.create(TOPIC, PARTITIONS, 1)?;

    let began = Instant::now();
    let address = server.kafka.to_string();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..PARTITIONS)
            .map(|partition| {
                let (wanted, address) = (&wanted, &address);
                scope.spawn(move || write(address, partition, wanted))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?)
    })?;
    let all = i64::from(PARTITIONS) * RECORDS;
    println!(
        "{} records of {BYTES} bytes in {PARTITIONS} partitions, each synced before it was answered: {}.",
        grouped(all as u64),
        rate(all, began)
    );
    read_all(&doors, &wanted, "read")?;
    read_all(&doors, &wanted, "read again")?;
    by_place(&mut rng, &doors, &wanted)?;

    server.kill();
    let (log, extents) = (held(&data, ".log"), held(&data, ".ext"));
    println!("  kill -9. On the disk are {} MB of the log and {} MB that it has let go of", log >> 20, extents >> 20);
    if extents == 0 {
        return Err("nothing outlived the log, so this has shown nothing of it".into());
    }
    server = Server::start(&data, &LOG, &[])?;
    doors.meet(vec![server.kafka]);
    doors.settled(TOPIC)?;
    println!("  back after {:.2} s", server.took.as_secs_f64());
    read_all(&doors, &wanted, "read after the restart")?;
    by_place(&mut rng, &doors, &wanted)
}

fn write(address: &str, partition: i32, wanted: &Wanted) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("partition {partition} cannot be written: {error}");
    let mut wire = Wire::open(address).map_err(failed)?;
    wire.be_patient(super::PATIENCE).map_err(failed)?;
    for turn in 0..BATCHES + UNDER_WAY {
        if turn < BATCHES {
            let mut values = vec![Vec::with_capacity(BYTES); BATCH as usize];
            let first = turn * BATCH;
            values.iter_mut().zip(first..).for_each(|(value, number)| wanted.put(partition, number, value));
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let batch = queue::batch::example(&values, wanted.stamp(first), (-1, -1, -1), false);
            wire.produce(TOPIC, partition, batch.into()).map_err(failed)?;
        }
        if turn >= UNDER_WAY {
            let answer = wire.produced().map_err(failed)?;
            let offset = (turn - UNDER_WAY) * BATCH;
            if answer.error != 0 || answer.base_offset != offset {
                return Err(format!("the batch at {offset} of partition {partition} was answered {answer:?}"));
            }
        }
    }
    Ok(())
}

/// Reads a partition from an offset to the end, and holds every byte against what was written.
fn read(doors: &Doors, wanted: &Wanted, partition: i32, from: i64) -> Result<i64, String> {
    let (mut next, mut value) = (from, Vec::new());
    let end = doors.read(TOPIC, partition, from, |offset, found| {
        wanted.put(partition, next, &mut value);
        if offset != next || found != value {
            return Err(format!(
                "partition {partition}: at {offset}, after {next}, is something that was not written there"
            ));
        }
        next += 1;
        Ok(())
    })?;
    if end == RECORDS {
        Ok(RECORDS - from)
    } else {
        Err(format!("partition {partition} ends at {end}, not at {RECORDS}"))
    }
}

fn read_all(doors: &Doors, wanted: &Wanted, how: &str) -> Result<(), String> {
    let began = Instant::now();
    let mut records = 0;
    for partition in 0..PARTITIONS {
        records += read(doors, wanted, partition, 0)?;
    }
    println!(
        "  {how} from the beginning: the same {} records, byte by byte, {}",
        grouped(records as u64),
        rate(records, began)
    );
    Ok(())
}

/// From some offsets and from some times.
fn by_place(rng: &mut Rng, doors: &Doors, wanted: &Wanted) -> Result<(), String> {
    let (mut records, mut slowest) = (0, Duration::ZERO);
    for partition in 0..PARTITIONS {
        let number = rng.below(RECORDS as u64) as i64;
        let leader = doors.settled(TOPIC)?.swap_remove(partition as usize);
        let mut wire = Wire::open(&leader).map_err(|error| error.to_string())?;
        let began = Instant::now();
        let found = wire.offset_at(TOPIC, partition, wanted.stamp(number))?;
        slowest = slowest.max(began.elapsed());
        if found != number {
            return Err(format!("partition {partition}: record {number}'s time is said to be at offset {found}"));
        }
        records += read(doors, wanted, partition, found)?;
    }
    println!(
        "  from a time in the middle of each partition: the right record each time, found within {:.1} ms; {} read on from there",
        slowest.as_secs_f64() * 1e3,
        grouped(records as u64)
    );
    Ok(())
}

fn rate(records: i64, began: Instant) -> String {
    let megabytes = (records as usize * BYTES) as f64 / 1e6;
    format!("{megabytes:.0} MB at {:.0} MB/s", megabytes / began.elapsed().as_secs_f64())
}

/// Bytes of the files below a directory whose names end like this.
fn held(directory: &Path, suffix: &str) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => held(&entry.path(), suffix),
            Ok(about) if entry.file_name().to_string_lossy().ends_with(suffix) => about.len(),
            _ => 0,
        })
        .sum()
}

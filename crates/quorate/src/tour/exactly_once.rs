//! A producer whose connections break between a batch and its answer, over three nodes of which the leader is killed: with a number of its
//! own, and without.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use base::Rng;
use doors::kafka::errors;

use super::stream::{Doors, Wire, now_ms};
use super::trio::Trio;
use super::{PATIENCE, grouped};

/// Batches of a run, records of each, and how many are under way at once (as many as an idempotent producer may have).
const BATCHES: i64 = 600;
const RECORDS: i64 = 10;
const UNDER_WAY: i64 = 5;
/// A connection breaks after one of so many answers.
const CUT_ONE_OF: u64 = 12;
/// What a producer is told about a batch that is there already, where the answer of the time is not known any more.
const DUPLICATE_SEQUENCE: i16 = 46;

/// How it went, as the producer knows it.
#[derive(Default)]
struct Sent {
    /// Batches answered.
    answered: AtomicI64,
    cuts: AtomicI64,
    /// Batches sent once more.
    again: AtomicI64,
    over: AtomicBool,
}

pub fn run(directory: &Path) -> Result<(), String> {
    let mut trio = Trio::start(directory, [Vec::new(), Vec::new(), Vec::new()])?;
    let doors = Doors::new(trio.streams());
    println!(
        "A producer sends {} batches of {RECORDS} records, {UNDER_WAY} under way at once. Its connection breaks again and again after a batch\n\
         was sent and before it was answered; in the middle the leader is killed with kill -9. What was not answered is sent again.",
        grouped(BATCHES as u64)
    );
    let number = doors.ask(Wire::producer)?;
    let (twice, back) = produce(&mut trio, &doors, "orders", "idempotent", Some(number))?;
    if (twice, back) != (0, 0) {
        return Err(format!("{twice} records are there twice, and {back} stand behind later ones"));
    }
    let (twice, _) = produce(&mut trio, &doors, "orders-plain", "without a number of its own", None)?;
    if twice == 0 {
        return Err("without a number nothing came twice: what was done to the producer has shown nothing".into());
    }
    Ok(())
}

/// A run; how many records are there once more, and how many stand behind later ones.
fn produce(
    trio: &mut Trio,
    doors: &Doors,
    topic: &str,
    how: &str,
    number: Option<(i64, i16)>,
) -> Result<(usize, usize), String> {
    doors.create(topic, 1, 3)?;
    let sent = Sent::default();
    let gap = std::thread::scope(|scope| {
        let producer = scope.spawn(|| send(doors, topic, number, &sent));
        let done = kill(trio, doors, topic, &sent);
        sent.over.store(done.is_err(), Ordering::Relaxed);
        let sending = producer.join().map_err(|_| "the producer panicked".to_owned())?;
        done.and_then(|done| sending.map(|()| done))
    })?;
    let mut found = Vec::new();
    doors.read(topic, 0, 0, |_, value| {
        let text = String::from_utf8_lossy(value);
        found.push(text.parse::<i64>().map_err(|_| format!("a record is {text:?}"))?);
        Ok(())
    })?;
    let all = BATCHES * RECORDS;
    let mut seen = vec![0usize; all as usize];
    let (mut last, mut back) = (-1, 0);
    for record in &found {
        *seen.get_mut(*record as usize).ok_or_else(|| format!("nobody sent {record}"))? += 1;
        back += usize::from(*record < last);
        last = last.max(*record);
    }
    if let Some(lost) = seen.iter().position(|count| *count == 0) {
        return Err(format!("record {lost} was answered and is not there"));
    }
    let twice = found.len() - seen.len();
    println!(
        "  {how}: {} cuts and a kill, {} batches sent again; writes went on {:.2} s after the kill\n    {} records answered, {} found: \
         {} too many, {} behind later ones",
        sent.cuts.load(Ordering::Relaxed),
        sent.again.load(Ordering::Relaxed),
        gap.as_secs_f64(),
        grouped(all as u64),
        grouped(found.len() as u64),
        grouped(twice as u64),
        grouped(back as u64)
    );
    Ok((twice, back))
}

/// Kills the leader in the middle; how long nothing was answered. It is back at the end.
fn kill(trio: &mut Trio, doors: &Doors, topic: &str, sent: &Sent) -> Result<Duration, String> {
    let answered = || sent.answered.load(Ordering::Relaxed);
    let wait = |until: i64| {
        let began = Instant::now();
        while answered() < until {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} batches were answered, and no more within {PATIENCE:?}", answered()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    };
    wait(BATCHES / 2)?;
    let leader = doors.settled(topic)?.swap_remove(0);
    let node = trio.of_stream(&leader)?;
    trio.node(node)?.kill();
    trio.gone(node);
    doors.meet(trio.streams());
    let gap = wait(answered() + 1)?;
    wait(BATCHES * 3 / 4)?;
    trio.up(node, &[])?;
    doors.meet(trio.streams());
    wait(BATCHES)?;
    Ok(gap)
}

/// Sends all batches, and again what was not answered.
fn send(doors: &Doors, topic: &str, number: Option<(i64, i16)>, told: &Sent) -> Result<(), String> {
    let mut rng = Rng::new(host::clock::seed());
    let (mut answered, mut sent, mut most) = (0, 0, 0);
    let mut wire = None;
    while answered < BATCHES && !told.over.load(Ordering::Relaxed) {
        let Some(open) = &mut wire else {
            sent = answered;
            let leader = doors.leaders(topic).map(|mut leaders| leaders.swap_remove(0));
            wire = leader.ok().and_then(|leader| Wire::open(&leader).ok());
            if wire.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            continue;
        };
        let mut went = Ok(0);
        while sent < BATCHES.min(answered + UNDER_WAY) && went.is_ok() {
            went = open.produce(topic, 0, batch(sent, number).into());
            told.again.fetch_add(i64::from(sent < most), Ordering::Relaxed);
            sent += 1;
            most = most.max(sent);
        }
        if rng.below(CUT_ONE_OF) == 0 {
            std::thread::sleep(Duration::from_micros(rng.below(3000)));
            told.cuts.fetch_add(1, Ordering::Relaxed);
            wire = None;
            continue;
        }
        match went.and_then(|_| open.produced()) {
            Ok(answer) if [errors::NONE, DUPLICATE_SEQUENCE].contains(&answer.error) => {
                answered += 1;
                told.answered.store(answered, Ordering::Relaxed);
            }
            // Whoever answers an error is no leader, or not any more: the others know.
            _ => {
                wire = None;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}

fn batch(at: i64, number: Option<(i64, i16)>) -> Vec<u8> {
    let values: Vec<String> = (at * RECORDS..(at + 1) * RECORDS).map(|record| record.to_string()).collect();
    let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let producer = number.map_or((-1, -1, -1), |(producer, epoch)| (producer, epoch, (at * RECORDS) as i32));
    queue::batch::example(&values, now_ms(), producer, false)
}

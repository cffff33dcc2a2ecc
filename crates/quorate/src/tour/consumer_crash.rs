//! Three consumers share a stream: one dies without a word, the node that keeps their group is killed, one says goodbye.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use doors::kafka::errors;

use super::group::{Given, Group, SESSION, end};
use super::stream::{Doors, Wire, now_ms};
use super::trio::Trio;
use super::{PATIENCE, grouped};

const TOPIC: &str = "clicks";
const PARTITIONS: i32 = 6;
const MEMBERS: usize = 3;
/// Records of a batch; one batch for each partition every so often.
const RECORDS: i64 = 5;
const PACE: Duration = Duration::from_millis(20);

/// What is written: offsets below are answered, by partition.
#[derive(Default)]
struct Written {
    ends: [AtomicI64; PARTITIONS as usize],
    stop: AtomicBool,
}

pub fn run(directory: &Path) -> Result<(), String> {
    let mut trio = Trio::start(directory, [Vec::new(), Vec::new(), Vec::new()])?;
    let doors = Doors::new(trio.streams());
    doors.create(TOPIC, PARTITIONS, 3)?;
    let (group, written) = (Group::new("readers", TOPIC, PARTITIONS, &doors), Written::default());
    let told: [AtomicU8; MEMBERS] = Default::default();
    println!(
        "{MEMBERS} consumers of one group share {PARTITIONS} partitions, which are written all the time. Each commits where it is every half \
         second,\nand is taken for dead after {} s without a heartbeat, the least that Kafka's clients may ask for.",
        SESSION.as_secs()
    );
    std::thread::scope(|scope| {
        scope.spawn(|| write(&doors, &written));
        for (number, told) in told.iter().enumerate() {
            let group = &group;
            scope.spawn(move || group.member(number, told));
        }
        let done = course(&mut trio, &doors, &group, &told, &written);
        written.stop.store(true, Ordering::Relaxed);
        told.iter().for_each(|told| told.store(end::DIE, Ordering::Relaxed));
        done
    })?;
    judge(&group, &written)
}

fn course(
    trio: &mut Trio,
    doors: &Doors,
    group: &Group<'_>,
    told: &[AtomicU8; MEMBERS],
    written: &Written,
) -> Result<(), String> {
    shared(group, MEMBERS)?;
    std::thread::sleep(Duration::from_millis(1200));

    // Dead, without a word: nobody knows but by its silence.
    let lost = group.holds().remove(&0).unwrap_or_default();
    let began = Instant::now();
    told[0].store(end::DIE, Ordering::Relaxed);
    let took = taken(group, &lost, 0, began)?;
    println!(
        "  consumer 1 dies with {} partitions: the others go on with them after {:.1} s; {} records are read a second time",
        lost.len(),
        took.as_secs_f64(),
        grouped(reread(group, 0) as u64)
    );
    shared(group, MEMBERS - 1)?;

    let keeper = group.coordinator()?;
    let node = trio.of_stream(&keeper)?;
    let (began, before) = (Instant::now(), group.holds());
    trio.node(node)?.kill();
    trio.gone(node);
    doors.meet(trio.streams());
    let everything: Vec<i32> = (0..PARTITIONS).collect();
    let mut seen = BTreeMap::new();
    let ends: Vec<i64> = written.ends.iter().map(|end| end.load(Ordering::Relaxed)).collect();
    // All that was written then, and what came afterwards: so every partition is led and read again.
    while seen.len() < everything.len() {
        for given in since(group, began) {
            if given.offset > ends[given.partition as usize] + RECORDS {
                seen.entry(given.partition).or_insert(given.at);
            }
        }
        waiting(began, "all partitions were read again")?;
    }
    let last = seen.into_values().max().unwrap_or(began);
    println!(
        "  the node that keeps the group (node {node}) is killed with kill -9: every partition is written and read again after {:.2} s",
        (last - began).as_secs_f64()
    );
    trio.up(node, &[])?;
    doors.meet(trio.streams());
    shared(group, before.len())?;

    let lost = group.holds().remove(&1).unwrap_or_default();
    let began = Instant::now();
    told[1].store(end::LEAVE, Ordering::Relaxed);
    let took = taken(group, &lost, 1, began)?;
    println!(
        "  consumer 2 says goodbye with {} partitions: taken over after {:.2} s; {} records are read a second time",
        lost.len(),
        took.as_secs_f64(),
        grouped(since(group, began).iter().filter(|given| earlier(group, given, began)).count() as u64)
    );
    written.stop.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    loop {
        let most = most(group);
        let ends = written.ends.iter().zip(0..).map(|(end, partition)| (partition, end.load(Ordering::Relaxed)));
        let behind: Vec<i32> = ends
            .filter(|(partition, end)| most.get(partition).copied().unwrap_or(-1) + 1 < *end)
            .map(|one| one.0)
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        waiting(began, "the rest was read")?;
    }
}

fn waiting(began: Instant, what: &str) -> Result<(), String> {
    if began.elapsed() > PATIENCE {
        return Err(format!("not within {PATIENCE:?}: {what}"));
    }
    std::thread::sleep(Duration::from_millis(2));
    Ok(())
}

/// Waits until so many members hold all partitions between them.
fn shared(group: &Group<'_>, members: usize) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let holds = group.holds();
        let all: BTreeSet<i32> = holds.values().flatten().copied().collect();
        let count: usize = holds.values().map(Vec::len).sum();
        if holds.len() == members && all.len() == PARTITIONS as usize && count == all.len() {
            return Ok(());
        }
        waiting(began, &format!("{members} consumers share all partitions; they hold {holds:?}"))?;
    }
}

fn since(group: &Group<'_>, began: Instant) -> Vec<Given> {
    let given = group.given.lock().unwrap_or_else(PoisonError::into_inner);
    let from = given.partition_point(|given| given.at < began);
    given[from..].to_vec()
}

fn most(group: &Group<'_>) -> BTreeMap<i32, i64> {
    let mut most = BTreeMap::new();
    for given in group.given.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let own = most.entry(given.partition).or_insert(given.offset);
        *own = given.offset.max(*own);
    }
    most
}

/// Waits until others than `dead` were given something of each of these partitions; how long that took.
fn taken(group: &Group<'_>, lost: &[i32], dead: usize, began: Instant) -> Result<Duration, String> {
    if lost.is_empty() {
        return Err("the consumer had no partitions".into());
    }
    loop {
        let since = since(group, began);
        let first = |partition: &i32| since.iter().find(|given| given.partition == *partition && given.member != dead);
        let firsts: Option<Vec<Instant>> =
            lost.iter().map(|partition| first(partition).map(|given| given.at)).collect();
        if let Some(last) = firsts.and_then(|firsts| firsts.into_iter().max()) {
            return Ok(last - began);
        }
        waiting(began, "somebody reads the partitions of the consumer that is gone")?;
    }
}

/// Records that this member was given and another later.
fn reread(group: &Group<'_>, dead: usize) -> usize {
    let given = group.given.lock().unwrap_or_else(PoisonError::into_inner);
    let own: BTreeSet<(i32, i64)> =
        given.iter().filter(|given| given.member == dead).map(|given| (given.partition, given.offset)).collect();
    given.iter().filter(|given| given.member != dead && own.contains(&(given.partition, given.offset))).count()
}

/// Whether somebody was given the record before that moment.
fn earlier(group: &Group<'_>, one: &Given, began: Instant) -> bool {
    let given = group.given.lock().unwrap_or_else(PoisonError::into_inner);
    given.iter().any(|other| other.at < began && (other.partition, other.offset) == (one.partition, one.offset))
}

/// Every answered record was given to somebody, and nobody was shown a record without those before it.
fn judge(group: &Group<'_>, written: &Written) -> Result<(), String> {
    let given = group.given.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seen: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
    for one in given.iter() {
        let seen = seen.entry(one.partition).or_default();
        // The first that sees a record has seen, or others have, all before it.
        if one.offset > 0 && !seen.contains(&(one.offset - 1)) {
            return Err(format!(
                "partition {}: {} was given out, and {} to nobody",
                one.partition,
                one.offset,
                one.offset - 1
            ));
        }
        seen.insert(one.offset);
    }
    let mut all = 0;
    for (end, partition) in written.ends.iter().zip(0..) {
        let end = end.load(Ordering::Relaxed);
        let read = seen.get(&partition).map_or(0, |seen| seen.range(..end).count() as i64);
        if read != end {
            return Err(format!("partition {partition}: {end} records were answered and {read} of them read"));
        }
        all += end;
    }
    println!(
        "{} records answered; every one was read, none before those in front of it, {} more than once.",
        grouped(all as u64),
        grouped(given.len() as u64 - seen.values().map(|seen| seen.len() as u64).sum::<u64>())
    );
    Ok(())
}

/// One batch after the other for each partition, as an idempotent producer.
fn write(doors: &Doors, written: &Written) {
    let mut wires: BTreeMap<String, Wire> = BTreeMap::new();
    let mut leaders = Vec::new();
    let mut number = None;
    while !written.stop.load(Ordering::Relaxed) {
        if number.is_none() {
            number = doors.ask(Wire::producer).ok();
        }
        if leaders.len() < PARTITIONS as usize {
            leaders = doors.leaders(TOPIC).unwrap_or_default();
            wires.clear();
        }
        let (Some((producer, epoch)), true) = (number, leaders.len() == PARTITIONS as usize) else {
            std::thread::sleep(PACE);
            continue;
        };
        let began = Instant::now();
        for (partition, leader) in leaders.clone().into_iter().enumerate() {
            let end = written.ends[partition].load(Ordering::Relaxed);
            let values: Vec<String> = (end..end + RECORDS).map(|record| record.to_string()).collect();
            let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            let batch = queue::batch::example(&values, now_ms(), (producer, epoch, end as i32), false);
            if !wires.contains_key(&leader)
                && let Ok(wire) = Wire::open(&leader)
            {
                wires.insert(leader.clone(), wire);
            }
            let wire = wires.get_mut(&leader);
            let sent = wire.and_then(|wire| wire.produce(TOPIC, partition as i32, batch.into()).ok().map(|_| wire));
            match sent.and_then(|wire| wire.produced().ok()) {
                // Its own sequence numbers are the offsets, for nobody else writes here.
                Some(answer) if answer.error == errors::NONE => {
                    written.ends[partition].store(end + RECORDS, Ordering::Relaxed);
                }
                _ => {
                    leaders.clear();
                    break;
                }
            }
        }
        std::thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
}

//! Those who read: members of a group, who are dealt partitions and commit where they are, and one who reads everything.

use super::client::{Conn, Fail, Membership, SESSION, Told, code};
use super::{AGAIN, GROUP, PARTITIONS, READER, Shared, locked};
use crate::rng::Rng;
use history::stream::Poll;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_millis(400);
const COMMIT: Duration = Duration::from_millis(300);

/// Where a consumer is in a partition, and its connection to the leader.
struct Reading {
    next: u64,
    conn: Option<Conn>,
}

impl Shared {
    /// Polls a partition once; notes what came.
    fn poll(&self, rng: &mut Rng, consumer: u64, partition: usize, own: &mut Reading, who: usize) {
        let committed = who == GROUP;
        let fetched = match &mut own.conn {
            Some(conn) => conn.fetch(&self.topic, partition, own.next, committed),
            none => match self.leader(rng, partition) {
                Ok(conn) => none.insert(conn).fetch(&self.topic, partition, own.next, committed),
                Err(why) => Err(why),
            },
        };
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(why) => {
                own.conn = None;
                self.failed("Fetch", &why);
                if matches!(why, Fail::Code(code::OFFSET_OUT_OF_RANGE)) {
                    self.wrong(format!("lost write: partition {partition} does not reach {} any more", own.next));
                }
                std::thread::sleep(AGAIN);
                return;
            }
        };
        let (from, partition) = (own.next, partition as u32);
        own.next = fetched.next;
        if fetched.records.is_empty() {
            return;
        }
        let mut given = locked(&self.given[who]);
        let new = fetched.records.iter().filter(|(offset, _)| given.insert((partition, *offset))).count();
        drop(given);
        if committed {
            self.counts.given.fetch_add(fetched.records.len() as u64, Ordering::Relaxed);
            self.counts.twice.fetch_add((fetched.records.len() - new) as u64, Ordering::Relaxed);
        }
        let ended = self.now();
        locked(&self.seen).poll(Poll { consumer, partition, from, committed, records: fetched.records, ended });
    }
}

/// Reads all partitions from their beginning on, what was aborted too.
pub fn reader(shared: &Shared, rng: &mut Rng) {
    let consumer = shared.number();
    let mut places: [Reading; PARTITIONS] = std::array::from_fn(|_| Reading { next: 0, conn: None });
    while !shared.over.load(Ordering::Relaxed) {
        for (partition, own) in places.iter_mut().enumerate() {
            shared.poll(rng, consumer, partition, own, READER);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Is in the group until all is over.
pub fn member(shared: &Shared, rng: &mut Rng) {
    let group = format!("{}-group", shared.topic);
    let mut own = Membership::default();
    while !shared.over.load(Ordering::Relaxed) {
        let joined = shared.coordinator(rng, &group, false).and_then(|mut conn| {
            let places = join(shared, &mut conn, &group, &mut own)?;
            Ok((conn, places))
        });
        let (mut conn, places) = match joined {
            Ok(joined) => joined,
            Err(why) => {
                shared.failed("JoinGroup", &why);
                forget(&mut own, &why);
                std::thread::sleep(AGAIN);
                continue;
            }
        };
        shared.counts.joins.fetch_add(1, Ordering::Relaxed);
        match consume(shared, rng, &mut conn, &group, &own, places) {
            Ok(()) => own = Membership::default(),
            Err(why) => forget(&mut own, &why),
        }
    }
}

fn forget(own: &mut Membership, why: &Fail) {
    if let Fail::Code(code::UNKNOWN_MEMBER_ID | code::ILLEGAL_GENERATION) = why {
        *own = Membership::default();
    }
}

/// Joins, deals out if it is asked to, and is told where to go on.
fn join(shared: &Shared, conn: &mut Conn, group: &str, own: &mut Membership) -> Told<Vec<(usize, u64)>> {
    *own = conn.join(group, &shared.topic, &own.member)?;
    let part = |at: usize| (0..PARTITIONS).filter(|partition| partition % own.members.len() == at).collect();
    let dealt: Vec<(String, Vec<usize>)> =
        own.members.iter().enumerate().map(|(at, member)| (member.clone(), part(at))).collect();
    let partitions = conn.sync(group, own, &dealt)?;
    if partitions.is_empty() { Ok(Vec::new()) } else { conn.committed(group, &shared.topic, &partitions) }
}

/// Polls what it was dealt until the group deals anew, or has forgotten it. Whoever takes over as the coordinator knows the group as it was.
fn consume(
    shared: &Shared,
    rng: &mut Rng,
    conn: &mut Conn,
    group: &str,
    own: &Membership,
    places: Vec<(usize, u64)>,
) -> Told<()> {
    // A consumer of its own: it may begin behind where this member was before.
    let consumer = shared.number();
    let mut places: BTreeMap<usize, Reading> =
        places.into_iter().map(|(partition, next)| (partition, Reading { next, conn: None })).collect();
    let (mut beaten, mut committed, mut heard) = (Instant::now(), Instant::now(), Instant::now());
    let end = Instant::now() + Duration::from_millis(1500 + rng.next() % 4000);
    while !shared.over.load(Ordering::Relaxed) {
        for (partition, own) in &mut places {
            shared.poll(rng, consumer, *partition, own, GROUP);
        }
        std::thread::sleep(Duration::from_millis(5));
        if Instant::now() > end && !shared.stopped() {
            shared.counts.ends.fetch_add(1, Ordering::Relaxed);
            // Most say goodbye, the others are missed once their session is over. What was not committed is read again by others.
            return if rng.percent(85) { conn.leave(group, own).or(Ok(())) } else { Ok(()) };
        }
        let mut told = Ok(());
        if beaten.elapsed() > BEAT {
            beaten = Instant::now();
            told = conn.heartbeat(group, own);
        }
        let is_dealt_anew = matches!(told, Err(Fail::Code(code::REBALANCE_IN_PROGRESS)));
        if (told.is_ok() && committed.elapsed() > COMMIT || is_dealt_anew) && !places.is_empty() {
            committed = Instant::now();
            let next: Vec<(usize, u64)> = places.iter().map(|(partition, own)| (*partition, own.next)).collect();
            told = told.and(conn.commit(group, own, &shared.topic, &next));
        }
        match told {
            Ok(()) => heard = Instant::now(),
            Err(Fail::Code(
                code @ (code::REBALANCE_IN_PROGRESS | code::UNKNOWN_MEMBER_ID | code::ILLEGAL_GENERATION),
            )) => return Err(Fail::Code(code)),
            Err(why) => {
                shared.failed("the coordinator", &why);
                if heard.elapsed() > SESSION {
                    return Err(why);
                }
                match shared.coordinator(rng, group, false) {
                    Ok(open) => *conn = open,
                    Err(_) => std::thread::sleep(AGAIN),
                }
            }
        }
    }
    Ok(())
}

//! XPENDING, XCLAIM and XAUTOCLAIM: deliveries that were not acknowledged, and who takes them over.

use base::Millis;
use store::value::{Group, Log, Pending, Stream, StreamId};

use super::super::{Args, Outcome, Reading, Writing, integer, is, upper};
use super::{interval_end, interval_start, parse_id, reply_entry, reply_id, text};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

fn no_group(key: &[u8], group: &[u8]) -> CommandError {
    format!("NOGROUP No such key '{}' or consumer group '{}'", text(key), text(group)).into()
}

/// The range form of XPENDING.
struct Listing<'a> {
    idle_min: u64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

fn listing<'a>(args: Args<'a>) -> Result<Option<Listing<'a>>, CommandError> {
    if args.len() == 3 {
        return Ok(None);
    }
    if args.len() < 6 || args.len() > 9 {
        return Err(SYNTAX);
    }
    let (mut words, mut idle_min) = (&args[3..], 0);
    if is(words[0], "IDLE") {
        idle_min = integer(words[1])?.max(0) as u64;
        if args.len() < 8 {
            return Err(SYNTAX);
        }
        words = &words[2..];
    }
    let count = usize::try_from(integer(words[2])?.max(0)).unwrap_or(usize::MAX);
    let (start, end) = (interval_start(words[0])?, interval_end(words[1])?);
    Ok(Some(Listing { idle_min, start, end, count, consumer: words.get(3).copied() }))
}

pub(super) fn xpending(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let listing = listing(args)?;
    let stream = reading.tables.get::<Stream>(reading.db, args[1], reading.now)?;
    let group = stream.and_then(|stream| stream.group(args[2])).ok_or_else(|| no_group(args[1], args[2]))?;
    match listing {
        Some(listing) => list(group, &listing, reading.now, reply),
        None => summarize(group, reply),
    }
    Ok(())
}

fn summarize(group: &Group, reply: &mut Reply) {
    reply.array(4);
    reply.int(group.pending_count() as i64);
    let mut pending = group.pending_from(StreamId::MIN).map(|(id, _)| id);
    let Some(first) = pending.next() else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    reply_id(reply, first);
    reply_id(reply, pending.next_back().unwrap_or(first));
    let begun = reply.begin_array();
    let mut count = 0;
    for consumer in group.consumers().filter(|consumer| consumer.pending_count() > 0) {
        reply.array(2);
        reply.bulk(&consumer.name);
        reply.bulk_int(consumer.pending_count() as i64);
        count += 1;
    }
    reply.end_array(begun, count);
}

fn list(group: &Group, listing: &Listing<'_>, now: Millis, reply: &mut Reply) {
    let begun = reply.begin_array();
    let mut count = 0;
    let mut show = |id: StreamId, pending: &Pending| {
        let idle = now.saturating_sub(pending.delivered);
        if idle < listing.idle_min || count == listing.count {
            return count < listing.count;
        }
        reply.array(4);
        reply_id(reply, id);
        reply.bulk(&group.consumer(pending.consumer).name);
        reply.int(idle as i64);
        reply.int(pending.count as i64);
        count += 1;
        true
    };
    match listing.consumer.map(|name| group.find_consumer(name)) {
        // Nobody of that name: nothing.
        Some(None) => {}
        Some(Some(number)) => {
            let ids = group.consumer(number).pending_from(listing.start).take_while(|id| *id <= listing.end);
            let mut found = ids.filter_map(|id| group.pending(id).map(|pending| (id, pending)));
            while found.next().is_some_and(|(id, pending)| show(id, pending)) {}
        }
        None => {
            let mut found = group.pending_from(listing.start).take_while(|(id, _)| *id <= listing.end);
            while found.next().is_some_and(|(id, pending)| show(id, pending)) {}
        }
    }
    reply.end_array(begun, count);
}

/// What XCLAIM asks for behind the group's name.
struct Claim<'a> {
    consumer: &'a [u8],
    idle_min: u64,
    ids: Vec<StreamId>,
    delivered: Millis,
    count: Option<u64>,
    force: bool,
    just_id: bool,
    last_id: StreamId,
}

fn claim<'a>(args: Args<'a>, now: Millis) -> Result<Claim<'a>, CommandError> {
    let number = |word: &[u8], text| base::parse_i64(word).ok_or(CommandError::new(text));
    let idle_min = number(args[4], "ERR Invalid min-idle-time argument for XCLAIM")?.max(0) as u64;
    let ids: Vec<_> = args[5..].iter().map_while(|word| parse_id(word, 0).ok()).collect();
    let mut words = &args[5 + ids.len()..];
    let (consumer, last_id) = (args[3], StreamId::MIN);
    let mut claim =
        Claim { consumer, idle_min, ids, delivered: now, count: None, force: false, just_id: false, last_id };
    // A time that cannot be is taken for now, since clients reckon by clocks of their own; -1 is as good as none.
    let plausible = |at: i64| u64::try_from(at).ok().filter(|at| *at <= now).unwrap_or(now);
    while let [word, rest @ ..] = words {
        words = match (&*upper(word), rest) {
            (b"FORCE", rest) => {
                claim.force = true;
                rest
            }
            (b"JUSTID", rest) => {
                claim.just_id = true;
                rest
            }
            (b"IDLE", [idle, rest @ ..]) => {
                let idle = number(idle, "ERR Invalid IDLE option argument for XCLAIM")?;
                claim.delivered = plausible((now as i64).wrapping_sub(idle));
                rest
            }
            (b"TIME", [at, rest @ ..]) => {
                claim.delivered = plausible(number(at, "ERR Invalid TIME option argument for XCLAIM")?);
                rest
            }
            (b"RETRYCOUNT", [count, rest @ ..]) => {
                let count = number(count, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                claim.count = u64::try_from(count).ok();
                rest
            }
            (b"LASTID", [id, rest @ ..]) => {
                claim.last_id = parse_id(id, 0)?;
                rest
            }
            _ => return Err(format!("ERR Unrecognized XCLAIM option '{}'", text(word)).into()),
        };
    }
    Ok(claim)
}

pub(super) fn xclaim(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let now = writing.now;
    let stream = writing.tables.get::<Stream>(writing.db, args[1], now)?;
    if stream.is_none_or(|stream| stream.group(args[2]).is_none()) {
        return Err(no_group(args[1], args[2]));
    }
    let claim = claim(args, now)?;
    writing.tables.edit(writing.db, args[1], now, |stream: &mut Stream| {
        stream.edit_group(args[2], |log, group| claim.run(log, group, now, reply));
        (false, ())
    })?;
    Ok(())
}

/// Answers a claimed entry.
fn reply_claimed(reply: &mut Reply, log: &Log, id: StreamId, just_id: bool) {
    match log.get(id).filter(|_| !just_id) {
        Some(entry) => reply_entry(reply, &entry),
        None => reply_id(reply, id),
    }
}

impl Claim<'_> {
    fn run(&self, log: &Log, group: &mut Group, now: Millis, reply: &mut Reply) {
        group.last_id = group.last_id.max(self.last_id);
        let (consumer, _) = group.ensure_consumer(self.consumer, now);
        group.mark_seen(consumer, now);
        let begun = reply.begin_array();
        let mut claimed = 0;
        for id in &self.ids {
            let old = group.pending(*id).copied();
            if log.get(*id).is_none() {
                // Nobody can work on an entry that is gone.
                group.acknowledge(*id);
                continue;
            }
            let count = match old {
                Some(old) if now.saturating_sub(old.delivered) < self.idle_min => continue,
                Some(old) => old.count,
                None if self.force => 1,
                None => continue,
            };
            let count = self.count.unwrap_or(if self.just_id { count } else { count.saturating_add(1) });
            group.deliver(*id, Pending { consumer, delivered: self.delivered, count });
            group.mark_active(consumer, now);
            reply_claimed(reply, log, *id, self.just_id);
            claimed += 1;
        }
        reply.end_array(begun, claimed);
    }
}

pub(super) fn xautoclaim(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    const ATTEMPTS: i64 = 10;
    let idle_min =
        base::parse_i64(args[4]).ok_or(CommandError::new("ERR Invalid min-idle-time argument for XAUTOCLAIM"))?;
    let start = interval_start(args[5])?;
    let (mut count, mut just_id) = (100, false);
    let mut words = &args[6..];
    while let [word, rest @ ..] = words {
        words = match (&*upper(word), rest) {
            (b"COUNT", [number, rest @ ..]) => {
                let range = 1..=i64::MAX / 16;
                count = base::parse_i64(number)
                    .filter(|count| range.contains(count))
                    .ok_or(CommandError::new("ERR COUNT must be > 0"))?;
                rest
            }
            (b"JUSTID", rest) => {
                just_id = true;
                rest
            }
            _ => return Err(SYNTAX),
        };
    }
    let now = writing.now;
    let stream = writing.tables.get::<Stream>(writing.db, args[1], now)?;
    if stream.is_none_or(|stream| stream.group(args[2]).is_none()) {
        return Err(no_group(args[1], args[2]));
    }
    let sweep = Sweep {
        consumer: args[3],
        idle_min: idle_min.max(0) as u64,
        start,
        count: count as usize,
        attempts: (count * ATTEMPTS) as usize,
        just_id,
    };
    writing.tables.edit(writing.db, args[1], now, |stream: &mut Stream| {
        stream.edit_group(args[2], |log, group| sweep.run(log, group, now, reply));
        (false, ())
    })?;
    Ok(())
}

/// What XAUTOCLAIM asks for.
struct Sweep<'a> {
    consumer: &'a [u8],
    idle_min: u64,
    start: StreamId,
    /// Most entries that the answer names, gone ones included.
    count: usize,
    /// Most deliveries that are looked at.
    attempts: usize,
    just_id: bool,
}

impl Sweep<'_> {
    fn run(&self, log: &Log, group: &mut Group, now: Millis, reply: &mut Reply) {
        let (consumer, _) = group.ensure_consumer(self.consumer, now);
        group.mark_seen(consumer, now);
        let mut next = None;
        let (mut looked, mut claims, mut gone) = (0, Vec::new(), Vec::new());
        for (id, pending) in group.pending_from(self.start) {
            if looked == self.attempts || claims.len() + gone.len() == self.count {
                next = Some(id);
                break;
            }
            looked += 1;
            if log.get(id).is_none() {
                gone.push(id);
            } else if now.saturating_sub(pending.delivered) >= self.idle_min {
                claims.push((id, pending.count));
            }
        }
        reply.array(3);
        reply_id(reply, next.unwrap_or(StreamId::MIN));
        reply.array(claims.len());
        for (id, count) in claims {
            let count = if self.just_id { count } else { count.saturating_add(1) };
            group.deliver(id, Pending { consumer, delivered: now, count });
            group.mark_active(consumer, now);
            reply_claimed(reply, log, id, self.just_id);
        }
        reply.array(gone.len());
        for id in gone {
            group.acknowledge(id);
            reply_id(reply, id);
        }
    }
}

//! Parts of a sorted set: by rank, by score, by bytes; read, counted, stored or removed.

use std::ops::Range;
use std::sync::Arc;

use store::table::Expiry;
use store::value::{Value, Zset};

use super::super::{Args, Outcome, Reading, Writing, integer, upper};
use super::reply_members;
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// One end of a range of scores.
#[derive(Clone, Copy)]
struct ScoreBound {
    score: f64,
    open: bool,
}

/// One end of a range of members.
#[derive(Clone, Copy)]
enum LexBound<'a> {
    Lowest,
    Highest,
    Closed(&'a [u8]),
    Open(&'a [u8]),
}

/// What part is meant.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// First and last rank, negative from the end.
    Ranks(i64, i64),
    Scores(ScoreBound, ScoreBound),
    Members(LexBound<'a>, LexBound<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

fn score_bound(word: &[u8]) -> Option<ScoreBound> {
    let (open, digits) = match word {
        [b'(', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    // C's strtod passes over space, stops at a zero byte, and reads nothing at all as zero.
    let digits = digits.split(|byte| *byte == 0).next().unwrap_or_default();
    let digits = if digits.trim_ascii_start().is_empty() { digits } else { digits.trim_ascii_start() };
    let score = if digits.is_empty() { 0.0 } else { base::parse_f64(digits)? };
    Some(ScoreBound { score, open })
}

fn lex_bound(word: &[u8]) -> Option<LexBound<'_>> {
    match word {
        b"-" => Some(LexBound::Lowest),
        b"+" => Some(LexBound::Highest),
        [b'[', rest @ ..] => Some(LexBound::Closed(rest)),
        [b'(', rest @ ..] => Some(LexBound::Open(rest)),
        _ => None,
    }
}

fn part<'a>(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Part<'a>, CommandError> {
    match by {
        By::Rank => Ok(Part::Ranks(integer(min)?, integer(max)?)),
        By::Score => match (score_bound(min), score_bound(max)) {
            (Some(min), Some(max)) => Ok(Part::Scores(min, max)),
            _ => Err(CommandError::new("ERR min or max is not a float")),
        },
        By::Lex => match (lex_bound(min), lex_bound(max)) {
            (Some(min), Some(max)) => Ok(Part::Members(min, max)),
            _ => Err(CommandError::new("ERR min or max not valid string range item")),
        },
    }
}

impl Part<'_> {
    /// The ranks that are meant, from the lowest score on. `reverse` matters to ranks alone.
    fn ranks(self, zset: &Zset, reverse: bool) -> Range<usize> {
        match self {
            Part::Ranks(first, last) => {
                let len = zset.len() as i64;
                let from_end = |rank: i64| if rank < 0 { len.saturating_add(rank) } else { rank };
                let (first, last) = (from_end(first).max(0), from_end(last).min(len - 1));
                if first > last {
                    return 0..0;
                }
                let (first, last) = if reverse { (len - 1 - last, len - 1 - first) } else { (first, last) };
                first as usize..last as usize + 1
            }
            Part::Scores(min, max) => {
                let below = |score: f64| if min.open { score <= min.score } else { score < min.score };
                let within = |score: f64| if max.open { score < max.score } else { score <= max.score };
                ordered(zset.partition_point(|_, score| below(score)), zset.partition_point(|_, score| within(score)))
            }
            Part::Members(min, max) => {
                let below = |member: &[u8]| match min {
                    LexBound::Lowest => false,
                    LexBound::Highest => true,
                    LexBound::Closed(bound) => member < bound,
                    LexBound::Open(bound) => member <= bound,
                };
                let within = |member: &[u8]| match max {
                    LexBound::Lowest => false,
                    LexBound::Highest => true,
                    LexBound::Closed(bound) => member <= bound,
                    LexBound::Open(bound) => member < bound,
                };
                ordered(
                    zset.partition_point(|member, _| below(member)),
                    zset.partition_point(|member, _| within(member)),
                )
            }
        }
    }
}

fn ordered(start: usize, end: usize) -> Range<usize> {
    start..end.max(start)
}

/// A whole ZRANGE: part, direction, window and form of the answer.
struct Query<'a> {
    key: &'a [u8],
    part: Part<'a>,
    reverse: bool,
    offset: i64,
    /// Negative is no bound.
    limit: i64,
    with_scores: bool,
}

/// Reads the words of a ZRANGE or its kin from the key on. `by` and `reverse` are what the command's name fixes.
fn query<'a>(words: Args<'a>, by: Option<By>, reverse: Option<bool>, store: bool) -> Result<Query<'a>, CommandError> {
    let (mut chosen, mut backwards, mut with_scores, mut offset, mut limit) = (by, reverse, false, 0, -1);
    let mut at = 3;
    while at < words.len() {
        match &*upper(words[at]) {
            b"WITHSCORES" if !store => with_scores = true,
            b"LIMIT" if words.len() - at > 2 => {
                (offset, limit) = (integer(words[at + 1])?, integer(words[at + 2])?);
                at += 2;
            }
            b"REV" if reverse.is_none() && backwards.is_none() => backwards = Some(true),
            b"BYLEX" if chosen.is_none() => chosen = Some(By::Lex),
            b"BYSCORE" if chosen.is_none() => chosen = Some(By::Score),
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    let (by, reverse) = (chosen.unwrap_or(By::Rank), backwards.unwrap_or(false));
    if limit != -1 && by == By::Rank {
        let text = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
        return Err(CommandError::new(text));
    }
    if with_scores && by == By::Lex {
        let text = "ERR syntax error, WITHSCORES not supported in combination with BYLEX";
        return Err(CommandError::new(text));
    }
    let (min, max) = if reverse && by != By::Rank { (words[2], words[1]) } else { (words[1], words[2]) };
    Ok(Query { key: words[0], part: part(by, min, max)?, reverse, offset, limit, with_scores })
}

impl Query<'_> {
    fn ranks(&self, zset: &Zset) -> Range<usize> {
        let all = self.part.ranks(zset, self.reverse);
        if matches!(self.part, Part::Ranks(..)) {
            return all;
        }
        // A negative offset runs past every member in Redis.
        let skipped = usize::try_from(self.offset).unwrap_or(usize::MAX).min(all.len());
        let count = usize::try_from(self.limit).unwrap_or(usize::MAX).min(all.len() - skipped);
        if self.reverse {
            all.end - skipped - count..all.end - skipped
        } else {
            all.start + skipped..all.start + skipped + count
        }
    }

    fn answer(&self, reading: &Reading<'_>, reply: &mut Reply) -> Outcome {
        let Some(zset) = reading.tables.get::<Zset>(reading.db, self.key, reading.now)? else {
            reply.array(0);
            return Ok(());
        };
        let members = zset.range(self.ranks(zset));
        if self.reverse {
            reply_members(reply, members.rev(), self.with_scores);
        } else {
            reply_members(reply, members, self.with_scores);
        }
        Ok(())
    }
}

pub(super) fn zrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], None, None, false)?.answer(reading, reply)
}

pub(super) fn zrevrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], Some(By::Rank), Some(true), false)?.answer(reading, reply)
}

pub(super) fn zrangebyscore(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], Some(By::Score), Some(false), false)?.answer(reading, reply)
}

pub(super) fn zrevrangebyscore(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], Some(By::Score), Some(true), false)?.answer(reading, reply)
}

pub(super) fn zrangebylex(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], Some(By::Lex), Some(false), false)?.answer(reading, reply)
}

pub(super) fn zrevrangebylex(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    query(&args[1..], Some(By::Lex), Some(true), false)?.answer(reading, reply)
}

pub(super) fn zrangestore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let query = query(&args[2..], None, None, true)?;
    let zset = writing.tables.get::<Zset>(writing.db, query.key, writing.now)?;
    let part =
        zset.map(|zset| zset.range(query.ranks(zset)).map(|(member, score)| (Arc::from(member), score)).collect());
    store(writing, args[1], part.unwrap_or_default(), reply);
    Ok(())
}

/// Puts a result under a key and answers its size; an empty one removes the key.
pub(super) fn store(writing: &mut Writing<'_>, key: &[u8], zset: Zset, reply: &mut Reply) {
    reply.int(zset.len() as i64);
    if zset.is_empty() {
        writing.tables.remove(writing.db, key, writing.now);
    } else {
        writing.tables.set(writing.db, key, Value::Zset(Box::new(zset)), Expiry::Clear, writing.now);
    }
}

pub(super) fn zcount(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    count(reading, args, By::Score, reply)
}

pub(super) fn zlexcount(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    count(reading, args, By::Lex, reply)
}

fn count(reading: &mut Reading<'_>, args: Args<'_>, by: By, reply: &mut Reply) -> Outcome {
    let part = part(by, args[2], args[3])?;
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    reply.int(zset.map_or(0, |zset| part.ranks(zset, false).len()) as i64);
    Ok(())
}

pub(super) fn zremrangebyrank(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    remove(writing, args, By::Rank, reply)
}

pub(super) fn zremrangebyscore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    remove(writing, args, By::Score, reply)
}

pub(super) fn zremrangebylex(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    remove(writing, args, By::Lex, reply)
}

fn remove(writing: &mut Writing<'_>, args: Args<'_>, by: By, reply: &mut Reply) -> Outcome {
    let part = part(by, args[2], args[3])?;
    let removed = writing.tables.edit(writing.db, args[1], writing.now, |zset: &mut Zset| {
        let removed = zset.remove_range(part.ranks(zset, false));
        (removed > 0, removed)
    })?;
    reply.int(removed.unwrap_or(0) as i64);
    Ok(())
}

//! Unions, intersections and differences of sorted sets and of sets, whose members all score 1.

use std::collections::HashMap;
use std::sync::Arc;

use store::table::Tables;
use store::value::{Kind, Set, Zset};

use super::super::{Args, Outcome, Reading, Writing, integer, is};
use super::range::store;
use super::reply_members;
use crate::error::{CommandError, NOT_FLOAT, SYNTAX, WRONG_TYPE};
use crate::reply::Reply;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// Infinities that cancel out give 0, as in Redis.
    fn join(self, one: f64, other: f64) -> f64 {
        match self {
            Aggregate::Sum => zero_if_nan(one + other),
            Aggregate::Min => {
                if other < one {
                    other
                } else {
                    one
                }
            }
            Aggregate::Max => {
                if other > one {
                    other
                } else {
                    one
                }
            }
        }
    }
}

fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

#[derive(Clone, Copy)]
enum Members<'a> {
    None,
    Zset(&'a Zset),
    Set(&'a Set),
}

#[derive(Clone, Copy)]
struct Source<'a> {
    members: Members<'a>,
    weight: f64,
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self.members {
            Members::None => 0,
            Members::Zset(zset) => zset.len(),
            Members::Set(set) => set.len(),
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self.members {
            Members::None => None,
            Members::Zset(zset) => zset.score(member),
            Members::Set(set) => set.contains(member).then_some(1.0),
        }
    }

    /// Visits members and scores until `visit` says no.
    fn each(&self, mut visit: impl FnMut(&[u8], f64) -> bool) {
        match self.members {
            Members::None => true,
            Members::Zset(zset) => zset.iter().all(|(member, score)| visit(member, score)),
            Members::Set(set) => set.iter().all(|member| visit(&member, 1.0)),
        };
    }
}

/// A command that was read: sources in the order of their size where the order does not matter.
struct Plan<'a> {
    operation: Operation,
    sources: Vec<Source<'a>>,
    aggregate: Aggregate,
    with_scores: bool,
    /// ZINTERCARD's; 0 is no bound.
    limit: usize,
}

/// Which words a command takes beside its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Answer,
    Store,
    Cardinality,
}

/// Reads a command whose `numkeys` is the word at `at`.
fn plan<'a>(
    tables: &'a Tables,
    (db, now): (u8, base::Millis),
    args: Args<'_>,
    at: usize,
    operation: Operation,
    form: Form,
) -> Result<Plan<'a>, CommandError> {
    let count = integer(args[at])?;
    if count < 1 {
        let name = String::from_utf8_lossy(args[0]).to_ascii_lowercase();
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    let first = at + 1;
    let count = usize::try_from(count).ok().filter(|count| *count <= args.len() - first).ok_or(SYNTAX)?;
    let mut sources = Vec::with_capacity(count);
    for key in &args[first..first + count] {
        let members = match tables.value(db, key, now) {
            None => Members::None,
            Some(value) => match (Zset::of(value), Set::of(value)) {
                (Some(zset), _) => Members::Zset(zset),
                (_, Some(set)) => Members::Set(set),
                _ => return Err(WRONG_TYPE),
            },
        };
        sources.push(Source { members, weight: 1.0 });
    }
    let mut plan = Plan { operation, sources, aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
    let weighted = operation != Operation::Difference && form != Form::Cardinality;
    let mut words = &args[first + count..];
    while let [word, rest @ ..] = words {
        words = if weighted && rest.len() >= count && is(word, "WEIGHTS") {
            for (source, weight) in plan.sources.iter_mut().zip(rest) {
                source.weight = super::super::float(weight).map_err(|error| {
                    if error == NOT_FLOAT { CommandError::new("ERR weight value is not a float") } else { error }
                })?;
            }
            &rest[count..]
        } else if weighted && !rest.is_empty() && is(word, "AGGREGATE") {
            plan.aggregate = match () {
                () if is(rest[0], "SUM") => Aggregate::Sum,
                () if is(rest[0], "MIN") => Aggregate::Min,
                () if is(rest[0], "MAX") => Aggregate::Max,
                () => return Err(SYNTAX),
            };
            &rest[1..]
        } else if form == Form::Answer && is(word, "WITHSCORES") {
            plan.with_scores = true;
            rest
        } else if form == Form::Cardinality && !rest.is_empty() && is(word, "LIMIT") {
            let limit = base::parse_i64(rest[0]).and_then(|limit| usize::try_from(limit).ok());
            plan.limit = limit.ok_or(CommandError::new("ERR LIMIT can't be negative"))?;
            &rest[1..]
        } else {
            return Err(SYNTAX);
        };
    }
    if operation != Operation::Difference {
        plan.sources.sort_by_key(Source::len);
    }
    Ok(plan)
}

impl Plan<'_> {
    fn result(&self) -> Zset {
        let mut result: Vec<(Arc<[u8]>, f64)> = match self.operation {
            Operation::Union => self.union(),
            Operation::Intersection => {
                let mut found = Vec::new();
                self.intersect(|member, score| {
                    found.push((member.into(), score));
                    true
                });
                found
            }
            Operation::Difference => self.difference(),
        };
        // In order, so that the set grows at its end alone. Scores are never NaN.
        result.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        result.into_iter().collect()
    }

    fn union(&self) -> Vec<(Arc<[u8]>, f64)> {
        let mut sums: HashMap<Arc<[u8]>, f64, store::hash::State> = HashMap::default();
        for source in &self.sources {
            source.each(|member, score| {
                let score = zero_if_nan(source.weight * score);
                match sums.get_mut(member) {
                    Some(sum) => *sum = self.aggregate.join(*sum, score),
                    None => _ = sums.insert(member.into(), score),
                }
                true
            });
        }
        sums.into_iter().collect()
    }

    /// Visits the members that every source has, with their joint scores, until `visit` says no.
    fn intersect(&self, mut visit: impl FnMut(&[u8], f64) -> bool) {
        let (first, others) = self.sources.split_first().expect("a plan has at least one source");
        first.each(|member, score| {
            let mut sum = zero_if_nan(first.weight * score);
            for other in others {
                match other.score(member) {
                    Some(score) => sum = self.aggregate.join(sum, score * other.weight),
                    None => return true,
                }
            }
            visit(member, sum)
        });
    }

    fn difference(&self) -> Vec<(Arc<[u8]>, f64)> {
        let (first, others) = self.sources.split_first().expect("a plan has at least one source");
        let mut left = Vec::new();
        first.each(|member, score| {
            if others.iter().all(|other| other.score(member).is_none()) {
                left.push((member.into(), score));
            }
            true
        });
        left
    }
}

fn answer(reading: &Reading<'_>, args: Args<'_>, operation: Operation, reply: &mut Reply) -> Outcome {
    let plan = plan(reading.tables, (reading.db, reading.now), args, 1, operation, Form::Answer)?;
    reply_members(reply, plan.result().iter(), plan.with_scores);
    Ok(())
}

fn answer_size(writing: &mut Writing<'_>, args: Args<'_>, operation: Operation, reply: &mut Reply) -> Outcome {
    let plan = plan(writing.tables, (writing.db, writing.now), args, 2, operation, Form::Store)?;
    let result = plan.result();
    store(writing, args[1], result, reply);
    Ok(())
}

pub(super) fn zunion(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer(reading, args, Operation::Union, reply)
}

pub(super) fn zinter(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer(reading, args, Operation::Intersection, reply)
}

pub(super) fn zdiff(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer(reading, args, Operation::Difference, reply)
}

pub(super) fn zunionstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_size(writing, args, Operation::Union, reply)
}

pub(super) fn zinterstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_size(writing, args, Operation::Intersection, reply)
}

pub(super) fn zdiffstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_size(writing, args, Operation::Difference, reply)
}

pub(super) fn zintercard(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let at = (reading.db, reading.now);
    let plan = plan(reading.tables, at, args, 1, Operation::Intersection, Form::Cardinality)?;
    let mut count = 0;
    plan.intersect(|_, _| {
        count += 1;
        count != plan.limit
    });
    reply.int(count as i64);
    Ok(())
}

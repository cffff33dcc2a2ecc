//! Commands that concern all shards of a node that has several.
//!
//! What reads is put together here from all of them: from their states where this node may read them all, else by asking one
//! after the other, wherever it is led. What writes (FLUSHALL, FLUSHDB, SWAPDB, SCRIPT, FUNCTION) goes to one shard after
//! the other, each time as an entry of its own; the client hears once, when all have done it, or the first error. Until there
//! are commits across shards that is not atomic: whoever looks meanwhile sees some done and others not, and after an error, or
//! a node that dies in between, it stays so; the command can be given again.

use base::Limit;
use shard::command::{Flags, Spec, is};
use shard::error::CommandError;
use shard::pending::Place;
use shard::reply::{Reply, TOO_LONG};
use shard::whole::Whole;
use store::keyspace::Durability;

use super::session::ask::Ask;
use super::session::{Session, Step};

const READ_ONLY: CommandError = CommandError::new("READONLY You can't write against a read only replica.");
const NOT_SURE: CommandError = CommandError::new(
    "TRYAGAIN this node does not know at the moment whether it still leads; nothing was done, ask again in a moment",
);

/// How far a command has come that goes to one shard after the other.
pub(super) struct Round {
    /// The shard that has been asked last.
    asked: usize,
    /// Shards that have answered.
    heard: usize,
    /// What they have answered, put together.
    answer: Vec<u8>,
    /// And how much that is: of DBSIZE and KEYS.
    count: u64,
}

impl Session {
    /// Whether a command goes to every shard.
    pub(super) fn is_for_all_shards(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        let script = || {
            let subcommands: &[&str] = match spec.name {
                "script" => &["load", "exists", "flush"],
                "function" => &["load", "delete", "flush", "restore"],
                _ => &[],
            };
            subcommands.iter().any(|name| args.get(1).is_some_and(|word| is(word, name)))
        };
        self.is_cluster && spec.flags.has(Flags::WHOLE)
            || self.door.shards.len() > 1 && (spec.flags.has(Flags::WHOLE) || script())
    }

    /// Runs a command that concerns every shard.
    pub(super) fn whole(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.is_pending() {
            return Step::Barrier;
        }
        if self.is_cluster
            && let Err(error) = self.only_one_database(spec, args)
        {
            return self.refuse(error, out);
        }
        if spec.is_write() { self.whole_write(spec, args, out) } else { self.whole_read(spec, args, out) }
    }

    fn whole_write(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let place = match self.door.shards[0].state().class_of_whole() {
            Durability::Fsync => Place::Logged,
            Durability::Memory => Place::Local,
        };
        let frees = spec.flags.has(Flags::FREES);
        let is_masked = self.is_cluster && spec.flags.has(Flags::WHOLE);
        let count = self.door.shards.len();
        let asked: Vec<bool> = (0..count).map(|at| !is_masked || !self.is_there(at)).collect();
        let next = |from: usize| (from..count).find(|at| asked[*at]);
        let round = match self.round.take() {
            None => {
                let Some(first) = next(0) else {
                    return self.refuse(READ_ONLY, out);
                };
                let here = |at: &usize| !self.is_there(*at);
                let mut refusals =
                    (0..self.door.shards.len()).filter(here).filter_map(|at| self.door.shards[at].refusal(frees));
                if let Some(error) = refusals.next().filter(|_| place == Place::Logged) {
                    return self.refuse(error, out);
                }
                Round { asked: first, heard: 0, answer: Vec::new(), count: 0 }
            }
            Some(Round { asked, heard, answer, count }) => {
                let answer = together(answer, self.client.take_aside());
                let Some(asked) = next(asked + 1).filter(|_| !answer.starts_with(b"-")) else {
                    out.bytes.extend_from_slice(&answer);
                    return Step::Next;
                };
                Round { asked, heard: heard + 1, answer, count }
            }
        };
        // What has been begun is not given up for a queue that is full.
        let must = round.heard > 0;
        self.ask_round(round, Ask::Command { place, frees, words: args }, must, out)
    }

    /// Asks the round's next shard.
    fn ask_round(&mut self, round: Round, ask: Ask<'_>, must: bool, out: &mut Reply) -> Step {
        self.turn_to(round.asked, true);
        // Before the question: its answer may be here before the next line is reached.
        self.client.set_aside();
        if let Err(error) = self.ask_for(round.asked, ask, must) {
            self.client.take_aside();
            self.door.limits.hit(Limit::pending_bytes_max);
            return self.refuse(error, out);
        }
        self.blocked = true;
        self.round = Some(round);
        // It comes by again with every answer, until all have come.
        Step::Barrier
    }

    fn whole_read(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let door = self.door.clone();
        if self.is_cluster {
            return self.whole_read_here(spec, args, out);
        }
        if self.round.is_none() && door.shards.iter().all(|shard| shard.reads_here()) {
            let begun = out.bytes.len();
            let whole = Whole { shards: &door.shards, only: None, db: self.db, now: self.now };
            out.bytes_max = begun.saturating_add(door.limits.output_bytes_max);
            whole.read(spec, args, &mut self.rng, out);
            if door.shards.iter().all(|shard| shard.may_read(|| door.world.now())) {
                return Step::Next;
            }
            out.bytes.truncate(begun);
        }
        let count = door.shards.len();
        let cursor = || args.get(1).and_then(|word| number(word)).unwrap_or(0);
        let round = match self.round.take() {
            None => {
                let first = match spec.name {
                    "scan" => (cursor() % count as u64) as usize,
                    // By the number of shards, not by how much they hold: hashing has spread the keys evenly.
                    "randomkey" => self.rng.index(count),
                    _ => 0,
                };
                Round { asked: first, heard: 0, answer: Vec::new(), count: 0 }
            }
            Some(round) => match self.put_together(spec.name, round, out) {
                Some(round) => round,
                None => return Step::Next,
            },
        };
        let own = (cursor() / count as u64).to_string();
        let mut words = args.to_vec();
        if spec.name == "scan" && number(args[1]).is_some() {
            words[1] = own.as_bytes();
        }
        self.ask_round(round, Ask::Command { place: Place::Local, frees: false, words: &words }, false, out)
    }

    /// At the cluster door: what the shards hold that this node leads.
    fn whole_read_here(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let door = self.door.clone();
        let only: Vec<bool> = (0..door.shards.len()).map(|at| !self.is_there(at) || self.readonly).collect();
        let begun = out.bytes.len();
        let whole = Whole { shards: &door.shards, only: Some(&only), db: self.db, now: self.now };
        out.bytes_max = begun.saturating_add(door.limits.output_bytes_max);
        whole.read(spec, args, &mut self.rng, out);
        let mut own = door.shards.iter().zip(&only).filter(|(_, only)| **only);
        if !self.readonly && !own.all(|(shard, _)| shard.may_read(|| door.world.now())) {
            out.bytes.truncate(begun);
            return self.refuse(NOT_SURE, out);
        }
        Step::Next
    }

    /// Takes a shard's answer to a read. `None` where the whole one has been written.
    fn put_together(&mut self, name: &str, round: Round, out: &mut Reply) -> Option<Round> {
        let part = self.client.take_aside();
        let (line, rest) = match part.windows(2).position(|two| two == b"\r\n") {
            Some(end) => (&part[..end], &part[end + 2..]),
            None => (&part[..], &[][..]),
        };
        let told = number(line.get(1..).unwrap_or_default());
        let Round { asked, mut heard, mut answer, mut count } = round;
        heard += 1;
        let is_last = heard == self.door.shards.len();
        if line.is_empty() || line.starts_with(b"-") {
            out.bytes.extend_from_slice(&part);
            return None;
        }
        match name {
            "dbsize" => {
                count += told.unwrap_or(0);
                if is_last {
                    out.int(count as i64);
                }
            }
            "keys" => {
                count += told.unwrap_or(0);
                answer.extend_from_slice(rest);
                if answer.len() > self.door.limits.output_bytes_max {
                    out.error(&TOO_LONG.0);
                    return None;
                }
                if is_last {
                    out.array(count as usize);
                    out.bytes.extend_from_slice(&answer);
                }
            }
            "randomkey" => {
                if is_last || !matches!(line, b"$-1" | b"_") {
                    out.bytes.extend_from_slice(&part);
                    return None;
                }
            }
            _ => {
                self.put_page(asked, rest, out);
                return None;
            }
        }
        (!is_last).then(|| Round { asked: (asked + 1) % self.door.shards.len(), heard, answer, count })
    }

    /// A shard's answer to SCAN behind its first line: its cursor becomes one that names the shard.
    fn put_page(&self, asked: usize, rest: &[u8], out: &mut Reply) {
        let mut lines = rest.splitn(3, |byte| *byte == b'\n');
        let (_, cursor, keys) = (lines.next(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let own = number(cursor.strip_suffix(b"\r").unwrap_or(cursor)).unwrap_or(0);
        let count = self.door.shards.len();
        let next = match own {
            0 if asked + 1 == count => 0,
            0 => asked as u64 + 1,
            own => own * count as u64 + asked as u64,
        };
        out.array(2);
        out.bulk(next.to_string().as_bytes());
        out.bytes.extend_from_slice(keys);
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Two shards' answers as one: an error wins; SCRIPT EXISTS finds what every shard has.
fn together(before: Vec<u8>, now: Vec<u8>) -> Vec<u8> {
    if before.len() != now.len() || now.starts_with(b"-") {
        return now;
    }
    // Equal but for the digits 0 and 1 of SCRIPT EXISTS.
    before.into_iter().zip(now).map(|(one, other)| one.min(other)).collect()
}

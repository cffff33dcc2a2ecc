//! Commands that concern all shards of a node that has several.
//!
//! What reads is put together here from all of them. What writes (FLUSHALL, FLUSHDB, SWAPDB, SCRIPT) goes to one shard after
//! the other, each time as an entry of its own; the client hears once, when all have done it, or the first error. Until there
//! are commits across shards that is not atomic: whoever looks meanwhile sees some done and others not, and after an error, or
//! a node that dies in between, it stays so; the command can be given again.

use shard::command::{Flags, Spec, is};
use shard::pending::Place;
use shard::reply::Reply;
use shard::whole::Whole;
use store::keyspace::Durability;

use super::session::{Session, Step};

/// How far a command has come that goes to one shard after the other.
pub(super) struct Round {
    /// The shard that has been asked last.
    asked: usize,
    /// What those before it have answered, put together.
    answer: Vec<u8>,
}

impl Session {
    /// Whether a command goes to every shard.
    pub(super) fn is_for_all_shards(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        let script = || {
            spec.name == "script"
                && ["load", "exists", "flush"].iter().any(|name| args.get(1).is_some_and(|word| is(word, name)))
        };
        self.door.shards.len() > 1 && (spec.flags.has(Flags::WHOLE) || script())
    }

    /// Runs a command that concerns every shard.
    pub(super) fn whole(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.is_pending() {
            return Step::Barrier;
        }
        if !spec.is_write() {
            let door = self.door.clone();
            let whole = Whole { shards: &door.shards, db: self.db, now: self.now };
            out.bytes_max = out.bytes.len().saturating_add(door.limits.output_bytes_max);
            whole.read(spec, args, &mut self.rng, out);
            return Step::Next;
        }
        let place = match self.door.shards[0].state().class_of_whole() {
            Durability::Fsync => Place::Logged,
            Durability::Memory => Place::Local,
        };
        let frees = spec.flags.has(Flags::FREES);
        let round = match self.round.take() {
            None => {
                let mut refusals = self.door.shards.iter().filter_map(|shard| shard.refusal(frees));
                if let Some(error) = refusals.next().filter(|_| place == Place::Logged) {
                    return self.refuse(error, out);
                }
                Round { asked: 0, answer: Vec::new() }
            }
            Some(Round { asked, answer }) => {
                let answer = together(answer, self.client.take_aside());
                if answer.starts_with(b"-") || asked + 1 == self.door.shards.len() {
                    out.bytes.extend_from_slice(&answer);
                    return Step::Next;
                }
                Round { asked: asked + 1, answer }
            }
        };
        let (db, protocol, client) = (self.db, self.protocol, self.client.clone());
        let shard = self.door.shards[round.asked].clone();
        // What has been begun is not given up for a queue that is full.
        let add = |batch: &mut shard::pending::Batch<_>| batch.command(place, frees, client, db, protocol, args);
        let submitted = if round.asked == 0 { shard.submit(add) } else { Ok(shard.put(add)) };
        match submitted {
            Ok(wake) => self.wake |= wake,
            Err(error) => {
                self.door.limits.hit(base::Limit::pending_bytes_max);
                return self.refuse(error, out);
            }
        }
        self.client.set_aside();
        self.sent += 1;
        self.blocked = true;
        self.towards = round.asked;
        self.round = Some(round);
        // It comes by again with every answer, until all have come.
        Step::Barrier
    }
}

/// Two shards' answers as one: an error wins; SCRIPT EXISTS finds what every shard has.
fn together(before: Vec<u8>, now: Vec<u8>) -> Vec<u8> {
    if before.len() != now.len() || now.starts_with(b"-") {
        return now;
    }
    // Equal but for the digits 0 and 1 of SCRIPT EXISTS.
    before.into_iter().zip(now).map(|(one, other)| one.min(other)).collect()
}

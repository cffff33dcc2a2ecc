//! One unit at the node that leads its shard: where it belongs, decided anew, for the sender's view may be old.

use base::{GroupId, Instant, NodeId, Rng};
use shard::command::{self, Flags, Spec};
use shard::entry::{self, Part, Unit};
use shard::error::CommandError;
use shard::live::Shard;
use shard::pending::Place;
use shard::reply::{Protocol, Reply};
use shard::state::{Call, MIXED};
use store::codec::{Corrupt, Input};
use store::keyspace::Durability;

use crate::resp::door::{Client, Door};

/// What came of a unit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::resp) enum Placed {
    /// It waits in the shard's queue; whether the driver must be woken.
    Queued(bool),
    /// It has been answered: only where nothing of the client is under way.
    Answered(Vec<u8>),
    /// This node does not lead. Nothing was done.
    Elsewhere(Option<NodeId>),
}

/// Where a unit belongs, and whether it only frees.
struct Kind {
    place: Place,
    frees: bool,
}

const LOCAL: Kind = Kind { place: Place::Local, frees: false };

fn damaged(corrupt: &Corrupt) -> CommandError {
    CommandError::from(format!("ERR a request from another node cannot be read: {corrupt}"))
}

fn known(words: &[&[u8]]) -> Result<&'static Spec, CommandError> {
    let spec = command::find(words[0]).ok_or(CommandError::new("ERR unknown command on the node that leads"))?;
    command::check(spec, words)?;
    Ok(spec)
}

fn kind_of(shard: &Shard<Client>, unit: &mut Unit<'_>) -> Result<Kind, CommandError> {
    let class = |spec: &Spec, words: &[&[u8]]| shard.state().class_of(spec, words);
    match unit {
        Unit::Command { words, .. } => {
            let spec = known(words)?;
            let logged = spec.is_write() && class(spec, words)? == Durability::Fsync;
            Ok(if logged { Kind { place: Place::Logged, frees: spec.flags.has(Flags::FREES) } } else { LOCAL })
        }
        Unit::Multi(multi) => {
            let (mut writes, mut frees, mut own) = (false, true, None);
            for _ in 0..multi.count {
                let words = match multi.next_part().map_err(|corrupt| damaged(&corrupt))? {
                    Part::Command(_, words) => words,
                    Part::Literal(_) => continue,
                    Part::Stream(op, _) => {
                        if *own.get_or_insert(Durability::Fsync) != Durability::Fsync {
                            return Err(MIXED);
                        }
                        writes |= op.is_write();
                        frees &= op.frees() || !op.is_write();
                        continue;
                    }
                };
                // PUBLISH, the one command of a door that may be in it, runs as a part of the unit.
                if words[0].eq_ignore_ascii_case(b"publish") {
                    continue;
                }
                let spec = known(&words)?;
                let class = class(spec, &words)?;
                if (spec.is_write() || !spec.key_places(&words).is_empty()) && *own.get_or_insert(class) != class {
                    return Err(MIXED);
                }
                writes |= spec.is_write();
                frees &= spec.flags.has(Flags::FREES) || !spec.is_write();
            }
            let logged = writes && own != Some(Durability::Memory);
            Ok(Kind { place: if logged { Place::Logged } else { Place::Local }, frees })
        }
        Unit::Change(change) if shard.group == GroupId(0) => {
            Ok(Kind { place: Place::Logged, frees: shard::meta::frees(change) })
        }
        Unit::Topics(change) if shard.group == GroupId(0) => {
            Ok(Kind { place: Place::Logged, frees: matches!(change, queue::topics::Change::Delete { .. }) })
        }
        Unit::Users(_) if shard.group == GroupId(0) => Ok(Kind { place: Place::Logged, frees: true }),
        Unit::Queue(command, _) if shard.group != GroupId(0) => {
            Ok(Kind { place: Place::Logged, frees: command.frees() })
        }
        Unit::Stream { op, .. } if shard.group != GroupId(0) => match op.is_write() {
            true => Ok(Kind { place: Place::Logged, frees: op.frees() }),
            false => Ok(LOCAL),
        },
        Unit::Commit(step) if shard.group != GroupId(0) => Ok(Kind { place: Place::Logged, frees: step.frees() }),
        Unit::Literal(_) | Unit::Versions(_) => Ok(LOCAL),
        _ => Err(CommandError::new("ERR another node sent what no client may ask for")),
    }
}

impl Door {
    /// The shard of a group, the meta group's too.
    pub(in crate::resp) fn shard_of_group(&self, group: GroupId) -> Option<&std::sync::Arc<Shard<Client>>> {
        let meta = self.forward.meta.get().filter(|meta| meta.group == group);
        meta.or_else(|| self.shards.iter().find(|shard| shard.group == group))
    }

    /// The group whose shard has a unit's keys by now, where it was that one's when it was asked.
    ///
    /// # Errors
    /// The answer where no shard can do it any more. Nothing was done.
    pub(super) fn group_of_unit(&self, bytes: &[u8], was: GroupId) -> Result<GroupId, &'static [u8]> {
        if was == GroupId::META || self.shards.len() == 1 {
            return Ok(was);
        }
        let Ok(unit) = entry::read_unit(&mut Input::new(bytes)) else { return Ok(was) };
        let (mut found, mut crossed) = (None, false);
        let watches = shard::state::keys_of(&unit, |key| {
            let own = self.shard_of(key);
            crossed |= *found.get_or_insert(own) != own;
        });
        let group = found.and_then(|at| self.shards.get(at)).map_or(was, |shard| shard.group);
        if matches!(unit, Unit::Commit(_)) {
            // Its door finds out by itself where the keys are by now.
            let moved = b"-TRYAGAIN the slot of a key has moved to another shard; nothing was done\r\n";
            return if group == was { Ok(was) } else { Err(moved) };
        }
        match group != was && watches {
            // Whether what was watched has changed is not known elsewhere: as if it had.
            true => Err(match &unit {
                Unit::Multi(multi) if multi.protocol == Protocol::Resp3 => b"_\r\n",
                _ => b"*-1\r\n",
            }),
            false if crossed => Err(b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
            false => Ok(group),
        }
    }

    /// Takes one unit of `client` to the shard. `idle` where nothing of the client is under way: then a read may be answered
    /// at once.
    pub(in crate::resp) fn place_unit(
        &self,
        group: GroupId,
        client: &Client,
        bytes: &[u8],
        idle: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Placed {
        let Some(shard) = self.shard_of_group(group) else {
            return Placed::Elsewhere(None);
        };
        if shard.is_led_elsewhere() {
            return Placed::Elsewhere(shard.leader());
        }
        let refuse = |error: CommandError, protocol: Protocol| {
            let mut reply = Reply::new(protocol);
            reply.error(&error.0);
            if idle {
                return Placed::Answered(reply.bytes);
            }
            Placed::Queued(shard.put(|batch| batch.literal(client.clone(), &reply.bytes)))
        };
        let mut input = Input::new(bytes);
        let mut unit = match entry::read_unit(&mut input) {
            Ok(unit) if input.is_empty() => unit,
            Ok(_) => return refuse(damaged(&Corrupt("more than one unit")), Protocol::Resp2),
            Err(corrupt) => return refuse(damaged(&corrupt), Protocol::Resp2),
        };
        if !shard.state().takes_unit(&unit) {
            return Placed::Elsewhere(None);
        }
        let kind = match kind_of(shard, &mut unit) {
            Ok(kind) => kind,
            Err(error) => return refuse(error, Protocol::Resp2),
        };
        if kind.place == Place::Logged
            && let Some(error) = shard.refusal(kind.frees)
        {
            // It may have lost the lead a moment ago.
            if shard.is_led_elsewhere() {
                return Placed::Elsewhere(shard.leader());
            }
            return refuse(error, Protocol::Resp2);
        }
        if idle && let Some(answer) = self.read_unit(shard, &unit, now, rng) {
            return Placed::Answered(answer);
        }
        match shard.submit(|batch| batch.unit(kind.place, kind.frees, client.clone(), bytes)) {
            Ok(wake) => Placed::Queued(wake),
            Err(error) => {
                self.limits.hit(base::Limit::pending_bytes_max);
                refuse(error, Protocol::Resp2)
            }
        }
    }

    /// Answers a read from the state as it is, if that may be.
    fn read_unit(&self, shard: &Shard<Client>, unit: &Unit<'_>, now: Instant, rng: &mut Rng) -> Option<Vec<u8>> {
        if !shard.reads_here() {
            return None;
        }
        let answer = match unit {
            Unit::Literal(bytes) => return Some(bytes.to_vec()),
            Unit::Command { db, protocol, words } => {
                let spec = command::find(words[0])?;
                if spec.is_write() || spec.flags.has(Flags::READ_ONLY) {
                    return None;
                }
                let mut reply = Reply::new(*protocol);
                let may_block = spec.flags.has(Flags::BLOCKING);
                let call = Call { may_block, ..Call::new(spec, *db, words, shard.now(now)) };
                let state = shard.state();
                if state.is_locked(spec, words) || state.read(&call, rng, &mut reply).is_some() {
                    return None;
                }
                reply.bytes
            }
            Unit::Versions(keys) => {
                let (mut keys, mut answer) = (*keys, Vec::new());
                let state = shard.state();
                while let Ok(Some((db, key))) = entry::read_expire(&mut keys) {
                    store::codec::put_u64(&mut answer, state.version(db, key, shard.now(now)));
                }
                answer
            }
            _ => return None,
        };
        shard.may_read(|| self.world.now()).then_some(answer)
    }
}

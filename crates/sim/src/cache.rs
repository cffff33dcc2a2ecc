//! A client of the keyspaces that live in memory only, and what is promised of them: a value is the last one written or it is
//! gone, never anything else; it goes at its expiry, for room where the keyspace has a budget, and at a restart; and the
//! budget is kept.

use std::collections::BTreeMap;

use base::{Instant, Millis, Rng};
use shard::command;
use shard::live::Shard;
use shard::reply::{Protocol, Reply};
use shard::state::Call;
use store::keyspace::Durability;

use crate::model::show;
use crate::node::Answers;

/// What a key's own words may add to its keyspace beyond the budget: the check before a write does not know the entry yet.
const SLACK_BYTES: u64 = 1024;

/// The prefix of the keys.
pub const PREFIX: &str = "zzz:";

/// What one life's cache should hold.
#[derive(Debug)]
pub struct Cache {
    rng: Rng,
    /// Value and expiry (0 for none) by shard and key.
    kept: BTreeMap<(usize, String), (Vec<u8>, Millis)>,
    /// Whether anything may have been evicted in this life.
    evicts: bool,
    /// Operations, and keys that were found to have gone for room.
    pub figures: (u64, u64),
}

impl Cache {
    /// An empty cache.
    pub fn new(seed: u64) -> Cache {
        Cache { rng: Rng::new(seed ^ 0xCACE), kept: BTreeMap::new(), evicts: false, figures: (0, 0) }
    }

    /// The node has started again.
    ///
    /// # Errors
    /// Something in memory that cannot have been written in this life.
    pub fn restart(&mut self, shards: &[std::sync::Arc<Shard<u64>>]) -> Result<(), String> {
        self.kept.clear();
        self.evicts = false;
        match shards.iter().find(|shard| !shard.state().tables(Durability::Memory).is_empty()) {
            Some(shard) => Err(format!("{} starts with keys in a memory keyspace", shard.group)),
            None => Ok(()),
        }
    }

    /// One command, where there is a keyspace in memory. True where the driver must be woken.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn play(&mut self, shards: &[std::sync::Arc<Shard<u64>>], now: Instant) -> Result<bool, String> {
        if !self.rng.chance(1, 4) {
            return Ok(false);
        }
        let at = 1 + self.rng.index(shards.len() - 1);
        let shard = &shards[at];
        let key = format!("{PREFIX}{}", self.rng.below(30));
        let mut state = shard.state_mut();
        if state.class_of_key(key.as_bytes()) != Durability::Memory {
            return Ok(false);
        }
        let settings = state.keyspaces().get(state.keyspaces().of(key.as_bytes())).clone();
        self.evicts |= settings.max_bytes != 0;
        self.figures.0 += 1;
        let time = shard.now(now).max(state.stamp());
        let value = vec![b'a' + self.rng.below(26) as u8; self.rng.index(300)];
        let span = 1 + self.rng.below(400);
        let mut words = match self.rng.below(6) {
            0 | 1 => vec![b"GET".to_vec(), key.clone().into_bytes()],
            2 => vec![b"DEL".to_vec(), key.clone().into_bytes()],
            _ => vec![b"SET".to_vec(), key.clone().into_bytes(), value.clone()],
        };
        if words.len() == 3 && self.rng.chance(1, 3) {
            words.extend([b"PX".to_vec(), span.to_string().into_bytes()]);
        }
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let spec = command::find(args[0]).ok_or("a command that does not exist")?;
        let call = Call::new(spec, 0, &args, time);
        let mut reply = Reply::new(Protocol::Resp2);
        if spec.is_write() {
            state.run_memory(&call, &0, &mut reply, &mut Answers::default());
        } else {
            state.read(&call, &mut Rng::new(0), &mut reply);
        }
        let wake = shard.is_due_earlier(&state);
        let used = state.tables(Durability::Memory).total_usage().bytes;
        if spec.is_write() && settings.max_bytes != 0 && used > settings.max_bytes + SLACK_BYTES {
            return Err(format!("{used} bytes in a keyspace of {}", settings.max_bytes));
        }
        drop(state);
        let place = (at, key);
        let said = reply.bytes.as_slice();
        let live = self.kept.get(&place).filter(|(_, expire)| *expire == 0 || *expire > time).cloned();
        let wrong = || Err(format!("{} answers {}, and {live:?} was written", words_of(&words), show(said)));
        match (words[0].as_slice(), &live) {
            (b"SET", _) if said == b"+OK\r\n" => {
                let expire = if words.len() > 3 { time + span } else { 0 };
                self.kept.insert(place, (value, expire));
            }
            (b"SET", _) if said.starts_with(b"-OOM") && self.evicts => {}
            (b"GET", Some((value, _))) if said == bulk(value) => {}
            (b"DEL", Some(_)) if said == b":1\r\n" => drop(self.kept.remove(&place)),
            (b"GET", None) if said == b"$-1\r\n" => {}
            (b"DEL", None) if said == b":0\r\n" => {}
            // What went for room stays away until it is written again.
            (b"GET", Some(_)) if said == b"$-1\r\n" && self.evicts => {
                self.figures.1 += 1;
                self.kept.remove(&place);
            }
            (b"DEL", Some(_)) if said == b":0\r\n" && self.evicts => drop(self.kept.remove(&place)),
            _ => return wrong(),
        }
        Ok(wake)
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn words_of(words: &[Vec<u8>]) -> String {
    words.iter().map(|word| show(word)).collect::<Vec<_>>().join(" ")
}

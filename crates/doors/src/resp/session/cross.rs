//! Commands and transactions whose keys lie in several shards, at the plain door.

use shard::command::{Flags, Spec, is};
use shard::commit::Body;
use shard::entry::{self, MultiBuilder, Unit, Watch};
use shard::error::CommandError;
use shard::reply::Reply;
use store::codec::Input;
use store::keyspace::Durability;

use super::{CROSS_SLOT, Session, Step};
use crate::resp::commits::Wish;

pub(super) const IN_MEMORY: CommandError = CommandError::new(
    "CROSSSLOT Keys in request don't hash to the same slot: keys of a memory keyspace cannot change together over several shards; give them a {tag}",
);
const BLOCKING: CommandError = CommandError::new(
    "CROSSSLOT Keys in request don't hash to the same slot: who waits for data can do so in one shard only; give the keys a {tag}",
);

impl Session {
    /// A command whose keys lie in several shards.
    pub(super) fn cross_command(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let waits = match spec.name {
            "xread" | "xreadgroup" => args.iter().any(|word| is(word, "block")),
            _ => spec.flags.has(Flags::BLOCKING),
        };
        if waits {
            return self.refuse(BLOCKING, out);
        }
        if self.is_pending() {
            return Step::Barrier;
        }
        let class = self.door.shards[0].state().class_of(spec, args);
        match class {
            Ok(Durability::Fsync) => {}
            Ok(Durability::Memory) => return self.refuse(IN_MEMORY, out),
            Err(error) => return self.refuse(error, out),
        }
        let mut keys: Vec<Vec<u8>> = spec.key_places(args).iter().map(|place| args[*place].to_vec()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut unit = Vec::new();
        entry::put_command(&mut unit, self.db, self.protocol, args);
        self.cross(Wish { body: Body::Command(unit), keys, watches: Vec::new(), home: None })
    }

    /// A transaction whose keys, watched ones too, lie in several shards.
    pub(super) fn cross_multi(&mut self, multi: MultiBuilder, watches: Vec<Watch>, home: Option<usize>) -> Step {
        let mut unit = Vec::new();
        multi.finish(&mut unit, self.protocol, &[]);
        let mut keys = Vec::new();
        if let Ok(unit @ Unit::Multi(_)) = entry::read_unit(&mut Input::new(&unit)) {
            shard::state::keys_of(&unit, |key| keys.push(key.to_vec()));
        }
        keys.sort_unstable();
        keys.dedup();
        self.cross(Wish { body: Body::Multi(multi, self.protocol), keys, watches, home })
    }

    fn cross(&mut self, wish: Wish) -> Step {
        debug_assert!(!self.is_pending(), "nothing of this client is under way");
        self.sent += 1;
        // Nothing of it may overtake this one.
        self.blocked = true;
        let door = self.door.clone();
        door.commit(&self.client, wish);
        Step::Next
    }

    /// Whether keys of several shards may stand together.
    pub(super) fn may_cross(&self, error: &CommandError) -> bool {
        !self.is_cluster && *error == CROSS_SLOT
    }
}

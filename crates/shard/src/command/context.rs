//! What a command sees while it runs.

use std::sync::Arc;

use base::{Limits, Millis, Rng};
use store::table::Tables;
use users::Grant;

use crate::commit::Commits;
use crate::notify::Event;
use crate::reply::Reply;
use crate::script::{Libraries, Scripts};
use crate::slots::Slots;

/// What a read sees.
pub struct Reading<'a> {
    /// The selected database.
    pub db: u8,
    /// Shard time.
    pub now: Millis,
    /// The tables of the keys' durability class.
    pub tables: &'a Tables,
    /// The tables of the other class, for commands that are `WHOLE`.
    pub other: &'a Tables,
    /// Not replicated: only for what a client asked to be random.
    pub rng: &'a mut Rng,
    /// Which keys may be here at all.
    pub slots: &'a Slots,
    /// Whether what is answered may steer writes (in a script) and so must not depend on how a table came to be laid out.
    pub repeatable: bool,
    /// Whether the command may ask to wait (XREAD BLOCK): not inside MULTI or a script.
    pub may_block: bool,
    /// Set by [`Reading::block`].
    pub block: Option<Block>,
}

impl Reading<'_> {
    /// Nothing there: waits if that is allowed, else answers null. The caller writes no answer of its own.
    pub fn block(&mut self, block: Block, reply: &mut Reply) {
        block_or_null(self.may_block, &mut self.block, block, reply);
    }
}

/// Where a waiting command was served from, so that the rest of its answer can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It runs for the first time.
    First,
    /// It has waited and runs again because one of its keys changed.
    Again,
}

/// A wish to wait: the command found nothing and may be run again when one of these keys changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Keys to wait for, in the command's order.
    pub keys: Vec<Vec<u8>>,
    /// Shard time at which it gives up, 0 for never.
    pub until: Millis,
    /// Words that replace the command's own when it runs again (XREAD's `$` becomes an id); `None` keeps them.
    pub again: Option<Vec<Vec<u8>>>,
    /// Whether giving up answers a null array or a null bulk string.
    pub null_is_array: bool,
}

/// What a write sees.
pub struct Writing<'a> {
    /// The selected database.
    pub db: u8,
    /// Shard time: the entry's stamp.
    pub now: Millis,
    /// The tables of the keys' durability class.
    pub tables: &'a mut Tables,
    /// The tables of the other class, for commands that are `WHOLE` (FLUSHALL).
    pub other: &'a mut Tables,
    /// Seeded from the entry: the same on every replica.
    pub rng: &'a mut Rng,
    /// Whether the command may ask to wait: not inside MULTI or a script.
    pub may_block: bool,
    /// Whether this is a waiting command's second try.
    pub served: Served,
    /// Set by [`Writing::block`].
    pub block: Option<Block>,
    /// Scripts that EVALSHA finds, and the interpreter.
    pub scripts: &'a mut Scripts,
    /// Libraries of functions.
    pub libraries: &'a mut Libraries,
    /// Bounds that commands keep.
    pub limits: &'a Limits,
    /// Messages to publish when the whole unit has been applied (PUBLISH in MULTI or in a script): channel, message.
    pub published: &'a mut Vec<(Vec<u8>, Vec<u8>)>,
    /// What happened to keys, for whoever wants to hear of it; filled where a script's commands run.
    pub events: &'a mut Vec<Event>,
    /// Which keys may be here at all.
    pub slots: &'a Slots,
    /// Which of them transactions across shards hold.
    pub commits: &'a Commits,
    /// Whose a script is that may not do everything; `None` where nobody has to be asked.
    pub user: Option<Arc<Grant>>,
}

impl Writing<'_> {
    /// The same moment for a read, whose answer may lead to writes.
    pub fn reading(&mut self) -> Reading<'_> {
        Reading {
            db: self.db,
            now: self.now,
            tables: self.tables,
            other: self.other,
            rng: self.rng,
            slots: self.slots,
            repeatable: true,
            may_block: false,
            block: None,
        }
    }

    /// Nothing there: waits if that is allowed, else answers null. The caller writes no answer of its own.
    pub fn block(&mut self, block: Block, reply: &mut Reply) {
        block_or_null(self.may_block, &mut self.block, block, reply);
    }
}

fn block_or_null(may_block: bool, wish: &mut Option<Block>, block: Block, reply: &mut Reply) {
    if may_block {
        *wish = Some(block);
    } else if block.null_is_array {
        reply.null_array();
    } else {
        reply.null();
    }
}

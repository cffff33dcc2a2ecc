//! Commands on whole databases where a node has several shards: what each of them holds, put together.
//!
//! Not one moment: the shards are looked at in their order, and what changes meanwhile in one that was looked at, or is yet to
//! be, may be seen or not, as during any SCAN.

use std::sync::Arc;

use base::{Instant, Rng};

use crate::command::{Args, Spec, scan};
use crate::error::CommandError;
use crate::live::{Shard, Shards};
use crate::reply::Reply;

/// A read of whole databases, asked of all shards.
pub struct Whole<'a, C> {
    /// All of them, in slot order.
    pub shards: &'a Shards<C>,
    /// Where only some are to be looked at: whether each is.
    pub only: Option<&'a [bool]>,
    /// The selected database.
    pub db: u8,
    /// Now.
    pub now: Instant,
}

impl<C> Whole<'_, C> {
    /// Runs `spec`, one of DBSIZE, KEYS, RANDOMKEY and SCAN.
    pub fn read(&self, spec: &Spec, args: Args<'_>, rng: &mut Rng, reply: &mut Reply) {
        let begun = reply.bytes.len();
        let outcome = match spec.name {
            "dbsize" => {
                reply.int(self.sizes(rng).iter().sum::<usize>() as i64);
                Ok(())
            }
            "keys" => {
                self.keys(args[1], rng, reply);
                Ok(())
            }
            "randomkey" => {
                self.random(rng, reply);
                Ok(())
            }
            "scan" => self.scan(args, rng, reply),
            name => Err(CommandError::from(format!("ERR {name} is not available while data_shards is above 1"))),
        };
        reply.settle(begun, outcome);
    }

    fn is_asked(&self, at: usize) -> bool {
        self.only.is_none_or(|only| only[at])
    }

    fn sizes(&self, rng: &mut Rng) -> Vec<usize> {
        let size = |(at, shard): (usize, &Arc<Shard<C>>)| match self.is_asked(at) {
            true => scan::size(&shard.state().reading_whole(self.db, shard.now(self.now), rng)),
            false => 0,
        };
        self.shards.iter().enumerate().map(size).collect()
    }

    fn keys(&self, pattern: &[u8], rng: &mut Rng, reply: &mut Reply) {
        let begun = reply.begin_array();
        let mut count = 0;
        for (_, shard) in self.shards.iter().enumerate().filter(|(at, _)| self.is_asked(*at)) {
            let state = shard.state();
            count += scan::list(&state.reading_whole(self.db, shard.now(self.now), rng), pattern, reply);
        }
        reply.end_array(begun, count);
    }

    /// A shard by how much it holds; another one where that has none but expired keys.
    fn random(&self, rng: &mut Rng, reply: &mut Reply) {
        let sizes = self.sizes(rng);
        let all: usize = sizes.iter().sum();
        let mut nth = if all == 0 { 0 } else { rng.index(all) };
        let first = sizes.iter().position(|size| {
            let here = nth < *size;
            nth = nth.saturating_sub(*size);
            here
        });
        let count = self.shards.len();
        let first = first.unwrap_or(0);
        for at in (first..first + count).map(|at| at % count).filter(|at| sizes[*at] > 0) {
            let shard = &self.shards[at];
            let state = shard.state();
            let mut reading = state.reading_whole(self.db, shard.now(self.now), rng);
            if let Some(key) = scan::pick(&mut reading) {
                return reply.bulk(&key);
            }
        }
        reply.null();
    }

    /// One shard after the other; a cursor is the shard's own, times the number of shards, plus the shard's place.
    fn scan(&self, args: Args<'_>, rng: &mut Rng, reply: &mut Reply) -> Result<(), CommandError> {
        let count = self.shards.len() as u64;
        let (start, wanted) = scan::asked(args)?;
        let mut page = scan::Page::new(reply);
        let (mut at, mut cursor) = ((start % count) as usize, start / count);
        loop {
            let shard = &self.shards[at];
            let state = shard.state();
            if !self.is_asked(at) {
                (at, cursor) = (at + 1, 0);
                if at == self.shards.len() {
                    break;
                }
                continue;
            }
            cursor = page.fill(&state.reading_whole(self.db, shard.now(self.now), rng), cursor, &wanted);
            if cursor != 0 {
                break;
            }
            at += 1;
            if at == self.shards.len() || page.is_enough(&wanted) {
                break;
            }
        }
        let next = if at == self.shards.len() { 0 } else { cursor * count + at as u64 };
        page.write(next, reply);
        Ok(())
    }
}

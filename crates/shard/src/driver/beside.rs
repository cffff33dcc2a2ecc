//! Requests that no entry holds: reads behind a write of the same pipeline, writes to memory keyspaces.
//!
//! They may be answered from the state as it is only while nobody else can have acknowledged anything newer. A lone voter
//! always knows that. A leader with a lease runs them, holds the answers back until it has looked at the clock again, and
//! lets go of the clients if the lease ended meanwhile: the process may have been stopped for an hour in between. Without a
//! lease they ride in an entry, if need be one of nothing but a header, and are run when it is applied: that it was
//! committed in this term proves that nobody led later.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use base::{Instant, Millis};
use store::codec::Corrupt;

use super::{Flight, Kind, Lane, lose, refuse};
use crate::command::{Args, Spec};
use crate::live::Shard;
use crate::pending::Batch;
use crate::state::{Sink, State};

/// Runs a batch without an entry where the lease allows it. False where it does not; then nothing was run.
pub(super) fn run<C: Clone, S: Sink<C>>(
    shard: &Shard<C>,
    state: &mut State,
    batch: &Batch<C>,
    now: Instant,
    sink: &mut S,
) -> Result<bool, String> {
    let unreadable = |corrupt: Corrupt| format!("a request that this node wrote cannot be read: {corrupt}");
    let stamp: Millis = shard.now(now);
    if shard.is_lone() {
        state.run_local(batch, stamp, sink).map_err(unreadable)?;
        return Ok(true);
    }
    if !shard.may_read(|| now) {
        return Ok(false);
    }
    let mut held = Held { sink, events: Vec::new(), bytes: Vec::new() };
    state.run_local(batch, stamp, &mut held).map_err(unreadable)?;
    held.release(|sink| shard.may_read(|| sink.now(now)));
    Ok(true)
}

enum Event<C> {
    Reply(C, Range<usize>),
    Parked(C, u64),
    Held(C, u64),
    Served(u64, Range<usize>),
    Lost(C),
    Publish(Range<usize>, Range<usize>),
}

/// A sink that keeps everything until the clock has been looked at.
struct Held<'a, C, S> {
    sink: &'a mut S,
    events: Vec<Event<C>>,
    bytes: Vec<u8>,
}

impl<C: Clone, S: Sink<C>> Held<'_, C, S> {
    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let begun = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        begun..self.bytes.len()
    }

    fn release(self, may_answer: impl FnOnce(&S) -> bool) {
        let may_answer = may_answer(self.sink);
        for event in self.events {
            match event {
                Event::Reply(client, range) if may_answer => self.sink.reply(&client, &self.bytes[range]),
                Event::Reply(client, _) | Event::Lost(client) => self.sink.lost(&client),
                Event::Parked(client, waiter) => self.sink.parked(&client, waiter),
                // What it will read has to be at least as new as what others have been told of by now.
                Event::Held(client, ticket) if may_answer => self.sink.held(&client, ticket),
                Event::Held(client, _) => self.sink.lost(&client),
                Event::Served(waiter, range) => self.sink.served(waiter, &self.bytes[range]),
                Event::Publish(channel, message) => self.sink.publish(&self.bytes[channel], &self.bytes[message]),
            }
        }
    }
}

impl<C: Clone, S: Sink<C>> Sink<C> for Held<'_, C, S> {
    fn reply(&mut self, client: &C, bytes: &[u8]) {
        let range = self.keep(bytes);
        self.events.push(Event::Reply(client.clone(), range));
    }
    fn parked(&mut self, client: &C, waiter: u64) {
        self.events.push(Event::Parked(client.clone(), waiter));
    }
    fn held(&mut self, client: &C, ticket: u64) {
        self.events.push(Event::Held(client.clone(), ticket));
    }
    fn served(&mut self, waiter: u64, bytes: &[u8]) {
        let range = self.keep(bytes);
        self.events.push(Event::Served(waiter, range));
    }
    fn lost(&mut self, client: &C) {
        self.events.push(Event::Lost(client.clone()));
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        let channel = self.keep(channel);
        let message = self.keep(message);
        self.events.push(Event::Publish(channel, message));
    }
    fn receivers(&self, channel: &[u8]) -> i64 {
        self.sink.receivers(channel)
    }
    // An invalidation too many does no harm, and figures are of what was done.
    fn changed(&mut self, by: Option<&C>, keys: &BTreeSet<&[u8]>) {
        self.sink.changed(by, keys);
    }
    fn all_changed(&mut self) {
        self.sink.all_changed();
    }
    fn begin(&mut self) {
        self.sink.begin();
    }
    fn ran(&mut self, client: &C, spec: &'static Spec, words: Args<'_>, answer: &[u8]) {
        self.sink.ran(client, spec, words, answer);
    }
    fn ran_late(&mut self, waiter: u64, spec: &'static Spec, words: Args<'_>, answer: &[u8]) {
        self.sink.ran_late(waiter, spec, words, answer);
    }
    fn number(&self, client: &C) -> u64 {
        self.sink.number(client)
    }
}

impl<C: Clone> Lane<C> {
    /// Before an entry's own units: what could not be answered beside an earlier one.
    pub(super) fn run_before<S: Sink<C>>(
        &mut self,
        (index, term): (u64, u64),
        now: Instant,
        sink: &mut S,
    ) -> Result<(), String> {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.before && flight.index <= index) {
            match &flight.kind {
                Kind::Refused(refusal) => refuse(&flight.batch, refusal, sink),
                _ if flight.index != index || flight.term != term => lose(&flight.batch, sink),
                _ => {
                    let stamp = self.shard.now(now);
                    let ran = self.shard.state_mut().run_local(&flight.batch, stamp, sink);
                    ran.map_err(|corrupt| format!("a request that this node wrote cannot be read: {corrupt}"))?;
                }
            }
        }
        Ok(())
    }

    /// After an entry's own units: what stands beside it, in order. What no lease allows rides with the next entry under
    /// way, before its units, or goes back to the queue.
    pub(super) fn run_beside<S: Sink<C>>(&mut self, index: u64, now: Instant, sink: &mut S) -> Result<(), String> {
        let mut denied = VecDeque::new();
        let behind = |flight: &mut Flight<C>| flight.kind != Kind::Own && flight.index <= index;
        while let Some(flight) = self.flights.pop_front_if(behind) {
            if !denied.is_empty() {
                denied.push_back(flight);
                continue;
            }
            if let Kind::Refused(refusal) = &flight.kind {
                refuse(&flight.batch, refusal, sink);
            } else if !run(&self.shard, &mut self.shard.state_mut(), &flight.batch, now, sink)? {
                denied.push_back(flight);
            }
        }
        if denied.is_empty() {
            return Ok(());
        }
        let next = self.flights.iter().find(|flight| flight.kind == Kind::Own && flight.index > 0);
        if let Some((index, term)) = next.map(|next| (next.index, next.term)) {
            for flight in denied.into_iter().rev() {
                self.flights.push_front(Flight { index, term, before: true, ..flight });
            }
            return Ok(());
        }
        let refused = denied.iter().position(|flight| flight.kind != Kind::Beside).unwrap_or(denied.len());
        for flight in denied.drain(refused..) {
            // A refusal must not overtake the answers before it, and there is no entry left to wait for.
            lose(&flight.batch, sink);
        }
        for flight in denied.into_iter().rev() {
            self.shard.put_first(flight.batch);
        }
        Ok(())
    }
}

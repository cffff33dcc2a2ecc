//! Where a leader's answers go.

use std::collections::BTreeSet;

use base::Instant;

use crate::command::{Args, Spec};

/// Where a leader's answers go.
pub trait Sink<C> {
    /// The next answer of this client.
    fn reply(&mut self, client: &C, bytes: &[u8]);
    /// The client's request waits under this id; its answer comes by [`Sink::served`].
    fn parked(&mut self, client: &C, waiter: u64);
    /// The answer of a request that waited. Ids that nobody on this node waits for are ignored.
    fn served(&mut self, waiter: u64, bytes: &[u8]);
    /// The client's request waits for a lock under this ticket; its answer comes by [`Sink::served`], in its place among the client's.
    fn held(&mut self, client: &C, ticket: u64) {
        self.parked(client, ticket);
    }
    /// What was held has run, and waits for data from now on.
    fn waits_on(&mut self, _ticket: u64, _waiter: u64) {}
    /// The outcome of what was held will not be known here: its client's connection must be closed.
    fn abandoned(&mut self, _ticket: u64) {}
    /// Whether somebody on this node waits under this ticket.
    fn awaits(&self, _ticket: u64) -> bool {
        false
    }
    /// Nothing was done of this client's request, and this line says why. It is the answer, unless the request can go elsewhere.
    fn refused(&mut self, client: &C, line: &[u8]) {
        self.reply(client, line);
    }
    /// The monotonic clock, where it can be asked; else the moment of the step.
    fn now(&self, step: Instant) -> Instant {
        step
    }
    /// The outcome of this client's request is unknown: its connection must be closed, never answered.
    fn lost(&mut self, client: &C);
    /// A message published by a MULTI or a script.
    fn publish(&mut self, channel: &[u8], message: &[u8]);
    /// How many clients of this node a message on the channel would reach.
    fn receivers(&self, channel: &[u8]) -> i64;
    /// A unit of this client's, or nobody's, has changed these keys; told only while somebody tracks.
    fn changed(&mut self, _by: Option<&C>, _keys: &BTreeSet<&[u8]>) {}
    /// Any key may have changed; likewise.
    fn all_changed(&mut self) {}
    /// Commands are about to run, one after the other: from here the time of the first counts.
    fn begin(&mut self) {}
    /// This client's command has run, right after the one before it, and this is its answer.
    fn ran(&mut self, _client: &C, _spec: &'static Spec, _words: Args<'_>, _answer: &[u8]) {}
    /// The same of a command that waited.
    fn ran_late(&mut self, _waiter: u64, _spec: &'static Spec, _words: Args<'_>, _answer: &[u8]) {}
    /// A number by which people know this client; 0 for none.
    fn number(&self, _client: &C) -> u64 {
        0
    }
}

/// A sink for replicas: nobody asked.
pub struct Silent;

impl<C> Sink<C> for Silent {
    fn reply(&mut self, _: &C, _: &[u8]) {}
    fn parked(&mut self, _: &C, _: u64) {}
    fn served(&mut self, _: u64, _: &[u8]) {}
    fn lost(&mut self, _: &C) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

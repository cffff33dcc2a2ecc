//! Who waits for data, who is served by a change, and how waits end otherwise.

use base::Millis;
use store::keyspace::Durability;
use store::value::View;

use super::commits::Asker;
use super::run::Ran;
use super::{Call, MEMORY_WAIT, Sink, State};
use crate::command::{self, Block, Served, Spec};
use crate::entry::Unblock;
use crate::error::WRONG_TYPE;
use crate::reply::{Protocol, Reply};
use crate::waiters::Waiter;

impl State {
    /// Puts a command among the waiting: its answer comes later.
    pub(super) fn park<C, S: Sink<C>>(
        &mut self,
        class: Durability,
        call: &Call<'_>,
        protocol: Protocol,
        block: Block,
        asker: Asker<'_, C>,
        sink: &mut S,
    ) {
        let words = call.args.iter().map(|word| word.to_vec()).collect();
        // A waiting read changes nothing, so only the leader needs to know of it.
        let local = !call.spec.is_write();
        let half = self.half_mut(class);
        let mut id = half.waiters.add(call.db, protocol, words, block, local);
        half.tables.set_watching(true);
        if class == Durability::Memory {
            id |= MEMORY_WAIT;
        }
        match asker {
            Asker::Nobody => {}
            Asker::Client(client) => sink.parked(client, id),
            Asker::Ticket(ticket) => sink.waits_on(ticket, id),
        }
    }

    pub(super) fn update_watching(&mut self) {
        for half in [&mut self.logged, &mut self.memory] {
            half.tables.set_watching(!half.waiters.is_empty());
        }
    }

    /// Ends a wait other than by data: by its entry, or at once where it is not replicated.
    pub fn unblock<C, S: Sink<C>>(&mut self, waiter: u64, how: Unblock, sink: &mut S) {
        let class = if waiter & MEMORY_WAIT != 0 { Durability::Memory } else { Durability::Fsync };
        let Some(wait) = self.half_mut(class).waiters.remove(waiter & !MEMORY_WAIT) else {
            return;
        };
        let mut reply = Reply::new(wait.protocol);
        match how {
            Unblock::Timeout if wait.null_is_array => reply.null_array(),
            Unblock::Timeout => reply.null(),
            Unblock::Error => reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Unblock::Gone => {}
        }
        let args: Vec<&[u8]> = wait.words.iter().map(Vec::as_slice).collect();
        if let Some(spec) = command::find(args[0]).filter(|_| how != Unblock::Gone) {
            sink.ran_late(waiter, spec, &args, &reply.bytes);
        }
        sink.served(waiter, &reply.bytes);
        self.update_watching();
    }

    /// Ends every wait on logged keys with this answer: the log has stopped, so nothing will feed them.
    pub fn end_waits<C, S: Sink<C>>(&mut self, answer: &[u8], sink: &mut S) {
        for waiter in self.logged.waiters.clear() {
            sink.served(waiter, answer);
        }
        self.end_holds(sink);
        self.update_watching();
    }

    /// Serves whoever waits for keys that have changed, in order, until nothing changes any more.
    pub(super) fn serve<C, S: Sink<C>>(&mut self, class: Durability, now: Millis, sink: &mut S) {
        if self.half_mut(class).waiters.is_empty() {
            return;
        }
        loop {
            let touched = self.half_mut(class).tables.take_touched();
            if touched.is_empty() {
                break;
            }
            for (db, key) in touched {
                for id in self.half_mut(class).waiters.waiting_for(db, &key) {
                    self.try_serve(class, id, now, sink);
                }
            }
        }
        self.update_watching();
    }

    pub(super) fn try_serve<C, S: Sink<C>>(&mut self, class: Durability, id: u64, now: Millis, sink: &mut S) {
        let Some(wait) = self.half_mut(class).waiters.get(id).cloned() else {
            return;
        };
        let args: Vec<&[u8]> = wait.words.iter().map(Vec::as_slice).collect();
        let Some(spec) = command::find(args[0]) else {
            return;
        };
        if !self.commits.is_quiet() && spec.key_places(&args).iter().any(|place| self.commits.locks(args[*place])) {
            // It is looked at again when the key is free.
            return;
        }
        let mut reply = Reply::bounded(wait.protocol, self.answer_bytes_max);
        let call = Call { may_block: true, served: Served::Again, ..Call::new(spec, wait.db, &args, now) };
        let ran = self.guarded(class, &call, &mut reply);
        let wrong_kind = reply.bytes.strip_prefix(b"-").is_some_and(|text| text.starts_with(WRONG_TYPE.0.as_bytes()));
        if matches!(ran, Ran::Waits(_)) || (wrong_kind && !self.answers_wrong_kind(class, spec, &wait, now)) {
            return;
        }
        self.half_mut(class).waiters.remove(id);
        let id = if class == Durability::Memory { id | MEMORY_WAIT } else { id };
        sink.ran_late(id, spec, &args, &reply.bytes);
        sink.served(id, &reply.bytes);
    }

    /// A key that now holds another kind of value does not end a wait, but for XREADGROUP, and for a move whose source is
    /// there: then it is the destination that is wrong.
    fn answers_wrong_kind(&self, class: Durability, spec: &Spec, wait: &Waiter, now: Millis) -> bool {
        let source_is_list = || {
            let source = wait.keys.first().and_then(|key| self.tables(class).value(wait.db, key, now));
            matches!(source, Some(View::List(_)))
        };
        match spec.name {
            "xreadgroup" => true,
            "blmove" | "brpoplpush" => source_is_list(),
            _ => false,
        }
    }

    /// Removes expired keys of memory keyspaces, at most `count`, ends waits on others whose time is over, and tells who
    /// waited for what has gone. Logged ones need an entry. Returns how many keys went.
    pub fn sweep_memory<C, S: Sink<C>>(&mut self, now: Millis, count: usize, sink: &mut S) -> usize {
        let mut gone = Vec::new();
        self.memory.tables.expired(now, count, |db, key| gone.push((db, key.to_vec())));
        for (db, key) in &gone {
            self.memory.tables.remove(*db, key, now);
        }
        self.expired += gone.len() as u64;
        // A stream that goes ends the waits of its groups.
        self.serve(Durability::Memory, now, sink);
        self.tell_events(None, sink);
        for waiter in self.memory.waiters.overdue(now) {
            self.unblock(waiter | MEMORY_WAIT, Unblock::Timeout, sink);
        }
        gone.len()
    }

    /// When something next becomes due: an expiry or the end of a wait.
    pub fn next_due(&self) -> Option<Millis> {
        let halves = [&self.logged, &self.memory];
        let dues = halves.iter().flat_map(|half| [half.tables.next_expiry(), half.waiters.next_until()]);
        dues.chain([self.coordination.next_due(), self.catalog.next_due()]).flatten().min()
    }
}

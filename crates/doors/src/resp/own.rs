//! The commands that a door answers itself: about the connection, the node, and who listens to what.
//!
//! They run only when nothing of the client is under way, so that their answers need no place in the queue; but for the
//! few that are pipelined with data (PING, ECHO, SELECT, MULTI and kin).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Duration, parse_i64};
use shard::entry::Unblock;
use shard::error::CommandError;
use shard::reply::{Protocol, Reply};

use super::acl::door_places;
use super::door::{Client, Pause};
use super::introspect::{self, Change, ClientFacts, ListFilter, ReplyMode, SetInfo};
use super::pubsub::Kind;
use super::session::{Session, Step, subscriber_only};
use super::text;
use super::tracking;

const NO_AUTH: CommandError = CommandError::new("NOAUTH Authentication required.");

impl Session {
    /// A client that has not given its password may only do that, or leave.
    pub(super) fn before_password(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        let known = introspect::find_door(args[0]).map_or("", |spec| spec.name);
        match known {
            "auth" | "hello" | "quit" | "reset" => self.door_command(args, out),
            _ => {
                out.error(&NO_AUTH.0);
                Step::Next
            }
        }
    }

    /// A command that is no data command.
    pub(super) fn door_command(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        let mut refusal = Reply::new(self.protocol);
        let Some(spec) = introspect::check(args, &mut refusal) else {
            if args[0].eq_ignore_ascii_case(b"exec") {
                return self.exec_refused(out);
            }
            return self.refuse_with(out, |reply| reply.bytes.extend_from_slice(&refusal.bytes));
        };
        let name = spec.name;
        if self.authenticated
            && let Some(error) = self.forbidden(name, || door_places(spec, args), args)
        {
            return self.refuse(error, out);
        }
        if self.protocol == Protocol::Resp2
            && self.is_subscriber()
            && !matches!(
                name,
                "subscribe"
                    | "unsubscribe"
                    | "psubscribe"
                    | "punsubscribe"
                    | "ssubscribe"
                    | "sunsubscribe"
                    | "ping"
                    | "quit"
                    | "reset"
            )
        {
            return self.refuse(subscriber_only(name), out);
        }
        if let Some(until) =
            self.paused(matches!(name, "publish" | "spublish" | "q.commitoffset" | "q.xack" | "q.topic"))
        {
            return Step::Later(until);
        }
        match name {
            "multi" => return self.multi(out),
            "exec" => {
                self.track_queued();
                return self.exec(out);
            }
            "discard" => return self.discard(out),
            "watch" => return self.watch(args, out),
            "quit" => {
                if self.is_pending() {
                    return Step::Barrier;
                }
                out.ok();
                self.closing = true;
                return Step::Next;
            }
            "reset" => {
                if self.is_pending() {
                    return Step::Barrier;
                }
                self.reset();
                out.protocol = Protocol::Resp2;
                out.simple("RESET");
                return Step::Next;
            }
            _ => {}
        }
        if matches!(name, "q.commitoffset" | "q.xack") {
            return self.topic_command(name, args, out);
        }
        if name == "q.topic" {
            return self.topic_settings(args, out);
        }
        if matches!(name, "acl|setuser" | "acl|deluser") {
            return self.acl_change(name, args, out);
        }
        if self.transaction.is_some() {
            return self.door_command_in_multi(name, args, out);
        }
        match name {
            "ping" if !(self.protocol == Protocol::Resp2 && self.is_subscriber()) => {
                let words: Vec<&[u8]> = args.to_vec();
                if words.len() > 2 {
                    return self.refuse(CommandError::arity("ping"), out);
                }
                return self.answer(out, |reply| ping(&words, reply));
            }
            "echo" => return self.answer(out, |reply| reply.bulk(args[1])),
            "select" => return self.select(args, out),
            "unwatch" => {
                self.unwatch();
                return self.answer(out, Reply::ok);
            }
            _ => {}
        }
        if self.is_pending() {
            return Step::Barrier;
        }
        if name == "client|kill" {
            return self.client_kill_and_wait(args, out);
        }
        if let Err(error) = self.run_own(name, args, out) {
            return self.refuse(error, out);
        }
        Step::Next
    }

    /// Inside MULTI the answer is made now and takes its place among the others at EXEC.
    fn door_command_in_multi(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Step {
        match name {
            "publish" => return self.enqueue_publish(args, out),
            "subscribe" | "psubscribe" | "ssubscribe" | "unsubscribe" | "punsubscribe" | "sunsubscribe" => {
                return self.refuse(CommandError::new("ERR Command not allowed inside a transaction"), out);
            }
            _ => {}
        }
        let mut literal = Reply::new(self.protocol);
        let outcome = match name {
            "ping" if args.len() > 2 => Err(CommandError::arity("ping")),
            "ping" => {
                ping(args, &mut literal);
                Ok(())
            }
            "echo" => {
                literal.bulk(args[1]);
                Ok(())
            }
            "select" => self.database(args).map(|db| {
                self.db = db;
                literal.ok();
            }),
            "unwatch" => {
                literal.ok();
                Ok(())
            }
            "client|setname" => introspect::validate_name(args[2]).map(|()| {
                if let Some(transaction) = &mut self.transaction {
                    transaction.name = Some(args[2].to_vec());
                }
                literal.ok();
            }),
            "client|getname" if self.transaction.as_ref().is_some_and(|transaction| transaction.name.is_some()) => {
                match self.transaction.as_ref().and_then(|transaction| transaction.name.as_deref()) {
                    Some(name) if !name.is_empty() => literal.bulk(name),
                    _ => literal.null(),
                }
                Ok(())
            }
            // What is to be kept silent could only be the whole EXEC.
            "client|reply" if !matches!(introspect::parse_reply(args), Ok(ReplyMode::On) | Err(_)) => {
                Err(CommandError::new("ERR CLIENT REPLY OFF and SKIP are not allowed inside a transaction"))
            }
            // One transaction has one protocol.
            "hello" if matches!(introspect::parse_hello(args), Ok(hello) if hello.protocol.is_some_and(|to| to != self.protocol)) => {
                Err(CommandError::new("ERR HELLO cannot change the protocol inside a transaction"))
            }
            _ => self.run_own(name, args, &mut literal),
        };
        if let Err(error) = outcome {
            literal.bytes.clear();
            literal.error(&error.0);
        }
        self.enqueue_literal(&literal, out)
    }

    fn database(&self, args: &[&[u8]]) -> Result<u8, CommandError> {
        let index = parse_i64(args[1]).ok_or(shard::error::NOT_INTEGER)?;
        if i32::try_from(index).is_err() {
            return Err(shard::error::INT_RANGE);
        }
        if self.is_cluster && index != 0 {
            return Err(CommandError::new("ERR SELECT is not allowed in cluster mode"));
        }
        u8::try_from(index)
            .ok()
            .filter(|db| usize::from(*db) < store::table::DATABASES)
            .ok_or(CommandError::new("ERR DB index is out of range"))
    }

    fn select(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        match self.database(args) {
            Ok(db) => {
                self.db = db;
                self.answer(out, Reply::ok)
            }
            Err(error) => self.refuse(error, out),
        }
    }

    fn run_own(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        match name {
            "ping" => {
                // A subscriber's PING in RESP2 looks like a message.
                out.array(2);
                out.bulk(b"pong");
                out.bulk(args.get(1).copied().unwrap_or(b""));
            }
            "hello" => self.hello(args, out)?,
            "auth" => {
                let (user, password) = match args {
                    [_, password] => (&b"default"[..], *password),
                    [_, user, password] => (*user, *password),
                    _ => return Err(shard::error::SYNTAX),
                };
                if args.len() == 2 && self.door.default_grant().0.user.nopass {
                    return Err(CommandError::new(
                        "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                    ));
                }
                self.check_password(user, password)?;
                out.ok();
            }
            "info" => {
                let mut facts = self.door.world.facts();
                self.fill_client_facts(&mut facts);
                facts.is_cluster = self.is_cluster;
                if self.is_cluster {
                    let replica = |shard: &Arc<shard::live::Shard<Client>>| introspect::ReplicaFacts {
                        shard: shard.group.0,
                        leader: shard.leader().map_or(0, |node| node.0),
                        leads: !shard.is_led_elsewhere(),
                        applied: shard.state().applied(),
                        silent_ms: shard.leader().and_then(|leader| self.door.world.silent_ms(leader)),
                    };
                    facts.replicas = self.door.shards.iter().map(replica).collect();
                }
                let figures = &self.door.figures;
                facts.stats.errors = figures.errors();
                facts.figures = [figures.command_lines(), figures.error_lines(), figures.latency_lines()];
                let sections: Vec<&[u8]> = args[1..].to_vec();
                introspect::info(&sections, &facts, out);
            }
            "command" => introspect::command(args, out)?,
            name if name.starts_with("command|") => introspect::command(args, out)?,
            name if name.starts_with("config|") => self.config(name, args, out)?,
            "config" => self.config(name, args, out)?,
            "time" => {
                let micros = self.door.world.wall_micros();
                out.array(2);
                out.bulk_int((micros / 1_000_000) as i64);
                out.bulk_int((micros % 1_000_000) as i64);
            }
            "subscribe" => self.subscribe(Kind::Channel, args, out),
            "psubscribe" => self.subscribe(Kind::Pattern, args, out),
            "ssubscribe" => self.subscribe(Kind::Shard, args, out),
            "unsubscribe" => self.unsubscribe(Kind::Channel, args, out),
            "punsubscribe" => self.unsubscribe(Kind::Pattern, args, out),
            "sunsubscribe" => self.unsubscribe(Kind::Shard, args, out),
            "publish" => self.publish(Kind::Channel, args, out),
            "spublish" => self.publish(Kind::Shard, args, out),
            name if name.starts_with("pubsub") => self.door.channels.read().pubsub_command(args, out)?,
            // What has been answered is on a majority of its replicas already, and everything of this client has been. It waits for nobody.
            "wait" => {
                parse_i64(args[1]).ok_or(shard::error::NOT_INTEGER)?;
                if parse_i64(args[2]).ok_or(CommandError::new("ERR timeout is not an integer or out of range"))? < 0 {
                    return Err(shard::error::TIMEOUT_NEGATIVE);
                }
                out.int(self.door.other_copies() as i64);
            }
            "waitaof" => {
                let local = parse_i64(args[1]).ok_or(shard::error::NOT_INTEGER)?;
                if !(0..=1).contains(&local) {
                    return Err(CommandError::new("ERR value is out of range, must be between 0 and 1"));
                }
                out.array(2);
                out.int(1);
                out.int(self.door.other_copies() as i64);
            }
            "monitor" => {
                out.ok();
                self.door.monitors.add(&self.client);
            }
            name if name.starts_with("slowlog|") => self.door.figures.slowlog(name, args, out)?,
            name if name.starts_with("latency|") => self.door.figures.latency(name, args, out)?,
            name if name.starts_with("cluster") => self.cluster(args, out)?,
            "readonly" | "readwrite" | "asking" => self.cluster_mode(name, out)?,
            name if name.starts_with("acl|") => self.acl_command(name, args, out)?,
            name if name.starts_with("client") => self.client_command(name, args, out)?,
            _ => return Err(format!("ERR unknown command '{name}'").into()),
        }
        Ok(())
    }

    // ---- who it is -----------------------------------------------------------------------------------------------------

    fn hello(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let hello = introspect::parse_hello(args)?;
        if let Some((user, password)) = hello.auth {
            self.check_password(user, password)?;
        }
        if !self.authenticated {
            return Err(CommandError::new(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            ));
        }
        if let Some(name) = hello.name {
            self.client.card.lock().name = name.to_vec();
        }
        if let Some(protocol) = hello.protocol {
            self.protocol = protocol;
            self.client.card.lock().resp = if protocol == Protocol::Resp3 { 3 } else { 2 };
            out.protocol = protocol;
        }
        introspect::write_hello(self.client.id, self.is_cluster, out);
        Ok(())
    }

    // ---- pub/sub -------------------------------------------------------------------------------------------------------

    fn subscribe(&mut self, kind: Kind, args: &[&[u8]], out: &mut Reply) {
        self.pushed = true;
        self.door.channels.write().subscribe_command(kind, self.client.id, &args[1..], out);
    }

    fn unsubscribe(&mut self, kind: Kind, args: &[&[u8]], out: &mut Reply) {
        self.pushed = true;
        self.door.channels.write().unsubscribe_command(kind, self.client.id, &args[1..], out);
    }

    fn publish(&mut self, kind: Kind, args: &[&[u8]], out: &mut Reply) {
        let mut wakers = Vec::new();
        out.int(self.door.publish(kind, args[1], args[2], &mut wakers));
        for waker in wakers {
            waker.wake();
        }
    }

    // ---- CLIENT ----------------------------------------------------------------------------------------------------------

    fn client_command(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        match name {
            "client|id" => out.int(self.client.id as i64),
            "client|getname" => {
                let card = self.client.card.lock();
                if card.name.is_empty() { out.null() } else { out.bulk(&card.name) }
            }
            "client|setname" => {
                introspect::validate_name(args[2])?;
                self.client.card.lock().name = args[2].to_vec();
                out.ok();
            }
            "client|setinfo" => {
                let info = introspect::parse_setinfo(args)?;
                let mut card = self.client.card.lock();
                match info {
                    SetInfo::LibName(value) => card.lib_name = value.to_vec(),
                    SetInfo::LibVer(value) => card.lib_ver = value.to_vec(),
                }
                out.ok();
            }
            "client|info" => {
                let line = self.facts_of(&self.client, "client|info").line();
                out.verbatim("txt", line.as_bytes());
            }
            "client|list" => self.client_list(args, out)?,
            "client|kill" => self.client_kill(args, out)?,
            "client|reply" => match introspect::parse_reply(args)? {
                ReplyMode::On => {
                    self.silent = false;
                    self.skip = 0;
                    self.client.muted.store(false, Ordering::Relaxed);
                    out.ok();
                }
                ReplyMode::Off => {
                    self.silent = true;
                    self.skip = 0;
                    self.client.muted.store(true, Ordering::Relaxed);
                }
                // Two answers are dropped: this one, which is none, and the next.
                ReplyMode::Skip if self.silent => {}
                ReplyMode::Skip => self.skip = 2,
            },
            "client|no-evict" => {
                let on = introspect::parse_on_off(args)?;
                self.client.card.lock().no_evict = on;
                out.ok();
            }
            "client|no-touch" => {
                let on = introspect::parse_on_off(args)?;
                self.client.card.lock().no_touch = on;
                out.ok();
            }
            "client|getredir" => out.int(self.door.tracking.redirect_of(self.client.id)),
            "client|tracking" => self.client_tracking(args, out)?,
            "client|trackinginfo" => self.door.tracking.info(self.client.id, self.caching > 0, out),
            "client|caching" => {
                self.door.tracking.check_caching(self.client.id, args[2])?;
                self.caching = 2;
                out.ok();
            }
            "client|pause" => {
                let pause = introspect::parse_pause(args)?;
                let until = self.now + Duration::from_millis(pause.milliseconds);
                let mut current = self.door.pause.lock();
                let before = (*current).filter(|before| before.until > self.now);
                // The longer one stays, and the stricter one.
                *current = Some(Pause {
                    until: before.map_or(until, |before| before.until.max(until)),
                    writes_only: !pause.all && before.is_none_or(|before| before.writes_only),
                });
                drop(current);
                out.ok();
            }
            "client|unpause" => {
                *self.door.pause.lock() = None;
                out.ok();
            }
            "client|unblock" => {
                let unblock = introspect::parse_unblock(args)?;
                let client = u64::try_from(unblock.id).ok().and_then(|id| self.door.clients.lock().get(&id).cloned());
                let how = if unblock.with_error { Unblock::Error } else { Unblock::Timeout };
                let ended = client.is_some_and(|client| self.door.unblock(&client, how));
                out.int(i64::from(ended));
            }
            "client|help" => introspect::client_help(out),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }

    fn client_tracking(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let exists = |id: u64| self.door.clients.lock().contains_key(&id);
        match tracking::parse(args, exists)? {
            Some(options) => {
                if self.door.tracking.start(&self.client, options)? {
                    self.door.set_tracking(true);
                }
            }
            None => {
                self.door.stop_tracking(self.client.id);
                self.caching = 0;
            }
        }
        out.ok();
        Ok(())
    }

    fn client_list(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let filter = introspect::parse_list(args)?;
        let clients: Vec<Client> = self.door.clients.lock().values().cloned().collect();
        let mut lines = String::new();
        for client in clients {
            let command = if client.id == self.client.id { "client|list" } else { "" };
            let facts = self.facts_of(&client, command);
            let wanted = match &filter {
                ListFilter::All => true,
                ListFilter::Type(kind) => facts.kind() == *kind,
                ListFilter::Ids(ids) => ids.contains(&client.id),
            };
            if wanted {
                lines.push_str(&facts.line());
            }
        }
        out.verbatim("txt", lines.as_bytes());
        Ok(())
    }

    /// Inside MULTI the answer is made before anybody is gone.
    fn client_kill(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let (filter, others, killed) = self.doom_matching(args)?;
        self.closing |= killed > others.len();
        filter.write(killed, out);
        Ok(())
    }

    /// CLIENT KILL answers once the connections are closed: a client that is told so and goes on on one of them must find it
    /// closed, not be cut off in the middle of its next command.
    fn client_kill_and_wait(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        let (filter, doomed, killed) = match self.killing.take() {
            Some(killing) => killing,
            None => match self.doom_matching(args) {
                Ok(killing) => killing,
                Err(error) => return self.refuse(error, out),
            },
        };
        if doomed.iter().any(|client| !client.is_closed()) {
            self.killing = Some((filter, doomed, killed));
            return Step::Later(self.now + Duration::from_millis(1));
        }
        // Whoever kills itself still gets its answer.
        self.closing |= killed > doomed.len();
        filter.write(killed, out);
        Step::Next
    }

    /// Dooms all others that match. Gives them, and how many matched with this client among them.
    fn doom_matching(&mut self, args: &[&[u8]]) -> Result<(introspect::KillFilter, Vec<Client>, usize), CommandError> {
        let filter = introspect::parse_kill(args)?;
        if let Some(user) = filter.user.as_ref().filter(|user| self.door.grant(user).is_none()) {
            return Err(format!("ERR No such user '{}'", String::from_utf8_lossy(user)).into());
        }
        let mut clients: Vec<Client> = self.door.clients.lock().values().cloned().collect();
        clients.retain(|client| filter.matches(&self.facts_of(client, ""), self.client.id));
        let killed = clients.len();
        clients.retain(|client| client.id != self.client.id);
        for client in &clients {
            client.doom();
        }
        Ok((filter, clients, killed))
    }

    pub(super) fn facts_of(&self, client: &Arc<super::peer::Peer>, command: &str) -> ClientFacts {
        let channels = self.door.channels.read();
        let card = client.card.lock();
        let seconds = |since| self.now.since(since).as_secs();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let outstanding = client.outstanding();
        ClientFacts {
            id: client.id,
            addr: client.addr.clone(),
            laddr: client.laddr.clone(),
            fd: -1,
            name: text(&card.name),
            age_seconds: seconds(client.since),
            idle_seconds: if command.is_empty() { seconds(card.active) } else { 0 },
            db: card.db,
            subscriptions: channels.count(Kind::Channel, client.id),
            pattern_subscriptions: channels.count(Kind::Pattern, client.id),
            shard_subscriptions: channels.count(Kind::Shard, client.id),
            multi: usize::try_from(card.multi).ok(),
            watched: card.watching,
            is_blocked: client.waiting.load(Ordering::SeqCst) != 0,
            is_closing: client.is_doomed(),
            no_evict: card.no_evict,
            no_touch: card.no_touch,
            is_monitor: self.door.monitors.has(client.id),
            query_bytes: if command.is_empty() { card.buffered } else { self.at_hand },
            tracking: self.door.tracking.letters(client.id),
            redirect: u64::try_from(self.door.tracking.redirect_of(client.id)).ok(),
            output_bytes: outstanding,
            total_bytes: outstanding + card.buffered + size_of_val(&**client),
            last_command: if command.is_empty() { card.command.to_owned() } else { command.to_owned() },
            resp: card.resp,
            user: card.grant.as_ref().map_or_else(String::new, |grant| text(&grant.name)),
            lib_name: text(&card.lib_name),
            lib_ver: text(&card.lib_ver),
            ..ClientFacts::default()
        }
    }

    // ---- INFO, CONFIG ----------------------------------------------------------------------------------------------------

    fn fill_client_facts(&self, facts: &mut introspect::Facts) {
        let counters = &self.door.counters;
        let clients = self.door.clients.lock();
        facts.connected_clients = clients.len() as u64;
        for client in clients.values() {
            let buffered = client.card.lock().buffered as u64;
            facts.largest_input = facts.largest_input.max(buffered);
            facts.client_bytes += buffered + client.outstanding() as u64 + size_of_val(&**client) as u64;
        }
        facts.watching_clients = clients.values().filter(|client| client.card.lock().watching > 0).count() as u64;
        let ids: Vec<u64> = clients.keys().copied().collect();
        drop(clients);
        let channels = self.door.channels.read();
        facts.pubsub_clients = ids.iter().filter(|id| channels.is_subscribed(**id)).count() as u64;
        facts.blocked_clients = self.door.blocked_clients() as u64 + self.door.held_clients.load(Ordering::Relaxed);
        facts.tracking = self.door.tracking.counts();
        facts.maxclients = self.door.connections_max.load(Ordering::Relaxed);
        let [names, patterns, shard_channels] = channels.totals();
        facts.stats.pubsub_channels = names as u64;
        facts.stats.pubsub_patterns = patterns as u64;
        facts.stats.pubsub_shard_channels = shard_channels as u64;
        facts.stats.connections_received = counters.connections.load(Ordering::Relaxed);
        facts.stats.connections_rejected = counters.refused.load(Ordering::Relaxed);
        facts.stats.commands_processed = counters.commands.load(Ordering::Relaxed);
        facts.stats.input_bytes = counters.bytes_in.load(Ordering::Relaxed);
        facts.stats.output_bytes = counters.bytes_out.load(Ordering::Relaxed);
    }

    fn config(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let mut notifications = None;
        let mut config = self.door.config.lock();
        match name {
            "config|get" => config.get(args, out),
            "config|set" => {
                for change in config.set(args)? {
                    match change {
                        Change::TimeoutSeconds(seconds) => self.door.idle_ms.store(seconds * 1000, Ordering::Relaxed),
                        Change::MaxClients(count) => self.door.connections_max.store(count, Ordering::Relaxed),
                        Change::SlowerThan(micros) => self.door.figures.set_slower_than(micros),
                        Change::SlowlogLen(count) => self.door.figures.set_slowlog_len(count as usize),
                        Change::LatencyThreshold(millis) => self.door.figures.set_latency_threshold(millis),
                        Change::TrackedKeys(count) => self.door.tracking.set_keys_max(count as usize),
                        Change::Notifications(events) => notifications = Some(events),
                    }
                }
                out.ok();
            }
            "config|resetstat" => {
                self.door.counters.reset();
                self.door.figures.reset();
                out.ok();
            }
            "config|rewrite" => return Err(config.rewrite()),
            "config|help" => config.help(out),
            _ => return Err(text::subcommand_syntax(args)),
        }
        drop(config);
        if let Some(events) = notifications {
            self.door.set_notifications(events);
        }
        Ok(())
    }
}

fn ping(args: &[&[u8]], reply: &mut Reply) {
    match args.get(1) {
        Some(text) => reply.bulk(text),
        None => reply.simple("PONG"),
    }
}

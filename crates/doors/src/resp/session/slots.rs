//! The cluster door: the conversation that clients of Redis Cluster expect.
//!
//! A key's commands are answered where its shard is led; elsewhere the client is told MOVED, and where to. What has no such
//! place (nobody leads, or the leader has no cluster door) is forwarded as on the plain door. There is one database, and
//! commands on whole databases see the shards that this node leads, for clients put together themselves what all nodes say.
//! A connection that said READONLY reads from this node's replica, however far it is behind.

use base::{GroupId, NodeId, SLOT_COUNT, key_slot};
use cluster::{Cluster, Node};
use shard::command::{self, Flags, Spec, is};
use shard::error::CommandError;
use shard::reply::{Protocol, Reply};
use shard::state::Call;

use super::{CROSS_SLOT, Session, Step};
use crate::resp::door::Door;
use crate::resp::text;

/// The name of a node, or of a shard, in forty hexadecimal digits.
fn name_of(cluster: &Cluster, number: u64) -> String {
    let id: String = cluster.id().0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{id}{:08x}", number as u32)
}

/// Host and port of a node's cluster door.
fn endpoint(node: &Node) -> Option<(&str, u16)> {
    let (host, port) = node.place.redis_cluster.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// What the cluster door knows of the other nodes at a moment.
struct Map<'a> {
    door: &'a Door,
    cluster: std::sync::Arc<Cluster>,
}

impl Map<'_> {
    fn group(&self, at: usize) -> GroupId {
        self.door.shards[at].group
    }

    /// Who leads a shard, if it can be asked at a cluster door; else this node, which forwards.
    fn master(&self, at: usize) -> Option<&Node> {
        let leader = self.door.leader_anywhere(self.group(at))?;
        let node = |id: NodeId| self.cluster.nodes().get(&id).filter(|node| endpoint(node).is_some());
        node(leader).or_else(|| node(self.door.forward.node()))
    }

    /// The other holders of a shard that have a cluster door and lead nothing: to clients a node is either a master or a
    /// replica.
    fn replicas(&self, at: usize, master: NodeId, masters: &[Option<&Node>]) -> Vec<&Node> {
        let Some(own) = self.cluster.groups().get(&self.group(at)) else {
            return Vec::new();
        };
        let leads = |id: &NodeId| masters.iter().flatten().any(|node| node.id == *id);
        let all = own.voters.iter().chain(&own.learners).filter(|id| **id != master && !leads(id));
        all.filter_map(|id| self.cluster.nodes().get(id)).filter(|node| endpoint(node).is_some()).collect()
    }

    fn masters(&self) -> Vec<Option<&Node>> {
        (0..self.door.shards.len()).map(|at| self.master(at)).collect()
    }

    /// The shards that somebody leads.
    fn led(&self) -> Vec<Led<'_>> {
        let masters = self.masters();
        let mut led = Vec::new();
        for (at, master) in masters.iter().enumerate() {
            let Some(master) = *master else { continue };
            let replicas = self.replicas(at, master.id, &masters);
            let holders = std::iter::once(master).chain(replicas).collect();
            led.push(Led { at, ranges: self.door.slots_of(at).ranges(), holders });
        }
        led
    }
}

/// A shard as clients are told of it.
struct Led<'a> {
    at: usize,
    /// Its slots: first and last of each run.
    ranges: Vec<(u16, u16)>,
    /// Who can be asked: its master first, then its replicas.
    holders: Vec<&'a Node>,
}

impl Session {
    /// Makes it a conversation of the cluster door.
    #[must_use]
    pub fn on_cluster_door(mut self) -> Session {
        self.is_cluster = true;
        self
    }

    fn map(&self) -> Option<Map<'_>> {
        let cluster = self.door.forward.meta.get()?.state().cluster().clone();
        Some(Map { door: &self.door, cluster })
    }

    /// The shard of a command's keys, which must be of one slot. An error where the client has to ask elsewhere.
    pub(super) fn route_by_slot<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        spec: Option<&Spec>,
    ) -> Result<Option<usize>, CommandError> {
        let mut slot = None;
        for key in keys {
            let own = key_slot(key);
            if *slot.get_or_insert(own) != own {
                return Err(CROSS_SLOT);
            }
        }
        let Some(slot) = slot else {
            return Ok(None);
        };
        let at = self.door.shard_of_slot(slot);
        if !self.is_there(at) || spec.is_some_and(|spec| self.may_be_old(spec, at)) {
            return Ok(Some(at));
        }
        let moved = self.map().and_then(|map| {
            let node = map.master(at).filter(|node| node.id != self.door.forward.node())?;
            Some(format!("MOVED {slot} {}", node.place.redis_cluster))
        });
        moved.map_or(Ok(Some(at)), |moved| Err(moved.into()))
    }

    /// Commands that name another database are not for the cluster door.
    pub(in crate::resp) fn only_one_database(&self, spec: &Spec, args: &[&[u8]]) -> Result<(), CommandError> {
        let others = match spec.name {
            "swapdb" | "move" => true,
            "copy" => args.get(3..).is_some_and(|words| words.iter().any(|word| is(word, "db"))),
            _ => false,
        };
        match others {
            true => Err(format!("ERR {} is not allowed in cluster mode", spec.name.to_uppercase()).into()),
            false => Ok(()),
        }
    }

    /// Whether a command may be answered by this node's replica, as old as that is.
    pub(super) fn may_be_old(&self, spec: &Spec, at: usize) -> bool {
        let reads = !spec.is_write() && !spec.flags.has(Flags::READ_ONLY) && !spec.flags.has(Flags::BLOCKING);
        self.readonly && reads && self.transaction.is_none() && self.holds(at)
    }

    fn holds(&self, at: usize) -> bool {
        let (me, shard) = (self.door.forward.node(), &self.door.shards[at]);
        let belongs = self.map().is_some_and(|map| {
            let own = map.cluster.groups().get(&shard.group);
            own.is_some_and(|own| own.voters.contains(&me) || own.learners.contains(&me))
        });
        belongs && shard.state().applied() > 0
    }

    /// Reads this node's replica.
    pub(super) fn read_old(&mut self, spec: &'static Spec, at: usize, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.is_pending() {
            return Step::Barrier;
        }
        let shard = &self.door.shards[at];
        let call = Call::new(spec, self.db, args, shard.now(self.now));
        let state = shard.state();
        if !state.takes(spec, args) {
            // It has moved on, as far as this replica knows: the map will say so in a moment.
            drop(state);
            return self.refuse(shard::state::NOT_HERE, out);
        }
        state.read(&call, &mut self.rng, out);
        drop(state);
        Step::Next
    }

    /// READONLY, READWRITE and ASKING. Nobody is ever told ASK: while a slot is on its way its commands wait here, for a moment.
    pub(in crate::resp) fn cluster_mode(&mut self, name: &str, out: &mut Reply) -> Result<(), CommandError> {
        if !self.is_cluster {
            return Err(CommandError::new("ERR This instance has cluster support disabled"));
        }
        match name {
            "readonly" => self.readonly = true,
            "readwrite" => self.readonly = false,
            _ => {}
        }
        out.ok();
        Ok(())
    }

    /// CLUSTER and its subcommands.
    pub(in crate::resp) fn cluster(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<(), CommandError> {
        let word = args.get(1).copied().unwrap_or_default();
        if is(word, "keyslot") && args.len() == 3 {
            out.int(i64::from(key_slot(args[2])));
            return Ok(());
        }
        let map = self.map().filter(|_| self.is_cluster);
        let Some(map) = map else {
            return Err(CommandError::new("ERR This instance has cluster support disabled"));
        };
        let me = self.door.forward.node();
        match word {
            word if is(word, "myid") && args.len() == 2 => out.bulk(name_of(&map.cluster, me.0).as_bytes()),
            word if is(word, "myshardid") && args.len() == 2 => {
                let at = map.masters().iter().position(|node| node.is_some_and(|node| node.id == me));
                out.bulk(name_of(&map.cluster, 0x8000_0000 + at.unwrap_or(0) as u64).as_bytes());
            }
            word if is(word, "info") && args.len() == 2 => out.verbatim("txt", info(&map).as_bytes()),
            word if is(word, "nodes") && args.len() == 2 => out.verbatim("txt", nodes(&map, me).as_bytes()),
            word if is(word, "slots") && args.len() == 2 => slots(&map, out),
            word if is(word, "shards") && args.len() == 2 => shards(&map, out),
            word if is(word, "links") && args.len() == 2 => out.array(0),
            word if is(word, "countkeysinslot") && args.len() == 3 => {
                let keys = self.keys_in_slot(args[2])?;
                out.int(keys.len() as i64);
            }
            word if is(word, "getkeysinslot") && args.len() == 4 => {
                let count = base::parse_i64(args[3]).filter(|count| *count >= 0);
                let count = count.ok_or(CommandError::new("ERR Invalid number of keys"))?;
                let mut keys = self.keys_in_slot(args[2])?;
                keys.truncate(usize::try_from(count).unwrap_or(usize::MAX));
                out.array(keys.len());
                keys.iter().for_each(|key| out.bulk(key));
            }
            word if is(word, "help") => text::help("CLUSTER", HELP, out),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }

    /// The keys of a slot, as they are on this node. Looks at every key of its shard.
    fn keys_in_slot(&mut self, word: &[u8]) -> Result<Vec<Vec<u8>>, CommandError> {
        let slot = base::parse_i64(word).filter(|slot| (0..i64::from(SLOT_COUNT)).contains(slot));
        let slot = slot.ok_or(CommandError::new("ERR Invalid slot"))? as u16;
        let at = self.door.shard_of_slot(slot);
        let shard = &self.door.shards[at];
        let spec = command::find(b"keys").expect("it is a command");
        let words: [&[u8]; 2] = [b"keys", b"*"];
        let mut reply = Reply::new(Protocol::Resp2);
        shard.state().read(&Call::new(spec, 0, &words, shard.now(self.now)), &mut self.rng, &mut reply);
        let mut keys = Vec::new();
        let mut rest = after_line(&reply.bytes).map_or(&[][..], |(_, rest)| rest);
        while let Some((head, behind)) = after_line(rest).filter(|(head, _)| head.starts_with(b"$")) {
            let length = std::str::from_utf8(&head[1..]).ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
            let Some(key) = behind.get(..length) else { break };
            if key_slot(key) == slot {
                keys.push(key.to_vec());
            }
            rest = behind.get(length + 2..).unwrap_or_default();
        }
        Ok(keys)
    }
}

/// A line of an answer, and what is behind it.
fn after_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn info(map: &Map<'_>) -> String {
    let masters = map.masters();
    let is_ok = masters.iter().all(Option::is_some);
    let mut sizes: Vec<NodeId> = masters.iter().flatten().map(|node| node.id).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let assigned: u32 =
        (0..masters.len()).filter(|at| masters[*at].is_some()).map(|at| map.door.slots_of(at).len() as u32).sum();
    let known = map.cluster.nodes().values().filter(|node| endpoint(node).is_some()).count();
    format!(
        "cluster_state:{}\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:{assigned}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:{}\r\ncluster_known_nodes:{known}\r\ncluster_size:{}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n",
        if is_ok { "ok" } else { "fail" },
        u32::from(SLOT_COUNT) - assigned,
        sizes.len(),
        epoch = map.cluster.index(),
    )
}

/// One line for each node. One that leads nothing is told as a replica of the first shard that it holds.
fn nodes(map: &Map<'_>, me: NodeId) -> String {
    let masters = map.masters();
    let mut lines = String::new();
    for node in map.cluster.nodes().values() {
        let Some((host, port)) = endpoint(node) else { continue };
        let own: Vec<usize> =
            (0..masters.len()).filter(|at| masters[*at].is_some_and(|master| master.id == node.id)).collect();
        let follows = (0..masters.len()).find_map(|at| {
            let master = masters[at]?;
            map.replicas(at, master.id, &masters).iter().any(|replica| replica.id == node.id).then_some(master.id)
        });
        let mut flags = if node.id == me { "myself,".to_owned() } else { String::new() };
        let mut master = "-".to_owned();
        match follows.filter(|_| own.is_empty()) {
            Some(id) => {
                flags.push_str("slave");
                master = name_of(&map.cluster, id.0);
            }
            None => flags.push_str("master"),
        }
        lines.push_str(&format!(
            "{} {host}:{port}@{} {flags} {master} 0 0 {} connected",
            name_of(&map.cluster, node.id.0),
            node.place.peer.rsplit_once(':').map_or("0", |(_, port)| port),
            map.cluster.index(),
        ));
        for at in own {
            for (first, last) in map.door.slots_of(at).ranges() {
                lines.push_str(&if first == last { format!(" {first}") } else { format!(" {first}-{last}") });
            }
        }
        lines.push('\n');
    }
    lines
}

fn slots(map: &Map<'_>, out: &mut Reply) {
    let led = map.led();
    out.array(led.iter().map(|shard| shard.ranges.len()).sum());
    for Led { ranges, holders, .. } in led {
        for (first, last) in ranges {
            out.array(2 + holders.len());
            out.int(i64::from(first));
            out.int(i64::from(last));
            for node in &holders {
                let (host, port) = endpoint(node).unwrap_or_default();
                out.array(4);
                out.bulk(host.as_bytes());
                out.int(i64::from(port));
                out.bulk(name_of(&map.cluster, node.id.0).as_bytes());
                out.map(0);
            }
        }
    }
}

fn shards(map: &Map<'_>, out: &mut Reply) {
    let led = map.led();
    out.array(led.len());
    for Led { at, ranges, holders } in led {
        out.map(2);
        out.bulk(b"slots");
        out.array(ranges.len() * 2);
        for (first, last) in ranges {
            out.int(i64::from(first));
            out.int(i64::from(last));
        }
        out.bulk(b"nodes");
        out.array(holders.len());
        for (place, node) in holders.into_iter().enumerate() {
            let (host, port) = endpoint(node).unwrap_or_default();
            let text = |name: &str, value: &str, out: &mut Reply| {
                out.bulk(name.as_bytes());
                out.bulk(value.as_bytes());
            };
            out.map(7);
            text("id", &name_of(&map.cluster, node.id.0), out);
            out.bulk(b"port");
            out.int(i64::from(port));
            text("ip", host, out);
            text("endpoint", host, out);
            text("role", if place == 0 { "master" } else { "replica" }, out);
            out.bulk(b"replication-offset");
            out.int(map.door.shards[at].state().applied() as i64);
            text("health", "online", out);
        }
    }
}

const HELP: &[&str] = &[
    "COUNTKEYSINSLOT <slot>",
    "    Return the number of keys in <slot>.",
    "GETKEYSINSLOT <slot> <count>",
    "    Return key names stored by current node in a slot.",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "MYSHARDID",
    "    Return the node's shard id.",
    "NODES",
    "    Return cluster configuration seen by node.",
    "SLOTS",
    "    Return information about slots range mappings.",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
];

//! Looks at the node: a sample of its counters once a second, and its whole status when somebody asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doors::admin::rates::Sample;
use doors::admin::registry::{self, Registry, Times};
use doors::admin::status::{
    Disk, Door, Forwarded, Found, Group, Keyspace, Log, Memory, Peer, Process, Snapshots, Status,
};
use store::keyspace::{Durability, Eviction};

use super::{Admin, CONNECTIONS_MAX};
use crate::clock;
use crate::listener::Places;
use crate::node::{Node, cpu_seconds, resident_bytes};

/// What INFO calls instantaneous.
const INSTANT: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

/// Samples the counters once a second until the door closes, and tells whoever follows the events.
pub(super) async fn every_second(admin: Arc<Admin>) {
    let mut stop = admin.stop.clone();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            _ = second.tick() => {}
        }
        let now = sample(&admin.node);
        admin.services.lock().times.note(admin.node.registry.index(), clock::wall());
        let rates = {
            let mut minute = admin.minute.lock();
            let rates = minute.door(&now, INSTANT);
            minute.push(now);
            rates
        };
        let figures = &admin.node.figures;
        figures.commands_per_second.store(rates.commands_per_second as u64, Ordering::Relaxed);
        figures.bytes_in_per_second.store(rates.bytes_in_per_second as u64, Ordering::Relaxed);
        figures.bytes_out_per_second.store(rates.bytes_out_per_second as u64, Ordering::Relaxed);
        figures.note_peak(admin.node.shards.iter().skip(1));
        if admin.told.receiver_count() > 0 {
            admin.told.send_replace(status(&admin).json().into());
        }
    }
}

fn sample(node: &Node) -> Sample {
    let counters = &node.door.counters;
    let log = node.log.figures();
    Sample {
        at: clock::now(),
        commands: counters.commands.load(Ordering::Relaxed),
        bytes_in: counters.bytes_in.load(Ordering::Relaxed),
        bytes_out: counters.bytes_out.load(Ordering::Relaxed),
        connections: counters.connections.load(Ordering::Relaxed),
        commits: node.tape.after(u64::MAX).0,
        appends: log.appends.load(Ordering::Relaxed),
        log_bytes: log.bytes.load(Ordering::Relaxed),
        log_micros: log.micros.load(Ordering::Relaxed),
        latency: node.figures.latency.snapshot(),
    }
}

/// Everything about the node now.
pub(super) fn status(admin: &Admin) -> Status {
    let node = &*admin.node;
    let now = sample(node);
    let uptime = now.at.since(node.started);
    let time_ms = clock::wall();
    let not_ready = node.not_ready();
    let (groups, memory) = groups_and_memory(node);
    let (redis, log, history) = {
        let minute = admin.minute.lock();
        let rates = (Some(minute.door(&now, SHORT)), Some(minute.door(&now, LONG)));
        let mut log = log(node, &now);
        (log.last_10s, log.last_60s) = (minute.log(&now, SHORT), minute.log(&now, LONG));
        let (last_10s, last_60s) = rates;
        (Door { last_10s, last_60s, ..redis(node, &now) }, log, minute.history())
    };
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        node: node.config.node.to_string(),
        data_dir: node.config.data_dir.display().to_string(),
        time_ms,
        started_ms: time_ms.saturating_sub(uptime.as_millis() as u64),
        uptime_seconds: uptime.as_secs(),
        ready: not_ready.is_none(),
        not_ready,
        problems: Vec::new(),
        doors: [redis, own(admin)].into_iter().chain(consul(node)).chain(kafka(node)).chain(etcd(node)).collect(),
        groups,
        peers: peers(node),
        forwarded: forwarded(node),
        log,
        registry: admin.services.lock().look(node),
        snapshots: snapshots(node),
        memory,
        disk: disk(node),
        process: process(),
        limits_hit: node.door.limits.hits.all().map(|(limit, count)| (limit.name().into(), count)).collect(),
        found: found(node),
        history,
        latency: now.latency,
    };
    status.find_problems();
    status
}

/// The registry as it was looked at last, and when it reached which index.
#[derive(Default)]
pub(super) struct Services {
    times: Times,
    seen: Option<(tokio::time::Instant, Registry)>,
}

/// A registry with more instances is looked at once a second at most: it is a walk over all of them.
const INSTANCES_FEW: usize = 1000;

impl Services {
    fn look(&mut self, node: &Node) -> Registry {
        let catalog = node.registry.read();
        let now = tokio::time::Instant::now();
        let is_due = match &self.seen {
            None => true,
            Some((at, seen)) if seen.index != catalog.index() => {
                catalog.counts().instances <= INSTANCES_FEW || now.duration_since(*at) >= Duration::from_secs(1)
            }
            Some(_) => false,
        };
        self.times.note(catalog.index(), clock::wall());
        if is_due {
            self.seen = Some((now, registry::look(&catalog, &self.times)));
        }
        let seen = self.seen.as_ref().map(|(_, seen)| seen.clone()).unwrap_or_default();
        Registry { waiting: node.registry.waiting() as u64, ..seen }
    }
}

fn redis(node: &Node, now: &Sample) -> Door {
    let (door, counters) = (&node.door, &node.door.counters);
    Door {
        name: "redis".into(),
        address: node.address.to_string(),
        connections: door.clients.lock().len() as u64,
        connections_max: door.connections_max.load(Ordering::Relaxed),
        connections_total: now.connections,
        refused_total: counters.refused.load(Ordering::Relaxed),
        commands_total: now.commands,
        errors_total: counters.errors.load(Ordering::Relaxed),
        protocol_errors_total: counters.protocol_errors.load(Ordering::Relaxed),
        auth_failures_total: counters.auth_failures.load(Ordering::Relaxed),
        bytes_in_total: now.bytes_in,
        bytes_out_total: now.bytes_out,
        waiting: door.blocked_clients() as u64,
        last_10s: None,
        last_60s: None,
    }
}

fn own(admin: &Admin) -> Door {
    Door {
        name: "admin".into(),
        address: admin.address.map(|address| address.to_string()).unwrap_or_default(),
        connections: (CONNECTIONS_MAX - admin.places.available_permits()) as u64,
        connections_max: CONNECTIONS_MAX as u64,
        connections_total: admin.connections.load(Ordering::Relaxed),
        commands_total: admin.requests.load(Ordering::Relaxed),
        auth_failures_total: admin.auth_failures.load(Ordering::Relaxed),
        ..Door::default()
    }
}

/// What a listener counts of its connections.
fn counted(name: &str, places: &Places) -> Door {
    Door {
        name: name.into(),
        address: places.address.to_string(),
        connections: places.open(),
        connections_max: places.max as u64,
        connections_total: places.connections.load(Ordering::Relaxed),
        refused_total: places.refused.load(Ordering::Relaxed),
        ..Door::default()
    }
}

fn consul(node: &Node) -> Option<Door> {
    let figures = node.consul.get()?;
    Some(Door {
        commands_total: figures.requests.load(Ordering::Relaxed),
        waiting: node.registry.waiting() as u64,
        ..counted("consul", &figures.places)
    })
}

fn kafka(node: &Node) -> Option<Door> {
    let figures = node.kafka.get()?;
    let counters = figures.counters();
    Some(Door {
        commands_total: counters.requests.load(Ordering::Relaxed),
        errors_total: counters.errors.load(Ordering::Relaxed),
        protocol_errors_total: counters.garbage.load(Ordering::Relaxed),
        auth_failures_total: counters.auth_failures.load(Ordering::Relaxed),
        bytes_in_total: counters.bytes_produced.load(Ordering::Relaxed),
        bytes_out_total: counters.bytes_fetched.load(Ordering::Relaxed),
        ..counted("kafka", &figures.places)
    })
}

fn etcd(node: &Node) -> Option<Door> {
    let figures = node.etcd.get()?;
    let counters = figures.counters();
    Some(Door {
        commands_total: counters.calls.load(Ordering::Relaxed),
        errors_total: counters.errors.load(Ordering::Relaxed),
        auth_failures_total: counters.auth_failures.load(Ordering::Relaxed),
        waiting: figures.watchers() as u64,
        ..counted("etcd", &figures.places)
    })
}

fn groups_and_memory(node: &Node) -> (Vec<Group>, Memory) {
    let mut memory = Memory { resident_bytes: resident_bytes(), ..Memory::default() };
    let mut groups = Vec::new();
    let known = node.groups();
    for shard in node.shards.iter() {
        let state = shard.state();
        let mut group = Group { group: shard.group.to_string(), role: "starting".into(), ..Group::default() };
        if let Some(status) = known.iter().find(|status| status.group == shard.group) {
            (group.role, group.term, group.applied) = (status.role.clone(), status.term, status.applied);
            group.leader = status.leader.map_or(String::new(), |leader| leader.to_string());
            group.voters = status.membership.voters.iter().map(ToString::to_string).collect();
            group.held = status.membership.members().contains(&node.config.node);
            let behind = status.followers.iter().map(|(_, matched)| status.last.saturating_sub(*matched));
            group.lag = behind.max().unwrap_or(0);
        }
        for class in [Durability::Fsync, Durability::Memory] {
            let usage = state.tables(class).total_usage();
            group.keys += usage.keys;
            group.bytes += usage.bytes;
            group.waiters += state.waiters(class).len() as u64;
        }
        for (id, space) in state.keyspaces().iter().enumerate() {
            if memory.keyspaces.len() == id {
                memory.keyspaces.push(Keyspace {
                    prefix: String::from_utf8_lossy(&space.prefix).into_owned(),
                    durability: if space.durability == Durability::Fsync { "fsync" } else { "memory" },
                    eviction: if space.eviction == Eviction::Refuse { "refuse" } else { "lru" },
                    bytes_max: space.max_bytes,
                    ..Keyspace::default()
                });
            }
            let usage = state.tables(space.durability).usage(id as u8);
            memory.keyspaces[id].keys += usage.keys;
            memory.keyspaces[id].bytes += usage.bytes;
        }
        memory.keys += group.keys;
        memory.bytes += group.bytes;
        groups.push(group);
    }
    (groups, memory)
}

fn peers(node: &Node) -> Vec<Peer> {
    let silent = |heard: Option<Duration>| heard.map_or(0, |heard| heard.as_millis() as u64);
    let links = node.member.links().into_iter();
    let peers = links.map(|link| Peer {
        node: format!("n{}", link.node),
        up: link.is_up(),
        address: link.address,
        silent_ms: silent(link.heard),
        rtt_us: link.rtt.map_or(0, |rtt| rtt.as_micros() as u64),
        bytes_out_total: link.bytes_out,
        bytes_in_total: link.bytes_in,
        messages_out_total: link.messages_out,
        messages_in_total: link.messages_in,
        queued_bytes: link.queued_bytes,
        connects_total: link.connects,
        error: link.error,
    });
    peers.collect()
}

fn forwarded(node: &Node) -> Forwarded {
    let figures = node.door.forward_figures();
    let latency = node.door.forward.latency.snapshot();
    let micros = |share| latency.quantile(share).map(|span| span.as_micros() as u64);
    Forwarded {
        away: figures.away as u64,
        away_bytes: figures.away_bytes as u64,
        guests: figures.guests as u64,
        answered_total: latency.count(),
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        latency,
    }
}

fn log(node: &Node, now: &Sample) -> Log {
    let (status, figures) = (node.log.status(), node.log.figures());
    Log {
        segments: status.segments as u64,
        spare_segments: status.spares as u64,
        oldest_segment: status.oldest,
        current_segment: status.current,
        used_bytes: status.used_bytes,
        disk_bytes: status.disk_bytes,
        disk_bytes_max: node.config.log_bytes_max,
        durable_sequence: status.sequence,
        commits_total: now.commits,
        appends_total: now.appends,
        appended_bytes_total: now.log_bytes,
        append_us_total: now.log_micros,
        append_us_average: figures.average_micros.load(Ordering::Relaxed),
        append_us_longest: figures.longest_micros.load(Ordering::Relaxed),
        in_reserve: status.in_reserve,
        full: status.full,
        stopped: status.stopped,
        ..Log::default()
    }
}

fn snapshots(node: &Node) -> Snapshots {
    let figures = &node.snapshots.figures;
    Snapshots {
        finished_total: figures.finished.load(Ordering::Relaxed),
        failed_total: figures.failed.load(Ordering::Relaxed),
        running: figures.running.load(Ordering::Relaxed) != 0,
        last_bytes: figures.bytes.load(Ordering::Relaxed),
        last_duration_ms: figures.millis.load(Ordering::Relaxed),
        last_finished_ms: figures.finished_at.load(Ordering::Relaxed),
    }
}

fn disk(node: &Node) -> Disk {
    rustix::fs::statvfs(node.config.data_dir.as_path()).map_or(Disk::default(), |stat| Disk {
        free_bytes: stat.f_bavail * stat.f_frsize,
        size_bytes: stat.f_blocks * stat.f_frsize,
    })
}

fn process() -> Process {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let (user, system) = cpu_seconds();
    Process {
        id: std::process::id(),
        cpu_seconds: user + system,
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        open_files_max: limit.unwrap_or(0),
    }
}

fn found(node: &Node) -> Found {
    let found = &node.found;
    Found {
        fresh: found.fresh,
        sealed: found.sealed,
        cut: found.cut.clone(),
        entries: found.entries,
        log_bytes: found.log_bytes,
        snapshot_keys: found.snapshot_keys,
        damaged_snapshots: found.damaged_snapshots.clone(),
    }
}

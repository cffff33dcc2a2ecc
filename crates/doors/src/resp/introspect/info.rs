//! INFO: Redis's fields, filled with what is true of this node. Fields that would have to be invented are left out.

use std::fmt::Write;

use shard::command::is;
use shard::reply::Reply;

use super::REDIS_VERSION;

/// What INFO tells; the host fills it when it is asked.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Quorate's own version.
    pub quorate_version: String,
    /// Name, release and machine of the operating system, as `uname` tells them.
    pub os: String,
    /// The process.
    pub process_id: u32,
    /// 40 hexadecimal digits, new at every start.
    pub run_id: String,
    /// The door's port.
    pub tcp_port: u16,
    /// Wall clock, microseconds since 1970.
    pub server_time_usec: u64,
    /// Since the process started.
    pub uptime_seconds: u64,
    /// Path of the program.
    pub executable: String,
    /// Path of the configuration file; empty if there is none.
    pub config_file: String,
    /// Clients that track, keys remembered for them, how often, and prefixes.
    pub tracking: [u64; 4],
    /// Connections now.
    pub connected_clients: u64,
    /// Most connections at once.
    pub maxclients: u64,
    /// Clients that wait in BLPOP and kin.
    pub blocked_clients: u64,
    /// Clients with any subscription.
    pub pubsub_clients: u64,
    /// Clients with watched keys.
    pub watching_clients: u64,
    /// See [`MemoryFacts`].
    pub memory: MemoryFacts,
    /// Whether the node still reads its log.
    pub loading: bool,
    /// Most bytes of input that one client has waiting.
    pub largest_input: u64,
    /// Bytes of all clients' buffers.
    pub client_bytes: u64,
    /// Whether a snapshot is being written.
    pub snapshot_in_progress: bool,
    /// When the last snapshot was finished, seconds since 1970; 0 if there is none.
    pub snapshot_last_time: u64,
    /// Whether the last one that was begun was finished.
    pub snapshot_ok: bool,
    /// How long the last one took.
    pub snapshot_seconds: u64,
    /// Keys that came from snapshots at the start.
    pub snapshot_keys_loaded: u64,
    /// Snapshots since the start.
    pub snapshots: u64,
    /// Whether any keyspace is logged.
    pub logs: bool,
    /// Whether the last write to the log reached the disk; afterwards the node refuses writes.
    pub log_ok: bool,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Changes of keys since the node began.
    pub changes: u64,
    /// See [`StatsFacts`].
    pub stats: StatsFacts,
    /// See [`CpuFacts`].
    pub cpu: CpuFacts,
    /// Position of the log: what Redis calls the replication offset.
    pub log_position: u64,
    /// Whether the client came by the cluster door.
    pub is_cluster: bool,
    /// The shards' replicas here, for the cluster door.
    pub replicas: Vec<ReplicaFacts>,
    /// The sections `commandstats`, `errorstats` and `latencystats`.
    pub figures: [String; 3],
    /// Databases that hold keys.
    pub keyspaces: Vec<KeyspaceFacts>,
}

/// One shard's replica on this node.
#[derive(Clone, Debug, Default)]
pub struct ReplicaFacts {
    /// Which.
    pub shard: u32,
    /// The node that leads it; 0 for none known.
    pub leader: u64,
    /// Whether that is this node.
    pub leads: bool,
    /// The last entry that this node has applied.
    pub applied: u64,
    /// Milliseconds since that node was heard of, where it is another: what is read here may be older than that.
    pub silent_ms: Option<u64>,
}

/// Memory, bytes.
#[derive(Clone, Debug, Default)]
pub struct MemoryFacts {
    /// Allocated.
    pub used: u64,
    /// The process's resident memory.
    pub rss: u64,
    /// Most that `used` was.
    pub peak: u64,
    /// Of the machine.
    pub system: u64,
    /// Sources of those scripts.
    pub script_bytes: u64,
    /// Scripts kept for EVALSHA.
    pub scripts: u64,
    /// Libraries of functions.
    pub libraries: u64,
    /// Functions in them.
    pub functions: u64,
    /// Their sources, names and descriptions.
    pub function_bytes: u64,
    /// The bound on data; 0 for none.
    pub max: u64,
    /// What happens at the bound: `noeviction`, `allkeys-lru`…
    pub policy: String,
}

/// Counters since the start or CONFIG RESETSTAT, and rates of now.
#[derive(Clone, Debug, Default)]
pub struct StatsFacts {
    /// Error answers.
    pub errors: u64,
    /// Connections accepted.
    pub connections_received: u64,
    /// Commands run.
    pub commands_processed: u64,
    /// Commands per second.
    pub ops_per_second: u64,
    /// Bytes read from clients.
    pub input_bytes: u64,
    /// Bytes written to clients.
    pub output_bytes: u64,
    /// Thousand bytes a second read.
    pub input_kbps: f64,
    /// Thousand bytes a second written.
    pub output_kbps: f64,
    /// Connections refused because there were too many.
    pub connections_rejected: u64,
    /// Keys that expired.
    pub expired_keys: u64,
    /// Keys evicted.
    pub evicted_keys: u64,
    /// Channels somebody listens to.
    pub pubsub_channels: u64,
    /// Patterns somebody listens to.
    pub pubsub_patterns: u64,
    /// Shard channels somebody listens to.
    pub pubsub_shard_channels: u64,
    /// Clients closed because they did not read their answers.
    pub output_limit_disconnections: u64,
}

/// Processor time of the process, seconds.
#[derive(Clone, Debug, Default)]
pub struct CpuFacts {
    /// In the kernel.
    pub system_seconds: f64,
    /// In the program.
    pub user_seconds: f64,
}

/// One database.
#[derive(Clone, Debug, Default)]
pub struct KeyspaceFacts {
    /// Its number.
    pub db: u8,
    /// Keys in it.
    pub keys: u64,
    /// Keys of them that will expire.
    pub expires: u64,
}

const DEFAULT: &[&str] = &[
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "modules",
    "errorstats",
    "cluster",
    "keyspace",
];

type Section = (&'static str, fn(&Facts, &mut String));

const SECTIONS: &[Section] = &[
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("replication", replication),
    ("cpu", cpu),
    ("modules", |_, text| text.push_str("# Modules\r\n")),
    ("commandstats", |facts, text| text.push_str(&facts.figures[0])),
    ("errorstats", |facts, text| text.push_str(&facts.figures[1])),
    ("latencystats", |facts, text| text.push_str(&facts.figures[2])),
    ("cluster", |facts, text| {
        let _ = write!(text, "# Cluster\r\ncluster_enabled:{}\r\n", u8::from(facts.is_cluster));
    }),
    ("keyspace", keyspace),
];

/// INFO with the words behind it: names of sections, `default`, `all`, `everything`; none is `default`. What nobody knows is
/// left out.
pub fn info(sections: &[&[u8]], facts: &Facts, reply: &mut Reply) {
    let named = |name: &str| sections.iter().any(|word| is(word, name));
    let all = named("all") || named("everything");
    let default = sections.is_empty() || named("default");
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if !(all || named(name) || default && DEFAULT.contains(name)) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write(facts, &mut text);
    }
    reply.verbatim("txt", text.as_bytes());
}

/// Writes the lines of a section.
macro_rules! lines {
    ($text:expr, $title:literal, $($name:literal: $value:expr),* $(,)?) => {
        write!($text, concat!("# ", $title, "\r\n" $(, $name, ":{}\r\n")*), $($value),*).expect("a String takes any text")
    };
}

fn server(facts: &Facts, text: &mut String) {
    lines!(text, "Server",
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": 0,
        "redis_mode": if facts.is_cluster { "cluster" } else { "standalone" },
        "quorate_version": facts.quorate_version,
        "os": facts.os,
        "arch_bits": usize::BITS,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "epoll",
        "process_id": facts.process_id,
        "process_supervised": "no",
        "run_id": facts.run_id,
        "tcp_port": facts.tcp_port,
        "server_time_usec": facts.server_time_usec,
        "uptime_in_seconds": facts.uptime_seconds,
        "uptime_in_days": facts.uptime_seconds / 86_400,
        "executable": facts.executable,
        "config_file": facts.config_file,
        "io_threads_active": 0,
    );
}

fn clients(facts: &Facts, text: &mut String) {
    lines!(text, "Clients",
        "connected_clients": facts.connected_clients,
        "cluster_connections": 0,
        "maxclients": facts.maxclients,
        "client_recent_max_input_buffer": facts.largest_input,
        "blocked_clients": facts.blocked_clients,
        "tracking_clients": facts.tracking[0],
        "pubsub_clients": facts.pubsub_clients,
        "watching_clients": facts.watching_clients,
    );
}

fn memory(facts: &Facts, text: &mut String) {
    let memory = &facts.memory;
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let peak = memory.peak.max(memory.used);
    lines!(text, "Memory",
        "used_memory": memory.used,
        "used_memory_human": human(memory.used),
        "used_memory_rss": memory.rss,
        "used_memory_rss_human": human(memory.rss),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": format_args!("{:.2}%", share(memory.used, peak) * 100.0),
        "total_system_memory": memory.system,
        "total_system_memory_human": human(memory.system),
        "used_memory_scripts_eval": memory.script_bytes,
        "number_of_cached_scripts": memory.scripts,
        "used_memory_functions": memory.function_bytes,
        "number_of_functions": memory.functions,
        "number_of_libraries": memory.libraries,
        "maxmemory": memory.max,
        "maxmemory_human": human(memory.max),
        "maxmemory_policy": memory.policy,
        "mem_fragmentation_ratio": format_args!("{:.2}", share(memory.rss, memory.used)),
        "mem_fragmentation_bytes": memory.rss as i128 - memory.used as i128,
        "mem_clients_slaves": 0,
        "mem_clients_normal": facts.client_bytes,
        "mem_cluster_links": 0,
        "mem_replication_backlog": 0,
        "mem_total_replication_buffers": 0,
        "mem_allocator": "mimalloc",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
    );
}

fn persistence(facts: &Facts, text: &mut String) {
    let word = |is_ok| if is_ok { "ok" } else { "err" };
    // The log is what Redis's append only file is, and a snapshot what its RDB file is.
    lines!(text, "Persistence",
        "loading": u8::from(facts.loading),
        "async_loading": 0,
        "current_cow_size": 0,
        "current_fork_perc": "0.00",
        "rdb_changes_since_last_save": facts.changes,
        "rdb_bgsave_in_progress": u8::from(facts.snapshot_in_progress),
        "rdb_last_save_time": facts.snapshot_last_time,
        "rdb_last_bgsave_status": word(facts.snapshot_ok),
        "rdb_last_bgsave_time_sec": if facts.snapshots == 0 { -1 } else { facts.snapshot_seconds as i64 },
        "rdb_saves": facts.snapshots,
        "rdb_last_cow_size": 0,
        "rdb_last_load_keys_loaded": facts.snapshot_keys_loaded,
        "aof_enabled": u8::from(facts.logs),
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_rewrites": 0,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": word(facts.log_ok),
        "module_fork_in_progress": 0,
        "aof_current_size": facts.log_bytes,
    );
}

fn stats(facts: &Facts, text: &mut String) {
    let stats = &facts.stats;
    lines!(text, "Stats",
        "total_connections_received": stats.connections_received,
        "total_commands_processed": stats.commands_processed,
        "instantaneous_ops_per_sec": stats.ops_per_second,
        "total_net_input_bytes": stats.input_bytes,
        "total_net_output_bytes": stats.output_bytes,
        "total_net_repl_input_bytes": 0,
        "total_net_repl_output_bytes": 0,
        "instantaneous_input_kbps": format_args!("{:.2}", stats.input_kbps),
        "instantaneous_output_kbps": format_args!("{:.2}", stats.output_kbps),
        "rejected_connections": stats.connections_rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": stats.expired_keys,
        "evicted_keys": stats.evicted_keys,
        "evicted_clients": 0,
        "pubsub_channels": stats.pubsub_channels,
        "pubsub_patterns": stats.pubsub_patterns,
        "pubsubshard_channels": stats.pubsub_shard_channels,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "total_error_replies": stats.errors,
        "tracking_total_keys": facts.tracking[1],
        "tracking_total_items": facts.tracking[2],
        "tracking_total_prefixes": facts.tracking[3],
        "client_output_buffer_limit_disconnections": stats.output_limit_disconnections,
    );
}

fn replication(facts: &Facts, text: &mut String) {
    lines!(text, "Replication",
        "role": if facts.is_cluster && !facts.replicas.iter().any(|own| own.leads) { "slave" } else { "master" },
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": facts.run_id,
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": facts.log_position,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    );
    for own in &facts.replicas {
        let silent = own.silent_ms.map_or_else(String::new, |silent| format!(",leader_silent_ms={silent}"));
        let role = if own.leads { "leader" } else { "replica" };
        let _ =
            write!(text, "shard{}:role={role},leader={},applied={}{silent}\r\n", own.shard, own.leader, own.applied);
    }
}

fn cpu(facts: &Facts, text: &mut String) {
    lines!(text, "CPU",
        "used_cpu_sys": format_args!("{:.6}", facts.cpu.system_seconds),
        "used_cpu_user": format_args!("{:.6}", facts.cpu.user_seconds),
        "used_cpu_sys_children": "0.000000",
        "used_cpu_user_children": "0.000000",
    );
}

fn keyspace(facts: &Facts, text: &mut String) {
    text.push_str("# Keyspace\r\n");
    for space in facts.keyspaces.iter().filter(|space| space.keys > 0) {
        write!(text, "db{}:keys={},expires={},avg_ttl=0\r\n", space.db, space.keys, space.expires)
            .expect("a String takes any text");
    }
}

/// A number of bytes for people.
fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit < 4 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", ["K", "M", "G", "T", "P"][unit])
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{Facts, KeyspaceFacts, human, info};

    fn ask(facts: &Facts, sections: &[&str]) -> String {
        let sections: Vec<&[u8]> = sections.iter().map(|section| section.as_bytes()).collect();
        let mut reply = Reply::new(Protocol::Resp2);
        info(&sections, facts, &mut reply);
        let text = String::from_utf8(reply.bytes).expect("INFO is plain text");
        let (len, text) = text.split_once("\r\n").expect("a bulk string begins with its length");
        assert_eq!(len, format!("${}", text.len() - 2));
        text[..text.len() - 2].to_string()
    }

    #[test]
    fn sections_are_chosen_as_in_redis() {
        let facts = Facts::default();
        let titles = |sections: &[&str]| -> Vec<String> {
            ask(&facts, sections).lines().filter_map(|line| line.strip_prefix("# ").map(String::from)).collect()
        };
        let default = [
            "Server",
            "Clients",
            "Memory",
            "Persistence",
            "Stats",
            "Replication",
            "CPU",
            "Modules",
            "Cluster",
            "Keyspace",
        ];
        assert_eq!(titles(&[]), default);
        assert_eq!(titles(&["default"]), default);
        assert_eq!(titles(&["EVERYTHING"]), default);
        assert_eq!(titles(&["cpu", "Server"]), ["Server", "CPU"]);
        assert_eq!(ask(&facts, &["nosuch"]), "");
        assert!(ask(&facts, &[]).contains("cluster_enabled:0\r\n\r\n# Keyspace\r\n"));
    }

    #[test]
    fn facts_stand_in_redis_s_fields() {
        let facts = Facts {
            loading: true,
            keyspaces: vec![
                KeyspaceFacts { db: 0, keys: 3, expires: 1 },
                KeyspaceFacts::default(),
                KeyspaceFacts { db: 2, keys: 1, expires: 0 },
            ],
            ..Facts::default()
        };
        assert_eq!(
            ask(&facts, &["keyspace"]),
            "# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb2:keys=1,expires=0,avg_ttl=0\r\n"
        );
        // Nobody counts these: a section that is there and empty would say that nothing was called and nothing failed.
        assert_eq!(ask(&facts, &["commandstats", "errorstats", "latencystats"]), "");
        assert!(ask(&facts, &["persistence"]).contains("\r\nloading:1\r\n"));
        assert!(ask(&facts, &["persistence"]).contains("\r\naof_last_write_status:err\r\n"));
        assert!(ask(&facts, &["server"]).starts_with("# Server\r\nredis_version:7.2.0\r\n"));
    }

    #[test]
    fn bytes_are_shown_to_people_as_redis_shows_them() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1_039_688, "1015.32K"), (12_533_760, "11.95M"), (25_274_793_984, "23.54G")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}

//! Everything that is told about a node, in one value. `/status` is this value as JSON: names of fields are part of the
//! product, units are in their names.

use std::collections::BTreeMap;

use base::Counts;
use serde::Serialize;

use super::rates::{DoorRates, History, LogRates};
use super::registry::Registry;

/// A node. Times are milliseconds since the Unix epoch; 0 is never.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Which node.
    pub node: String,
    /// Where its data is.
    pub data_dir: String,
    /// Now.
    pub time_ms: u64,
    /// When it started.
    pub started_ms: u64,
    /// Since then.
    pub uptime_seconds: u64,
    /// Whether it serves everything.
    pub ready: bool,
    /// Why not.
    pub not_ready: Option<String>,
    /// What a person should look at, the worst first.
    pub problems: Vec<Problem>,
    /// The doors.
    pub doors: Vec<Door>,
    /// Replicated groups.
    pub groups: Vec<Group>,
    /// Other nodes of the cluster, as this one sees them.
    pub peers: Vec<Peer>,
    /// What they do for this one's clients.
    pub forwarded: Forwarded,
    /// The log.
    pub log: Log,
    /// Services and their health.
    pub registry: Registry,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// Memory and keys.
    pub memory: Memory,
    /// The file system of the data.
    pub disk: Disk,
    /// The process.
    pub process: Process,
    /// How often which limit was hit since the start, by the names of `base::Limit`.
    pub limits_hit: BTreeMap<String, u64>,
    /// What the start found.
    pub found: Found,
    /// The last minute, second by second.
    pub history: History,
    /// Durations of requests at the Redis door since the start.
    #[serde(skip)]
    pub latency: Counts,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `error` where something does not work, `warning` where it soon may not.
    pub severity: &'static str,
    /// In words.
    pub what: String,
}

/// A door.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Door {
    /// `redis`, `admin`, `consul`.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Connections now.
    pub connections: u64,
    /// Most connections.
    pub connections_max: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections refused.
    pub refused_total: u64,
    /// Commands or requests received.
    pub commands_total: u64,
    /// Errors answered by the door itself.
    pub errors_total: u64,
    /// Clients closed because what they sent is no command.
    pub protocol_errors_total: u64,
    /// Wrong passwords.
    pub auth_failures_total: u64,
    /// Bytes read.
    pub bytes_in_total: u64,
    /// Bytes written.
    pub bytes_out_total: u64,
    /// Clients that wait in BLPOP and kin, or in a blocking query.
    pub waiting: u64,
    /// The last ten seconds; none where they are not measured.
    pub last_10s: Option<DoorRates>,
    /// The last minute.
    pub last_60s: Option<DoorRates>,
}

/// Another node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// Whether both links with it stand.
    pub up: bool,
    /// Milliseconds since anything was heard of it.
    pub silent_ms: u64,
    /// Round trip, microseconds.
    pub rtt_us: u64,
    /// Bytes sent to it.
    pub bytes_out_total: u64,
    /// Bytes that came from it.
    pub bytes_in_total: u64,
    /// Messages sent to it.
    pub messages_out_total: u64,
    /// Messages that came from it.
    pub messages_in_total: u64,
    /// Bytes that wait to be sent.
    pub queued_bytes: u64,
    /// How often the link has been made.
    pub connects_total: u64,
    /// Why the link does not stand, in words.
    pub error: String,
}

/// Requests of this node's clients that other nodes answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Forwarded {
    /// Under way now.
    pub away: u64,
    /// Their bytes.
    pub away_bytes: u64,
    /// Clients of other nodes that have asked here.
    pub guests: u64,
    /// Answered since the start.
    pub answered_total: u64,
    /// How long half of them took at most, and all but one in a hundred, microseconds.
    pub p50_us: Option<u64>,
    /// See `p50_us`.
    pub p99_us: Option<u64>,
    /// How long they took.
    #[serde(skip)]
    pub latency: Counts,
}

/// A replicated group on this node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// `g0` is meta, data shards follow.
    pub group: String,
    /// `leader`, `follower`, …
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// The node that leads it, as far as known; empty for none.
    pub leader: String,
    /// Nodes that vote in it.
    pub voters: Vec<String>,
    /// Whether this node holds a replica.
    pub held: bool,
    /// At the leader: how many entries the last of the others is behind.
    pub lag: u64,
    /// Keys.
    pub keys: u64,
    /// Their bytes, by estimate.
    pub bytes: u64,
    /// Requests that wait for data.
    pub waiters: u64,
}

/// The log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Log {
    /// Segments in use.
    pub segments: u64,
    /// Prepared ones.
    pub spare_segments: u64,
    /// Number of the oldest segment.
    pub oldest_segment: u64,
    /// Number of the segment being written.
    pub current_segment: u64,
    /// Bytes of what was appended and not yet let go.
    pub used_bytes: u64,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bound of the files' bytes, 0 for none.
    pub disk_bytes_max: u64,
    /// Sequence of the last append; all up to it is durable.
    pub durable_sequence: u64,
    /// Commits since the start.
    pub commits_total: u64,
    /// Appends since the start.
    pub appends_total: u64,
    /// Bytes of them.
    pub appended_bytes_total: u64,
    /// Time spent in them, microseconds.
    pub append_us_total: u64,
    /// Moving average of one append with its fsync, microseconds.
    pub append_us_average: u64,
    /// The longest, microseconds.
    pub append_us_longest: u64,
    /// Only what frees room is taken.
    pub in_reserve: bool,
    /// The disk had no room for a new segment.
    pub full: bool,
    /// Why the log has stopped, if it has.
    pub stopped: Option<String>,
    /// The last ten seconds.
    pub last_10s: LogRates,
    /// The last minute.
    pub last_60s: LogRates,
}

/// Snapshots.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshots {
    /// Finished since the start.
    pub finished_total: u64,
    /// Failed since the start.
    pub failed_total: u64,
    /// One is being written.
    pub running: bool,
    /// Bytes of the last one.
    pub last_bytes: u64,
    /// How long it took.
    pub last_duration_ms: u64,
    /// When it was finished.
    pub last_finished_ms: u64,
}

/// Memory and keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident bytes of the process.
    pub resident_bytes: u64,
    /// Keys in all keyspaces.
    pub keys: u64,
    /// Their bytes, by estimate.
    pub bytes: u64,
    /// By keyspace, the default one first.
    pub keyspaces: Vec<Keyspace>,
}

/// A keyspace.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Keyspace {
    /// Its keys start with this; empty for the default one.
    pub prefix: String,
    /// `fsync` or `memory`.
    pub durability: &'static str,
    /// `refuse` or `lru`.
    pub eviction: &'static str,
    /// Keys.
    pub keys: u64,
    /// Their bytes, by estimate.
    pub bytes: u64,
    /// Budget, 0 for none.
    pub bytes_max: u64,
}

/// A file system. Zeros where it does not say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Disk {
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// Bytes in all.
    pub size_bytes: u64,
}

/// The process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// Processor time used.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_files: u64,
    /// Most of them, 0 for no bound.
    pub open_files_max: u64,
}

/// What the start found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// Nothing: a new node.
    pub fresh: bool,
    /// The node had been stopped cleanly.
    pub sealed: bool,
    /// A torn tail that was cut off, in words.
    pub cut: Option<String>,
    /// Entries read from the log.
    pub entries: u64,
    /// Bytes read from the log.
    pub log_bytes: u64,
    /// Keys read from snapshots.
    pub snapshot_keys: u64,
    /// Snapshots that were passed over.
    pub damaged_snapshots: Vec<String>,
}

/// Below this share of the disk a warning is due.
const DISK_FREE_SHARE_MIN: f64 = 0.05;
/// From this share of a budget that refuses a warning is due.
const BUDGET_SHARE_MAX: f64 = 0.9;
/// An append that takes this long on average makes a slow node.
const APPEND_US_MAX: f64 = 50_000.0;

impl Status {
    /// Says in words what is wrong, the worst first.
    pub fn find_problems(&mut self) {
        let mut problems = Vec::new();
        let mut add = |severity, what: String| problems.push(Problem { severity, what });
        if let Some(why) = &self.not_ready {
            add("error", why.clone());
        }
        if self.log.full && !self.log.in_reserve {
            add(
                "error",
                "the disk has no room for a new log segment: writes will be refused when this one is full".into(),
            );
        }
        if self.snapshots.failed_total > 0 {
            let count = self.snapshots.failed_total;
            add(
                "warning",
                format!("{count} snapshots failed since the start: the log cannot let go of what they would cover"),
            );
        }
        for damaged in &self.found.damaged_snapshots {
            add("warning", format!("a damaged snapshot was passed over: {damaged}"));
        }
        let share = self.disk.free_bytes as f64 / (self.disk.size_bytes.max(1)) as f64;
        if self.disk.size_bytes > 0 && share < DISK_FREE_SHARE_MIN {
            add("warning", format!("only {:.1} % of the disk is free", share * 100.0));
        }
        for space in self.memory.keyspaces.iter().filter(|space| space.bytes_max > 0 && space.eviction == "refuse") {
            let share = space.bytes as f64 / space.bytes_max as f64;
            if share >= BUDGET_SHARE_MAX {
                let name = if space.prefix.is_empty() {
                    "the default keyspace".into()
                } else {
                    format!("keyspace {}", space.prefix)
                };
                add(
                    "warning",
                    format!("{name} uses {:.0} % of its max_bytes; at 100 % writes are refused", share * 100.0),
                );
            }
        }
        if let Some(us) = self.log.last_60s.append_us.filter(|us| *us > APPEND_US_MAX) {
            add("warning", format!("the disk is slow: an append with its fsync takes {:.0} ms", us / 1000.0));
        }
        for peer in self.peers.iter().filter(|peer| !peer.up) {
            let why = if peer.error.is_empty() { String::new() } else { format!(": {}", peer.error) };
            let silent = peer.silent_ms / 1000;
            let what = format!("{} at {} does not answer (silent for {silent} s){why}", peer.node, peer.address);
            problems.push(Problem { severity: "warning", what });
        }
        self.problems = problems;
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are always JSON")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base::{Duration, Histogram};

    use super::{Door, Group, Keyspace, Status};

    /// A node with something of everything.
    pub(in super::super) fn example() -> Status {
        let histogram = Histogram::default();
        for micros in [30, 80, 80, 120, 900, 40_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut status = Status {
            version: "0.1.0".into(),
            node: "n1".into(),
            started_ms: 1_700_000_000_500,
            ready: true,
            latency: histogram.snapshot(),
            ..Status::default()
        };
        status.doors.push(Door { name: "redis".into(), connections: 3, commands_total: 7, ..Door::default() });
        status.groups.push(Group {
            group: "g1".into(),
            role: "leader".into(),
            term: 2,
            applied: 9,
            ..Group::default()
        });
        let default = Keyspace { durability: "fsync", eviction: "refuse", keys: 4, bytes: 400, ..Keyspace::default() };
        let prefix = "a\"b\\c\n:".to_owned();
        let cache = Keyspace { prefix, durability: "memory", eviction: "lru", bytes_max: 1 << 20, ..default.clone() };
        status.memory.keyspaces = vec![default, cache];
        status.limits_hit.insert("output_bytes_max".into(), 2);
        status.log.append_us_total = 1_500_000;
        status
    }

    #[test]
    fn json_has_the_names_that_tools_rely_on() {
        let json: serde_json::Value = serde_json::from_str(&example().json()).expect("JSON");
        assert_eq!(json["doors"][0]["name"], "redis");
        assert_eq!(json["doors"][0]["last_10s"], serde_json::Value::Null);
        assert_eq!(json["groups"][0]["applied"], 9);
        assert_eq!(json["memory"]["keyspaces"][1]["prefix"], "a\"b\\c\n:");
        assert_eq!(json["limits_hit"]["output_bytes_max"], 2);
        assert_eq!(json["ready"], true);
        let names: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        let expected = "data_dir disk doors forwarded found groups history limits_hit log memory node not_ready peers problems process \
                        ready registry snapshots started_ms time_ms uptime_seconds version";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn problems_are_told_in_words_the_worst_first() {
        let mut status = example();
        status.find_problems();
        assert_eq!(status.problems, []);
        status.not_ready = Some("the log has stopped: fsync failed".into());
        status.disk = super::Disk { free_bytes: 1, size_bytes: 100 };
        status.memory.keyspaces[0].bytes_max = 420;
        status.log.last_60s.append_us = Some(80_000.0);
        status.find_problems();
        let told: Vec<_> = status.problems.iter().map(|problem| (problem.severity, problem.what.as_str())).collect();
        assert_eq!(
            told,
            [
                ("error", "the log has stopped: fsync failed"),
                ("warning", "only 1.0 % of the disk is free"),
                ("warning", "the default keyspace uses 95 % of its max_bytes; at 100 % writes are refused"),
                ("warning", "the disk is slow: an append with its fsync takes 80 ms"),
            ]
        );
    }
}

//! The status in Prometheus's text format 0.0.4.

use std::fmt::{Display, Write};

use base::Counts;
use base::Duration;

use super::status::Status;

/// The content type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of durations, microseconds: from a cached read to a disk that hangs.
const BUCKETS_US: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

#[derive(Default)]
pub(super) struct Page {
    pub(super) text: String,
}

/// Labels of one line, `name="value"`.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.write(format_args!("{label}=\""));
            for char in text.chars() {
                match char {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.line(name, &[], value);
    }

    /// One metric with a line for each of `rows`.
    pub(super) fn each<T>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        rows: &[T],
        row: impl Fn(&T) -> (Vec<(&str, &str)>, f64),
    ) {
        if !rows.is_empty() {
            self.head(name, kind, help);
        }
        for one in rows {
            let (labels, value) = row(one);
            self.line(name, &labels, value);
        }
    }

    /// One histogram of durations for each of `rows`, told apart by `label`.
    pub(super) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl Iterator<Item = (&'a str, &'a Counts)>,
    ) {
        let mut rows = rows.peekable();
        if rows.peek().is_some() {
            self.head(name, "histogram", help);
        }
        let bucket = format!("{name}_bucket");
        for (who, counts) in rows {
            for bound in BUCKETS_US {
                let seconds = (bound as f64 / 1e6).to_string();
                let count = counts.at_most(Duration::from_micros(bound));
                self.line(&bucket, &[(label, who), ("le", &seconds)], count);
            }
            self.line(&bucket, &[(label, who), ("le", "+Inf")], counts.count());
            self.line(&format!("{name}_sum"), &[(label, who)], counts.sum().as_secs_f64());
            self.line(&format!("{name}_count"), &[(label, who)], counts.count());
        }
    }
}

/// The page that Prometheus reads.
pub fn render(status: &Status) -> String {
    let mut page = Page::default();
    page.head("quorate_info", "gauge", "What runs; always 1.");
    page.line("quorate_info", &[("node", &status.node), ("version", &status.version)], 1);
    page.gauge("quorate_ready", "1 if the node serves everything, else 0; /readyz says why.", u8::from(status.ready));
    page.gauge("quorate_problems", "What /status says a person should look at.", status.problems.len());
    doors(&mut page, status);
    let help = "From a read off the socket to the write of its answers.";
    page.histograms("quorate_request_duration_seconds", help, "door", [("redis", &status.latency)].into_iter());
    log(&mut page, status);
    groups_and_memory(&mut page, status);
    peers(&mut page, status);
    forwarded(&mut page, status);
    registry(&mut page, status);
    process(&mut page, status);
    page.text
}

fn doors(page: &mut Page, status: &Status) {
    type Row = (&'static str, &'static str, &'static str, fn(&super::status::Door) -> u64);
    let rows: [Row; 11] = [
        ("gauge", "quorate_connections", "Connections now.", |door| door.connections),
        ("gauge", "quorate_connections_max", "Most connections at once.", |door| door.connections_max),
        ("gauge", "quorate_clients_waiting", "Clients in BLPOP and kin.", |door| door.waiting),
        ("counter", "quorate_connections_accepted_total", "Connections accepted.", |door| door.connections_total),
        ("counter", "quorate_connections_refused_total", "Connections refused: too many.", |door| door.refused_total),
        ("counter", "quorate_commands_total", "Commands or requests received.", |door| door.commands_total),
        ("counter", "quorate_door_errors_total", "Errors answered by the door itself.", |door| door.errors_total),
        ("counter", "quorate_protocol_errors_total", "Clients closed: no command.", |door| door.protocol_errors_total),
        ("counter", "quorate_auth_failures_total", "Wrong passwords.", |door| door.auth_failures_total),
        ("counter", "quorate_received_bytes_total", "Bytes read from clients.", |door| door.bytes_in_total),
        ("counter", "quorate_sent_bytes_total", "Bytes written to clients.", |door| door.bytes_out_total),
    ];
    for (kind, name, help, figure) in rows {
        page.each(kind, name, help, &status.doors, |door| (vec![("door", &door.name)], figure(door) as f64));
    }
    let hit: Vec<_> = status.limits_hit.iter().collect();
    page.each("counter", "quorate_limit_hits_total", "Limits hit, by name.", &hit, |(name, count)| {
        (vec![("limit", name)], **count as f64)
    });
}

fn log(page: &mut Page, status: &Status) {
    let log = &status.log;
    page.gauge("quorate_log_segments", "Segments of the log in use.", log.segments);
    page.gauge("quorate_log_spare_segments", "Segments prepared.", log.spare_segments);
    page.gauge("quorate_log_used_bytes", "Bytes of the log not yet let go.", log.used_bytes);
    page.gauge("quorate_log_disk_bytes", "Bytes of the log's files.", log.disk_bytes);
    page.gauge("quorate_log_disk_max_bytes", "Bound of the log's files; 0 is none.", log.disk_bytes_max);
    page.gauge("quorate_log_durable_sequence", "Sequence of the last durable append.", log.durable_sequence);
    page.counter("quorate_log_commits_total", "Entries applied.", log.commits_total);
    page.counter("quorate_log_appends_total", "Appends, each one write and one fsync.", log.appends_total);
    page.counter("quorate_log_appended_bytes_total", "Bytes appended.", log.appended_bytes_total);
    let seconds = log.append_us_total as f64 / 1e6;
    page.counter("quorate_log_append_seconds_total", "Time spent in appends with their fsync.", seconds);
    let seconds = log.append_us_longest as f64 / 1e6;
    page.gauge("quorate_log_append_longest_seconds", "The longest append since the start.", seconds);
    page.gauge("quorate_log_in_reserve", "1 where only what frees room is taken.", u8::from(log.in_reserve));
    page.gauge("quorate_log_disk_full", "1 where the disk had no room for a segment.", u8::from(log.full));
    page.gauge("quorate_log_stopped", "1 where the log has stopped for good.", u8::from(log.stopped.is_some()));
    let snapshots = &status.snapshots;
    page.counter("quorate_snapshots_total", "Snapshots finished.", snapshots.finished_total);
    page.counter("quorate_snapshot_failures_total", "Snapshots failed.", snapshots.failed_total);
    page.gauge("quorate_snapshot_running", "1 while a snapshot is written.", u8::from(snapshots.running));
    page.gauge("quorate_snapshot_last_bytes", "Bytes of the last snapshot.", snapshots.last_bytes);
    let seconds = snapshots.last_duration_ms as f64 / 1e3;
    page.gauge("quorate_snapshot_last_duration_seconds", "How long the last snapshot took.", seconds);
    let seconds = snapshots.last_finished_ms as f64 / 1e3;
    page.gauge("quorate_snapshot_last_timestamp_seconds", "When the last snapshot was finished; 0 is never.", seconds);
}

fn groups_and_memory(page: &mut Page, status: &Status) {
    type Figure<T> = (&'static str, &'static str, fn(&T) -> u64);
    let groups: [Figure<super::status::Group>; 6] = [
        ("quorate_group_leader", "1 where this node leads the group.", |group| u64::from(group.role == "leader")),
        ("quorate_group_term", "Raft term.", |group| group.term),
        ("quorate_group_applied_index", "Index of the last applied entry.", |group| group.applied),
        ("quorate_group_lag_entries", "At the leader: entries that the last member is behind.", |group| group.lag),
        ("quorate_group_keys", "Keys of the group.", |group| group.keys),
        ("quorate_group_bytes", "Bytes of its keys and values, by estimate.", |group| group.bytes),
    ];
    for (name, help, figure) in groups {
        page.each("gauge", name, help, &status.groups, |group| (vec![("group", &group.group)], figure(group) as f64));
    }
    let keyspaces: [Figure<super::status::Keyspace>; 3] = [
        ("quorate_keyspace_keys", "Keys of the keyspace.", |space| space.keys),
        ("quorate_keyspace_bytes", "Bytes of its keys and values, by estimate.", |space| space.bytes),
        ("quorate_keyspace_max_bytes", "Its budget; 0 is none.", |space| space.bytes_max),
    ];
    for (name, help, figure) in keyspaces {
        page.each("gauge", name, help, &status.memory.keyspaces, |space| {
            (vec![("prefix", &space.prefix), ("durability", space.durability)], figure(space) as f64)
        });
    }
}

fn peers(page: &mut Page, status: &Status) {
    type Figure = (&'static str, &'static str, &'static str, fn(&super::status::Peer) -> f64);
    let figures: [Figure; 9] = [
        ("gauge", "quorate_peer_up", "1 where both links with the node stand.", |peer| f64::from(u8::from(peer.up))),
        ("gauge", "quorate_peer_silent_seconds", "Since anything was heard of it.", |peer| peer.silent_ms as f64 / 1e3),
        ("gauge", "quorate_peer_rtt_seconds", "Round trip of the last ping.", |peer| peer.rtt_us as f64 / 1e6),
        ("gauge", "quorate_peer_queued_bytes", "Bytes that wait to be sent to it.", |peer| peer.queued_bytes as f64),
        ("counter", "quorate_peer_sent_bytes_total", "Bytes sent to it.", |peer| peer.bytes_out_total as f64),
        ("counter", "quorate_peer_received_bytes_total", "Bytes that came from it.", |peer| peer.bytes_in_total as f64),
        ("counter", "quorate_peer_sent_messages_total", "Messages sent to it.", |peer| peer.messages_out_total as f64),
        ("counter", "quorate_peer_received_messages_total", "Messages that came.", |peer| {
            peer.messages_in_total as f64
        }),
        ("counter", "quorate_peer_connects_total", "How often the link was made.", |peer| peer.connects_total as f64),
    ];
    for (kind, name, help, figure) in figures {
        page.each(kind, name, help, &status.peers, |peer| (vec![("peer", &peer.node)], figure(peer)));
    }
}

fn forwarded(page: &mut Page, status: &Status) {
    let seen = &status.forwarded;
    page.gauge("quorate_forward_under_way", "Requests that other nodes are to answer.", seen.away);
    page.gauge("quorate_forward_under_way_bytes", "Their bytes.", seen.away_bytes);
    page.gauge("quorate_forward_guests", "Clients of other nodes that have asked here.", seen.guests);
    let help = "From a request's leaving for another node to its answer.";
    page.histograms("quorate_forward_duration_seconds", help, "door", [("redis", &seen.latency)].into_iter());
}

fn registry(page: &mut Page, status: &Status) {
    let seen = &status.registry;
    page.gauge("quorate_registry_nodes", "Nodes in the registry.", seen.nodes);
    page.gauge("quorate_registry_services", "Services by name.", seen.services);
    let health = [
        ("passing", seen.instances.passing),
        ("warning", seen.instances.warning),
        ("critical", seen.instances.critical),
    ];
    page.each("gauge", "quorate_registry_instances", "Instances of services.", &health, |(status, count)| {
        (vec![("status", *status)], *count as f64)
    });
    page.gauge("quorate_registry_checks", "Checks.", seen.checks);
    page.gauge("quorate_registry_keys", "Keys of the key-value tree.", seen.keys);
    page.gauge("quorate_registry_index", "Index of the registry's last change.", seen.index);
    page.gauge("quorate_registry_queries_waiting", "Blocking queries that wait for a change.", seen.waiting);
}

fn process(page: &mut Page, status: &Status) {
    page.gauge("quorate_disk_free_bytes", "Bytes free on the data's disk.", status.disk.free_bytes);
    page.gauge("quorate_disk_size_bytes", "Bytes of the data's disk.", status.disk.size_bytes);
    page.gauge("process_resident_memory_bytes", "Resident memory.", status.memory.resident_bytes);
    page.counter("process_cpu_seconds_total", "Processor time used.", status.process.cpu_seconds);
    page.gauge("process_open_fds", "Open file descriptors.", status.process.open_files);
    page.gauge("process_max_fds", "Most open file descriptors; 0 is no bound.", status.process.open_files_max);
    page.gauge("process_start_time_seconds", "When the node started.", status.started_ms as f64 / 1e3);
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::admin::status::tests::example;

    #[test]
    fn golden_lines() {
        let text = render(&example());
        for line in [
            "# HELP quorate_info What runs; always 1.\n# TYPE quorate_info gauge\nquorate_info{node=\"n1\",version=\"0.1.0\"} 1\n",
            "# TYPE quorate_commands_total counter\nquorate_commands_total{door=\"redis\"} 7\n",
            "quorate_limit_hits_total{limit=\"output_bytes_max\"} 2\n",
            "quorate_request_duration_seconds_bucket{door=\"redis\",le=\"0.000025\"} 0\n",
            "quorate_request_duration_seconds_bucket{door=\"redis\",le=\"0.0001\"} 3\n",
            "quorate_request_duration_seconds_bucket{door=\"redis\",le=\"0.001\"} 5\n",
            "quorate_request_duration_seconds_bucket{door=\"redis\",le=\"+Inf\"} 6\n",
            "quorate_request_duration_seconds_sum{door=\"redis\"} 0.04121\n",
            "quorate_request_duration_seconds_count{door=\"redis\"} 6\n",
            "quorate_keyspace_bytes{prefix=\"\",durability=\"fsync\"} 400\n",
            "quorate_keyspace_max_bytes{prefix=\"a\\\"b\\\\c\\n:\",durability=\"memory\"} 1048576\n",
            "quorate_log_append_seconds_total 1.5\n",
            "quorate_group_leader{group=\"g1\"} 1\n",
            "process_start_time_seconds 1700000000.5\n",
        ] {
            assert!(text.contains(line), "{line}\n--- is not in ---\n{text}");
        }
    }

    #[test]
    fn every_limit_has_a_counter_from_the_start() {
        let mut status = example();
        status.limits_hit = base::Hits::counting().all().map(|(limit, count)| (limit.name().into(), count)).collect();
        let text = render(&status);
        for limit in base::Limit::ALL {
            let line = format!("quorate_limit_hits_total{{limit=\"{}\"}} 0\n", limit.name());
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn every_line_belongs_to_the_metric_named_above_it_and_each_is_named_once() {
        let text = render(&example());
        let (mut current, mut seen) = (String::new(), std::collections::BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap_or("").to_owned();
                assert!(rest.len() > current.len() + 3 && seen.insert(current.clone()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert_eq!((name, kind == "counter"), (current.as_str(), name.ends_with("_total")), "{line}");
            } else {
                assert!(line.starts_with(&current), "{line} under {current}");
                let value = line.rsplit(' ').next().unwrap_or("");
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            }
        }
        assert!(seen.len() > 40, "{}", seen.len());
    }
}

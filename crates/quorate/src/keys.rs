//! Every key of the configuration in one place: name, why one would change it, how it is read and shown. The defaults are
//! those of [`Settings::default`]. `quorate.toml` and `docs/limits.md` are checked against this list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use store::keyspace::{Durability, Eviction, Keyspace};

use crate::config::Settings;

/// A value as TOML or a flag gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A string; a flag's value always is one.
    Text(String),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// Anything else, by TOML's name for it.
    Other(&'static str),
}

impl std::fmt::Display for Raw {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Raw::Text(text) => write!(out, "{text:?}"),
            Raw::Int(number) => write!(out, "{number}"),
            Raw::Bool(truth) => write!(out, "{truth}"),
            Raw::Other(kind) => write!(out, "{} {kind}", if kind.starts_with('a') { "an" } else { "a" }),
        }
    }
}

/// One key.
pub struct Key<T> {
    /// As in TOML, with its table.
    pub name: &'static str,
    /// Takes a value; an error says what is wanted instead.
    pub set: fn(&mut T, &Raw) -> Result<(), String>,
    /// The value as TOML.
    pub show: fn(&T) -> String,
    /// What it is and why one would change it.
    pub doc: &'static str,
}

macro_rules! key {
    ($name:literal, $kind:ident, $($field:ident).+, $doc:literal) => {
        Key {
            name: $name,
            set: |settings, raw| {
                settings.$($field).+ = $kind::read(raw)?;
                Ok(())
            },
            show: |settings| $kind::show(&settings.$($field).+),
            doc: $doc,
        }
    };
}

/// The keys of a node, in the order of `quorate.toml`.
pub const KEYS: &[Key<Settings>] = &[
    key!(
        "data_dir",
        path,
        data_dir,
        "Where the log and the snapshots are. One node per directory; put it on the disk whose syncs you trust."
    ),
    key!(
        "data_shards",
        shards,
        data_shards,
        "Parts that the keys are divided into. What touches keys of several parts costs two rounds instead of one. A directory that was made with fewer is split while it serves; fewer than it was made with it cannot have."
    ),
    key!(
        "workers",
        count,
        workers,
        "Threads that serve connections; 0 takes half the cores, at least one. More if the machine does nothing else."
    ),
    key!(
        "stop_timeout",
        span,
        stop_timeout,
        "How long a stop waits for what is under way before it ends it. Less where a supervisor kills sooner."
    ),
    key!(
        "insecure_bind",
        truth,
        insecure_bind,
        "Allow a door beyond loopback without a password. Only where nobody else can reach the network."
    ),
    key!(
        "redis.bind",
        address,
        redis_bind,
        "Address of the Redis door. Port 0 takes any free one. \"0.0.0.0:6379\" lets other machines in; beyond loopback it needs a password."
    ),
    key!(
        "redis.cluster_bind",
        optional_address,
        redis_cluster_bind,
        "Address of a second Redis door, for clients of Redis Cluster: it answers MOVED and CLUSTER SLOTS where the other one forwards. Same password. Empty: none."
    ),
    key!(
        "redis.password_file",
        optional_path,
        password_file,
        "File whose first line is the password of the Redis door; the variable QUORATE_PASSWORD works too. Needed once others can reach the door. Empty: none."
    ),
    key!(
        "redis.tls_cert",
        optional_path,
        redis_tls.cert,
        "File with the certificate chain (PEM) that the Redis door shows; it then speaks TLS only. Needed, with the key, beyond loopback. Read again when it changes. Empty: no TLS."
    ),
    key!(
        "redis.tls_key",
        optional_path,
        redis_tls.key,
        "File with that certificate's private key (PEM). Readable by the node alone."
    ),
    key!(
        "redis.tls_client_ca",
        optional_path,
        redis_tls.client_ca,
        "File with authorities (PEM): clients must show a certificate that one of them signed, beside their password. Empty: they need none."
    ),
    key!(
        "redis.idle_timeout",
        span,
        idle_timeout,
        "Close clients that are silent this long; \"0s\" never does. For clients that vanish without a word."
    ),
    key!(
        "cluster.bind",
        address,
        cluster.bind,
        "Address of the peer door, where the other nodes of a cluster come in, always with TLS. Another machine's nodes need an address that they can reach."
    ),
    key!(
        "cluster.advertise",
        name_or_none,
        cluster.advertise,
        "Name or address, with a port or without, under which other nodes and clients reach this one. Empty: the addresses that the doors bind. Needed where those are 0.0.0.0, or behind NAT."
    ),
    key!(
        "cluster.join",
        name_or_none,
        cluster.join,
        "HOST:PORT of any node's peer door: at its first start this node joins that cluster. Ignored once the data directory belongs to one. Empty: founds a cluster of its own."
    ),
    key!(
        "cluster.token_file",
        optional_path,
        cluster.token_file,
        "File whose first line is the join token; the variable QUORATE_JOIN_TOKEN works too. `quorate cluster token` makes one. Only for the first start."
    ),
    key!(
        "cluster.zone",
        name_or_none,
        cluster.zone,
        "What fails together with this node: a rack, a data centre. While there are three zones no two replicas of a shard share one. The gateway's zone too, unless gateway.zone is set."
    ),
    key!(
        "cluster.roles",
        list,
        cluster.roles,
        "What the node is there for, of gateway, data and meta. Without data it holds no shards, without meta it decides nothing about the cluster; so a gateway that is killed costs no election."
    ),
    key!(
        "cluster.replace_after",
        span,
        cluster.replace_after,
        "A node that has been silent this long is replaced where a spare one exists: its replicas are copied elsewhere. Longer than a reboot takes."
    ),
    key!(
        "cluster.split_load",
        long_count,
        cluster.split_load,
        "Commands a second above which, for a minute, a shard is split by itself, where another node can take a part. Reads that a leader answers at once do not count. 0: never. The same on all nodes."
    ),
    key!(
        "cluster.split_max",
        shards,
        cluster.split_max,
        "Shards that splits of busy ones may come to. The same on all nodes."
    ),
    key!(
        "cluster.election_timeout",
        span,
        cluster.election_timeout,
        "A leader of which nothing is heard for this long, and up to twice as long, is replaced; one whose process ends, after half of it. Heartbeats go ten times as often. More on slow networks; the same on all nodes."
    ),
    key!(
        "cluster.snapshot_rate",
        bytes,
        cluster.snapshot_rate,
        "Bytes a second that this node sends of snapshots to nodes that lag too far. Less where they take bandwidth from clients; 0: as fast as it goes."
    ),
    key!(
        "admin.bind",
        address,
        admin_bind,
        "Address of the admin door: console, /healthz, /readyz, /status, /metrics. Port 0 takes any free one. Another one lets Prometheus in from elsewhere; beyond loopback it needs a password."
    ),
    key!(
        "admin.password_file",
        optional_path,
        admin_password_file,
        "File whose first line is the password of the admin door; the variable QUORATE_ADMIN_PASSWORD works too. Empty: none. /healthz and /readyz never ask for it."
    ),
    key!(
        "admin.tls_cert",
        optional_path,
        admin_tls.cert,
        "File with the certificate chain (PEM) that the admin door shows; it then speaks TLS only. Needed, with the key, beyond loopback. Read again when it changes. Empty: no TLS."
    ),
    key!(
        "admin.tls_key",
        optional_path,
        admin_tls.key,
        "File with that certificate's private key (PEM). Readable by the node alone."
    ),
    key!(
        "admin.tls_client_ca",
        optional_path,
        admin_tls.client_ca,
        "File with authorities (PEM): clients must show a certificate that one of them signed, beside their password. Empty: they need none."
    ),
    key!(
        "admin.hosts",
        names,
        admin_hosts,
        "Host names, parted by commas, by which a browser may call the admin door; localhost and addresses always work. Others are refused, as somebody's DNS may point them here."
    ),
    key!(
        "gateway.bind",
        address,
        gateway_bind,
        "Address of the gateway's own listener, called main; [listener.main] replaces it. Port 0 takes any free one. Beyond loopback without TLS it needs insecure_bind."
    ),
    key!(
        "gateway.access_log",
        file_or_none,
        gateway_access_log,
        "File that requests are logged to, or \"-\" for standard output; how a line looks is the listener's. To see who asked for what; each request then costs a line. Empty: none."
    ),
    key!(
        "gateway.zone",
        name_or_none,
        gateway_zone,
        "The zone that this node stands in: endpoints of the same zone come first, which saves time and traffic between zones. Empty: none."
    ),
    key!(
        "gateway.locations",
        file_or_none,
        gateway_locations,
        "MaxMind file (.mmdb; cities or countries) that says where clients are, for upstreams with locality = \"geographic\". Read again when it changes. Empty: none."
    ),
    key!(
        "gateway.workers",
        count,
        gateway_workers,
        "Threads of the gateway, which has its own: whatever it has to do, elections and heartbeats get their turn. 0 for as many as workers."
    ),
    key!(
        "gateway.memory_max",
        bytes,
        gateway_memory_max,
        "Bytes that the gateway may hold: heads and kept bodies (256MiB of it at most), and its connections' buffers. Beyond it requests are answered 503, and connections wait. So a gateway under attack leaves the shards' memory alone."
    ),
    key!(
        "consul.bind",
        address,
        consul_bind,
        "Address of the Consul door: the registry's HTTP API. Port 0 takes any free one. Another one lets services of other machines register; beyond loopback it needs a token."
    ),
    key!(
        "consul.token_file",
        optional_path,
        consul_token_file,
        "File whose first line is the token that the Consul door asks for (X-Consul-Token, or bearer); the variable QUORATE_CONSUL_TOKEN works too. Needed once others can reach the door. Empty: none."
    ),
    key!(
        "consul.tls_cert",
        optional_path,
        consul_tls.cert,
        "File with the certificate chain (PEM) that the Consul door shows; it then speaks TLS only. Needed, with the key, beyond loopback. Read again when it changes. Empty: no TLS."
    ),
    key!(
        "consul.tls_key",
        optional_path,
        consul_tls.key,
        "File with that certificate's private key (PEM). Readable by the node alone."
    ),
    key!(
        "consul.tls_client_ca",
        optional_path,
        consul_tls.client_ca,
        "File with authorities (PEM): clients must show a certificate that one of them signed, beside their password. Empty: they need none."
    ),
    key!(
        "consul.node_name",
        name_or_none,
        consul_node_name,
        "This node's name in the registry. Empty: node1, after its number, which stays when the machine's name changes."
    ),
    key!(
        "consul.datacenter",
        name,
        consul_datacenter,
        "The datacenter's name that clients are told. Theirs, where they were configured for a Consul."
    ),
    key!(
        "consul.advertise",
        name_or_none,
        consul_advertise,
        "Address under which others reach services that are registered here without one. This machine's, once others ask. Empty: the door's own."
    ),
    key!(
        "kafka.bind",
        address,
        kafka_bind,
        "Address of the Kafka door. Port 0 takes any free one. Another one lets other machines in; beyond loopback it needs a password."
    ),
    key!(
        "kafka.advertise",
        name_or_none,
        kafka_advertise,
        "HOST:PORT under which Kafka clients reach this node: they are told so, and go there. Empty: the address of the door, or cluster.advertise where it listens on every address."
    ),
    key!(
        "kafka.user",
        name,
        kafka_user,
        "The user that Kafka clients log in as (SASL PLAIN, SCRAM-SHA-256, SCRAM-SHA-512), where there is a password."
    ),
    key!(
        "kafka.password_file",
        optional_path,
        kafka_password_file,
        "File whose first line is the password of the Kafka door; the variable QUORATE_KAFKA_PASSWORD works too. Needed once others can reach the door. Empty: none."
    ),
    key!(
        "kafka.tls_cert",
        optional_path,
        kafka_tls.cert,
        "File with the certificate chain (PEM) that the Kafka door shows; it then speaks TLS only. Needed, with the key, beyond loopback. Read again when it changes. Empty: no TLS."
    ),
    key!(
        "kafka.tls_key",
        optional_path,
        kafka_tls.key,
        "File with that certificate's private key (PEM). Readable by the node alone."
    ),
    key!(
        "kafka.tls_client_ca",
        optional_path,
        kafka_tls.client_ca,
        "File with authorities (PEM): clients must show a certificate that one of them signed, beside their password. Empty: they need none."
    ),
    key!(
        "kafka.create_topics",
        truth,
        kafka_create_topics,
        "Whether a topic that is written to and does not exist is made. Kafka's auto.create.topics.enable."
    ),
    key!(
        "kafka.partitions",
        shards,
        kafka_partitions,
        "Partitions of a topic that is made without a word on how many. Kafka's num.partitions."
    ),
    key!(
        "etcd.bind",
        address,
        etcd_bind,
        "Address of the etcd door (gRPC, v3). Port 0 takes any free one. Another one lets other machines in; beyond loopback it needs TLS, and clients whose certificates are asked for (etcd.tls_client_ca): etcd's users are switched on later, by a client."
    ),
    key!(
        "etcd.tls_cert",
        optional_path,
        etcd_tls.cert,
        "File with the certificate chain (PEM) that the etcd door shows; it then speaks TLS only. Needed, with the key, beyond loopback. Read again when it changes. Empty: no TLS."
    ),
    key!(
        "etcd.tls_key",
        optional_path,
        etcd_tls.key,
        "File with that certificate's private key (PEM). Readable by the node alone."
    ),
    key!(
        "etcd.tls_client_ca",
        optional_path,
        etcd_tls.client_ca,
        "File with authorities (PEM): clients must show a certificate that one of them signed. Needed beyond loopback. Empty: they need none."
    ),
    key!(
        "dns.bind",
        address,
        dns_bind,
        "Address of the DNS door, UDP and TCP. Port 0 takes any free one. Port 53 serves resolvers that know no other; beyond loopback it needs insecure_bind."
    ),
    key!(
        "dns.domain",
        zone,
        dns_domain,
        "The zone under which services and nodes are found: NAME.service.consul. Another one beside a Consul that has that name."
    ),
    key!(
        "dns.ttl",
        seconds,
        dns_ttl,
        "How long resolvers may keep an answer. Longer spares questions, and sends clients to instances that are gone."
    ),
    key!(
        "dns.negative_ttl",
        seconds,
        dns_negative_ttl,
        "How long resolvers may keep that there is no such service. Longer spares questions, and hides a service that has just come."
    ),
    key!(
        "dns.udp_bytes_max",
        datagram,
        dns_udp_bytes_max,
        "Largest answer by UDP to a client on this machine that takes as much; to others 1232. What is longer goes by TCP. Smaller where datagrams in pieces are lost."
    ),
    key!(
        "log.segment_bytes",
        bytes,
        segment_bytes,
        "Length of a log file. Two spares of this length are kept ready, so smaller saves disk."
    ),
    key!(
        "log.max_bytes",
        bytes,
        log_bytes_max,
        "Most disk that the log may use; reached, writes are refused as on a full disk. For a disk that others use too. 0: all there is."
    ),
    key!(
        "log.snapshot_bytes",
        bytes,
        snapshot_log_bytes,
        "Take a snapshot after this much log. Smaller: faster starts and less disk, more writing."
    ),
    key!(
        "limits.bulk_bytes_max",
        size,
        limits.bulk_bytes_max,
        "Largest argument of a command. Raise it for larger values."
    ),
    key!(
        "limits.args_max",
        size_count,
        limits.args_max,
        "Most arguments of one command. Raise it for larger MSETs, lower it to spare memory from clients that you do not trust."
    ),
    key!(
        "limits.command_bytes_max",
        size,
        limits.command_bytes_max,
        "Largest command, all arguments together. Raise it with bulk_bytes_max; each connection may hold as much."
    ),
    key!(
        "limits.inline_bytes_max",
        size,
        limits.inline_bytes_max,
        "Longest inline command (a bare line, as from telnet). Raise it only for scripts that send longer lines."
    ),
    key!(
        "limits.unauthenticated_args_max",
        size_count,
        limits.unauthenticated_args_max,
        "Most arguments of a command before AUTH. Only clients with a very long HELLO need more."
    ),
    key!(
        "limits.unauthenticated_bulk_bytes_max",
        size,
        limits.unauthenticated_bulk_bytes_max,
        "Largest argument before AUTH. Only longer passwords need more."
    ),
    key!(
        "limits.pipeline_depth_max",
        size_count,
        limits.pipeline_depth_max,
        "Commands of one connection that may wait for answers; beyond it the connection is read no further. Larger: fewer stops in deep pipelines, more memory for each client."
    ),
    key!(
        "limits.output_bytes_max",
        size,
        limits.output_bytes_max,
        "Answers that may wait for a client that does not read; beyond it the client is closed. Larger for large answers over slow lines; it bounds what one client can cost."
    ),
    key!(
        "limits.multi_commands_max",
        size_count,
        limits.multi_commands_max,
        "Commands between MULTI and EXEC. A transaction is one entry, and others wait while it runs: raise it with care."
    ),
    key!(
        "limits.connections_max",
        size_count,
        limits.connections_max,
        "Connections of the Redis door. Each takes a file descriptor: raise it with `ulimit -n`."
    ),
    key!(
        "limits.subscriptions_max",
        size_count,
        limits.subscriptions_max,
        "Channels and patterns of one client. Raise it for a client that listens for many others."
    ),
    key!(
        "limits.pending_bytes_max",
        size,
        limits.pending_bytes_max,
        "Commands that wait for the log; beyond it writes are refused until it catches up. Larger rides out longer stalls of the disk, in memory."
    ),
    key!(
        "limits.entry_bytes_max",
        size,
        limits.entry_bytes_max,
        "Largest log entry that gathers several commands; a larger single command is an entry of its own. Larger: fewer syncs under heavy load, longer waits for the first of a batch."
    ),
    key!(
        "limits.script_instructions_max",
        long_count,
        limits.script_instructions_max,
        "Instructions of one Lua script. Raise it for long computations; other clients wait meanwhile."
    ),
    key!(
        "limits.script_memory_bytes_max",
        size,
        limits.script_memory_bytes_max,
        "Memory of the Lua interpreter. Raise it for scripts that build large tables."
    ),
    key!(
        "limits.script_bytes_max",
        size,
        limits.script_bytes_max,
        "Longest source of a Lua script. Raise it for generated scripts; each kept one is in memory."
    ),
    key!(
        "limits.scripts_max",
        size_count,
        limits.scripts_max,
        "Scripts kept for EVALSHA; the one unused longest goes. Raise it where clients are answered NOSCRIPT again and again."
    ),
    key!(
        "limits.waiters_max",
        size_count,
        limits.waiters_max,
        "Clients blocked in BLPOP and its kin, per shard. Raise it with connections_max for queues with many idle workers."
    ),
];

/// The keys of a table `[keyspace."prefix"]`.
pub const KEYSPACE_KEYS: &[Key<Keyspace>] = &[
    key!(
        "durability",
        durability,
        durability,
        "\"fsync\": logged and synced before the answer. \"memory\": a cache, empty after a restart, for what can be had again and must be quick."
    ),
    key!(
        "max_bytes",
        bytes,
        max_bytes,
        "Budget of these keys in memory. So that one kind of key cannot take what the others need. 0: none."
    ),
    key!(
        "eviction",
        eviction,
        eviction,
        "At the budget: \"refuse\" answers -OOM, \"lru\" drops what was used longest ago (durability \"memory\" only)."
    ),
    key!(
        "default_expiry",
        milliseconds,
        default_expiry,
        "Given to keys written without one. For clients that forget to. \"0s\": none."
    ),
];

/// Defines a kind of value: a name, its type, how it is read, how it is shown.
macro_rules! kind {
    ($name:ident, $type:ty, $read:expr, $show:expr) => {
        mod $name {
            use super::*;
            pub fn read(raw: &Raw) -> Result<$type, String> {
                let read: fn(&Raw) -> Result<$type, String> = $read;
                read(raw)
            }
            pub fn show(value: &$type) -> String {
                let show: fn(&$type) -> String = $show;
                show(value)
            }
        }
    };
}

kind!(
    path,
    PathBuf,
    |raw| match raw {
        Raw::Text(text) if !text.is_empty() => Ok(text.into()),
        _ => Err("wants a path in quotes".into()),
    },
    |path| quoted(&path.display().to_string())
);
kind!(
    optional_path,
    Option<PathBuf>,
    |raw| match raw {
        Raw::Text(text) if text.is_empty() => Ok(None),
        raw => path::read(raw).map(Some),
    },
    |path| path.as_ref().map_or("\"\"".into(), path::show)
);
kind!(
    optional_address,
    Option<SocketAddr>,
    |raw| match raw {
        Raw::Text(text) if text.is_empty() => Ok(None),
        raw => address::read(raw).map(Some),
    },
    |address| address.as_ref().map_or("\"\"".into(), address::show)
);
kind!(
    names,
    Vec<String>,
    |raw| match raw {
        Raw::Text(text) => {
            let names: Vec<String> =
                text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
            let is_name = |name: &String| {
                name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            };
            match names.iter().all(is_name) {
                true => Ok(names),
                false => Err("wants host names without ports, parted by commas".into()),
            }
        }
        _ => Err("wants host names in quotes, parted by commas, as \"admin.example, node1\"".into()),
    },
    |names| quoted(&names.join(", "))
);
kind!(
    list,
    String,
    |raw| match raw {
        Raw::Text(text) if text.bytes().all(|byte| byte.is_ascii_lowercase() || b", ".contains(&byte)) =>
            Ok(text.replace(' ', "")),
        _ => Err("wants words in quotes, parted by commas".into()),
    },
    |text| quoted(text)
);
kind!(
    name,
    String,
    |raw| match raw {
        Raw::Text(text) if !text.is_empty() => name_or_none::read(&Raw::Text(text.clone())),
        _ => Err("wants letters, digits, '-', '_', '.' and ':' in quotes".into()),
    },
    |text| quoted(text)
);
kind!(
    file_or_none,
    String,
    |raw| match raw {
        Raw::Text(text) if !text.contains('\0') => Ok(text.clone()),
        _ => Err("wants a path in quotes".into()),
    },
    |path| quoted(path)
);
kind!(
    name_or_none,
    String,
    |raw| match raw {
        Raw::Text(text)
            if text.len() <= 255
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)) =>
            Ok(text.clone()),
        _ => Err("wants letters, digits, '-', '_', '.' and ':' in quotes".into()),
    },
    |text| quoted(text)
);
kind!(
    truth,
    bool,
    |raw| match raw {
        Raw::Bool(truth) => Ok(*truth),
        Raw::Text(text) if text == "true" || text == "false" => Ok(text == "true"),
        _ => Err("wants true or false".into()),
    },
    bool::to_string
);
kind!(long_count, u64, |raw| number(raw).ok_or_else(|| "wants a whole number".into()), u64::to_string);
kind!(
    count,
    usize,
    |raw| number(raw)
        .filter(|count| *count <= 1024)
        .map(|count| count as usize)
        .ok_or_else(|| "wants a whole number up to 1024".into()),
    usize::to_string
);
kind!(
    size_count,
    usize,
    |raw| number(raw)
        .filter(|count| (1..=1 << 32).contains(count))
        .map(|count| count as usize)
        .ok_or_else(|| "wants a whole number, at least 1".into()),
    usize::to_string
);
kind!(
    shards,
    usize,
    |raw| number(raw)
        .filter(|count| (1..=1024).contains(count))
        .map(|count| count as usize)
        .ok_or_else(|| "wants a whole number from 1 to 1024".into()),
    usize::to_string
);
kind!(
    bytes,
    u64,
    |raw| read_bytes(raw).ok_or_else(|| "wants bytes, as 1048576 or \"1MiB\" (KiB, MiB, GiB, TiB)".into()),
    |bytes| show_bytes(*bytes)
);
kind!(
    size,
    usize,
    |raw| match bytes::read(raw)? {
        0 => Err("wants at least 1 byte".into()),
        bytes => usize::try_from(bytes).map_err(|_| "is too large".into()),
    },
    |size| show_bytes(*size as u64)
);
kind!(
    span,
    Duration,
    |raw| read_span(raw)
        .ok_or_else(|| "wants a span in quotes, as \"500ms\", \"10s\", \"5m\", \"2h\" or \"7d\"".into()),
    |span| show_span(*span)
);
kind!(
    seconds,
    Duration,
    |raw| span::read(raw)
        .ok()
        .filter(|span| span.subsec_nanos() == 0)
        .ok_or_else(|| "wants whole seconds in quotes, as \"0s\", \"30s\" or \"5m\"".into()),
    span::show
);
kind!(
    zone,
    String,
    |raw| match raw {
        Raw::Text(text) => doors::dns::check_name(text).map(|()| text.clone()),
        _ => Err("wants a name in quotes, as \"consul\"".into()),
    },
    |name| quoted(name)
);
kind!(
    datagram,
    usize,
    |raw| size::read(raw)
        .ok()
        .filter(|bytes| (doors::dns::UDP_BYTES_MIN..=doors::dns::TCP_BYTES_MAX).contains(bytes))
        .ok_or_else(|| format!("wants {} to {} bytes", doors::dns::UDP_BYTES_MIN, doors::dns::TCP_BYTES_MAX)),
    size::show
);
kind!(milliseconds, u64, |raw| span::read(raw).map(|span| span.as_millis() as u64), |ms| show_span(
    Duration::from_millis(*ms)
));
kind!(
    address,
    SocketAddr,
    |raw| match raw {
        Raw::Text(text) => read_address(text)
            .ok_or_else(|| "wants an address and a port in quotes, as \"127.0.0.1:6379\" or \"[::1]:6379\"".into()),
        _ => Err("wants an address and a port in quotes, as \"127.0.0.1:6379\"".into()),
    },
    |address| quoted(&address.to_string())
);
kind!(
    durability,
    Durability,
    |raw| match raw {
        Raw::Text(text) if text == "fsync" => Ok(Durability::Fsync),
        Raw::Text(text) if text == "memory" => Ok(Durability::Memory),
        _ => Err("wants \"fsync\" or \"memory\"".into()),
    },
    |durability| match durability {
        Durability::Fsync => "\"fsync\"".into(),
        Durability::Memory => "\"memory\"".into(),
    }
);
kind!(
    eviction,
    Eviction,
    |raw| match raw {
        Raw::Text(text) if text == "refuse" => Ok(Eviction::Refuse),
        Raw::Text(text) if text == "lru" => Ok(Eviction::Lru),
        _ => Err("wants \"refuse\" or \"lru\"".into()),
    },
    |eviction| match eviction {
        Eviction::Refuse => "\"refuse\"".into(),
        Eviction::Lru => "\"lru\"".into(),
    }
);

/// A TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn number(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Int(number) => u64::try_from(*number).ok(),
        Raw::Text(text) => text.replace('_', "").parse().ok(),
        _ => None,
    }
}

const BYTE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn read_bytes(raw: &Raw) -> Option<u64> {
    if let Some(bytes) = number(raw) {
        return Some(bytes);
    }
    let Raw::Text(text) = raw else { return None };
    let (unit, scale) = BYTE_UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*scale)
}

fn show_bytes(bytes: u64) -> String {
    match BYTE_UNITS.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) if *scale > 1 => format!("\"{}{unit}\"", bytes / scale),
        _ => bytes.to_string(),
    }
}

/// Longest first; "ms" before "m" and "s" matters only for reading, which looks for the whole unit.
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

fn read_span(raw: &Raw) -> Option<Duration> {
    let Raw::Text(text) = raw else { return None };
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let (_, scale) = SPAN_UNITS.iter().find(|(known, _)| *known == unit.trim())?;
    // A century and more is a slip of the pen, and far from where clocks overflow.
    let ms = count.parse::<u64>().ok()?.checked_mul(*scale).filter(|ms| *ms <= 36_500 * 86_400_000)?;
    Some(Duration::from_millis(ms))
}

fn show_span(span: Duration) -> String {
    let ms = span.as_millis() as u64;
    if ms == 0 {
        return "\"0s\"".into();
    }
    let (unit, scale) = SPAN_UNITS.iter().find(|(_, scale)| ms.is_multiple_of(*scale)).unwrap_or(&("ms", 1));
    format!("\"{}{unit}\"", ms / scale)
}

fn read_address(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?));
    }
    if let Some(port) = text.strip_prefix("*:") {
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port.parse().ok()?));
    }
    text.parse().ok()
}

/// The known name nearest to a wrong one, if any is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    known
        .map(|name| (distance(wrong, name).min(distance(wrong, last(name)) + 1), name))
        .min()
        .filter(|(distance, _)| *distance <= (wrong.len() / 3).max(2))
        .map(|(_, name)| name)
}

/// Letters to add, remove or change to make one word the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(letter != *other)).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_shown() {
        for (bytes, text) in [(0, "0"), (1 << 20, "\"1MiB\""), (3 << 30, "\"3GiB\""), (1000, "1000")] {
            assert_eq!(show_bytes(bytes), text);
            assert_eq!(read_bytes(&Raw::Text(text.trim_matches('"').into())), Some(bytes));
        }
        for (ms, text) in
            [(0, "0s"), (500, "500ms"), (1500, "1500ms"), (90_000, "90s"), (600_000, "10m"), (86_400_000, "1d")]
        {
            assert_eq!(show_span(Duration::from_millis(ms)), format!("\"{text}\""));
            assert_eq!(read_span(&Raw::Text(text.into())), Some(Duration::from_millis(ms)));
        }
        for text in ["", "s", "10", "10 years", "-1s", "99999999999999999999d", "9999999999d"] {
            assert_eq!(read_span(&Raw::Text(text.into())), None, "{text:?}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "99999999999TiB", "1MB"] {
            assert_eq!(read_bytes(&Raw::Text(text.into())), None, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_key_is_answered_with_the_one_that_was_meant() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("redis.bnd", names()), Some("redis.bind"));
        assert_eq!(nearest("data-dir", names()), Some("data_dir"));
        assert_eq!(nearest("idle_timeout", names()), Some("redis.idle_timeout"));
        assert_eq!(nearest("banana", names()), None);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }
}

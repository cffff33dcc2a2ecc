//! From `quorate.toml`, flags and the environment to [`Settings`], and from those to what the host wants.
//!
//! Later wins: defaults, file, flags. Every refusal names the thing and the key.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::cluster::Place;
use ::cluster::growth::Growth;
use base::{Limits, NodeId};
use doors::consul::Declared;
use doors::kafka::sasl::User;
use doors::secret::Secret;
use gateway::model::{Document, Kind, Listener, Node, Wrong, read_tables};
use host::cluster::ClusterConfig;
use host::consul::ConsulConfig;
use host::etcd::EtcdConfig;
use host::gateway::GatewayConfig;
use host::kafka::KafkaConfig;
use host::node::NodeConfig;
use host::peers::Identity;
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};
use tokio::net::TcpListener;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::UpArgs;
use crate::keys::{KEYS, KEYSPACE_KEYS, Key, Raw, nearest, quoted};

pub mod cluster;
mod services;
mod tls;

pub use tls::TlsSettings;

/// The environment variable that may hold the Redis door's password.
pub const PASSWORD_VARIABLE: &str = "QUORATE_PASSWORD";

/// The environment variable that may hold the Consul door's token.
pub const TOKEN_VARIABLE: &str = "QUORATE_CONSUL_TOKEN";

/// The environment variable that may hold the join token.
pub const JOIN_TOKEN_VARIABLE: &str = "QUORATE_JOIN_TOKEN";

/// The environment variable that may hold the admin door's password.
pub const ADMIN_PASSWORD_VARIABLE: &str = "QUORATE_ADMIN_PASSWORD";

/// The environment variable that may hold the Kafka door's password.
pub const KAFKA_PASSWORD_VARIABLE: &str = "QUORATE_KAFKA_PASSWORD";

/// What the admin and Consul doors speak over TLS.
const HTTP: &[&[u8]] = &[b"http/1.1"];

/// The environment variable that may name the file with the authorities of an admin door that speaks TLS.
pub const ADMIN_CA_VARIABLE: &str = "QUORATE_ADMIN_CA";

/// Most bytes of a configuration file, and of a password file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be set, with what is set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `data_shards`.
    pub data_shards: usize,
    /// `workers`; 0 for half the cores.
    pub workers: usize,
    /// `gateway.workers`; 0 for as many as `workers`.
    pub gateway_workers: usize,
    /// `gateway.memory_max`, bytes.
    pub gateway_memory_max: u64,
    /// `stop_timeout`.
    pub stop_timeout: Duration,
    /// `insecure_bind`.
    pub insecure_bind: bool,
    /// `redis.bind`.
    pub redis_bind: SocketAddr,
    /// `redis.cluster_bind`.
    pub redis_cluster_bind: Option<SocketAddr>,
    /// `redis.password_file`.
    pub password_file: Option<PathBuf>,
    /// `redis.tls_cert` and its kin.
    pub redis_tls: TlsSettings,
    /// `redis.idle_timeout`; zero for never.
    pub idle_timeout: Duration,
    /// `[cluster]`.
    pub cluster: cluster::ClusterSettings,
    /// `admin.bind`.
    pub admin_bind: SocketAddr,
    /// `admin.password_file`.
    pub admin_password_file: Option<PathBuf>,
    /// `admin.tls_cert` and its kin.
    pub admin_tls: TlsSettings,
    /// `admin.hosts`.
    pub admin_hosts: Vec<String>,
    /// `consul.bind`.
    pub consul_bind: SocketAddr,
    /// `consul.token_file`.
    pub consul_token_file: Option<PathBuf>,
    /// `consul.tls_cert` and its kin.
    pub consul_tls: TlsSettings,
    /// `consul.node_name`; empty for one made of the node's number.
    pub consul_node_name: String,
    /// `consul.datacenter`.
    pub consul_datacenter: String,
    /// `consul.advertise`; empty for the door's address.
    pub consul_advertise: String,
    /// The token, out of its file.
    pub consul_token: Option<Secret>,
    /// `[[service]]`.
    pub services: Vec<Declared>,
    /// `kafka.bind`.
    pub kafka_bind: SocketAddr,
    /// `kafka.advertise`; empty for the door's address.
    pub kafka_advertise: String,
    /// `kafka.user`.
    pub kafka_user: String,
    /// `kafka.password_file`.
    pub kafka_password_file: Option<PathBuf>,
    /// `kafka.tls_cert` and its kin.
    pub kafka_tls: TlsSettings,
    /// `kafka.create_topics`.
    pub kafka_create_topics: bool,
    /// `kafka.partitions`.
    pub kafka_partitions: usize,
    /// `etcd.bind`.
    pub etcd_bind: SocketAddr,
    /// `etcd.tls_cert` and its kin.
    pub etcd_tls: TlsSettings,
    /// The Kafka door's password, wherever it came from.
    pub kafka_password: Option<Secret>,
    /// `gateway.bind`.
    pub gateway_bind: SocketAddr,
    /// `gateway.access_log`.
    pub gateway_access_log: String,
    /// `gateway.zone`.
    pub gateway_zone: String,
    /// `gateway.locations`.
    pub gateway_locations: String,
    /// `[listener.…]`, `[route.…]` and `[upstream.…]`.
    pub documents: Vec<Document>,
    /// `dns.bind`.
    pub dns_bind: SocketAddr,
    /// `dns.domain`.
    pub dns_domain: String,
    /// `dns.ttl`.
    pub dns_ttl: Duration,
    /// `dns.negative_ttl`.
    pub dns_negative_ttl: Duration,
    /// `dns.udp_bytes_max`.
    pub dns_udp_bytes_max: usize,
    /// `log.segment_bytes`.
    pub segment_bytes: u64,
    /// `log.max_bytes`; 0 for no bound.
    pub log_bytes_max: u64,
    /// `log.snapshot_bytes`.
    pub snapshot_log_bytes: u64,
    /// `[limits]`.
    pub limits: Limits,
    /// `[keyspace."…"]`, in the order of their prefixes.
    pub keyspaces: Vec<Keyspace>,
    /// The Redis door's password, wherever it came from.
    pub password: Option<Secret>,
    /// The admin door's.
    pub admin_password: Option<Secret>,
    /// The file that was read; empty if none.
    pub file: PathBuf,
    /// Keys that were set by file or flags, in contrast to their defaults.
    pub given: BTreeSet<&'static str>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data_dir: "./quorate-data".into(),
            data_shards: 1,
            workers: 0,
            gateway_workers: 0,
            gateway_memory_max: 512 << 20,
            stop_timeout: Duration::from_secs(10),
            insecure_bind: false,
            redis_bind: SocketAddr::from(([127, 0, 0, 1], 6379)),
            redis_cluster_bind: None,
            password_file: None,
            redis_tls: TlsSettings::default(),
            idle_timeout: Duration::ZERO,
            cluster: cluster::ClusterSettings::default(),
            admin_bind: SocketAddr::from(([127, 0, 0, 1], 7070)),
            admin_password_file: None,
            admin_tls: TlsSettings::default(),
            admin_hosts: Vec::new(),
            consul_bind: SocketAddr::from(([127, 0, 0, 1], 8500)),
            consul_token_file: None,
            consul_tls: TlsSettings::default(),
            consul_node_name: String::new(),
            consul_datacenter: "dc1".into(),
            consul_advertise: String::new(),
            consul_token: None,
            services: Vec::new(),
            kafka_bind: SocketAddr::from(([127, 0, 0, 1], 9092)),
            kafka_advertise: String::new(),
            kafka_user: "quorate".into(),
            kafka_password_file: None,
            kafka_tls: TlsSettings::default(),
            kafka_create_topics: true,
            kafka_partitions: 1,
            kafka_password: None,
            etcd_bind: SocketAddr::from(([127, 0, 0, 1], 2379)),
            etcd_tls: TlsSettings::default(),
            gateway_bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            gateway_access_log: String::new(),
            gateway_zone: String::new(),
            gateway_locations: String::new(),
            documents: Vec::new(),
            dns_bind: SocketAddr::from(([127, 0, 0, 1], 8600)),
            dns_domain: "consul".into(),
            dns_ttl: Duration::ZERO,
            dns_negative_ttl: Duration::ZERO,
            dns_udp_bytes_max: 8 << 10,
            segment_bytes: 64 << 20,
            log_bytes_max: 0,
            snapshot_log_bytes: 256 << 20,
            limits: Limits::DEFAULT,
            keyspaces: Vec::new(),
            password: None,
            admin_password: None,
            file: PathBuf::new(),
            given: BTreeSet::new(),
        }
    }
}

/// The settings of `quorate up` with these flags, checked.
pub fn load(args: &UpArgs) -> Result<Settings, String> {
    let mut settings = Settings::default();
    if let Some(path) = &args.config {
        let text =
            read_small(path).map_err(|why| format!("the configuration file {}: {why} (--config)", path.display()))?;
        settings.read_toml(&path.display().to_string(), &text)?;
        settings.file = path.clone();
    }
    settings.read_flags(args)?;
    settings.find_passwords(args)?;
    settings.check()?;
    Ok(settings)
}

fn read_small(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it is {length} bytes long, at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

impl Settings {
    /// Sets what a TOML text sets. `name` is the file's, for messages.
    pub fn read_toml(&mut self, name: &str, text: &str) -> Result<(), String> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            format!("{name}:{line}: {}", error.message())
        })?;
        // Asked for every value of thousands of routes and services: not by counting from the begin each time.
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line = |offset: usize| ends.partition_point(|end| *end < offset) as u32 + 1;
        let at = |span: std::ops::Range<usize>| format!("{name}:{}", line(span.start));
        self.read_table("", table.get_ref(), &at)?;
        let whole = Node::from_toml_table(table.get_ref(), 0..text.len(), &line);
        let told = |wrongs: Vec<Wrong>| first_of(wrongs.iter().map(|wrong| format!("{name}: {wrong}")));
        let documents = whole.only(&Kind::ALL.map(Kind::word));
        self.documents = read_tables(&documents).map_err(told)?;
        Ok(())
    }

    fn read_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        at: &dyn Fn(std::ops::Range<usize>) -> String,
    ) -> Result<(), String> {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            let is_table = KEYS.iter().any(|known| known.name.starts_with(&format!("{path}.")));
            match value.get_ref() {
                // The gateway's documents have a reader of their own.
                _ if prefix.is_empty() && Kind::of(&path).is_some() => {}
                DeValue::Table(inner) if path == "keyspace" => self.read_keyspaces(inner, at)?,
                DeValue::Array(items) if path == "service" => {
                    self.services = services::read(items, at)?;
                }
                _ if path == "service" => {
                    return Err(format!("{}: services are a list of tables: write [[service]]", at(key.span())));
                }
                DeValue::Table(inner) if is_table => self.read_table(&format!("{path}."), inner, at)?,
                _ if is_table || path == "keyspace" => {
                    return Err(format!("{}: {path} is a table: write [{path}]", at(key.span())));
                }
                _ => self.set(&path, &raw(value)).map_err(|why| format!("{}: {why}", at(key.span())))?,
            }
        }
        Ok(())
    }

    fn read_keyspaces(
        &mut self,
        table: &DeTable<'_>,
        at: &dyn Fn(std::ops::Range<usize>) -> String,
    ) -> Result<(), String> {
        for (prefix, value) in table {
            let title = format!("keyspace.{}", quoted(prefix.get_ref()));
            let DeValue::Table(keys) = value.get_ref() else {
                return Err(format!(
                    "{}: {title} is not a table; a keyspace is written [keyspace.\"prefix\"], the default one [keyspace.\"\"]",
                    at(prefix.span())
                ));
            };
            let mut space = Keyspace {
                prefix: prefix.get_ref().as_bytes().to_vec(),
                durability: Durability::Fsync,
                max_bytes: 0,
                eviction: Eviction::Refuse,
                default_expiry: 0,
            };
            let mut given = BTreeSet::new();
            for (key, value) in keys {
                let name = key.get_ref().as_ref();
                let known = find(KEYSPACE_KEYS, name).map_err(|why| format!("{}: {title}: {why}", at(key.span())))?;
                (known.set)(&mut space, &raw(value))
                    .map_err(|why| format!("{}: {title}: {name} = {}: {why}", at(key.span()), raw(value)))?;
                given.insert(name);
            }
            finish(&mut space, given.contains("eviction"))
                .map_err(|why| format!("{}: {title}: {why}", at(prefix.span())))?;
            self.keyspaces.push(space);
        }
        Ok(())
    }

    /// Sets one key; the error names it.
    fn set(&mut self, name: &str, raw: &Raw) -> Result<(), String> {
        let key = find(KEYS, name)?;
        (key.set)(self, raw).map_err(|why| format!("{name} = {raw}: {why}"))?;
        self.given.insert(key.name);
        Ok(())
    }

    fn read_flags(&mut self, args: &UpArgs) -> Result<(), String> {
        for assignment in &args.set {
            let (name, value) = assignment
                .split_once('=')
                .ok_or_else(|| format!("--set {assignment}: wants KEY=VALUE, as --set data_shards=2"))?;
            self.set(name.trim(), &Raw::Text(value.trim().trim_matches('"').into()))
                .map_err(|why| format!("--set: {why}"))?;
        }
        let text = |path: &PathBuf| Raw::Text(path.display().to_string());
        let words = [
            ("--data", "data_dir", args.data.as_ref().map(text)),
            ("--redis-bind", "redis.bind", args.redis_bind.clone().map(Raw::Text)),
            ("--peer-bind", "cluster.bind", args.peer_bind.clone().map(Raw::Text)),
            ("--advertise", "cluster.advertise", args.advertise.clone().map(Raw::Text)),
            ("--join", "cluster.join", args.join.clone().map(Raw::Text)),
            ("--zone", "cluster.zone", args.zone.clone().map(Raw::Text)),
            ("--roles", "cluster.roles", args.roles.clone().map(Raw::Text)),
            ("--admin-bind", "admin.bind", args.admin_bind.clone().map(Raw::Text)),
            ("--gateway-bind", "gateway.bind", args.gateway_bind.clone().map(Raw::Text)),
            ("--consul-bind", "consul.bind", args.consul_bind.clone().map(Raw::Text)),
            ("--kafka-bind", "kafka.bind", args.kafka_bind.clone().map(Raw::Text)),
            ("--etcd-bind", "etcd.bind", args.etcd_bind.clone().map(Raw::Text)),
            ("--dns-bind", "dns.bind", args.dns_bind.clone().map(Raw::Text)),
            ("--password-file", "redis.password_file", args.password_file.as_ref().map(text)),
            ("--admin-password-file", "admin.password_file", args.admin_password_file.as_ref().map(text)),
            ("--insecure-bind", "insecure_bind", args.insecure_bind.then_some(Raw::Bool(true))),
            ("--data-shards", "data_shards", args.data_shards.map(|count| Raw::Int(count as i64))),
            ("--workers", "workers", args.workers.map(|count| Raw::Int(count as i64))),
            ("--stop-timeout", "stop_timeout", args.stop_timeout.clone().map(Raw::Text)),
        ];
        for (flag, name, value) in words {
            if let Some(value) = value {
                self.set(name, &value).map_err(|why| format!("{flag}: {why}"))?;
            }
        }
        if let Some(port) = args.redis_port {
            self.redis_bind.set_port(port);
            self.given.insert("redis.bind");
        }
        if let Some(port) = args.peer_port {
            self.cluster.bind.set_port(port);
            self.given.insert("cluster.bind");
        }
        if let Some(port) = args.admin_port {
            self.admin_bind.set_port(port);
            self.given.insert("admin.bind");
        }
        if let Some(port) = args.gateway_port {
            self.gateway_bind.set_port(port);
            self.given.insert("gateway.bind");
        }
        if let Some(port) = args.consul_port {
            self.consul_bind.set_port(port);
            self.given.insert("consul.bind");
        }
        if let Some(port) = args.etcd_port {
            self.etcd_bind.set_port(port);
            self.given.insert("etcd.bind");
        }
        if let Some(port) = args.kafka_port {
            self.kafka_bind.set_port(port);
            self.given.insert("kafka.bind");
        }
        if let Some(port) = args.dns_port {
            self.dns_bind.set_port(port);
            self.given.insert("dns.bind");
        }
        if let Some(word) = &args.durability {
            let mut space = Keyspaces::default().get(0).clone();
            let at = self.keyspaces.iter().position(|space| space.prefix.is_empty());
            if let Some(at) = at {
                space = self.keyspaces.remove(at);
            }
            let key = find(KEYSPACE_KEYS, "durability")?;
            (key.set)(&mut space, &Raw::Text(word.clone())).map_err(|why| format!("--durability {word}: {why}"))?;
            finish(&mut space, at.is_some()).map_err(|why| format!("--durability {word}: {why}"))?;
            self.keyspaces.insert(0, space);
        }
        Ok(())
    }

    fn find_passwords(&mut self, args: &UpArgs) -> Result<(), String> {
        self.password =
            find_password(&args.password, &self.password_file, PASSWORD_VARIABLE, "redis.password_file", "--password")?;
        self.admin_password = find_password(
            &args.admin_password,
            &self.admin_password_file,
            ADMIN_PASSWORD_VARIABLE,
            "admin.password_file",
            "--admin-password",
        )?;
        self.consul_token =
            find_password(&None, &self.consul_token_file, TOKEN_VARIABLE, "consul.token_file", TOKEN_VARIABLE)?;
        self.kafka_password = find_password(
            &None,
            &self.kafka_password_file,
            KAFKA_PASSWORD_VARIABLE,
            "kafka.password_file",
            KAFKA_PASSWORD_VARIABLE,
        )?;
        let cluster = &mut self.cluster;
        cluster.token =
            find_password(&args.token, &cluster.token_file, JOIN_TOKEN_VARIABLE, "cluster.token_file", "--token")?;
        Ok(())
    }

    /// What must hold between keys.
    fn check(&self) -> Result<(), String> {
        let is_open = |address: SocketAddr| !address.ip().is_loopback() && !self.insecure_bind;
        let open_redis = [Some(self.redis_bind), self.redis_cluster_bind].into_iter().flatten().find(|at| is_open(*at));
        if let (Some(open), None) = (open_redis, &self.password) {
            return Err(format!(
                "the Redis door at {} could be reached by others and there is no password. Set one (redis.password_file, \
                 --password-file, {PASSWORD_VARIABLE}), or redis.bind to a loopback address, or, if nobody else can reach \
                 that network, insecure_bind = true (--insecure-bind)",
                open
            ));
        }
        if is_open(self.admin_bind) && self.admin_password.is_none() {
            return Err(format!(
                "the admin door at {} could be reached by others and there is no password. Set one (admin.password_file, \
                 --admin-password-file, {ADMIN_PASSWORD_VARIABLE}), or admin.bind to a loopback address, or, if nobody else can \
                 reach that network, insecure_bind = true (--insecure-bind)",
                self.admin_bind
            ));
        }
        if is_open(self.consul_bind) && self.consul_token.is_none() {
            return Err(format!(
                "the Consul door at {} could be reached by others and there is no token. Set one (consul.token_file), or \
                 consul.bind to a loopback address, or, if nobody else can reach that network, insecure_bind = true \
                 (--insecure-bind)",
                self.consul_bind
            ));
        }
        if is_open(self.kafka_bind) && self.kafka_password.is_none() {
            return Err(format!(
                "the Kafka door at {} could be reached by others and there is no password. Set one (kafka.password_file, \
                 {KAFKA_PASSWORD_VARIABLE}), or kafka.bind to a loopback address, or, if nobody else can reach that network, \
                 insecure_bind = true (--insecure-bind)",
                self.kafka_bind
            ));
        }
        if is_open(self.etcd_bind) && self.etcd_tls.client_ca.is_none() {
            return Err(format!(
                "the etcd door at {} could be reached by others and asks nobody who they are. Set etcd.tls_client_ca (with \
                 etcd.tls_cert and etcd.tls_key), or etcd.bind to a loopback address, or, if nobody else can reach that network, \
                 insecure_bind = true (--insecure-bind)",
                self.etcd_bind
            ));
        }
        if !self.kafka_advertise.is_empty() && !self.kafka_advertise.contains(':') {
            return Err(format!(
                "kafka.advertise = {:?}: wants HOST:PORT, the address that Kafka clients use",
                self.kafka_advertise
            ));
        }
        for (table, door, address, tls) in [
            ("redis", "Redis", open_redis.unwrap_or(self.redis_bind), &self.redis_tls),
            ("admin", "admin", self.admin_bind, &self.admin_tls),
            ("consul", "Consul", self.consul_bind, &self.consul_tls),
            ("kafka", "Kafka", self.kafka_bind, &self.kafka_tls),
            ("etcd", "etcd", self.etcd_bind, &self.etcd_tls),
        ] {
            tls.check(table)?;
            if is_open(address) && !tls.is_on() {
                return Err(format!(
                    "the {door} door at {address} could be reached by others and speaks no TLS: whoever is on the way could read \
                     its password, and everything else. Set {table}.tls_cert and {table}.tls_key, or {table}.bind to a loopback \
                     address, or, if nobody else can reach that network, insecure_bind = true (--insecure-bind)"
                ));
            }
        }
        if is_open(self.gateway_bind) {
            return Err(format!(
                "the gateway at {} could be reached by others. Set gateway.bind to a loopback address and add a listener with a \
                 certificate ([listener.NAME]), or, if the world may come in without TLS, insecure_bind = true (--insecure-bind)",
                self.gateway_bind
            ));
        }
        self.check_documents()?;
        self.cluster.check()?;
        if is_open(self.dns_bind) {
            return Err(format!(
                "the DNS door at {} could be reached by others, and DNS knows no passwords. Set dns.bind to a loopback \
                 address, or, if nobody else can reach that network, insecure_bind = true (--insecure-bind)",
                self.dns_bind
            ));
        }
        let limits = &self.limits;
        let ordered = [
            (
                "limits.unauthenticated_bulk_bytes_max",
                limits.unauthenticated_bulk_bytes_max,
                "limits.bulk_bytes_max",
                limits.bulk_bytes_max,
            ),
            ("limits.bulk_bytes_max", limits.bulk_bytes_max, "limits.command_bytes_max", limits.command_bytes_max),
            (
                "limits.command_bytes_max",
                limits.command_bytes_max,
                "limits.pending_bytes_max",
                limits.pending_bytes_max,
            ),
        ];
        // What one append of the log may hold, and a batch of it be read back.
        for (name, value, most) in [
            ("limits.command_bytes_max", limits.command_bytes_max, 256 << 20),
            ("limits.entry_bytes_max", limits.entry_bytes_max, 64 << 20),
        ] {
            if value > most {
                return Err(format!("{name} is {value}, at most {most} can be set"));
            }
        }
        for (small, least, large, most) in ordered {
            if least > most {
                return Err(format!("{small} is {least} and {large} only {most}: raise {large} or lower {small}"));
            }
        }
        Keyspaces::new(self.keyspaces.clone()).map(|_| ())
    }

    /// The file's routes must make sense by themselves: what is said at run time may be gone at the next start.
    fn check_documents(&self) -> Result<(), String> {
        let own = Listener { bind: self.gateway_bind, ..Listener::default() };
        let all = host::gateway::documents::with_own(self.documents.clone(), &own);
        gateway::Config::new(all).map(|_| ()).map_err(|wrongs| first_of(wrongs.iter().map(ToString::to_string)))
    }

    /// What the gateway wants to know.
    pub fn gateway_config(&self) -> GatewayConfig {
        GatewayConfig {
            access_log: self.gateway_access_log.clone(),
            insecure_bind: self.insecure_bind,
            // Who says where the node stands need not say it again for the gateway.
            zone: if self.gateway_zone.is_empty() { self.cluster.zone.clone() } else { self.gateway_zone.clone() },
            locations: self.gateway_locations.clone(),
            drain: self.stop_timeout,
            memory_max: self.gateway_memory_max,
            ..GatewayConfig::default()
        }
    }

    /// What the host wants to know of the cluster.
    pub fn cluster_config(&self, listener: TcpListener, identity: Identity, bound: cluster::Bound) -> ClusterConfig {
        let place = self.cluster.place(bound, &self.kafka_advertise);
        let settings = host::peers::Settings {
            advertise: vec![place.peer.clone()],
            snapshot_bytes_per_second: self.cluster.snapshot_rate,
            limits: self.limits.clone(),
            ..host::peers::Settings::default()
        };
        let growth = Growth { wanted: self.data_shards, hot: self.cluster.split_load, most: self.cluster.split_max };
        ClusterConfig { listener, identity, place, replace_after: self.cluster.replace_after, growth, settings }
    }

    /// Threads for connections.
    pub fn worker_threads(&self) -> usize {
        match self.workers {
            0 => (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1),
            count => count,
        }
    }

    /// Threads of the gateway's own.
    pub fn gateway_threads(&self) -> usize {
        if self.gateway_workers == 0 { self.worker_threads() } else { self.gateway_workers }
    }

    /// What the Consul door wants to know.
    pub fn consul_config(&self, node: NodeId) -> Result<ConsulConfig, String> {
        let node_name = match self.consul_node_name.as_str() {
            "" => format!("node{}", node.0),
            name => name.to_owned(),
        };
        Ok(ConsulConfig {
            node_name,
            datacenter: self.consul_datacenter.clone(),
            advertise: self.consul_advertise.clone(),
            token: self.consul_token.clone(),
            services: self.services.clone(),
            tls: self.consul_tls.open("consul", HTTP)?,
        })
    }

    /// The DNS door at this address.
    pub fn dns_door(&self, address: SocketAddr) -> Result<doors::dns::Door, String> {
        let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        doors::dns::Door::new(doors::dns::Zone {
            domain: self.dns_domain.clone(),
            datacenter: self.consul_datacenter.clone(),
            ttl: seconds(self.dns_ttl),
            negative_ttl: seconds(self.dns_negative_ttl),
            udp_bytes_max: self.dns_udp_bytes_max,
            address: Some(address.ip()).filter(|ip| !ip.is_unspecified()),
        })
    }

    /// What the Kafka door wants to know.
    pub fn kafka_config(&self, place: &Place) -> Result<KafkaConfig, String> {
        let random = [host::clock::seed(), host::clock::seed()];
        let user = self.kafka_password.clone().map(|password| User::new(self.kafka_user.clone(), password, random));
        Ok(KafkaConfig {
            door: doors::kafka::Config {
                user,
                advertise: place.kafka.clone(),
                creates_topics: self.kafka_create_topics,
                partitions: self.kafka_partitions as u32,
            },
            tls: self.kafka_tls.open("kafka", &[])?,
        })
    }

    /// What the etcd door wants to know.
    pub fn etcd_config(&self, place: &Place) -> Result<EtcdConfig, String> {
        Ok(EtcdConfig { advertise: place.etcd.clone(), tls: self.etcd_tls.open("etcd", &[b"h2"])? })
    }

    /// What the host wants to know.
    pub fn node_config(&self, node: NodeId) -> Result<NodeConfig, String> {
        Ok(NodeConfig {
            node,
            timing: self.cluster.timing(),
            data_dir: self.data_dir.clone(),
            password: self.password.clone(),
            admin_password: self.admin_password.clone(),
            admin_hosts: self.admin_hosts.clone(),
            limits: self.limits.clone().counting(),
            keyspaces: Keyspaces::new(self.keyspaces.clone())?,
            data_shards: self.data_shards,
            segment_bytes: self.segment_bytes,
            log_bytes_max: self.log_bytes_max,
            snapshot_log_bytes: self.snapshot_log_bytes,
            stop_timeout: self.stop_timeout,
            idle_timeout: self.idle_timeout,
            config_file: self.file.display().to_string(),
            redis_tls: self.redis_tls.open("redis", &[])?,
            admin_tls: self.admin_tls.open("admin", HTTP)?,
        })
    }
}

/// A door's password: the flag's, else the file's first line, else the variable's.
fn find_password(
    flag: &Option<String>,
    file: &Option<PathBuf>,
    variable: &str,
    key: &str,
    flag_name: &str,
) -> Result<Option<Secret>, String> {
    let text = match (flag, file) {
        (Some(password), _) => Some(password.clone()),
        (None, Some(path)) => Some(password_in(path).map_err(|why| format!("{why} ({key})"))?),
        (None, None) => std::env::var(variable).ok(),
    };
    match text {
        Some(text) if text.is_empty() => {
            Err(format!("the password is empty; leave it out for none ({key}, {flag_name}, {variable})"))
        }
        text => Ok(text.map(Secret::new)),
    }
}

/// The first line of a password file.
pub fn password_in(path: &Path) -> Result<String, String> {
    let text = read_small(path).map_err(|why| format!("the password file {}: {why}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A cache that is full drops what is old, unless told otherwise; what is logged cannot be dropped yet.
fn finish(space: &mut Keyspace, eviction_given: bool) -> Result<(), String> {
    match (space.durability, space.eviction) {
        (Durability::Memory, _) if !eviction_given => space.eviction = Eviction::Lru,
        (Durability::Fsync, Eviction::Lru) => {
            return Err("eviction = \"lru\" needs durability = \"memory\": keys that are logged are never dropped; set eviction = \"refuse\"".into());
        }
        _ => {}
    }
    Ok(())
}

fn find<T>(keys: &'static [Key<T>], name: &str) -> Result<&'static Key<T>, String> {
    keys.iter().find(|key| key.name == name).ok_or_else(|| {
        let meant = nearest(name, keys.iter().map(|key| key.name));
        let meant =
            meant.map_or("quorate.toml shows all keys".into(), |meant| format!("{meant} is one; is that meant?"));
        format!("{name} is no key of the configuration; {meant}")
    })
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(truth) => Raw::Bool(*truth),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other("number out of range"), Raw::Int)
        }
        other => Raw::Other(other.type_str()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// What is wrong, a line each; of very much the first, for one mistake is often made a thousand times.
fn first_of(wrongs: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN_MAX: usize = 20;
    let more = wrongs.len().saturating_sub(SHOWN_MAX);
    let mut lines: Vec<String> = wrongs.take(SHOWN_MAX).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_that_was_made_a_thousand_times_is_told_twenty_times() {
        let text: String = (0..1000).map(|n| format!("[route.r{n}]\nupstream = \"a\"\n")).collect();
        let told = read(&text).unwrap_err();
        assert_eq!(told.lines().count(), 21, "{told}");
        assert!(told.ends_with("\n  and 980 more"), "{told}");
    }

    fn read(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.read_toml("q.toml", text)?;
        settings.check()?;
        Ok(settings)
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_key() {
        for (text, wanted) in [
            ("\n\ndata_dri = \"x\"", "q.toml:3: data_dri is no key of the configuration; data_dir is one"),
            ("[redis]\nbnd = \"x\"", "q.toml:2: redis.bnd is no key of the configuration; redis.bind is one"),
            ("[radis]\nbind = \"x\"", "q.toml:1: radis is no key"),
            ("redis = 3", "q.toml:1: redis is a table: write [redis]"),
            ("[redis]\nbind = \"here\"", "q.toml:2: redis.bind = \"here\": wants an address and a port"),
            ("data_shards = 0", "data_shards = 0: wants a whole number from 1 to 1024"),
            ("stop_timeout = 10", "stop_timeout = 10: wants a span"),
            ("data_dir = [1]", "data_dir = an array: wants a path"),
            ("[limits]\nargs_max = -1", "limits.args_max = -1: wants"),
            ("data_dir = \"unfinished", "q.toml:1: "),
            ("a = 1\na = 2", "q.toml:2: duplicate key"),
            ("[limits]\nbulk_bytes_max = \"1GiB\"", "raise limits.command_bytes_max or lower limits.bulk_bytes_max"),
            (
                "[limits]\ncommand_bytes_max = \"257MiB\"",
                "limits.command_bytes_max is 269484032, at most 268435456 can be set",
            ),
            (
                "[limits]\nentry_bytes_max = \"65MiB\"",
                "limits.entry_bytes_max is 68157440, at most 67108864 can be set",
            ),
            (
                "[keyspace]\ndurability = \"memory\"",
                "keyspace.\"durability\" is not a table; a keyspace is written [keyspace.\"prefix\"]",
            ),
            (
                "[keyspace.\"c:\"]\ndurabilty = \"memory\"",
                "q.toml:2: keyspace.\"c:\": durabilty is no key of the configuration; durability is one",
            ),
            ("[keyspace.\"c:\"]\ndurability = \"ram\"", "durability = \"ram\": wants \"fsync\" or \"memory\""),
            ("[keyspace.\"c:\"]\neviction = \"lru\"", "eviction = \"lru\" needs durability = \"memory\""),
            ("[redis]\nbind = \"0.0.0.0:6379\"", "redis.password_file"),
            ("[dns]\nbind = \"0.0.0.0:53\"", "DNS knows no passwords"),
            ("[dns]\ndomain = \"a b\"", "q.toml:2: dns.domain = \"a b\": wants letters"),
            ("[dns]\nttl = \"500ms\"", "dns.ttl = \"500ms\": wants whole seconds"),
            ("[dns]\nudp_bytes_max = 100", "dns.udp_bytes_max = 100: wants 512 to 65535 bytes"),
            ("[admin]\nbind = \"0.0.0.0:7070\"", "admin.password_file"),
            ("[consul]\nbind = \"0.0.0.0:8500\"", "there is no token"),
            ("[consul]\ndatacenter = \"a b\"", "consul.datacenter = \"a b\": wants letters"),
            ("service = 3", "write [[service]]"),
            ("[[service]]\nport = 80", "q.toml:1: service: Missing service name"),
            (
                "[[service]]\nname = \"a\"\n[[service]]\nname = \"b\"\ncheck = { http = \"http://x\" }",
                "q.toml:3: service: Invalid check: Interval must be > 0",
            ),
            ("[[service]]\nname = \"a\"\ncheck = { args = [\"rm\"], interval = \"1s\" }", "Scripts are disabled"),
            ("[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"", "q.toml:3: service: the id \"a\" stands twice"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_cache_evicts_unless_it_is_told_to_refuse() {
        let settings = read(
            "[keyspace.\"a:\"]\ndurability = \"memory\"\ndefault_expiry = \"10m\"\n[keyspace.\"b:\"]\ndurability = \"memory\"\neviction = \"refuse\"",
        );
        let spaces = settings.expect("valid").keyspaces;
        assert_eq!((spaces[0].eviction, spaces[0].default_expiry), (Eviction::Lru, 600_000));
        assert_eq!(spaces[1].eviction, Eviction::Refuse);
    }

    #[test]
    fn flags_win_over_the_file_and_count_as_given() {
        let mut settings = read("data_shards = 2\n[redis]\nbind = \"127.0.0.1:7000\"").expect("valid");
        let args = UpArgs {
            redis_port: Some(7001),
            durability: Some("memory".into()),
            set: vec!["limits.args_max = 77".into(), "data_dir=\"x\"".into(), "insecure_bind=true".into()],
            ..UpArgs::default()
        };
        settings.read_flags(&args).expect("valid");
        assert_eq!(settings.redis_bind.to_string(), "127.0.0.1:7001");
        assert_eq!((settings.data_shards, settings.limits.args_max, settings.insecure_bind), (2, 77, true));
        assert_eq!(settings.data_dir, PathBuf::from("x"));
        let config = settings.node_config(NodeId(1)).expect("valid");
        assert_eq!(config.keyspaces.get(0).durability, Durability::Memory);
        assert!(settings.given.contains("redis.bind") && !settings.given.contains("admin.bind"));
        for wrong in ["limits.args_max", "nonsense=1"] {
            let args = UpArgs { set: vec![wrong.into()], ..UpArgs::default() };
            assert!(settings.read_flags(&args).expect_err(wrong).starts_with("--set"));
        }
    }
}

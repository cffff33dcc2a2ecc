//! `[cluster]`: the peer door, what the node says of itself, and how to join.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cluster::{Place, Roles};
use consensus::Timing;
use doors::secret::Secret;

/// The keys of `[cluster]`.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// `cluster.bind`.
    pub bind: SocketAddr,
    /// `cluster.advertise`; empty for the address that it binds.
    pub advertise: String,
    /// `cluster.join`; empty to found a cluster, or to go on in the one that the data directory belongs to.
    pub join: String,
    /// `cluster.token_file`.
    pub token_file: Option<PathBuf>,
    /// The token, wherever it came from.
    pub token: Option<Secret>,
    /// `cluster.zone`.
    pub zone: String,
    /// `cluster.roles`.
    pub roles: String,
    /// `cluster.replace_after`.
    pub replace_after: Duration,
    /// `cluster.split_load`, commands a second.
    pub split_load: u64,
    /// `cluster.split_max`.
    pub split_max: usize,
    /// `cluster.election_timeout`.
    pub election_timeout: Duration,
    /// `cluster.snapshot_rate`, bytes a second.
    pub snapshot_rate: u64,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            bind: SocketAddr::from(([127, 0, 0, 1], 7400)),
            advertise: String::new(),
            join: String::new(),
            token_file: None,
            token: None,
            zone: String::new(),
            roles: Roles::ALL.to_string(),
            replace_after: Duration::from_secs(600),
            split_load: 50_000,
            split_max: 16,
            election_timeout: Duration::from_secs(1),
            snapshot_rate: 64 << 20,
        }
    }
}

/// Where a node's doors are bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The peer door.
    pub peer: SocketAddr,
    /// The Redis door.
    pub redis: SocketAddr,
    /// The cluster Redis door, where there is one.
    pub redis_cluster: Option<SocketAddr>,
    /// The admin door.
    pub admin: SocketAddr,
    /// The Kafka door.
    pub kafka: SocketAddr,
    /// The etcd door.
    pub etcd: SocketAddr,
}

impl ClusterSettings {
    /// What must hold between keys.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.bind.ip().is_unspecified() && self.advertise.is_empty() {
            return Err(format!(
                "the peer door listens on every address ({}), so other nodes cannot be told which one to use. Set \
                 cluster.advertise (--advertise) to this machine's name or address, or cluster.bind (--peer-bind) to one address",
                self.bind
            ));
        }
        if !self.join.is_empty() && !self.join.contains(':') {
            return Err(format!(
                "cluster.join = {:?}: wants HOST:PORT, the peer door of any node of the cluster (7400)",
                self.join
            ));
        }
        let roles = Roles::from_words(self.roles.split(','));
        roles.map(|_| ()).map_err(|why| format!("cluster.roles = {:?}: {why}", self.roles))
    }

    /// What the node is there for.
    pub fn roles(&self) -> Roles {
        // They were checked when the settings were read.
        Roles::from_words(self.roles.split(',')).unwrap_or(Roles::ALL)
    }

    /// How soon groups notice that their leader is gone. A lease ends a tenth before anybody may vote for another: so much may clocks
    /// differ in rate.
    pub fn timing(&self) -> Timing {
        let election = self.election_timeout;
        Timing { election, heartbeat: election / 10, lease: election / 20 * 9, loyalty: election / 2 }
    }

    /// What the node says of itself.
    pub fn place(&self, bound: Bound, kafka_advertise: &str) -> Place {
        let host = match self.advertise.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ if !self.advertise.is_empty() => self.advertise.clone(),
            _ => host_of(bound.peer.ip()),
        };
        let peer = match self.advertise.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.advertise.clone(),
            _ => format!("{host}:{}", bound.peer.port()),
        };
        let reach = |address: SocketAddr| match address.ip().is_unspecified() {
            true => format!("{host}:{}", address.port()),
            false => address.to_string(),
        };
        Place {
            peer,
            redis: reach(bound.redis),
            redis_cluster: bound.redis_cluster.map(reach).unwrap_or_default(),
            admin: reach(bound.admin),
            kafka: if kafka_advertise.is_empty() { reach(bound.kafka) } else { kafka_advertise.to_owned() },
            etcd: reach(bound.etcd),
            zone: self.zone.clone(),
            roles: self.roles(),
        }
    }
}

fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

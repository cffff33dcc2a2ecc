//! Every bound of the product in one place, with the relations between them proven at compile time.
//! `docs/limits.md` lists the same names for users.
//!
//! A bound and its counter are one line here: who writes a new one gets the counter, the line in `/metrics` and a test that
//! does not compile until it hits the bound ([`Limit`] is matched there without a default).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! limits {
    (
        settings { $($(#[$doc:meta])* $name:ident: $type:ty = $default:expr,)* }
        others { $($(#[$other_doc:meta])* $other:ident,)* }
    ) => {
        /// Bounds that a node keeps. Each is configurable where a user could need it; the defaults are what `quorate.toml` shows.
        #[derive(Clone, Debug)]
        pub struct Limits {
            $($(#[$doc])* pub $name: $type,)*
            /// How often which was hit: shared by all clones, so that every room counts into the same figures.
            pub hits: Hits,
        }

        impl Limits {
            /// The documented defaults; what is hit is not counted.
            pub const DEFAULT: Limits = Limits { $($name: $default,)* hits: Hits::NOWHERE };
        }

        /// A bound, as it is counted. Its name is the key of the configuration, so it is written like one.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Limit {
            $($(#[$doc])* $name,)*
            $($(#[$other_doc])* $other,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &'static [Limit] = &[$(Limit::$name,)* $(Limit::$other,)*];

            /// How many are keys of `[limits]`; they come first.
            pub const SETTINGS: usize = [$(Limit::$name,)*].len();

            /// The label in `/metrics`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Limit::$name => stringify!($name),)*
                    $(Limit::$other => stringify!($other),)*
                }
            }
        }
    };
}

limits! {
    settings {
        /// Largest single argument of a command, bytes. Redis's `proto-max-bulk-len` is 512 MB; ours keeps an entry small enough to replicate.
        bulk_bytes_max: usize = 64 << 20,
        /// Most arguments of one command.
        args_max: usize = 1 << 20,
        /// Largest command in total, bytes: the sum of its arguments.
        command_bytes_max: usize = 128 << 20,
        /// Largest inline command, bytes.
        inline_bytes_max: usize = 64 << 10,
        /// Before AUTH: most arguments (Redis's own pre-authentication bound).
        unauthenticated_args_max: usize = 10,
        /// Before AUTH: largest argument (Redis's own pre-authentication bound).
        unauthenticated_bulk_bytes_max: usize = 16 << 10,
        /// Commands of one connection that may wait for their answers at once; beyond it the connection is read no further.
        pipeline_depth_max: usize = 10_000,
        /// Answers that may wait for a client that does not read them, bytes; beyond it the client is closed.
        output_bytes_max: usize = 256 << 20,
        /// Commands between MULTI and EXEC.
        multi_commands_max: usize = 100_000,
        /// Connections on one door.
        connections_max: usize = 10_000,
        /// Channels and patterns that one client may be subscribed to.
        subscriptions_max: usize = 100_000,
        /// Bytes of commands that wait for the log; beyond it commands are refused with `-BUSY`-style errors.
        pending_bytes_max: usize = 512 << 20,
        /// Largest log entry, bytes: a batch closes before it grows past this.
        entry_bytes_max: usize = 4 << 20,
        /// Instructions of one Lua script.
        script_instructions_max: u64 = 200_000_000,
        /// Memory of the Lua interpreter, bytes.
        script_memory_bytes_max: usize = 64 << 20,
        /// Source of one Lua script, bytes.
        script_bytes_max: usize = 1 << 20,
        /// Scripts kept for EVALSHA.
        scripts_max: usize = 1_000,
        /// Blocked clients (BLPOP and kin) on one shard.
        waiters_max: usize = 100_000,
    }
    others {
        /// `redis.idle_timeout`: a silent client was closed.
        idle_timeout,
        /// `log.max_bytes`: writes began to be refused.
        log_max_bytes,
        /// `keyspace.….max_bytes`: a write was refused, or a key went.
        keyspace_max_bytes,
        /// `stop_timeout`: something was not finished when it was over.
        stop_timeout,
        /// Bytes that one transaction carries between shards.
        commit_bytes_max,
        /// Commands that wait on one shard for keys that transactions across shards hold.
        commit_parked_max,
        /// Transactions across shards that one shard has a part in.
        commit_prepared_max,
        /// Transactions across shards that met older ones for three seconds.
        commit_wait,
        /// Commands that no node took for three seconds: the shard had no leader, or it could not be reached.
        forward_wait,
        /// Open files of the process: a connection could not be accepted.
        open_files,
        /// Unread input behind unanswered commands of one connection.
        unread_bytes_max,
        /// Connections while the log is being read.
        loading_connections_max,
        /// Connections of the admin door.
        admin_connections_max,
        /// Followers of the admin door's events.
        admin_followers_max,
        /// Head of a request to the admin door: its size or the time it took.
        admin_head_max,
        /// Body of a request to the admin door.
        admin_body_bytes_max,
        /// Connections of the Consul door.
        consul_connections_max,
        /// Body of a request to the Consul door.
        consul_body_bytes_max,
        /// Connections of the DNS door.
        dns_connections_max,
        /// Connections of the Kafka door.
        kafka_connections_max,
        /// One request to the Kafka door.
        kafka_request_bytes_max,
        /// All requests to the Kafka door that are under way.
        kafka_requests_bytes_max,
        /// All that has been read for fetches of the Kafka door and is not yet written to its clients.
        kafka_fetched_bytes_max,
        /// Connections of the etcd door.
        etcd_connections_max,
        /// One request to the etcd door.
        etcd_request_bytes_max,
        /// All requests to the etcd door that are under way.
        etcd_requests_bytes_max,
        /// `dns.udp_bytes_max`, or less that a client takes: an answer was cut, and said so.
        dns_udp_bytes_max,
        /// Connections to the port for peers that have not proven who they are.
        peer_handshakes_max,
        /// One message between nodes.
        peer_frame_bytes_max,
        /// What waits to be sent to one node.
        peer_queue_bytes_max,
        /// Questions between two nodes without an answer yet.
        peer_asks_max,
        /// Nodes that speak before the directory knows them.
        peer_strangers_max,
        /// Requests to join that are decided at once.
        peer_joins_max,
    }
}

impl Limits {
    /// Counts that a bound was hit.
    #[inline]
    pub fn hit(&self, limit: Limit) {
        self.hits.count(limit);
    }

    /// The same bounds, counting what is hit into figures of their own.
    #[must_use]
    pub fn counting(self) -> Limits {
        Limits { hits: Hits::counting(), ..self }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// How often each [`Limit`] was hit. Clones share their figures.
#[derive(Clone, Debug, Default)]
pub struct Hits(Option<Arc<[AtomicU64; Limit::ALL.len()]>>);

impl Hits {
    /// Counts nothing.
    pub const NOWHERE: Hits = Hits(None);

    /// All at zero.
    pub fn counting() -> Hits {
        Hits(Some(Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))))
    }

    /// Counts one more.
    pub fn count(&self, limit: Limit) {
        if let Some(counters) = &self.0 {
            counters[limit as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often this one was hit.
    pub fn of(&self, limit: Limit) -> u64 {
        self.0.as_ref().map_or(0, |counters| counters[limit as usize].load(Ordering::Relaxed))
    }

    /// All, in the order of [`Limit::ALL`].
    pub fn all(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.iter().map(|limit| (*limit, self.of(*limit)))
    }
}

// A command must fit into what may wait, and an argument into a command.
const _: () = assert!(Limits::DEFAULT.bulk_bytes_max <= Limits::DEFAULT.command_bytes_max);
const _: () = assert!(Limits::DEFAULT.command_bytes_max <= Limits::DEFAULT.pending_bytes_max);
const _: () = assert!(Limits::DEFAULT.unauthenticated_bulk_bytes_max <= Limits::DEFAULT.bulk_bytes_max);

#[cfg(test)]
mod tests {
    use super::{Limit, Limits};

    #[test]
    fn every_limit_counts_for_itself_and_clones_share_the_figures() {
        let limits = Limits::DEFAULT.counting();
        for (at, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, at);
            (0..=at).for_each(|_| limits.clone().hit(*limit));
        }
        assert!(limits.hits.all().enumerate().all(|(at, (_, count))| count == at as u64 + 1));
        assert!(Limits::DEFAULT.hits.all().all(|(_, count)| count == 0));
    }
}

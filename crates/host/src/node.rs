//! A node: everything started, driven and stopped in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::{Histogram, Instant, Limit, Limits, NodeId};
use bytes::Bytes;
use consensus::{Membership, Role, Timing};
use doors::kafka::Soon;
use doors::registry::Registry;
use doors::resp::door::{Client, Door, Outbox, World};
use doors::resp::introspect::{Config, ConfigFacts, Facts, KeyspaceFacts};
use doors::secret::Secret;
use parking_lot::Mutex;
use queue::partition::Piece;
use shard::driver::{Applied, Driver, Input, Output};
use shard::live::{Refusal, Shard, Shards};
use shard::topics::Stored;
use store::disk::ReadError;
use store::keyspace::{Durability, Keyspaces};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::cluster::Parts;
use crate::cluster::{ClusterConfig, Condition, Links, Member};
use crate::files::Directory;
use crate::forward::Forwards;
use crate::gateway::Front;
use crate::gather::Gather;
use crate::log::{LogThread, Tell};
use crate::net::{self, Speaks};
use crate::peers::{Message, Peers};
use crate::snapshots::{Job, SnapshotThread};
use crate::start::{self, Found};
use crate::tls::DoorTls;

/// Commits that the tape remembers, and their bytes together: for those who watch, and for `quorate explain`.
const TAPE_LENGTH: usize = 4096;
const TAPE_TOTAL_BYTES: usize = 8 << 20;
/// Bytes of one of them that the tape keeps: an entry may have a hundred million.
const TAPE_BYTES_MAX: usize = 32 << 10;

/// Everything that a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// How soon groups notice that their leader is gone.
    pub timing: Timing,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// The password of the Redis door.
    pub password: Option<Secret>,
    /// The password of the admin door.
    pub admin_password: Option<Secret>,
    /// Names by which the admin door may be called, beside `localhost` and addresses.
    pub admin_hosts: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Settings by key prefix.
    pub keyspaces: Keyspaces,
    /// Data shards.
    pub data_shards: usize,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Most bytes of the log, 0 for none.
    pub log_bytes_max: u64,
    /// Bytes of entries after which a snapshot is taken.
    pub snapshot_log_bytes: u64,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// Close Redis clients idle this long; zero never.
    pub idle_timeout: Duration,
    /// The configuration file, for INFO.
    pub config_file: String,
    /// TLS of the Redis door.
    pub redis_tls: Option<Arc<DoorTls>>,
    /// TLS of the admin door.
    pub admin_tls: Option<Arc<DoorTls>>,
}

/// Figures that the host counts.
#[derive(Debug, Default)]
pub struct Figures {
    /// From a read off the socket to the answers' write, Redis door.
    pub latency: Histogram,
    /// Rates of the last seconds, Redis door.
    pub commands_per_second: AtomicU64,
    /// See `commands_per_second`.
    pub bytes_in_per_second: AtomicU64,
    /// See `commands_per_second`.
    pub bytes_out_per_second: AtomicU64,
    /// Most bytes that keys and values were seen to take.
    pub peak_bytes: AtomicU64,
}

impl Figures {
    /// Remembers how much the tables hold, if that is the most yet.
    pub fn note_peak<'a>(&self, shards: impl Iterator<Item = &'a Arc<Shard<Client>>>) -> u64 {
        let used = shards.map(|shard| {
            let state = shard.state();
            state.tables(Durability::Fsync).total_usage().bytes + state.tables(Durability::Memory).total_usage().bytes
        });
        let used = used.sum();
        self.peak_bytes.fetch_max(used, Ordering::Relaxed).max(used)
    }
}

/// What connects the driver's task with everybody else.
struct Inbox {
    inputs: Mutex<Vec<Input>>,
    /// Groups that the node has not had.
    fresh: Mutex<Vec<Fresh>>,
    notify: Notify,
    /// Whether the driver has been told already and not yet looked.
    told: AtomicBool,
}

impl Inbox {
    fn wake(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    fn add(&self, fresh: Fresh) {
        self.fresh.lock().push(fresh);
        self.wake();
    }

    fn put(&self, input: Input) {
        self.inputs.lock().push(input);
        self.wake();
    }
}

/// A group that the node has not had, ready to be driven.
pub(crate) type Fresh = (consensus::GroupConfig, shard::recover::Recovered);

/// A running node.
pub struct Node {
    /// How it was told to be.
    pub config: NodeConfig,
    /// Its part in the cluster.
    pub member: Arc<Member>,
    /// The Redis door.
    pub door: Arc<Door>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Meta first, then data shards.
    pub shards: Arc<Shards<Client>>,
    /// The registry, in the meta group.
    pub registry: Arc<Registry>,
    /// The front door, once it has been opened.
    pub front: OnceLock<Arc<Front>>,
    /// The Consul door, once it has been opened.
    pub consul: OnceLock<Arc<crate::consul::Figures>>,
    /// The Kafka door's figures, once it serves.
    pub kafka: OnceLock<Arc<crate::kafka::Figures>>,
    /// The etcd door's figures, once it serves.
    pub etcd: OnceLock<Arc<crate::etcd::Figures>>,
    /// The log.
    pub log: Arc<LogThread>,
    /// What topics hold, for readers.
    pub stored: Arc<Stored<Directory>>,
    /// Snapshots.
    pub snapshots: Arc<SnapshotThread>,
    /// See [`Figures`].
    pub figures: Arc<Figures>,
    /// The last commits.
    pub tape: Arc<Tape>,
    /// What the start found.
    pub found: Found,
    /// When it started.
    pub started: Instant,
    status: Arc<Mutex<Vec<Arc<GroupStatus>>>>,
    inbox: Arc<Inbox>,
    stop: watch::Sender<bool>,
    stopped: Arc<Notify>,
    /// Whether all doors are open and the file's services and routes applied.
    is_open: AtomicBool,
    _lock: std::fs::File,
}

/// One group as it stands here.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Which.
    pub group: base::GroupId,
    /// Role in words.
    pub role: String,
    /// Whether this node leads it.
    pub leads: bool,
    /// Who does, as far as known.
    pub leader: Option<NodeId>,
    /// Term.
    pub term: u64,
    /// Applied index.
    pub applied: u64,
    /// The log's last index.
    pub last: u64,
    /// Who belongs to it.
    pub membership: Membership,
    /// At the leader: how far each other member is known to be.
    pub followers: Vec<(NodeId, u64)>,
    /// Keys held here.
    pub keys: u64,
    /// What this node's word is worth in it: anything but `Whole` where its disk lost something, until the leader has let it in.
    pub trust: consensus::Trust,
}

impl GroupStatus {
    fn of((group, status, applied): shard::driver::GroupStatus) -> GroupStatus {
        GroupStatus {
            group,
            role: format!("{:?}", status.role).to_lowercase(),
            leads: status.role == Role::Leader,
            leader: status.leader,
            term: status.term,
            applied: applied.index,
            last: status.last,
            membership: status.membership,
            followers: status.followers,
            keys: 0,
            trust: status.trust,
        }
    }
}

/// The last commits, newest last, with a number that grows by one each.
#[derive(Default)]
pub struct Tape {
    commits: Mutex<Reel>,
}

#[derive(Default)]
struct Reel {
    total: u64,
    kept: std::collections::VecDeque<(u64, Applied)>,
    bytes: usize,
}

impl Tape {
    fn push(&self, mut applied: Applied) {
        if applied.data.len() > TAPE_BYTES_MAX {
            // A copy: a slice would keep the whole entry in memory.
            applied.data = Bytes::copy_from_slice(&applied.data[..TAPE_BYTES_MAX]);
        }
        let mut commits = self.commits.lock();
        commits.total += 1;
        commits.bytes += applied.data.len();
        let number = commits.total;
        commits.kept.push_back((number, applied));
        while commits.kept.len() > TAPE_LENGTH || commits.bytes > TAPE_TOTAL_BYTES {
            let Some((_, gone)) = commits.kept.pop_front() else { break };
            commits.bytes -= gone.data.len();
        }
    }

    /// Commits after this number, and how many there were in all.
    pub fn after(&self, number: u64) -> (u64, Vec<(u64, Applied)>) {
        let commits = self.commits.lock();
        (commits.total, commits.kept.iter().filter(|(own, _)| *own > number).cloned().collect())
    }
}

struct HostWorld {
    inbox: Arc<Inbox>,
    facts: Box<dyn Fn() -> Facts + Send + Sync>,
    peers: Peers,
    stored: Arc<Stored<Directory>>,
}

impl World for HostWorld {
    fn wake_driver(&self) {
        self.inbox.wake();
    }
    fn now(&self) -> Instant {
        clock::now()
    }
    fn wall_micros(&self) -> u64 {
        clock::wall_micros()
    }
    fn facts(&self) -> Facts {
        (self.facts)()
    }
    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        let links = self.peers.links();
        links.iter().find(|link| link.node == node.0)?.heard.map(|heard| heard.as_millis() as u64)
    }
    fn random(&self) -> u64 {
        clock::seed()
    }
    fn spawn(&self, task: Soon<()>) {
        tokio::spawn(task);
    }
    fn sleep(&self, how_long: base::Duration) -> Soon<()> {
        Box::pin(tokio::time::sleep(how_long))
    }
    fn read(&self, group: base::GroupId, pieces: Vec<Piece>) -> Soon<Result<Vec<u8>, ReadError>> {
        let stored = self.stored.clone();
        Box::pin(async move { crate::topics::read(&stored, group, &pieces).await })
    }
    fn forward(&self, to: NodeId, frame: Vec<u8>) -> bool {
        self.peers.send(to, Message::Forward(Bytes::from(frame)))
    }
}

impl Node {
    /// Opens the data directory and starts the log, the driver and the Redis door on these listeners.
    pub fn start(
        config: NodeConfig,
        listener: TcpListener,
        cluster: ClusterConfig,
        progress: start::Progress<'_>,
    ) -> Result<Arc<Node>, String> {
        let opened = start::open(&config, progress)?;
        let known = opened.shards[0].state().cluster().clone();
        if !known.is_empty() && known.id() != cluster.identity.cluster {
            return Err(format!(
                "{} holds data of the cluster {}, and its IDENTITY is of {}: restore the IDENTITY that belongs to it",
                config.data_dir.display(),
                known.id(),
                cluster.identity.cluster
            ));
        }
        let started = clock::now();
        let inbox = Arc::new(Inbox {
            inputs: Mutex::default(),
            fresh: Mutex::default(),
            notify: Notify::new(),
            told: AtomicBool::new(false),
        });
        let tell = || -> Tell {
            let inbox = inbox.clone();
            Arc::new(move |input| inbox.put(input))
        };
        let stored = Arc::new(Stored::new(opened.disk.clone(), opened.log.places().clone()));
        let log = Arc::new(LogThread::start(opened.log, tell()));
        let told = tell();
        let snapshots =
            Arc::new(SnapshotThread::start(opened.disk.clone(), stored.clone(), log.clone(), move |input| told(input)));
        let told = tell();
        let (disk, options) = (opened.disk.clone(), opened.options);
        let links = Arc::new(Links::new(Box::new(move |input| told(input)), disk.clone(), options.clone()));
        let ClusterConfig { listener: peer_listener, identity, place, replace_after, growth, settings } = cluster;
        let peers = Peers::start(peer_listener, identity.clone(), opened.disk, settings, links.clone())?;
        let figures = Arc::new(Figures::default());
        let address = listener.local_addr().map_err(|error| format!("the Redis door has no address: {error}"))?;
        let data: Vec<_> = opened.shards[1..].to_vec();
        let seen = Seen { figures: figures.clone(), snapshot_keys: opened.found.snapshot_keys, started };
        let shards = Arc::new(Shards::new(opened.shards.iter().cloned()));
        let facts = facts_source(&config, address, shards.clone(), log.clone(), snapshots.clone(), seen);
        let woken = inbox.clone();
        let registry = Arc::new(Registry::new(opened.shards[0].clone(), Box::new(move || woken.wake())));
        let world =
            HostWorld { inbox: inbox.clone(), facts: Box::new(facts), peers: peers.clone(), stored: stored.clone() };
        let door = Door::new(
            config.limits.clone(),
            data,
            config.password.clone(),
            Config::new(&config_facts(&config, address)),
            Box::new(world),
        );
        door.idle_ms.store(config.idle_timeout.as_millis() as u64, Ordering::Relaxed);
        let door = Arc::new(door);
        let (stop, stopping) = watch::channel(false);
        let stopped = Arc::new(Notify::new());
        let tape = Arc::new(Tape::default());
        let status: Arc<Mutex<Vec<Arc<GroupStatus>>>> = Arc::default();
        let told = tell();
        let parts = Parts {
            peers: peers.clone(),
            shards: shards.clone(),
            add: {
                let inbox = inbox.clone();
                Box::new(move |fresh| inbox.add(fresh))
            },
            disk: disk.clone(),
            options: options.clone(),
            put: Box::new(move |input| told(input)),
            status: status.clone(),
            own_report: Box::new(own_report(log.clone(), started)),
            log: log.clone(),
        };
        let member = Arc::new(Member::new(identity, place, (replace_after, growth), parts));
        door.found(config.data_shards);
        door.forward.join(member.own, opened.shards[0].clone());
        door.map_slots();
        door.watch_users();
        let told = tell();
        let reads = registry.join(door.clone(), Box::new(move |token| told(Input::Read(base::GroupId::META, token))));
        links.forward_to(Arc::new(Forwards::new(door.clone(), reads.clone())));
        links.serve(&member);
        tokio::spawn(member.clone().keep(stopping.clone()));
        tokio::spawn(crate::cluster::alive::watch(member.clone(), registry.clone(), stopping.clone()));
        let mut driver = opened.driver;
        driver.propose_settings(&config.keyspaces);
        let task = DriverTask {
            driver,
            shards: shards.clone(),
            door: door.clone(),
            log: log.clone(),
            snapshots: snapshots.clone(),
            peers,
            reads,
            inbox: inbox.clone(),
            tape: tape.clone(),
            status: status.clone(),
            stop: stopping.clone(),
            stopped: stopped.clone(),
            appending: false,
            gather: Gather::default(),
            held: false,
            shown: (Instant::default(), 0),
        };
        tokio::spawn(task.run());
        if let Some(tls) = &config.redis_tls {
            tokio::spawn(tls.clone().follow(stopping.clone()));
        }
        let tls = config.redis_tls.clone();
        tokio::spawn(net::accept(listener, tls, door.clone(), figures.clone(), stopping, Speaks::Plain));
        Ok(Arc::new(Node {
            config,
            member,
            door,
            address,
            shards,
            registry,
            front: OnceLock::new(),
            consul: OnceLock::new(),
            kafka: OnceLock::new(),
            etcd: OnceLock::new(),
            log,
            stored,
            snapshots,
            figures,
            tape,
            found: opened.found,
            started,
            status,
            inbox,
            stop,
            stopped,
            is_open: AtomicBool::new(false),
            _lock: opened.lock,
        }))
    }

    /// Why the node is not ready, `None` where it is.
    pub fn not_ready(&self) -> Option<String> {
        if *self.stop.borrow() {
            return Some("stopping".into());
        }
        // A shard that was made later may be anywhere between its birth and its first leader: it is not waited for.
        let founded = self.config.data_shards + 1;
        let held = self.shards.iter().take(founded).filter(|shard| self.member.holds(shard.group));
        let groups = held.into_iter().find_map(|shard| match shard.current_refusal() {
            None => None,
            Some(Refusal::Loading | Refusal::Elsewhere(None)) => Some(format!("{} has no leader yet", shard.group)),
            Some(Refusal::Elsewhere(Some(_)) | Refusal::Overloaded) => None,
            Some(Refusal::Full) => Some("the disk is full: writes are refused until there is room".into()),
            Some(Refusal::Stopped(why)) => Some(format!("the log has stopped: {why}")),
        });
        let opening = || (!self.is_open.load(Ordering::Acquire)).then(|| "the configuration is being applied".into());
        groups.or_else(opening)
    }

    /// Every door is open, and what the configuration declares is applied: from now on the node may be ready.
    pub fn opened(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// The groups, for people.
    /// The term of the meta group as this node knows it, and its last index.
    pub fn meta_term(&self) -> (u64, u64) {
        let status = self.status.lock();
        let meta = status.iter().find(|group| group.group == base::GroupId::META);
        meta.map_or((0, 0), |group| (group.term, group.last))
    }

    /// All groups as they stand here.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let mut groups: Vec<GroupStatus> = self.status.lock().iter().map(|group| (**group).clone()).collect();
        for group in &mut groups {
            if let Some(shard) = self.shards.iter().find(|shard| shard.group == group.group) {
                group.applied = shard.state().applied();
            }
        }
        groups
    }

    /// Asks for a snapshot of every data shard now.
    pub fn snapshot_now(&self) {
        for shard in self.shards.iter() {
            self.inbox.put(Input::SnapshotWanted(shard.group));
        }
    }

    /// Serves a client that came before the node could: `kept` is the start of a command that it has sent.
    pub fn adopt(&self, stream: TcpStream, kept: Vec<u8>) {
        let Ok(from) = stream.peer_addr() else { return };
        net::begin(stream, from, kept, &self.door, &self.figures, &self.stop.subscribe(), Speaks::Plain);
    }

    /// Serves clients of Redis Cluster, beside those of the plain door.
    pub fn open_cluster_door(&self, listener: TcpListener) {
        let (door, figures) = (self.door.clone(), self.figures.clone());
        let tls = self.config.redis_tls.clone();
        tokio::spawn(net::accept(listener, tls, door, figures, self.stop.subscribe(), Speaks::Cluster));
    }

    /// Whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Before a stop: whatever this node leads goes to others that can take it, while clients are still served.
    pub async fn hand_over(&self) {
        self.member.retire();
        let deadline = tokio::time::Instant::now() + HAND_OVER_PATIENCE.min(self.config.stop_timeout / 2);
        while self.member.could_hand_over() && tokio::time::Instant::now() < deadline {
            self.inbox.wake();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Others may not have heard yet who leads now. What they still ask is told so, and goes there; where the links just ended, its outcome would
    /// be unknown. Ends when nothing more comes.
    async fn see_guests_off(&self) {
        if self.member.is_alone() {
            return;
        }
        let deadline = tokio::time::Instant::now() + GUESTS_PATIENCE;
        let mut asked = u64::MAX;
        while tokio::time::Instant::now() < deadline {
            let now = self.door.forward.asked.load(Ordering::Relaxed);
            if std::mem::replace(&mut asked, now) == now {
                return;
            }
            tokio::time::sleep(GUESTS_QUIET).await;
        }
    }

    /// Stops: no new connections and commands, what is under way is answered, the log is sealed.
    pub async fn stop(&self) -> Result<(), String> {
        self.stop.send_replace(true);
        let deadline = tokio::time::Instant::now() + self.config.stop_timeout;
        // Clients that wait for nothing but their own slowness are not waited for longer than the limit.
        while !self.door.clients.lock().is_empty() && tokio::time::Instant::now() < deadline {
            for client in self.door.clients.lock().values().cloned().collect::<Vec<_>>() {
                if client.waiting.load(Ordering::SeqCst) != 0 {
                    client.doom();
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.inbox.wake();
        let is_in_time = tokio::time::timeout_at(deadline, self.stopped.notified()).await.is_ok();
        let cut_off = self.door.clients.lock().len();
        if !is_in_time || cut_off > 0 {
            self.door.limits.hit(Limit::stop_timeout);
            eprintln!("quorate: {cut_off} clients were not finished with when stop_timeout was over");
        }
        self.see_guests_off().await;
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || log.stop()).await.map_err(|error| error.to_string())?
    }
}

struct DriverTask {
    driver: Driver<Client>,
    shards: Arc<Shards<Client>>,
    door: Arc<Door>,
    log: Arc<LogThread>,
    snapshots: Arc<SnapshotThread>,
    peers: Peers,
    reads: Arc<doors::registry::Reads>,
    inbox: Arc<Inbox>,
    tape: Arc<Tape>,
    status: Arc<Mutex<Vec<Arc<GroupStatus>>>>,
    stop: watch::Receiver<bool>,
    stopped: Arc<Notify>,
    appending: bool,
    gather: Gather,
    /// Whether the driver has been told to propose nothing.
    held: bool,
    /// When the groups' status was last written down for people, and how many groups were led then.
    shown: (Instant, usize),
}

/// How long a stop waits for others to take over what this node leads.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a stop waits for other nodes' clients to go elsewhere, and how long none may have come.
const GUESTS_PATIENCE: Duration = Duration::from_millis(500);
/// See `GUESTS_PATIENCE`.
const GUESTS_QUIET: Duration = Duration::from_millis(50);
/// How old the groups' role and term may be where people look.
const STATUS_EVERY: Duration = Duration::from_millis(100);

impl DriverTask {
    async fn run(mut self) {
        loop {
            self.turn();
            if *self.stop.borrow() && !self.driver.is_busy() {
                self.stopped.notify_one();
            }
            let deadline = self.driver.deadline().into_iter().chain(self.gather.deadline()).min();
            let told = self.inbox.notify.notified();
            match deadline {
                None => told.await,
                Some(at) => {
                    let span = at.since(clock::now());
                    tokio::select! {
                        biased;
                        () = told => {}
                        () = tokio::time::sleep(span) => {}
                    }
                }
            }
            // Connections that are ready now get their requests into this batch: fewer, larger flushes.
            tokio::task::yield_now().await;
        }
    }

    /// Steps the driver until it has nothing to do.
    fn turn(&mut self) {
        self.inbox.told.store(false, Ordering::Release);
        let fresh = std::mem::take(&mut *self.inbox.fresh.lock());
        for (config, recovered) in fresh {
            self.add(config, recovered);
        }
        let mut next = Some(std::mem::take(&mut *self.inbox.inputs.lock()));
        let door = self.door.clone();
        let mut outbox = Outbox::new(&door);
        let mut out = Vec::new();
        while let Some(inputs) = next.take() {
            let appended = inputs.iter().any(|input| matches!(input, Input::Appended));
            if appended && std::mem::take(&mut self.appending) {
                // By the log's thread: several clients write.
                let (flying, flush) = (self.driver.is_flying(), self.flush());
                let gate = self.driver.gate();
                let waits = !gate.is_heavy() && self.gather.appended(flying, gate.queued(), clock::now(), flush);
                self.hold(waits);
            }
            self.driver.step_all(clock::now(), clock::wall(), inputs, &mut outbox, &mut out);
            for output in out.drain(..) {
                if let Some(input) = self.obey(output) {
                    next.get_or_insert_default().push(input);
                }
            }
            if self.gather.is_sent() && !self.driver.is_flying() {
                self.gather.landed(self.driver.gate().queued(), clock::now(), self.flush());
            }
            if self.held {
                let gate = self.driver.gate();
                if gate.is_heavy() {
                    self.gather.end();
                }
                let waits = !self.gather.is_over(gate.queued(), clock::now());
                self.hold(waits);
                if !waits {
                    next.get_or_insert_default();
                }
            }
        }
        outbox.flush();
        let leading = self.driver.leading();
        if leading == self.shown.1 && clock::now().since(self.shown.0) < STATUS_EVERY {
            return;
        }
        self.shown = (clock::now(), leading);
        let changed = self.driver.changed_status();
        let mut shown = self.status.lock();
        for (at, status) in changed {
            let status = Arc::new(GroupStatus::of(status));
            match shown.get_mut(at) {
                Some(place) => *place = status,
                // New groups are looked at for the first time in the order in which they were added.
                None => shown.push(status),
            }
        }
    }

    /// How long a flush takes.
    fn flush(&self) -> Duration {
        Duration::from_micros(self.log.figures().average_micros.load(Ordering::Relaxed))
    }

    /// Nothing is proposed for now, or again.
    fn hold(&mut self, waits: bool) {
        let wanted = self.gather.wanted().unwrap_or(usize::MAX);
        self.driver.gate().wake_at(if waits { wanted } else { 0 });
        if waits != self.held {
            self.held = waits;
            self.driver.hold(waits);
            self.log.watch(waits.then(|| self.gather.span(self.flush())));
        }
    }

    /// A group that this node has not had: from now on it is driven, and the doors lead there.
    fn add(&mut self, config: consensus::GroupConfig, recovered: shard::recover::Recovered) {
        let group = config.group;
        if self.shards.of(group).is_some() {
            return;
        }
        match self.driver.add(config, recovered) {
            Ok(shard) => {
                self.door.tell_notifications(&shard);
                if !self.door.shards.push(shard.clone()) || !self.shards.push(shard) {
                    eprintln!("quorate: there is no place for {group}");
                }
            }
            Err(why) => eprintln!("quorate: {why}"),
        }
    }

    fn obey(&mut self, output: Output) -> Option<Input> {
        if matches!(output, Output::Append(_)) && self.driver.is_flying() {
            self.gather.sent(clock::now());
        }
        match output {
            Output::Append(append) => match self.log.append_here(append) {
                Ok(input) => return Some(input),
                Err(append) => {
                    self.appending = true;
                    self.log.append(append);
                }
            },
            Output::Send(_, envelope) => {
                // What is not taken is lost, as anything sent may be: the links tell of it.
                let _ = self.peers.send(envelope.to(), Message::Raft(envelope));
            }
            Output::FenceLifted(group, name) => self.snapshots.ask(Job::Lift(group, name)),
            Output::ReadReady(token) => self.reads.told(token, true),
            Output::ReadDropped(token) => self.reads.told(token, false),
            Output::SendSnapshot { group, to, index, announcement } => {
                self.peers.send_snapshot(group, to, index, announcement);
            }
            Output::SnapshotInstalled(group, position, old) => {
                self.snapshots.ask(Job::Adopt(group, position.index, old));
                self.snapshots.ask(Job::Sweep(group, position.index));
            }
            Output::SnapshotUnwanted(group, index) => self.snapshots.ask(Job::Discard(group, index)),
            Output::SnapshotBegin { group, position, membership, chunk } => {
                self.snapshots.ask(Job::Begin(group, position, membership, chunk));
            }
            Output::SnapshotChunk(group, chunk) => self.snapshots.ask(Job::Chunk(group, chunk)),
            Output::CopyOut(copying) => self.snapshots.ask(Job::Copy(copying)),
            Output::KeepExtents(group, files) => self.snapshots.ask(Job::KeepExtents(group, files)),
            Output::SnapshotEnd(group) => self.snapshots.ask(Job::End(group)),
            Output::SnapshotAbort(group) => self.snapshots.ask(Job::Abort(group)),
            Output::CompactLog(group, position) => {
                self.log.compact(group, position);
                self.snapshots.ask(Job::Sweep(group, position.index));
            }
            Output::Applied(applied) => self.tape.push(applied),
            Output::Fatal(why) => {
                eprintln!("quorate: {why}; the node stops so that nothing wrong is served");
                std::process::exit(70);
            }
        }
        None
    }
}

/// What a node says of itself beside its groups.
fn own_report(log: Arc<LogThread>, started: Instant) -> impl Fn() -> Condition {
    move || {
        let status = log.status();
        Condition {
            version: env!("CARGO_PKG_VERSION").into(),
            not_ready: status.stopped.map_or(String::new(), |why| format!("the log has stopped: {why}")),
            uptime: clock::now().since(started).as_secs(),
            memory: resident_bytes(),
            log_bytes: status.disk_bytes,
            ..Condition::default()
        }
    }
}

fn config_facts(config: &NodeConfig, address: SocketAddr) -> ConfigFacts {
    let space = config.keyspaces.get(0);
    ConfigFacts {
        port: address.port(),
        bind: address.ip().to_string(),
        dir: config.data_dir.display().to_string(),
        maxclients: config.limits.connections_max as u64,
        timeout_seconds: config.idle_timeout.as_secs(),
        maxmemory: space.max_bytes,
        maxmemory_policy: policy(config),
        databases: store::table::DATABASES as u32,
        bulk_bytes_max: config.limits.bulk_bytes_max,
        command_bytes_max: config.limits.command_bytes_max,
        has_password: config.password.is_some(),
    }
}

fn policy(config: &NodeConfig) -> String {
    match config.keyspaces.get(0).eviction {
        store::keyspace::Eviction::Refuse => "noeviction".into(),
        store::keyspace::Eviction::Lru => "allkeys-lru".into(),
    }
}

/// Resident memory of this process, bytes.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|text| text.split(' ').nth(1)).and_then(|text| text.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// User and system time of this process, seconds.
pub fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything but ends with the last parenthesis: user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0) as f64;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (next() / ticks, next() / ticks)
}

/// Memory of the machine, bytes.
fn system_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// What a node knows of its own start and figures.
struct Seen {
    figures: Arc<Figures>,
    snapshot_keys: u64,
    started: Instant,
}

fn facts_source(
    config: &NodeConfig,
    address: SocketAddr,
    shards: Arc<Shards<Client>>,
    log: Arc<LogThread>,
    snapshots: Arc<SnapshotThread>,
    seen: Seen,
) -> impl Fn() -> Facts + Send + Sync + 'static {
    let run_id = format!("{:016x}{:016x}{:08x}", clock::seed(), clock::seed(), clock::seed() as u32);
    let uname = rustix::system::uname();
    let os = format!(
        "{} {} {}",
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy()
    );
    let (config_file, max_memory, policy) =
        (config.config_file.clone(), config.keyspaces.get(0).max_bytes, policy(config));
    let logs = config.keyspaces.classes().1;
    let hits = config.limits.hits.clone();
    let system = system_bytes();
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    move || {
        let mut facts = Facts {
            quorate_version: env!("CARGO_PKG_VERSION").into(),
            os: os.clone(),
            process_id: std::process::id(),
            run_id: run_id.clone(),
            tcp_port: address.port(),
            server_time_usec: clock::wall_micros(),
            uptime_seconds: clock::now().since(seen.started).as_secs(),
            executable: executable.clone(),
            config_file: config_file.clone(),
            ..Facts::default()
        };
        let mut used = 0;
        for db in 0..store::table::DATABASES as u8 {
            let mut keyspace = KeyspaceFacts { db, ..KeyspaceFacts::default() };
            for shard in shards.iter().skip(1) {
                let state = shard.state();
                for class in [Durability::Fsync, Durability::Memory] {
                    keyspace.keys += state.tables(class).len(db) as u64;
                    keyspace.expires += state.tables(class).volatile_len(db) as u64;
                    if db == 0 {
                        used += state.tables(class).total_usage().bytes;
                    }
                }
                facts.log_position = facts.log_position.max(state.applied());
            }
            if keyspace.keys > 0 {
                facts.keyspaces.push(keyspace);
            }
        }
        let status = log.status();
        facts.memory.used = used;
        facts.memory.rss = resident_bytes();
        facts.memory.peak = seen.figures.note_peak(shards.iter().skip(1));
        facts.memory.system = system;
        facts.memory.max = max_memory;
        facts.memory.policy = policy.clone();
        facts.loading = shards.iter().skip(1).any(|shard| shard.current_refusal() == Some(Refusal::Loading));
        facts.log_ok = status.stopped.is_none();
        facts.log_bytes = status.disk_bytes;
        facts.logs = logs;
        (facts.cpu.user_seconds, facts.cpu.system_seconds) = cpu_seconds();
        for shard in shards.iter().skip(1) {
            let state = shard.state();
            let ((expired, evicted), (scripts, bytes)) = (state.gone(), state.scripts_kept());
            facts.stats.expired_keys += expired;
            facts.changes += state.key_changes();
            facts.stats.evicted_keys += evicted;
            facts.memory.scripts += scripts;
            facts.memory.script_bytes += bytes;
            // Every shard has all of them.
            (facts.memory.libraries, facts.memory.functions, facts.memory.function_bytes) = state.functions_kept();
        }
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        facts.stats.ops_per_second = load(&seen.figures.commands_per_second);
        facts.stats.input_kbps = load(&seen.figures.bytes_in_per_second) as f64 / 1024.0;
        facts.stats.output_kbps = load(&seen.figures.bytes_out_per_second) as f64 / 1024.0;
        facts.stats.output_limit_disconnections = hits.of(Limit::output_bytes_max);
        facts.snapshot_keys_loaded = seen.snapshot_keys;
        facts.snapshot_ok = load(&snapshots.figures.failed_last) == 0;
        facts.snapshot_seconds = load(&snapshots.figures.millis) / 1000;
        facts.snapshots = snapshots.figures.finished.load(Ordering::Relaxed);
        facts.snapshot_in_progress = snapshots.figures.running.load(Ordering::Relaxed) != 0;
        facts.snapshot_last_time = snapshots.figures.finished_at.load(Ordering::Relaxed) / 1000;
        facts
    }
}

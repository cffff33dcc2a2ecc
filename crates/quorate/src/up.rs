//! `quorate up`: binds the doors, starts the node, says what runs where, waits for a signal, stops in order.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::NodeId;
use host::gateway::{Front, GatewayConfig};
use host::node::{Node, NodeConfig};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::UpArgs;
use crate::config::{self, Settings, cluster};
use crate::identity;
use crate::loading;

/// How many ports after a default one are tried.
const PORTS_TRIED: u16 = 20;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Runs a node until it is told to stop.
pub fn run(args: &UpArgs) -> Result<ExitCode, String> {
    let settings = config::load(args)?;
    if args.exit_with_parent {
        die_with_parent()?;
    }
    raise_file_limit(&settings);
    let runtime = runtime(settings.worker_threads())?;
    let gateway = match settings.cluster.roles().gateway {
        true => Some(GatewayThreads::start(settings.gateway_threads())?),
        false => None,
    };
    let done = runtime.block_on(serve(&settings, args.print_ready, gateway.as_ref().map(|threads| &threads.handle)));
    runtime.shutdown_background();
    done
}

fn runtime(threads: usize) -> Result<Runtime, String> {
    match threads {
        // One thread needs none of what makes several of them share tasks.
        1 => tokio::runtime::Builder::new_current_thread(),
        count => {
            let mut several = tokio::runtime::Builder::new_multi_thread();
            several.worker_threads(count);
            several
        }
    }
    // Who waits longest first. By default a thread looks at the queue that all share only every 61 tasks; with more than 256 tasks ready, which is
    // what its own queue holds, those that were pushed out of it stand for seconds while others are run at once.
    .global_queue_interval(1)
    .enable_all()
    .build()
    .map_err(|error| format!("threads could not be started: {error}"))
}

/// The gateway's own threads. On those of the node a flood of requests would stand in front of heartbeats; here the system shares the cores out,
/// and a thread that mostly sleeps gets its turn at once.
struct GatewayThreads {
    handle: Handle,
    /// Ends them with its value.
    _end: oneshot::Sender<()>,
}

impl GatewayThreads {
    fn start(threads: usize) -> Result<GatewayThreads, String> {
        let runtime = runtime(threads)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        let started = std::thread::Builder::new().name("gateway".into()).spawn(run);
        started.map_err(|error| format!("the gateway's threads could not be started: {error}"))?;
        Ok(GatewayThreads { handle, _end: end })
    }
}

/// A demonstration that is killed leaves no node behind.
fn die_with_parent() -> Result<(), String> {
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).map_err(|error| format!("--exit-with-parent: {error}"))
}

/// A door's listener, and whether it had to move from its default port.
struct Bound<L = TcpListener> {
    listener: L,
    address: SocketAddr,
    moved_from: Option<u16>,
}

async fn serve(settings: &Settings, print_ready: bool, gateway_threads: Option<&Handle>) -> Result<ExitCode, String> {
    let mut signals = Signals::new()?;
    let peer = bind(settings, "peer", "cluster.bind", "--peer-port", settings.cluster.bind)?;
    let redis = bind(settings, "Redis", "redis.bind", "--redis-port", settings.redis_bind)?;
    let cluster_door = settings
        .redis_cluster_bind
        .map(|address| bind(settings, "Redis cluster", "redis.cluster_bind", "--set redis.cluster_bind=…", address));
    let cluster_door = cluster_door.transpose()?;
    let admin = bind(settings, "admin", "admin.bind", "--admin-port", settings.admin_bind)?;
    let consul = bind(settings, "Consul", "consul.bind", "--consul-port", settings.consul_bind)?;
    let door = match settings.cluster.roles().gateway {
        true => Some(bind(settings, "gateway", "gateway.bind", "--gateway-port", settings.gateway_bind)?),
        false => None,
    };
    let gateway = door.as_ref().map(|door| (door.address, door.moved_from));
    let gateway_address = gateway.map_or(settings.gateway_bind, |(address, _)| address);
    let (consul_address, consul_moved) = (consul.address, consul.moved_from);
    let dns = bind_by(settings, "DNS", "dns.bind", "--dns-port", settings.dns_bind, listen_dns)?;
    let (dns_address, dns_moved) = (dns.address, dns.moved_from);
    let kafka = bind(settings, "Kafka", "kafka.bind", "--kafka-port", settings.kafka_bind)?;
    let (kafka_address, kafka_moved) = (kafka.address, kafka.moved_from);
    let etcd = bind(settings, "etcd", "etcd.bind", "--etcd-port", settings.etcd_bind)?;
    let (etcd_address, etcd_moved) = (etcd.address, etcd.moved_from);
    let dns_door = settings.dns_door(dns_address)?;
    let (redis_address, redis_moved) = (redis.address, redis.moved_from);
    let (admin_address, admin_moved) = (admin.address, admin.moved_from);

    let bound = cluster::Bound {
        peer: peer.address,
        redis: redis_address,
        redis_cluster: cluster_door.as_ref().map(|door| door.address),
        admin: admin_address,
        kafka: kafka_address,
        etcd: etcd_address,
    };
    let who = tokio::select! {
        who = identity::of(settings, bound) => who?,
        name = signals.next() => {
            eprintln!("quorate: {name} before the start: nothing was served, so nothing is lost");
            std::process::exit(0);
        }
    };
    if !who.told.is_empty() {
        eprintln!("quorate: {}", who.told);
    }
    let (own, identity) = (who.identity.node, who.identity.clone());
    let config = NodeConfig { data_shards: who.data_shards, ..settings.node_config(own)? };
    let cluster = settings.cluster_config(peer.listener, who.identity, bound);
    let began = Instant::now();
    let stage = loading::Stage::default();
    let (start_over, starting) = watch::channel(false);
    let (redis, redis_twin) = twins(redis.listener)?;
    let (admin, admin_twin) = twins(admin.listener)?;
    let limits = config.limits.clone();
    // Who comes early to a door with TLS waits in the system's queue: what is said while loading is said in the clear.
    let (early, handed) = mpsc::channel(loading::CONNECTIONS_MAX);
    if config.redis_tls.is_none() {
        tokio::spawn(loading::redis(redis_twin, limits.clone(), starting.clone(), early));
    }
    let (early, admin_handed) = mpsc::channel(loading::CONNECTIONS_MAX);
    if config.admin_tls.is_none() {
        tokio::spawn(loading::admin(admin_twin, limits, stage.clone(), starting, early));
    }
    let start = tokio::task::spawn_blocking(move || {
        let mut shown = ProgressLine::default();
        let node = Node::start(config, redis, cluster, &mut |text| {
            text.clone_into(&mut stage.lock());
            shown.tell(text);
        });
        shown.end();
        node
    });
    let node: Arc<Node> = tokio::select! {
        node = start => node.map_err(|error| format!("the start failed: {error}"))??,
        name = signals.next() => {
            eprintln!("quorate: {name} during the start: nothing was served, so nothing is lost");
            std::process::exit(0);
        }
    };
    start_over.send_replace(true);
    identity.note_start(&settings.data_dir)?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(adopt(node.clone(), handed));
    let answering = tokio::spawn(host::admin::serve(admin, admin_handed, node.clone(), stopping));
    tokio::select! {
        () = wait_for_leaders(&node) => {}
        name = signals.next() => {
            eprintln!("quorate: {name} while waiting for the other nodes");
            return stop_node(&node, &stop).await;
        }
        () = node.member.until_removed() => {
            say_removed(settings, own);
            return stop_node(&node, &stop).await;
        }
    }
    // Before anybody is served: who reads "ready" finds the file's services.
    let consul = host::consul::open(consul.listener, node.clone(), settings.consul_config(own)?).await?;
    let (front_stop, front_stopping) = watch::channel(false);
    let front = match door.zip(gateway_threads) {
        None => None,
        Some((door, threads)) => {
            let config = GatewayConfig { limits: node.door.limits.clone(), ..settings.gateway_config() };
            let front = Front::new(node.registry.clone(), gateway_address, config)?;
            declare(&front, &settings.consul_config(own)?.node_name, settings).await?;
            let _ = node.front.set(front.clone());
            let listener = door.listener.into_std();
            let opening = threads.spawn(async move {
                let listener = TcpListener::from_std(listener?)?;
                let listeners = front.open(listener);
                Ok::<_, io::Error>((front, listeners))
            });
            let opened = opening.await.map_err(|error| format!("the gateway cannot be opened: {error}"))?;
            let (front, listeners) = opened.map_err(|error| format!("the gateway cannot be opened: {error}"))?;
            Some(threads.spawn(front.run(listeners, front_stopping)))
        }
    };
    let consul = tokio::spawn(consul.serve(stop.subscribe()));
    let workers = settings.worker_threads();
    tokio::spawn(host::dns::serve(dns.listener, dns_door, node.clone(), workers, stop.subscribe()));
    tokio::spawn(host::kafka::serve(
        kafka.listener,
        node.clone(),
        settings.kafka_config(&settings.cluster.place(bound, &settings.kafka_advertise))?,
        stop.subscribe(),
    ));
    tokio::spawn(host::etcd::serve(
        etcd.listener,
        node.clone(),
        settings.etcd_config(&settings.cluster.place(bound, &settings.kafka_advertise))?,
        stop.subscribe(),
    ));
    let cluster_address = cluster_door.as_ref().map(|door| door.address);
    if let Some(door) = cluster_door {
        node.open_cluster_door(door.listener);
    }
    node.opened();
    say_found(&node, began.elapsed());
    let doors = [
        (redis_address, redis_moved),
        (admin_address, admin_moved),
        (gateway_address, gateway.and_then(|(_, moved)| moved)),
        (consul_address, consul_moved),
        (dns_address, dns_moved),
        (kafka_address, kafka_moved),
        (etcd_address, etcd_moved),
    ];
    table(settings, doors);
    if let Some(address) = cluster_address {
        println!("For clients of Redis Cluster:  redis-cli -c -p {}", address.port());
    }
    say_cluster(&node, bound.peer);
    if print_ready {
        println!(
            "ready redis={redis_address} admin={admin_address} gateway={gateway_address} consul={consul_address} dns={dns_address} kafka={kafka_address} etcd={etcd_address} peer={}",
            bound.peer
        );
    }
    let _ = io::stdout().flush();

    tokio::select! {
        name = signals.next() => eprintln!("quorate: {name}: finishing what is under way (again ends it at once)"),
        () = node.member.until_removed() => say_removed(settings, own),
    }
    let stopped = async {
        // Requests of the gateway end first: what they write must still reach the log.
        node.hand_over().await;
        front_stop.send_replace(true);
        if let Some(front) = front {
            let _ = front.await;
        }
        node.stop().await?;
        stop.send_replace(true);
        let _ = tokio::time::timeout(ADMIN_PATIENCE, answering).await;
        let _ = tokio::time::timeout(ADMIN_PATIENCE, consul).await;
        Ok::<(), String>(())
    };
    tokio::select! {
        stopped = stopped => stopped?,
        _ = signals.next() => std::process::exit(ENDED_AT_ONCE),
    }
    eprintln!("quorate: stopped; everything acknowledged is on disk");
    Ok(ExitCode::SUCCESS)
}

/// Whoever was told `-LOADING` goes on with the node, on the same connection.
async fn adopt(node: Arc<Node>, mut handed: mpsc::Receiver<loading::Early>) {
    while let Some((stream, begun)) = handed.recv().await {
        node.adopt(stream, begun);
    }
}

/// Exit code after a second signal, as if the first one had killed: 128 and SIGINT's number.
const ENDED_AT_ONCE: i32 = 130;
/// How long the admin door may take to close.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long the file's routes may take to become part of the cluster.
const DECLARE_PATIENCE: Duration = Duration::from_secs(20);
/// How long the groups of a lone node may take to elect it; each elects itself, so this is the disk's time.
const ELECTION_PATIENCE: Duration = Duration::from_secs(5);

/// Who reads "ready" may write at once: the groups of a lone node elect it. A node of a cluster waits until a majority is there,
/// however long that takes, and says what it waits for.
async fn wait_for_leaders(node: &Node) {
    let mut shown = ProgressLine::default();
    let began = Instant::now();
    while let Some(what) = node.member.waits_for() {
        if node.is_stopping() {
            break;
        }
        if node.member.is_alone() && began.elapsed() > ELECTION_PATIENCE {
            // Its log has stopped, or is full: it serves what it can.
            break;
        }
        shown.tell(&what);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shown.end();
}

/// What the file says of routes is part of the cluster before anybody is served. The leader may just be moving.
async fn declare(front: &Arc<Front>, node: &str, settings: &Settings) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match front.declare(node, &settings.documents).await {
            Err(_) if began.elapsed() < DECLARE_PATIENCE => tokio::time::sleep(Duration::from_millis(100)).await,
            done => return done,
        }
    }
}

fn say_removed(settings: &Settings, own: NodeId) {
    eprintln!(
        "quorate: node {} was removed from the cluster and stops. Its replicas are elsewhere; {} can be deleted",
        own.0,
        settings.data_dir.display()
    );
}

/// A stop before the doors were open.
async fn stop_node(node: &Node, stop: &watch::Sender<bool>) -> Result<ExitCode, String> {
    node.stop().await?;
    stop.send_replace(true);
    eprintln!("quorate: stopped; everything acknowledged is on disk");
    Ok(ExitCode::SUCCESS)
}

/// Two handles of one listener: whoever asks first gets the next connection.
fn twins(listener: TcpListener) -> Result<(TcpListener, TcpListener), String> {
    let twin = || {
        let first = listener.into_std()?;
        let second = first.try_clone()?;
        Ok((TcpListener::from_std(first)?, TcpListener::from_std(second)?))
    };
    twin().map_err(|error: io::Error| format!("a door cannot be opened: {error}"))
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be received: {error}"));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Binds a door. A default port that is taken gives way to the next free one; one that was asked for does not.
fn bind(settings: &Settings, door: &str, key: &'static str, flag: &str, wanted: SocketAddr) -> Result<Bound, String> {
    bind_by(settings, door, key, flag, wanted, |address| {
        let listener = listen(address)?;
        Ok((listener.local_addr()?, listener))
    })
}

/// The same by `listen`, which also says where it listens.
fn bind_by<L>(
    settings: &Settings,
    door: &str,
    key: &'static str,
    flag: &str,
    wanted: SocketAddr,
    listen: impl Fn(SocketAddr) -> io::Result<(SocketAddr, L)>,
) -> Result<Bound<L>, String> {
    let is_given = settings.given.contains(key);
    let mut address = wanted;
    let mut failure = None;
    for _ in 0..=if is_given { 0 } else { PORTS_TRIED } {
        match listen(address) {
            Ok((bound, listener)) => {
                let moved_from = (address != wanted).then_some(wanted.port());
                return Ok(Bound { listener, address: bound, moved_from });
            }
            Err(error) => {
                let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                failure.get_or_insert(error);
                if !is_taken {
                    break;
                }
            }
        }
        address.set_port(address.port().saturating_add(1));
    }
    let error = failure.expect("at least one port was tried");
    Err(match error.kind() {
        io::ErrorKind::AddrInUse if is_given => format!(
            "the {door} door cannot listen on {wanted}: another program has that port. Stop that one, or set {key} ({flag}) to another port"
        ),
        io::ErrorKind::AddrInUse => format!(
            "the {door} door cannot listen on {wanted}, and the {PORTS_TRIED} ports after it are taken too; set {key} ({flag}) to a free one"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "the {door} door may not listen on {wanted}: ports below 1024 need a right of their own; set {key} ({flag}) to another port"
            )
        }
        _ => format!(
            "the {door} door cannot listen on {wanted}: {error}; set {key} ({flag}) to an address of this machine"
        ),
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart may take the port over while old connections still time out; a listening program is never displaced.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Both sockets of the DNS door on one port.
fn listen_dns(address: SocketAddr) -> io::Result<(SocketAddr, host::dns::Sockets)> {
    let mut tries = if address.port() == 0 { FREE_PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        let tcp = listen(address)?;
        let bound = tcp.local_addr()?;
        match std::net::UdpSocket::bind(bound) {
            Ok(udp) => {
                udp.set_nonblocking(true)?;
                return Ok((bound, host::dns::Sockets { udp: UdpSocket::from_std(udp)?, tcp }));
            }
            // A port that is free for the one may be taken for the other.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Free ports that are tried until one is free for UDP too.
const FREE_PORTS_TRIED: usize = 20;

/// Every connection takes a descriptor, and the usual soft limit is 1,024.
fn raise_file_limit(settings: &Settings) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let connections = settings.limits.connections_max as u64;
    if let Some(most) = getrlimit(Resource::Nofile).current
        && most < connections + FILES_OF_OUR_OWN
    {
        eprintln!(
            "quorate: the system allows {most} open files, fewer than limits.connections_max = {connections} needs; raise it (ulimit -n) or lower that"
        );
    }
}

/// Descriptors that are not connections of the Redis door: log, snapshots, admin door, runtime.
const FILES_OF_OUR_OWN: u64 = 64;

/// One line that is written again and again on a terminal; elsewhere a line a second.
#[derive(Default)]
struct ProgressLine {
    last: Option<Instant>,
    is_open: bool,
}

impl ProgressLine {
    fn tell(&mut self, text: &str) {
        let is_terminal = io::stderr().is_terminal();
        let gap = Duration::from_millis(if is_terminal { 100 } else { 1000 });
        let now = Instant::now();
        // A start that is over at once says nothing.
        let since = now.duration_since(*self.last.get_or_insert(now));
        if since < gap {
            return;
        }
        self.last = Some(now);
        if is_terminal {
            eprint!("\r\x1b[Kquorate: starting: {text}");
            self.is_open = true;
        } else {
            eprintln!("quorate: starting: {text}");
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            eprint!("\r\x1b[K");
        }
    }
}

fn say_found(node: &Node, took: Duration) {
    let found = &node.found;
    for damaged in &found.damaged_snapshots {
        eprintln!("quorate: passed over a damaged snapshot, the log holds what it held: {damaged}");
    }
    if let Some(cut) = &found.cut {
        eprintln!("quorate: {cut}");
    }
    for damage in &found.repaired {
        eprintln!("quorate: damaged: {damage}");
    }
    if !found.fenced.is_empty() {
        let groups: Vec<String> = found.fenced.iter().map(ToString::to_string).collect();
        eprintln!(
            "quorate: neither votes nor vouches in {} until its leader has given back what is missing here",
            groups.join(", ")
        );
    }
    if !found.fresh {
        let how = if found.sealed { "a clean stop" } else { "a crash or power cut" };
        eprintln!(
            "quorate: restored after {how} in {:.1} s: {} entries ({} KiB) of log, {} keys of snapshots",
            took.as_secs_f64(),
            found.entries,
            found.log_bytes >> 10,
            found.snapshot_keys
        );
    }
}

/// How to make it more than one node, where that is news.
fn say_cluster(node: &Node, peer: SocketAddr) {
    let member = &node.member;
    println!();
    match (member.token.get(), member.cluster().nodes().len()) {
        (Some(token), _) => {
            println!("On two more machines (a majority must be able to fail) this makes it a cluster:");
            println!("  quorate up --join {} --token {token}", member.address());
            if peer.ip().is_loopback() {
                println!("  (this one listens on loopback only: cluster.bind, --peer-bind, lets other machines in)");
            }
        }
        (None, 0 | 1) => println!("More nodes:  quorate cluster token"),
        (None, nodes) => println!("Node {} of {nodes}; how they are:  quorate cluster status", member.own.0),
    }
}

/// Where a door is, and the default port that it could not have.
type Told = (SocketAddr, Option<u16>);

fn table(settings: &Settings, [redis, admin, gateway, consul, dns, kafka, etcd]: [Told; 7]) {
    let note = |moved: Option<u16>| moved.map_or(String::new(), |port| format!("  (port {port} is taken)"));
    let reach = |address: SocketAddr| {
        let mut address = address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        address
    };
    let port = redis.0.port();
    let option = if port == 6379 { String::new() } else { format!(" -p {port}") };
    println!("quorate {} is up", env!("CARGO_PKG_VERSION"));
    println!();
    println!("  door    address                reach it with");
    println!("  redis   {:<21}  redis-cli -p {port}{}", redis.0.to_string(), note(redis.1));
    println!("  admin   {:<21}  http://{}{}", admin.0.to_string(), reach(admin.0), note(admin.1));
    match settings.cluster.roles().gateway {
        true => println!("  gateway {:<21}  http://{}{}", gateway.0.to_string(), reach(gateway.0), note(gateway.1)),
        false => println!("  gateway -                      (cluster.roles leaves it to other nodes)"),
    }
    println!("  consul  {:<21}  curl {}/v1/catalog/services{}", consul.0.to_string(), reach(consul.0), note(consul.1));
    let (dns_host, dns_port) = (reach(dns.0).ip(), dns.0.port());
    let dns_way = format!("dig @{dns_host} -p {dns_port} NAME.service.{}", settings.dns_domain);
    println!("  dns     {:<21}  {dns_way}{}", dns.0.to_string(), note(dns.1));
    let kafka_way = format!("kcat -b {} -L", reach(kafka.0));
    println!("  kafka   {:<21}  {kafka_way}{}", kafka.0.to_string(), note(kafka.1));
    let etcd_way = format!("etcdctl --endpoints {} get --prefix ''", reach(etcd.0));
    println!("  etcd    {:<21}  {etcd_way}{}", etcd.0.to_string(), note(etcd.1));
    println!();
    println!("  data    {}", settings.data_dir.display());
    println!();
    println!("Try next:  quorate cli{option} set hello world");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of 127.0.0.0/8 is this machine: an address that no other test uses.
    const NOBODY_S: [u8; 4] = [127, 77, 20, 1];

    #[tokio::test]
    async fn a_default_door_gives_up_when_the_twenty_ports_after_it_are_taken() {
        let settings = Settings::default();
        let first = SocketAddr::from((NOBODY_S, 26_379));
        let mut taken = Vec::new();
        for offset in 0..=PORTS_TRIED {
            let address = SocketAddr::from((NOBODY_S, first.port() + offset));
            if offset == PORTS_TRIED {
                // One is left: it is found, and where the door was meant to be is remembered.
                let bound = bind(&settings, "Redis", "redis.bind", "--redis-port", first).expect("the last is free");
                assert_eq!((bound.address, bound.moved_from), (address, Some(first.port())));
            }
            taken.push(std::net::TcpListener::bind(address).expect("nobody else is there"));
        }
        let refusal = bind(&settings, "Redis", "redis.bind", "--redis-port", first).err().expect("all are taken");
        let wanted = "the Redis door cannot listen on 127.77.20.1:26379, and the 20 ports after it are taken too; set \
                      redis.bind (--redis-port) to a free one";
        assert_eq!(refusal, wanted);
    }
}

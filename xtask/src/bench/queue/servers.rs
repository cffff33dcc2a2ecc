//! The systems: ours, and Debian's RabbitMQ, Redis and NATS with what their documents advise for durable use. All on loopback, on free ports,
//! with their files in a directory of the run, ended with it.

use super::amqp::Amqp;
use super::kafka::Kafka;
use super::load::Speech;
use super::nats::Nats;
use super::streams::Streams;
use crate::bench::measure;
use crate::ground::{Ground, Process};
use crate::nodes::{Nodes, Plan as NodesPlan};
use crate::server::free_port;
use crate::shell::{family, there};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a start may take. Erlang's takes ten seconds on an idle machine.
const START: Duration = Duration::from_secs(120);
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A system under load.
pub struct System {
    /// What it is called in tables.
    pub name: String,
    /// How it is spoken to.
    pub speech: Box<dyn Speech>,
    running: Running,
}

enum Running {
    Peers(Vec<Process>),
    Ours(Box<Nodes>),
}

impl System {
    /// CPU seconds of all its processes since their start.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        let pids: Vec<u32> = match &self.running {
            Running::Peers(processes) => processes.iter().map(Process::pid).collect(),
            Running::Ours(nodes) => {
                nodes.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::pid).collect()
            }
        };
        // Helpers of Erlang come and go.
        Ok(pids.into_iter().flat_map(family).filter_map(|pid| measure::cpu_seconds(pid).ok()).sum())
    }
}

/// What was started, and sentences about what could not be.
pub type Started = (Vec<System>, Vec<String>);

fn fresh(dir: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// The peers on so many nodes. One that is not installed is left out, with a sentence.
pub fn peers(dir: &Path, count: usize) -> Result<Started, String> {
    let (mut systems, mut notes) = (Vec::new(), Vec::new());
    if !Path::new(RABBITMQ).is_file() {
        notes.push("RabbitMQ was left out: it is not installed (Debian: rabbitmq-server).".to_owned());
    } else {
        systems.push(rabbitmq(&dir.join("rabbitmq"), count)?);
    }
    if count > 1 {
        notes
            .push("Redis was left out: it knows no quorum; `bench cluster` has it with a replica and WAIT.".to_owned());
    } else if !there("redis-server") {
        notes.push("Redis was left out: it is not installed (Debian: redis-server).".to_owned());
    } else {
        systems.push(redis(&dir.join("redis"))?);
    }
    if !there("nats-server") {
        notes.push("NATS was left out: it is not installed (Debian: nats-server).".to_owned());
    } else {
        systems.push(nats(&dir.join("nats"), count)?);
    }
    Ok((systems, notes))
}

/// Quorum queues. Erlang's schedulers do not spin, as its documents advise where cores are shared.
pub fn rabbitmq(dir: &Path, count: usize) -> Result<System, String> {
    fresh(dir)?;
    let ground = Ground::loopback();
    let epmd = free_port()?.to_string();
    let mut command = Command::new("epmd");
    command.args(["-port", &epmd, "-address", "127.0.0.1"]);
    let mut processes = vec![ground.spawn(0, command, &dir.join("epmd.log"), None)?];
    let name = |at: usize| format!("bench{}x{at}@localhost", std::process::id());
    let mut first = String::new();
    for at in 0..count {
        let home = dir.join(format!("n{at}"));
        fresh(&home)?;
        let addr = format!("127.0.0.1:{}", free_port()?);
        let mut conf = format!("listeners.tcp.1 = {addr}\nlog.file.level = warning\nlog.console = false\n");
        if count > 1 {
            conf += "cluster_formation.peer_discovery_backend = classic_config\n";
            for other in 0..count {
                conf += &format!("cluster_formation.classic_config.nodes.{} = {}\n", other + 1, name(other));
            }
        }
        let path = home.join("rabbitmq.conf");
        std::fs::write(&path, conf).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut command = Command::new(RABBITMQ);
        // As under systemd the script becomes the server instead of starting it, so that its number is the server's. One HOME: one cookie.
        command.env("RUNNING_UNDER_SYSTEMD", "1").env("HOME", dir).env("RABBITMQ_NODENAME", name(at));
        command.env("ERL_EPMD_PORT", &epmd).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_DIST_PORT", free_port()?.to_string()).env("RABBITMQ_CONFIG_FILE", &path);
        command.env("RABBITMQ_MNESIA_BASE", home.join("data")).env("RABBITMQ_LOG_BASE", home.join("log"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"));
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        );
        let mut process = ground.spawn(at, command, &home.join("out"), None)?;
        process.wait_until(START, |_| Amqp::ready(&addr)).map_err(|why| format!("RabbitMQ: {why}"))?;
        processes.push(process);
        if at == 0 {
            first = addr;
        }
    }
    if count > 1 {
        // Whether they are one cluster, told by the first one's files: a node that joined stands in the list of those that ran.
        let path = dir.join("n0/data").join(name(0)).join("nodes_running_at_shutdown");
        let listed = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !(0..count).all(|at| listed.contains(&name(at))) {
            return Err(format!("RabbitMQ's nodes are no cluster: {}", listed.trim()));
        }
    }
    Ok(System {
        name: titled("RabbitMQ, quorum queue", count),
        speech: Box::new(Amqp { addr: first }),
        running: Running::Peers(processes),
    })
}

/// Streams, every turn of the event loop synced before its answers.
fn redis(dir: &Path) -> Result<System, String> {
    fresh(dir)?;
    let port = free_port()?.to_string();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port, "--daemonize", "no", "--save", "", "--dir"]).arg(dir);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
    let addr = format!("127.0.0.1:{port}");
    let mut process = Ground::loopback().spawn(0, command, &dir.join("log"), None)?;
    process.wait_until(START, |_| TcpStream::connect(&addr).is_ok()).map_err(|why| format!("Redis: {why}"))?;
    Ok(System {
        name: "Redis stream, `always`".into(),
        speech: Box::new(Streams { addr }),
        running: Running::Peers(vec![process]),
    })
}

/// JetStream with file storage.
fn nats(dir: &Path, count: usize) -> Result<System, String> {
    fresh(dir)?;
    let routes: Vec<String> =
        (0..count).map(|_| Ok(format!("nats://127.0.0.1:{}", free_port()?))).collect::<Result<_, String>>()?;
    let (mut processes, mut servers) = (Vec::new(), Vec::new());
    for (at, route) in routes.iter().enumerate() {
        let (name, port) = (format!("n{at}"), free_port()?.to_string());
        let home = dir.join(&name);
        fresh(&home)?;
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-n", &name, "-sd"]).arg(&home);
        if count > 1 {
            command.args(["--cluster_name", "bench", "--cluster", route, "--routes", &routes.join(",")]);
        }
        processes.push(Ground::loopback().spawn(at, command, &dir.join(format!("{name}.log")), None)?);
        servers.push((name, format!("127.0.0.1:{port}")));
    }
    for (process, (_, addr)) in processes.iter_mut().zip(&servers) {
        process.wait_until(START, |_| TcpStream::connect(addr).is_ok()).map_err(|why| format!("NATS: {why}"))?;
    }
    Ok(System {
        name: titled("NATS JetStream (no fsync)", count),
        speech: Box::new(Nats { servers, replicas: count }),
        running: Running::Peers(processes),
    })
}

/// Nodes of ours.
pub fn ours(bin: &Path, dir: &Path, count: usize, batch_bytes: usize) -> Result<System, String> {
    fresh(dir)?;
    let args = ["--stop-timeout", "5s"].map(str::to_owned).to_vec();
    let start = NodesPlan { bin: bin.to_owned(), shards: 1, args, ..NodesPlan::default() };
    let nodes = Nodes::found(Ground::loopback(), start, dir, count)?;
    nodes.all_serve(Duration::from_secs(60))?;
    if count > 1 {
        nodes.await_replicas(Duration::from_secs(60))?;
    }
    let addrs = nodes.nodes.iter().map(|node| node.kafka.clone()).collect();
    let kafka = Kafka { addrs, replicas: count as i16, batch_bytes };
    kafka.ready()?;
    Ok(System { name: titled("quorate", count), speech: Box::new(kafka), running: Running::Ours(Box::new(nodes)) })
}

fn titled(name: &str, count: usize) -> String {
    if count > 1 { format!("{name}, {count} nodes") } else { name.to_owned() }
}

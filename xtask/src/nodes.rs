//! Nodes of ours that form a cluster, on any ground: started, joined, killed, stopped, asked.

use crate::ground::{Ground, Process};
use crate::net::space::command;
use crate::net::sync::Syncs;
use crate::resp::{Conn, Value};
use crate::server::{free_port, http_within};
use serde_json::Value as Json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a start, with its replay, may take.
pub const START: Duration = Duration::from_secs(60);
/// How long an orderly end may take.
const STOP: Duration = Duration::from_secs(40);

/// Entries that a replica may be behind and be called up to date.
pub const NEAR: u64 = 50;

/// How nodes are started.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The program.
    pub bin: PathBuf,
    /// Data shards.
    pub shards: usize,
    /// Further flags.
    pub args: Vec<String>,
    /// Every fsync is asked about (`Node::syncs`).
    pub syncs: bool,
    /// So is every other durable step.
    pub steps: bool,
    /// Each data directory is an ext4 image of so many MiB. Only in namespaces.
    pub image_mib: Option<u64>,
    /// A library that shifts the wall clock (`Node::set_clock`).
    pub clock: Option<PathBuf>,
}

/// One node.
pub struct Node {
    /// Where it lives on the ground.
    pub place: usize,
    /// Its number in the cluster; 0: it has none yet.
    pub id: u64,
    /// The running process, if it runs.
    pub process: Option<Process>,
    /// `host:port` of the Redis door.
    pub redis: String,
    /// `host:port` of the admin door.
    pub admin: String,
    /// `host:port` for its peers.
    pub peer: String,
    /// `host:port` of the Kafka door.
    pub kafka: String,
    /// Its etcd door.
    pub etcd: String,
    /// `host:port` of the gateway's own listener.
    pub gateway: String,
    /// `host:port` of the Redis door for clients of Redis Cluster.
    pub redis_cluster: String,
    /// Its data directory; inside its namespace, if it has an image.
    pub data: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// What its fsyncs do.
    pub syncs: Arc<Syncs>,
    /// It has left the cluster for good.
    pub left: bool,
    /// Its file system.
    pub image: Option<Arc<Mutex<crate::chaos::Image>>>,
    clock: Option<File>,
    clock_path: PathBuf,
}

/// Nodes of one cluster.
pub struct Nodes {
    /// Where they live.
    pub ground: Ground,
    plan: Plan,
    dir: PathBuf,
    /// By place.
    pub nodes: Vec<Node>,
    token: String,
    /// Numbers that the cluster has given: in order, and never again.
    ids: u64,
    /// One node without peers.
    alone: bool,
}

impl Nodes {
    /// Founds a cluster of `count` nodes and waits until it serves. Files are in `dir`.
    pub fn found(ground: Ground, plan: Plan, dir: &Path, count: usize) -> Result<Nodes, String> {
        let mut nodes = Nodes {
            ground,
            plan,
            dir: dir.to_owned(),
            nodes: Vec::new(),
            token: String::new(),
            ids: 0,
            alone: count == 1,
        };
        for _ in 0..count {
            let place = nodes.add_place()?;
            nodes.start(place)?;
            if place == 0 && count > 1 {
                nodes.token = nodes.find_token()?;
            }
        }
        Ok(nodes)
    }

    /// Prepares one more node, without starting it.
    pub fn add_place(&mut self) -> Result<usize, String> {
        let place = self.nodes.len();
        let ip = self.ground.ip(place);
        let own = self.ground.net().is_some();
        let port = |fixed: u16| if own { Ok(fixed) } else { free_port() };
        let home = self.dir.join(format!("node{}", place + 1));
        std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let image = match (self.plan.image_mib, self.ground.net()) {
            (Some(mib), Some(net)) => {
                let home = home.clone();
                let image = net.spaces[place].run(move || crate::chaos::Image::make(&home, mib))??;
                Some(Arc::new(Mutex::new(image)))
            }
            _ => None,
        };
        let data = if image.is_some() { home.join("mnt/data") } else { home.join("data") };
        let clock_path = home.join("clock");
        let clock = match &self.plan.clock {
            Some(_) => {
                let at = |error: std::io::Error| format!("{}: {error}", clock_path.display());
                let file =
                    File::options().read(true).write(true).create(true).truncate(true).open(&clock_path).map_err(at)?;
                file.write_all_at(&[0; 8], 0).map_err(at)?;
                Some(file)
            }
            None => None,
        };
        self.nodes.push(Node {
            place,
            id: 0,
            process: None,
            redis: format!("{ip}:{}", port(6379)?),
            admin: format!("{ip}:{}", port(7070)?),
            peer: format!("{ip}:{}", port(7400)?),
            kafka: format!("{ip}:{}", port(9092)?),
            etcd: format!("{ip}:{}", port(2379)?),
            gateway: format!("{ip}:{}", port(8080)?),
            redis_cluster: format!("{ip}:{}", port(6380)?),
            data,
            log: home.join("log"),
            syncs: Arc::new(if self.plan.steps { Syncs::of_steps() } else { Syncs::default() }),
            left: false,
            image,
            clock,
            clock_path,
        });
        Ok(place)
    }

    /// Starts a node that does not run: one that was never up joins.
    pub fn launch(&mut self, at: usize) -> Result<(), String> {
        self.launch_by(at, None)
    }

    /// The same; one that joins does so by this member, where one is named.
    pub fn launch_by(&mut self, at: usize, by: Option<usize>) -> Result<(), String> {
        let node = &self.nodes[at];
        let mut run = Command::new(&self.plan.bin);
        run.args(["up", "--print-ready", "--insecure-bind", "--data"]).arg(&node.data);
        run.args(["--redis-bind", &node.redis, "--admin-bind", &node.admin]);
        if !self.alone {
            run.args(["--peer-bind", &node.peer]);
        }
        let ip = self.ground.ip(at);
        run.args([
            "--kafka-bind",
            &node.kafka,
            "--etcd-bind",
            &node.etcd,
            "--set",
            &format!("redis.cluster_bind={}", node.redis_cluster),
        ]);
        run.args(["--gateway-bind", &node.gateway]);
        for door in ["--consul-bind", "--dns-bind"] {
            run.args([door, &format!("{ip}:0")]);
        }
        if self.plan.shards > 0 {
            run.args(["--data-shards", &self.plan.shards.to_string()]);
        }
        run.args(&self.plan.args);
        if self.nodes.iter().any(|other| other.id > 0 && other.place != at) {
            // Ignored by a node that belongs to the cluster already. Any other that runs is as good as the first.
            let other = self.nodes.iter().find(|other| other.place != at && other.process.is_some());
            let by = by.map(|by| &self.nodes[by]).or(other);
            run.args(["--join", &by.unwrap_or(&self.nodes[0]).peer, "--token", &self.token]);
        }
        if let Some(library) = &self.plan.clock {
            run.env("LD_PRELOAD", library).env("XTASK_CLOCK", &node.clock_path);
        }
        let syncs = (self.plan.syncs || self.plan.steps).then_some(&node.syncs);
        let process = self.ground.spawn(at, run, &node.log, syncs)?;
        self.nodes[at].process = Some(process);
        if self.nodes[at].id == 0 {
            self.ids += 1;
            self.nodes[at].id = self.ids;
        }
        Ok(())
    }

    /// [`Nodes::launch`], and waits until it serves.
    pub fn start(&mut self, at: usize) -> Result<Duration, String> {
        let start = Instant::now();
        self.launch(at)?;
        self.ready(at)?;
        Ok(start.elapsed())
    }

    /// Waits until a started node serves.
    pub fn ready(&mut self, at: usize) -> Result<(), String> {
        let process = self.nodes[at].process.as_mut().ok_or("it was not started")?;
        process
            .wait_until(START, |process| process.said().lines().any(|line| line.starts_with("ready ")))
            .map_err(|why| format!("node {}: {why}", at + 1))
    }

    /// Asks a node for its number: of two that join at once neither knows beforehand which it gets.
    pub fn learn_id(&mut self, at: usize) -> Result<(), String> {
        let status = self.status(at)?;
        let id = status["node"].as_str().and_then(|name| name.trim_start_matches('n').parse().ok());
        self.nodes[at].id = id.ok_or_else(|| format!("node {}: /status names no node: {}", at + 1, status["node"]))?;
        Ok(())
    }

    /// Data shards of the beginning.
    pub fn shards(&self) -> usize {
        self.plan.shards.max(1)
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.nodes[at].process.take() {
            process.kill();
        }
    }

    /// SIGTERM; the end must be by itself and a success.
    pub fn stop(&mut self, at: usize) -> Result<Duration, String> {
        let start = Instant::now();
        let Some(mut process) = self.nodes[at].process.take() else { return Ok(Duration::ZERO) };
        let status = process.stop(STOP).map_err(|why| format!("node {}: {why}", at + 1))?;
        if status.success() { Ok(start.elapsed()) } else { Err(format!("node {}: {status} after SIGTERM", at + 1)) }
    }

    /// Sends a running node a signal.
    pub fn signal(&self, at: usize, signal: rustix::process::Signal) {
        if let Some(process) = &self.nodes[at].process {
            process.signal(signal);
        }
    }

    /// Nodes that ended by themselves, and what they said.
    pub fn ended(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process
                && let Some(status) = process.ended()
            {
                let said = crate::shell::tail(&process.said(), 15);
                found.push(format!("node {} ended by itself ({status}); it said:\n{said}", node.place + 1));
                node.process = None;
            }
        }
        found
    }

    /// Where clients may go.
    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.redis.clone()).collect()
    }

    /// A connection to a node's Redis door, from where clients are.
    pub fn connect(&self, at: usize, patience: Duration) -> Result<Conn, String> {
        let addr = self.nodes[at].redis.clone();
        self.ground.visit(|| {
            Conn::open_with(&addr, Duration::from_secs(2), patience).map_err(|error| format!("{addr}: {error}"))
        })
    }

    /// What its admin door answers within a second.
    pub fn admin(&self, at: usize, path: &str) -> Result<String, String> {
        let addr = self.nodes[at].admin.clone();
        let (status, body) = self.ground.visit(|| http_within("GET", &addr, path, Duration::from_secs(1)))?;
        if status == 200 { Ok(body) } else { Err(format!("{path}: {status} {body}")) }
    }

    /// What a node says of itself.
    pub fn status(&self, at: usize) -> Result<Json, String> {
        serde_json::from_str(&self.admin(at, "/status")?).map_err(|error| format!("/status: {error}"))
    }

    /// What all running nodes that answer say of their part in each group: place, group, part.
    fn parts(&self) -> Vec<(usize, usize, Part)> {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let parts = running.flat_map(|node| {
            let own = self.parts_of(node.place).unwrap_or_default();
            own.into_iter().map(|(group, part)| (node.place, group, part))
        });
        parts.collect()
    }

    /// What a node says of its part in each group: group, part.
    pub fn parts_of(&self, at: usize) -> Result<Vec<(usize, Part)>, String> {
        let status = self.status(at)?;
        let part = |group: &Json| {
            let number = group["group"].as_str()?.trim_start_matches('g').parse().ok()?;
            let leads = group["role"].as_str() == Some("leader");
            Some((number, Part { leads, term: group["term"].as_u64().unwrap_or(0) }))
        };
        Ok(status["groups"].as_array().into_iter().flatten().filter_map(part).collect())
    }

    /// The place of the node that leads a group: of those that say so, the one of the newest term.
    pub fn leader(&self, group: usize) -> Option<usize> {
        let parts = self.parts();
        let leads = parts.iter().filter(|(_, number, part)| *number == group && part.leads);
        leads.max_by_key(|(_, _, part)| part.term).map(|(place, ..)| *place)
    }

    /// Waits until every running node writes and reads through; how long that took.
    pub fn all_serve(&self, limit: Duration) -> Result<Duration, String> {
        let start = Instant::now();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let mut why = String::new();
            for number in 0.. {
                let left = limit.saturating_sub(start.elapsed());
                if left.is_zero() {
                    return Err(format!(
                        "node {} does not serve {} s after the last fault: {why}",
                        node.place + 1,
                        limit.as_secs()
                    ));
                }
                let key = format!("probe:{{{}}}", number % 64);
                let asked = self.connect(node.place, Duration::from_secs(3)).and_then(|mut conn| {
                    let said = |error: std::io::Error| error.to_string();
                    let wrote = conn.call(&["SET", &key, "x"]).map_err(said)?;
                    let read = conn.call(&["GET", &key]).map_err(said)?;
                    Ok((wrote, read))
                });
                match asked {
                    // Several keys, so that several shards are asked.
                    Ok((Value::Simple(_), Value::Bulk(_))) if number >= 8 => break,
                    Ok((Value::Simple(_), Value::Bulk(_))) => continue,
                    Ok((wrote, read)) => why = format!("SET was answered {wrote}, GET {read}"),
                    Err(error) => why = error,
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(start.elapsed())
    }

    /// Shifts a node's wall clock.
    pub fn set_clock(&self, at: usize, shift: i64) -> Result<(), String> {
        match &self.nodes[at].clock {
            Some(file) => file.write_all_at(&shift.to_le_bytes(), 0).map_err(|error| error.to_string()),
            None => Err("no shim for the clock".into()),
        }
    }

    /// The file behind [`Nodes::set_clock`].
    pub fn clock(&self, at: usize) -> Result<File, String> {
        let file = self.nodes[at].clock.as_ref().ok_or("no shim for the clock")?;
        file.try_clone().map_err(|error| error.to_string())
    }

    /// The whole cluster as a node sees it.
    pub fn view(&self) -> Result<Json, String> {
        self.view_without(0)
    }

    /// The whole cluster as a node sees it that has not this number: who is taken out knows the least of it.
    fn view_without(&self, id: u64) -> Result<Json, String> {
        let mut why = "no node runs".to_owned();
        for node in self.nodes.iter().filter(|node| node.process.is_some() && node.id != id) {
            match self
                .admin(node.place, "/cluster")
                .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            {
                Ok(view) => return Ok(view),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Asks for a change below `/cluster` of the admin door, at any node that runs.
    pub fn change(&self, what: &str) -> Result<(), String> {
        let mut why = "no node runs".to_owned();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let (addr, path) = (node.admin.clone(), format!("/cluster/{what}"));
            match self.ground.visit(|| http_within("POST", &addr, &path, Duration::from_secs(10))) {
                Ok((200, _)) => return Ok(()),
                Ok((_, said)) => why = said,
                Err(error) => why = error,
            }
        }
        Err(format!("{what}: {why}"))
    }

    /// Waits until every group has a leader and three voters (or as many as there are nodes) that have what it has, or nearly, and nothing moves.
    pub fn await_replicas(&self, limit: Duration) -> Result<(), String> {
        let start = Instant::now();
        if self.alone {
            return Ok(());
        }
        let running = self.nodes.iter().filter(|node| node.process.is_some()).count();
        // Two that decide would be worse than one.
        let wanted = if running < 3 { 1 } else { 3 };
        loop {
            let why = match self.view() {
                Ok(view) => match unsettled(&view, wanted) {
                    None => return Ok(()),
                    Some(why) => why,
                },
                Err(why) => why,
            };
            if start.elapsed() > limit {
                return Err(format!("not at rest after {} s: {why}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until no slots are on their way; the shards that have some, and which.
    pub fn await_slots(&self, limit: Duration) -> Result<Vec<(u64, String)>, String> {
        let start = Instant::now();
        loop {
            let view = self.view();
            let moves = view.as_ref().ok().and_then(|view| view["slot_moves"].as_array()).cloned();
            if let (Ok(view), Some([])) = (&view, moves.as_deref()) {
                let groups = view["groups"].as_array().into_iter().flatten();
                let slots = groups.filter_map(|group| {
                    Some((
                        group["group"].as_u64()?,
                        group["slots"].as_str().filter(|slots| !slots.is_empty())?.to_owned(),
                    ))
                });
                return Ok(slots.collect());
            }
            if start.elapsed() > limit {
                return Err(format!("slots are still on their way after {} s: {moves:?}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A place for one more node: one whose node left, or a new one. Nothing where the ground is full.
    pub fn free_place(&mut self) -> Result<Option<usize>, String> {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.left) {
            let place = node.place;
            (node.left, node.id) = (false, 0);
            self.at_files(place, |data| std::fs::remove_dir_all(data))?.map_err(|error| error.to_string())?;
            return Ok(Some(place));
        }
        if self.ground.places().is_some_and(|places| self.nodes.len() >= places) {
            return Ok(None);
        }
        self.add_place().map(Some)
    }

    /// The node at `at` leaves the cluster for good. It may be dead.
    pub fn leave(&mut self, at: usize, limit: Duration) -> Result<(), String> {
        let id = self.nodes[at].id;
        self.forget(id, limit)?;
        self.kill(at);
        self.nodes[at].left = true;
        Ok(())
    }

    /// Number `id` is taken out of the cluster; waits until it is.
    pub fn forget(&self, id: u64, limit: Duration) -> Result<(), String> {
        let start = Instant::now();
        let mut asked = self.change(&format!("remove?node={id}"));
        loop {
            let view = self.view_without(id);
            if let Ok(view) = &view {
                let there =
                    view["nodes"].as_array().into_iter().flatten().any(|node| node["node"].as_u64() == Some(id));
                if !there {
                    return Ok(());
                }
            }
            if start.elapsed() > limit {
                let problems = view.map_or_else(|why| why, |view| format!("{} {}", view["moves"], view["problems"]));
                return Err(format!("node {id} is not gone after {} s: {asked:?}; {problems}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(100));
            if asked.is_err() {
                asked = self.change(&format!("remove?node={id}"));
            }
        }
    }

    /// A node loses its disk: its number is taken out, and a new node comes in its place. (The cluster takes nobody under an address that
    /// it knows as somebody else's.)
    pub fn wipe(&mut self, at: usize, limit: Duration) -> Result<(), String> {
        self.kill(at);
        self.at_files(at, |data| std::fs::remove_dir_all(data))?.map_err(|error| error.to_string())?;
        self.forget(self.nodes[at].id, limit)?;
        self.nodes[at].id = 0;
        self.start(at).map(drop)
    }

    /// Moves a replica of some shard to a node that has none of it, or the lead to another voter, and waits for the first.
    pub fn shuffle_shards(&mut self, rng: &mut crate::rng::Rng, limit: Duration) -> Result<String, String> {
        let group = 1 + rng.below(self.plan.shards.max(1)) as u64;
        let voters = |view: &Json| -> Vec<u64> {
            let groups = view["groups"].as_array().into_iter().flatten();
            let mine = groups.filter(|one| one["group"].as_u64() == Some(group));
            mine.flat_map(|one| one["voters"].as_array().into_iter().flatten()).filter_map(Json::as_u64).collect()
        };
        let now = voters(&self.view()?);
        let ids: Vec<u64> = self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.id).collect();
        let others: Vec<u64> = ids.iter().copied().filter(|id| !now.contains(id)).collect();
        if now.is_empty() {
            return Err(format!("nobody votes in shard {group}"));
        }
        let from = *rng.pick(&now);
        if others.is_empty() || rng.percent(30) {
            self.change(&format!("lead?group={group}&to={from}"))?;
            return Ok(format!("shard {group} is to be led by node {from}"));
        }
        let to = *rng.pick(&others);
        let start = Instant::now();
        match self.change(&format!("move?group={group}&from={from}&to={to}")) {
            // The cluster was quicker: it moves replicas by itself.
            Err(why) if why.contains("already") || why.contains("has no replica") => {
                return Ok(format!("shard {group} has moved by itself"));
            }
            done => done?,
        }
        loop {
            let now = self.view().map(|view| voters(&view)).unwrap_or_default();
            if now.contains(&to) && !now.contains(&from) {
                return Ok(format!(
                    "shard {group} moved from node {from} to {to} in {:.2} s",
                    start.elapsed().as_secs_f64()
                ));
            }
            if start.elapsed() > limit {
                return Err(format!(
                    "shard {group} has not moved from node {from} to {to} in {} s; its voters: {now:?}",
                    limit.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does `job` where node `at` has its files.
    pub fn at_files<T: Send + 'static>(
        &self,
        at: usize,
        job: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, String> {
        let data = self.nodes[at].data.clone();
        match self.ground.net() {
            Some(net) => net.spaces[at].run(move || job(&data)),
            None => Ok(job(&data)),
        }
    }

    /// Does `job` with the file system of node `at`.
    pub fn at_image<T: Send + 'static>(
        &self,
        at: usize,
        job: impl FnOnce(&mut crate::chaos::Image) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (Some(image), Some(net)) = (&self.nodes[at].image, self.ground.net()) else {
            return Err("its files are in a plain directory".into());
        };
        let image = Arc::clone(image);
        net.spaces[at].run(move || job(&mut image.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The word behind `--token` in what the first node said.
    fn find_token(&mut self) -> Result<String, String> {
        let process = self.nodes[0].process.as_mut().ok_or("the first node does not run")?;
        let find = |process: &Process| {
            let said = process.said();
            let mut words = said.split_whitespace().skip_while(|word| *word != "--token");
            words.nth(1).map(|word| word.trim_matches(['\'', '"', '`', '.', ',']).to_owned())
        };
        process.wait_until(Duration::from_secs(10), |process| find(process).is_some())?;
        find(process).ok_or_else(|| "the first node printed no token".into())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
            // Unmounted where it was mounted; elsewhere it is not known.
            if let (Some(image), Some(net)) = (node.image.take(), self.ground.net()) {
                let _ = net.spaces[node.place].run(move || drop(image));
            }
        }
    }
}

/// What keeps a cluster from being at rest, if anything does.
fn unsettled(view: &Json, wanted: usize) -> Option<String> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    for group in list(&view["groups"]) {
        let number = &group["group"];
        if group["leader"].as_u64().unwrap_or(0) == 0 {
            return Some(format!("group {number} has no leader"));
        }
        let wants = group["wanted_leader"].as_u64().unwrap_or(0);
        // A node whose disk does not keep up is rightly led past, for as long as that holds.
        let slow = format!("the disk of node {wants} does not keep up");
        let is_shunned =
            list(&view["problems"]).iter().filter_map(Json::as_str).any(|problem| problem.starts_with(&slow));
        if wants != 0 && !is_shunned && group["leader"].as_u64() != Some(wants) {
            return Some(format!("group {number} is led by {} and should be by {wants}", group["leader"]));
        }
        if list(&group["voters"]).len() < wanted {
            return Some(format!("group {number} has voters {}", group["voters"]));
        }
        let lags = group["lag"].as_object().into_iter().flatten();
        if let Some((node, lag)) = lags.into_iter().find(|(_, lag)| lag.as_u64().unwrap_or(u64::MAX) > NEAR) {
            return Some(format!("group {number} lags by {lag} at node {node}"));
        }
    }
    match list(&view["moves"]) {
        moves if moves.is_empty() => None,
        moves => Some(format!("{moves:?}")),
    }
}

/// A node's part in a group.
pub struct Part {
    /// It says that it leads.
    pub leads: bool,
    /// The newest term that it knows.
    pub term: u64,
}

/// Builds the library that shifts a program's wall clock by as many nanoseconds as a file says (8 bytes, at XTASK_CLOCK).
/// Other clocks are left alone, as a jump of the wall clock leaves them.
pub fn clock_shim(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    let text = "\
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t none, *shift = &none;
__attribute__((constructor)) static void look(void) {
  const char *path = getenv(\"XTASK_CLOCK\");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *at = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) shift = at;
  if (fd >= 0) close(fd);
}
int clock_gettime(clockid_t clock, struct timespec *out) {
  int done = (int)syscall(SYS_clock_gettime, clock, out);
  if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t all = out->tv_sec * 1000000000LL + out->tv_nsec + *shift;
    out->tv_sec = all / 1000000000LL;
    out->tv_nsec = all % 1000000000LL;
  }
  return done;
}
int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
";
    std::fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
    let (source, target) = (source.to_string_lossy(), library.to_string_lossy());
    command("cc", &["-O2", "-shared", "-fPIC", "-o", &target, &source])?;
    Ok(library)
}

//! `cargo xtask commits`: transactions over several shards while nodes are killed, judged by what their clients saw.
//!
//! ```text
//! cargo xtask commits [--seconds N] [--shards N] [--seed N] [--bin PATH] [--dir DIR]
//! cargo xtask commits --steps N|all [--nodes N] [--bin PATH] [--dir DIR]
//! ```
//!
//! With `--steps` one commit after the other is cut at each durable step in turn: see `steps`.
//!
//! Three nodes on loopback, clients at all of them. A transaction appends one value to a list in each of several shards, or reads all of them, or one
//! of them alone: so at any moment the lists must be the same, and all that was seen must be explained by one order that agrees with the clock
//! (`history::List`). Others move money between accounts, and somebody adds it up. Nodes are killed with -9 and come back; at the end the sum is exact on
//! every node.

mod steps;

use crate::ground::Ground;
use crate::interrupt;
use crate::nodes::{Nodes, Plan};
use crate::resp::{Conn, Value};
use crate::rng::Rng;
use crate::shell::root;
use history::{List, Outcome};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: u64 = 9;
/// How long a client waits for an answer before it asks on a new connection.
const PATIENCE: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(60);
/// Lists that belong together, and appends to them before there are new ones.
const LISTS: usize = 3;
const APPENDS: u64 = 150;
const ACCOUNTS: usize = 12;
const EACH: i64 = 1000;

/// What all clients share.
struct Scene {
    start: Instant,
    families: Mutex<Vec<List>>,
    next: AtomicU64,
    stop: AtomicBool,
    wrong: Mutex<Vec<String>>,
    /// Done, refused, unknown, audits.
    counts: [AtomicU64; 4],
}

/// Entry of `cargo xtask commits`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut seconds, mut shards, mut seed) = (60, 4, 1);
    let mut bin = root().join("target/release/quorate");
    let mut base = std::env::temp_dir();
    let (mut rounds, mut count) = (None, 3);
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || value.parse::<u64>().ok().filter(|n| *n > 0).ok_or(format!("{flag} wants a number above 0"));
        match flag.as_str() {
            "--seconds" => seconds = number()?,
            "--shards" => shards = number()? as usize,
            "--seed" => seed = number()?,
            "--steps" => rounds = Some(if value == "all" { u64::MAX } else { number()? }),
            "--nodes" => count = number()? as usize,
            "--bin" => bin = PathBuf::from(value),
            "--dir" => base = PathBuf::from(value),
            _ => return Err(format!("commits does not know {flag}")),
        }
    }
    interrupt::attend();
    let dir = base.join(format!("quorate-commits-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if let Some(rounds) = rounds {
        let said = steps::run(&bin, count, rounds, &dir)?;
        let _ = std::fs::remove_dir_all(&dir);
        println!("{said}");
        return Ok(());
    }
    let said =
        all(&bin, shards, Duration::from_secs(seconds), seed, &dir).map_err(|why| format!("{why} (seed {seed})"))?;
    let _ = std::fs::remove_dir_all(&dir);
    println!("{said}");
    Ok(())
}

fn all(bin: &Path, shards: usize, time: Duration, seed: u64, dir: &Path) -> Result<String, String> {
    let plan = Plan { bin: bin.to_owned(), shards, ..Plan::default() };
    let mut nodes = Nodes::found(Ground::loopback(), plan, dir, 3)?;
    nodes.all_serve(LIMIT)?;
    nodes.await_replicas(LIMIT)?;
    let addrs = nodes.addrs();
    let begin: Vec<String> = (0..ACCOUNTS).flat_map(|at| [format!("account{at}"), EACH.to_string()]).collect();
    let mut first = vec!["MSET".to_owned()];
    first.extend(begin);
    nodes.connect(0, LIMIT)?.call(&first).map_err(|error| error.to_string())?;
    let scene = Scene {
        start: Instant::now(),
        families: Mutex::default(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        wrong: Mutex::default(),
        counts: Default::default(),
    };
    let mut kills = 0;
    let mut rng = Rng::new(seed);
    let ran = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (scene, addrs) = (&scene, &addrs);
            scope.spawn(move || scene.client(addrs, Rng::new(seed << 8 | client)));
        }
        let mut ran = Ok(());
        while ran.is_ok() && scene.start.elapsed() < time && !interrupt::told() && scene.wrong().is_empty() {
            std::thread::sleep(Duration::from_millis(500 + rng.below(2500) as u64));
            let at = rng.below(3);
            nodes.kill(at);
            kills += 1;
            std::thread::sleep(Duration::from_millis(200 + rng.below(2000) as u64));
            ran = nodes.start(at).map(|_| ());
        }
        scene.stop.store(true, Ordering::Relaxed);
        ran
    });
    ran?;
    nodes.all_serve(LIMIT)?;
    for at in 0..3 {
        let sum = total(&mut nodes.connect(at, LIMIT)?)?;
        if sum != Some(EACH * ACCOUNTS as i64) {
            return Err(format!("at node {} the accounts are {sum:?}", at + 1));
        }
    }
    if let Some(wrong) = scene.wrong().first() {
        return Err(wrong.clone());
    }
    // What was appended last, nobody may have read.
    let count = scene.families().len();
    let mut conn = nodes.connect(0, LIMIT)?;
    for family in 0..count {
        let begun = scene.now();
        let ask = |at| ["LRANGE".to_owned(), format!("list:{family}:{at}"), "0".into(), "-1".into()];
        let answers: Result<Vec<Value>, _> = (0..LISTS).map(|at| conn.call(&ask(at))).collect();
        let answers = answers.map_err(|error| error.to_string())?;
        let lists: Option<Vec<Vec<u64>>> = answers.iter().map(numbers).collect();
        let lists = lists.ok_or_else(|| format!("lists {family} cannot be read in the end: {answers:?}"))?;
        if lists.iter().any(|list| *list != lists[0]) {
            return Err(format!("in the end lists {family} differ: {lists:?}"));
        }
        scene.families()[family].read(lists[0].clone(), begun, scene.now());
    }
    let families = scene.families.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (at, list) in families.iter().enumerate() {
        list.check().map_err(|why| format!("lists {at}: {why}"))?;
    }
    let [done, refused, unknown, audits] = scene.counts.map(AtomicU64::into_inner);
    Ok(format!(
        "commits: {kills} kills, {done} transactions and reads, {refused} refused, {unknown} of unknown outcome, {audits} audits; \
         {} lists, one order explains each; every sum exact",
        families.len()
    ))
}

/// What the accounts hold; nothing, where that could not be read.
fn total(conn: &mut Conn) -> Result<Option<i64>, String> {
    let mut ask = vec!["MGET".to_owned()];
    ask.extend((0..ACCOUNTS).map(|at| format!("account{at}")));
    let start = Instant::now();
    loop {
        let answer = conn.call(&ask).map_err(|error| error.to_string())?;
        if let Some(items) = answer.items() {
            return Ok(items.iter().map(|item| item.text()?.parse::<i64>().ok()).sum());
        }
        if start.elapsed() > LIMIT {
            return Ok(None);
        }
    }
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    value.items()?.iter().map(|item| item.text()?.parse().ok()).collect()
}

impl Scene {
    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn say(&self, wrong: String) {
        self.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(wrong);
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn families(&self) -> std::sync::MutexGuard<'_, Vec<List>> {
        self.families.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn client(&self, addrs: &[String], mut rng: Rng) {
        let mut conn: Option<Conn> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(open) = &mut conn else {
                let at = rng.below(addrs.len());
                conn = Conn::open_with(&addrs[at], Duration::from_secs(1), PATIENCE).ok();
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let lives = match rng.below(10) {
                0..=3 => self.append(open),
                4 | 5 => self.read(open, &mut rng),
                6 => self.audit(open),
                _ => self.transfer(open, &mut rng),
            };
            if !lives {
                conn = None;
            }
        }
    }

    /// MULTI … EXEC: the answers, or what kept it from being done; `Err` where nobody knows.
    fn multi(&self, conn: &mut Conn, commands: &[Vec<String>]) -> std::io::Result<Result<Vec<Value>, String>> {
        conn.send(&["MULTI"])?;
        for command in commands {
            conn.send(command)?;
        }
        conn.send(&["EXEC"])?;
        for _ in 0..=commands.len() {
            conn.read()?;
        }
        let answer = conn.read()?;
        let done = answer.items().map(<[Value]>::to_vec);
        self.counts[usize::from(done.is_none())].fetch_add(1, Ordering::Relaxed);
        Ok(done.ok_or_else(|| answer.error().unwrap_or_else(|| "nothing".into())))
    }

    fn lost(&self) -> bool {
        self.counts[2].fetch_add(1, Ordering::Relaxed);
        false
    }

    fn append(&self, conn: &mut Conn) -> bool {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let family = (value / APPENDS) as usize;
        let own = {
            let mut families = self.families();
            while families.len() <= family {
                families.push(List::default());
            }
            let now = self.now();
            families[family].begin(value, now)
        };
        let push = |at| vec!["RPUSH".into(), format!("list:{family}:{at}"), value.to_string()];
        let commands: Vec<Vec<String>> = (0..LISTS).map(push).collect();
        let Ok(done) = self.multi(conn, &commands) else { return self.lost() };
        let now = self.now();
        let outcome = match done {
            Err(_) => Outcome::Refused,
            Ok(answers) => {
                let lengths: Vec<i64> = answers
                    .iter()
                    .filter_map(|answer| if let Value::Int(n) = answer { Some(*n) } else { None })
                    .collect();
                if lengths.len() != LISTS || lengths.iter().any(|length| *length != lengths[0]) {
                    self.say(format!("an append to {LISTS} lists finds them of lengths {lengths:?}"));
                    return true;
                }
                Outcome::Done(now, lengths[0] as u64)
            }
        };
        self.families()[family].end(own, outcome);
        true
    }

    fn read(&self, conn: &mut Conn, rng: &mut Rng) -> bool {
        let count = self.families().len();
        if count == 0 {
            return true;
        }
        let family = count.saturating_sub(1 + rng.below(2));
        let ask = |at| vec!["LRANGE".to_owned(), format!("list:{family}:{at}"), "0".into(), "-1".into()];
        let begun = self.now();
        let lists = if rng.below(2) == 0 {
            let Ok(answer) = conn.call(&ask(rng.below(LISTS))) else { return self.lost() };
            vec![answer]
        } else {
            let commands: Vec<Vec<String>> = (0..LISTS).map(ask).collect();
            match self.multi(conn, &commands) {
                Err(_) => return self.lost(),
                Ok(Err(_)) => return true,
                Ok(Ok(answers)) => answers,
            }
        };
        let ended = self.now();
        let Some(lists) = lists.iter().map(numbers).collect::<Option<Vec<_>>>() else { return true };
        if lists.iter().any(|list| *list != lists[0]) {
            self.say(format!("a transaction sees a part of another one: {lists:?}"));
        }
        self.families()[family].read(lists[0].clone(), begun, ended);
        true
    }

    fn audit(&self, conn: &mut Conn) -> bool {
        let mut ask = vec!["MGET".to_owned()];
        ask.extend((0..ACCOUNTS).map(|at| format!("account{at}")));
        let Ok(answer) = conn.call(&ask) else { return self.lost() };
        let Some(items) = answer.items() else { return true };
        let sum: Option<i64> = items.iter().map(|item| item.text()?.parse::<i64>().ok()).sum();
        self.counts[3].fetch_add(1, Ordering::Relaxed);
        if sum != Some(EACH * ACCOUNTS as i64) {
            self.say(format!("an audit finds {sum:?}"));
        }
        true
    }

    fn transfer(&self, conn: &mut Conn, rng: &mut Rng) -> bool {
        let account = |rng: &mut Rng| format!("account{}", rng.below(ACCOUNTS));
        let (from, to, sum) = (account(rng), account(rng), rng.below(50).to_string());
        let commands = [vec!["DECRBY".to_owned(), from, sum.clone()], vec!["INCRBY".to_owned(), to, sum]];
        self.multi(conn, &commands).is_ok() || self.lost()
    }
}

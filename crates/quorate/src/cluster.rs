//! `quorate cluster`: nodes and shards, and what is to become of them, by the admin door of any node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use base::SlotSet;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::ask::Admin;

/// How long moves are watched before the command ends though they go on.
const WATCHED: Duration = Duration::from_secs(3600);
/// How often they are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the cluster is asked.
#[derive(Args)]
pub struct At {
    /// The admin door of any of its nodes.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070", global = true)]
    admin: SocketAddr,
    /// File whose first line is its password; QUORATE_ADMIN_PASSWORD if not given.
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Nodes, shards, leaders, lag, moves, and what is wrong.
    Status {
        /// Everything, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a join token and print the command that adds a node. The token before it is of no use any more.
    #[command(alias = "add")]
    Token,
    /// A node leads nothing any more, until `undrain`: before it is restarted or looked into. It keeps its replicas.
    Drain {
        /// Its number.
        node: u64,
    },
    /// A drained node may lead again.
    Undrain {
        /// Its number.
        node: u64,
    },
    /// A node's replicas move to the others, then it is forgotten, for ever; it may be gone already.
    Remove {
        /// Its number.
        node: u64,
        /// Do not wait until it is done.
        #[arg(long)]
        no_wait: bool,
    },
    /// A node that was lost for another that has joined in its place: as `remove OLD`, once NEW is there.
    Replace {
        /// The number of the one that goes.
        old: u64,
        /// The number of the one that has come.
        new: u64,
        /// Do not wait until it is done.
        #[arg(long)]
        no_wait: bool,
    },
    /// Move a replica of a shard from one node to another. It stays there until `rebalance`.
    Move {
        /// The shard.
        shard: u32,
        /// From this node.
        #[arg(long)]
        from: u64,
        /// To that one.
        #[arg(long)]
        to: u64,
        /// Do not wait until it is done.
        #[arg(long)]
        no_wait: bool,
    },
    /// A voter of a shard should lead it.
    Lead {
        /// The shard; 0 is the meta group.
        shard: u32,
        /// The node.
        #[arg(long)]
        to: u64,
    },
    /// Split a shard while clients write: a new shard takes half of its slots, or those from one on.
    Split {
        /// The shard.
        shard: u32,
        /// The new shard takes the slots from this one on.
        #[arg(long, value_name = "SLOT", conflicts_with = "into")]
        at: Option<u16>,
        /// Split until there are so many shards, each with as many slots.
        #[arg(long, value_name = "N")]
        into: Option<u16>,
        /// Do not wait until it is done.
        #[arg(long, conflicts_with = "into")]
        no_wait: bool,
    },
    /// Move slots from one shard to another while clients write.
    MoveSlots {
        /// Which, as in 0-99,200.
        slots: String,
        /// The shard that has them.
        #[arg(long)]
        from: u32,
        /// The shard that takes them.
        #[arg(long)]
        to: u32,
        /// Do not wait until it is done.
        #[arg(long)]
        no_wait: bool,
    },
    /// Let replicas and leads that were placed by hand be placed as the cluster sees fit.
    Rebalance,
    /// How many replicas of a shard decide, where there are so many nodes.
    Replication {
        /// 3 or 5.
        voters: u64,
    },
}

/// Does it.
pub fn run(at: &At, verb: &Verb) -> Result<ExitCode, String> {
    let door = Admin::new(at.admin, at.password_file.as_deref())?;
    match verb {
        Verb::Status { json } => return status(&door, *json),
        Verb::Token => {
            let answer = post(&door, "token")?;
            let command = answer.get("command").and_then(Value::as_str).unwrap_or_default();
            println!("On the new machine:\n  {command}\nWhoever has the token can join until another one is made.");
        }
        Verb::Drain { node } => {
            post(&door, &format!("drain?node={node}"))?;
            println!("node {node} hands over what it leads; `quorate cluster undrain {node}` gives it back");
        }
        Verb::Undrain { node } => {
            post(&door, &format!("undrain?node={node}"))?;
            println!("node {node} may lead again");
        }
        Verb::Remove { node, no_wait } => {
            post(&door, &format!("remove?node={node}"))?;
            return gone(&door, *node, *no_wait);
        }
        Verb::Replace { old, new, no_wait } => {
            let view = view(&door)?;
            if !nodes(&view).any(|node| number(node, "node") == *new && node.get("up") == Some(&Value::Bool(true))) {
                return Err(format!(
                    "node {new} is not there: start it first (`quorate cluster token` prints the command)"
                ));
            }
            post(&door, &format!("remove?node={old}"))?;
            return gone(&door, *old, *no_wait);
        }
        Verb::Move { shard, from, to, no_wait } => {
            post(&door, &format!("move?group={shard}&from={from}&to={to}"))?;
            let moved = |view: &Value| {
                let group = list(view, "groups").find(|group| number(group, "group") == u64::from(*shard)).cloned();
                let voters =
                    group.as_ref().map(|group| list(group, "voters").filter_map(Value::as_u64).collect::<Vec<_>>());
                voters.is_some_and(|voters| voters.contains(to) && !voters.contains(from))
            };
            return wait(
                std::slice::from_ref(&door),
                *no_wait,
                moved,
                &format!("shard {shard} has its replica on node {to}"),
            );
        }
        Verb::Lead { shard, to } => {
            post(&door, &format!("lead?group={shard}&to={to}"))?;
            println!("shard {shard} is to be led by node {to}");
        }
        Verb::Split { shard, at, into, no_wait } => return split(&door, *shard, *at, *into, *no_wait),
        Verb::MoveSlots { slots, from, to, no_wait } => {
            let slots = SlotSet::parse(slots)?;
            post(&door, &format!("move-slots?slots={slots}&from={from}&to={to}"))?;
            let done = format!("shard {to} has the slots {slots}");
            return wait(std::slice::from_ref(&door), *no_wait, |view| has_slots(view, *to, &slots), &done);
        }
        Verb::Rebalance => {
            post(&door, "rebalance")?;
            println!("replicas and leads go where the cluster sees fit; `quorate cluster status` shows the moves");
        }
        Verb::Replication { voters } => {
            post(&door, &format!("replication?voters={voters}"))?;
            println!(
                "{voters} replicas decide where there are so many nodes; `quorate cluster status` shows the moves"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The slots of a shard, as the cluster's map has them.
fn slots_of(view: &Value, shard: u32) -> Result<SlotSet, String> {
    let group = list(view, "groups").find(|group| number(group, "group") == u64::from(shard) && shard != 0);
    let group = group.ok_or_else(|| format!("there is no shard {shard}; `quorate cluster status` shows them"))?;
    match word(group, "slots") {
        "" => Ok(SlotSet::default()),
        text => SlotSet::parse(text),
    }
}

fn has_slots(view: &Value, shard: u32, slots: &SlotSet) -> bool {
    slots_of(view, shard).is_ok_and(|own| own.holds(slots))
}

fn split(door: &Admin, shard: u32, at: Option<u16>, into: Option<u16>, no_wait: bool) -> Result<ExitCode, String> {
    let own = slots_of(&view(door)?, shard)?;
    let parts = usize::from(into.unwrap_or(2));
    if parts < 2 || parts > own.len() {
        return Err(format!("shard {shard} has {} slots, and cannot be split into {parts}", own.len()));
    }
    let all: Vec<u16> = own.iter().collect();
    for part in (1..parts).rev() {
        let taken = match at {
            Some(at) => all.iter().copied().filter(|slot| *slot >= at).collect::<Vec<u16>>(),
            None => all[all.len() * part / parts..all.len() * (part + 1) / parts].to_vec(),
        };
        let slots = SlotSet::of(taken.iter().map(|slot| (*slot, *slot)));
        if slots.is_empty() || slots == own {
            return Err(format!("shard {shard} has the slots {own}: both shards need some of them"));
        }
        let answer = post(door, &format!("split?group={shard}&slots={slots}"))?;
        let made = number(&answer, "shard") as u32;
        println!("shard {made} takes the slots {slots} from shard {shard}");
        wait(
            std::slice::from_ref(door),
            no_wait,
            |view| has_slots(view, made, &slots),
            &format!("shard {made} has the slots {slots}"),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn post(door: &Admin, what: &str) -> Result<Value, String> {
    answer_of(door.ask("POST", &format!("/cluster/{what}"), "application/json", &[])?)
}

/// The view of the first of these that answers.
fn view_at(doors: &[Admin]) -> Result<Value, String> {
    let mut why = String::new();
    for door in doors {
        match view(door) {
            Ok(view) => return Ok(view),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn view(door: &Admin) -> Result<Value, String> {
    answer_of(door.ask("GET", "/cluster", "", &[])?)
}

fn answer_of((code, body): (u16, String)) -> Result<Value, String> {
    let value: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    match value.get("error").and_then(Value::as_str) {
        Some(why) => Err(why.to_owned()),
        None if code == 200 => Ok(value),
        None => Err(format!("the node answered {code}: {}", body.trim())),
    }
}

/// Watches the moves until the node is forgotten.
fn gone(door: &Admin, node: u64, no_wait: bool) -> Result<ExitCode, String> {
    let is_gone = |view: &Value| !nodes(view).any(|other| number(other, "node") == node);
    // The door that was asked may be that of the node itself, which closes when it has been forgotten: others are asked first.
    let view = view(door)?;
    let others = nodes(&view).filter(|other| number(other, "node") != node);
    let at = |other: &Value| Some(door.at(word(other, "admin").parse().ok()?));
    let doors: Vec<Admin> = others.filter_map(at).chain([door.clone()]).collect();
    wait(
        &doors,
        no_wait,
        is_gone,
        &format!("node {node} is no part of the cluster any more; its data directory can be deleted"),
    )
}

/// Shows the moves until it is done.
fn wait(doors: &[Admin], no_wait: bool, is_done: impl Fn(&Value) -> bool, done: &str) -> Result<ExitCode, String> {
    if no_wait {
        println!("it goes on by itself; `quorate cluster status` shows how far it is");
        return Ok(ExitCode::SUCCESS);
    }
    let began = std::time::Instant::now();
    let mut told = String::new();
    while began.elapsed() < WATCHED {
        let view = view_at(doors)?;
        if is_done(&view) {
            println!("{done}");
            return Ok(ExitCode::SUCCESS);
        }
        let moves: Vec<&str> = list(&view, "moves").filter_map(Value::as_str).collect();
        let problems: Vec<&str> = list(&view, "problems").filter_map(Value::as_str).collect();
        let now = if moves.is_empty() { problems.join("\n  ") } else { moves.join("\n  ") };
        if now != told && !now.is_empty() {
            println!("  {now}");
            told = now;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err("it is not done after an hour; `quorate cluster status` shows how far it is".into())
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn nodes(view: &Value) -> impl Iterator<Item = &Value> {
    list(view, "nodes")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

fn status(door: &Admin, is_json: bool) -> Result<ExitCode, String> {
    let view = view(door)?;
    if is_json {
        println!("{view:#}");
    } else {
        print!("{}", table(&view));
    }
    Ok(if list(&view, "problems").next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(view: &Value) -> String {
    let count = nodes(view).count();
    let mut out =
        format!("cluster {}: {count} {}\n\n", word(view, "cluster"), if count == 1 { "node" } else { "nodes" });
    out.push_str("  node  state     up     leads  holds  zone        roles              peer                   redis                  log\n");
    for node in nodes(view) {
        let up = match node.get("up") {
            Some(Value::Bool(true)) => "yes".to_owned(),
            _ => node.get("silent_ms").and_then(Value::as_u64).map_or("no".into(), |ms| format!("{}s", ms / 1000)),
        };
        let up = if up == "yes" || up == "no" { up } else { format!("-{up}") };
        out.push_str(&format!(
            "  {:<4}  {:<8}  {:<5}  {:<5}  {:<5}  {:<10}  {:<17}  {:<21}  {:<21}  {} MiB\n",
            number(node, "node"),
            word(node, "state"),
            up,
            number(node, "leads"),
            number(node, "holds"),
            if word(node, "zone").is_empty() { "-" } else { word(node, "zone") },
            word(node, "roles"),
            word(node, "peer"),
            word(node, "redis"),
            number(node, "log_bytes") >> 20,
        ));
    }
    out.push_str(
        "\n  shard  leader  voters     learners  term   entry       lag (entries)        keys        per s     slots\n",
    );
    for group in list(view, "groups") {
        let ids = |name: &str| {
            let ids: Vec<String> = list(group, name).filter_map(Value::as_u64).map(|id| id.to_string()).collect();
            if ids.is_empty() { "-".to_owned() } else { ids.join(",") }
        };
        let lag = group.get("lag").and_then(Value::as_object).map_or(String::new(), |lag| {
            let behind: Vec<String> = lag.iter().map(|(node, lag)| format!("{node}: {lag}")).collect();
            behind.join("  ")
        });
        let leader = number(group, "leader");
        out.push_str(&format!(
            "  {:<5}  {:<6}  {:<9}  {:<8}  {:<5}  {:<10}  {:<19}  {:<10}  {:<8}  {}\n",
            if number(group, "group") == 0 { "meta".into() } else { number(group, "group").to_string() },
            if leader == 0 { "-".into() } else { leader.to_string() },
            ids("voters"),
            ids("learners"),
            number(group, "term"),
            number(group, "last"),
            lag,
            number(group, "keys"),
            number(group, "load"),
            if word(group, "slots").is_empty() { "-" } else { word(group, "slots") },
        ));
    }
    if !word(view, "splits").is_empty() {
        out.push_str(&format!("\n  {}\n", word(view, "splits")));
    }
    for (title, name) in [("under way", "moves"), ("to look at", "problems")] {
        let all: Vec<&str> = list(view, name).filter_map(Value::as_str).collect();
        if !all.is_empty() {
            out.push_str(&format!("\n  {title}:\n"));
            all.iter().for_each(|line| out.push_str(&format!("    {line}\n")));
        }
    }
    if list(view, "problems").next().is_none() {
        out.push_str("\n  nothing is wrong\n");
    }
    out
}

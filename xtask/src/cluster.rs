//! `cargo xtask cluster`: a cluster on this machine in one command, until Ctrl-C.
//!
//! ```text
//! cargo xtask cluster [--nodes N] [--data DIR] [--shards N] [--bin PATH] [--build]
//! ```
//!
//! Without `--data` the files are in a temporary folder that goes with it; with it they stay, and the same command goes on with them.

use crate::ground::Ground;
use crate::interrupt;
use crate::nodes::{Nodes, Plan};
use crate::shell::{root, visibly};
use std::path::PathBuf;
use std::time::Duration;

/// Entry of `cargo xtask cluster`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut count, mut shards, mut data) = (3, 4, None);
    let mut bin = None;
    let mut build = false;
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number = |text: String| {
            text.parse::<usize>()
                .ok()
                .filter(|n| (1..=15).contains(n))
                .ok_or(format!("{flag} wants a number from 1 to 15"))
        };
        match flag.as_str() {
            "--nodes" => count = number(value()?)?,
            "--shards" => shards = number(value()?)?,
            "--data" => data = Some(PathBuf::from(value()?)),
            "--bin" => bin = Some(PathBuf::from(value()?)),
            "--build" => build = true,
            _ => return Err(format!("cluster does not know {flag}")),
        }
    }
    let built = root().join("target/release/quorate");
    if build || bin.is_none() && !built.is_file() {
        visibly("cargo", &["build", "--release", "-p", "quorate"])?;
    }
    let bin = bin.unwrap_or(built);
    let kept = data.is_some();
    let dir = data.unwrap_or_else(|| std::env::temp_dir().join(format!("quorate-cluster-{}", std::process::id())));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    interrupt::attend();
    let plan = Plan { bin: bin.clone(), shards, ..Plan::default() };
    let mut nodes = Nodes::found(Ground::loopback(), plan, &dir, count)?;
    nodes.all_serve(Duration::from_secs(30))?;
    println!("\n{count} nodes, files in {}{}\n", dir.display(), if kept { "" } else { " (removed at the end)" });
    for node in &nodes.nodes {
        println!(
            "  node {}: Redis {}, Redis Cluster {}, Kafka {}, console http://{}/, peers {}",
            node.place + 1,
            node.redis,
            node.redis_cluster,
            node.kafka,
            node.admin,
            node.peer
        );
    }
    let (first, last) = (&nodes.nodes[0], &nodes.nodes[count - 1]);
    let port = |addr: &str| addr.rsplit_once(':').map_or(String::new(), |(_, port)| port.to_owned());
    println!("\nTry:");
    println!("  {} cli -p {} set hello world", bin.display(), port(&first.redis));
    println!("  {} cli -p {} get hello          any node serves any key", bin.display(), port(&last.redis));
    println!("  {} cluster status --admin {}", bin.display(), first.admin);
    if let Some(process) = &first.process {
        println!("  kill -9 {}                                 and go on writing at another node", process.pid());
    }
    println!("\nCtrl-C stops all of them.");
    while interrupt::sleep(Duration::from_millis(500)) {
        for why in nodes.ended() {
            println!("{why}");
        }
    }
    println!("stopping");
    // The last first: whoever leads most is asked to go last.
    for at in (0..count).rev() {
        if let Err(why) = nodes.stop(at) {
            println!("{why}");
        }
    }
    drop(nodes);
    if kept { Ok(()) } else { std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display())) }
}

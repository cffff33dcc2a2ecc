//! Every node is restarted in turn, as for an upgrade, under load.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::trio::{Load, Trio};
use super::{PATIENCE, grouped};

pub fn run(directory: &Path) -> Result<(), String> {
    let mut trio = Trio::start(directory, [Vec::new(), Vec::new(), Vec::new()])?;
    println!("Six clients write to any of them; each node is told to stop (SIGTERM) and started again.");
    let load = Load::new(6, trio.doors());
    load.run(|| {
        for node in 1..=3 {
            load.more(500)?;
            load.gap();
            let server = trio.node(node)?;
            let began = Instant::now();
            server.terminate()?;
            server.wait_end(PATIENCE)?;
            let stopped = began.elapsed();
            trio.gone(node);
            load.meet(trio.doors());
            trio.up(node, &[])?;
            load.meet(trio.doors());
            trio.wait("node that is back and level", |view| {
                view.get("problems").and_then(|problems| problems.as_array()).is_some_and(Vec::is_empty)
            })?;
            println!(
                "  node {node}: handed over and stopped in {:.2} s, back after {:.2} s; longest wait for an answer {:.2} s",
                stopped.as_secs_f64(),
                began.elapsed().as_secs_f64(),
                load.gap().as_secs_f64()
            );
        }
        Ok(())
    })?;
    let found = load.look(&mut trio.node(1)?.connect()?)?;
    let (retried, twice) = (load.retried.load(Ordering::Relaxed), load.failed_twice.load(Ordering::Relaxed));
    println!("  {} writes answered and found; {retried} were asked a second time, {twice} a third", grouped(found));
    if twice > 0 {
        return Err(format!("{twice} writes failed although they were asked again"));
    }
    Ok(())
}

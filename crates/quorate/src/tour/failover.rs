//! The leader is killed under load, and killed again.

use std::path::Path;

use super::grouped;
use super::trio::{Load, Trio};

const KILLS: usize = 3;

pub fn run(directory: &Path) -> Result<(), String> {
    let mut trio = Trio::start(directory, [Vec::new(), Vec::new(), Vec::new()])?;
    println!("Six clients write to any of them, each waiting for its +OK; whoever leads is killed with kill -9.");
    let load = Load::new(6, trio.doors());
    let mut gaps = load.run(|| {
        let mut gaps = Vec::new();
        for round in 1..=KILLS {
            load.more(500)?;
            let leader = trio.leader(1)?;
            load.gap();
            trio.node(leader)?.kill();
            trio.gone(leader);
            load.meet(trio.doors());
            load.more(200)?;
            let gap = load.gap();
            println!(
                "  kill -9 number {round}, of node {leader}: writes went on after {:.2} s; {} answered so far",
                gap.as_secs_f64(),
                grouped(load.answered())
            );
            gaps.push(gap);
            trio.up(leader, &[])?;
            load.meet(trio.doors());
            trio.wait("node that is back and level", |view| {
                view.get("problems").and_then(|problems| problems.as_array()).is_some_and(Vec::is_empty)
            })?;
        }
        Ok(gaps)
    })?;
    gaps.sort_unstable();
    for node in 1..=3 {
        let found = load.look(&mut trio.node(node)?.connect()?)?;
        println!("  every one of {} answered writes is read through node {node}", grouped(found));
    }
    println!(
        "Without an answer: {:.2} s at the median, {:.2} s at worst.",
        gaps[KILLS / 2].as_secs_f64(),
        gaps[KILLS - 1].as_secs_f64()
    );
    Ok(())
}

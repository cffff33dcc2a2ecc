//! `cargo xtask differential`: the same random commands to two servers, every reply compared.
//!
//! ```text
//! cargo xtask differential --left HOST:PORT --right HOST:PORT [--seed N] [--commands N] [--families a,b]
//!                          [--max-failures N] [--allow-missing] [--password P] [--plant NAME] [--selftest] [--masks] [--tally]
//! ```
//!
//! The stream is cut into episodes. An episode begins on emptied servers with new connections (each RESP2 or RESP3, by the seed),
//! so a failure is at most one episode long, is played again alone, and is shrunk to the few commands it takes. The left server is
//! right by definition: Debian's redis-server 7.0.15, its known differences from 7.2 being masked ([`compare::MASKS`]).
//!
//! It proves itself: `--selftest` plants one bug after another between us and the right server and wants each found.

mod compare;
mod generate;
mod plants;
mod play;
mod sha1;
mod shrink;
mod templates;

use crate::rng::Rng;
use generate::{Generator, Step};
use play::{Arena, Mismatch, show_step};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a failure is shrunk at most.
const SHRINK_TIME: Duration = Duration::from_secs(20);

/// What a run is asked to do.
struct Ask {
    seed: u64,
    commands: usize,
    families: Vec<String>,
    failures_max: usize,
    allow_missing: bool,
}

/// What a run found.
#[derive(Default)]
struct Findings {
    played: usize,
    episodes: usize,
    /// By signature.
    failures: BTreeMap<String, String>,
    /// Commands that the right server does not know, with a count.
    missing: BTreeMap<String, usize>,
}

/// Entry of `cargo xtask differential`.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut left = None;
    let mut right = None;
    let mut password = None;
    let mut plant = None;
    let mut selftest = false;
    let mut tally = false;
    let mut ask = Ask { seed: 1, commands: 20_000, families: Vec::new(), failures_max: 5, allow_missing: false };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{flag} wants a number, not {text:?}"));
        match flag.as_str() {
            "--left" => left = Some(value()?),
            "--right" => right = Some(value()?),
            "--password" => password = Some(value()?),
            "--seed" => ask.seed = number(value()?)?,
            "--commands" => ask.commands = number(value()?)? as usize,
            "--families" => ask.families = value()?.split(',').map(str::to_owned).collect(),
            "--max-failures" => ask.failures_max = (number(value()?)? as usize).max(1),
            "--allow-missing" => ask.allow_missing = true,
            "--plant" => {
                let name = value()?;
                let known: Vec<_> = plants::PLANTS.iter().map(|plant| plant.name).collect();
                plant = Some(
                    *plants::PLANTS
                        .iter()
                        .find(|plant| plant.name == name)
                        .ok_or_else(|| format!("--plant: one of {}", known.join(", ")))?,
                );
            }
            "--selftest" => selftest = true,
            "--tally" => tally = true,
            "--masks" => {
                print!("{}", masks());
                return Ok(());
            }
            _ => return Err(format!("differential does not know {flag}")),
        }
    }
    let left = left.ok_or("differential wants --left HOST:PORT (a real redis-server)")?;
    let right = right
        .or_else(|| selftest.then(|| left.clone()))
        .ok_or("differential wants --right HOST:PORT (the server on trial)")?;
    let mut arena = Arena { left, right, password, plant, tally: Default::default() };
    if selftest {
        return prove(&mut arena, &ask);
    }
    let start = Instant::now();
    let findings = search(&arena, &ask, true)?;
    if tally {
        for (name, tally) in arena.tally.borrow().iter().filter(|(_, tally)| tally.replies > 3) {
            let errors: usize = tally.errors.values().sum();
            let most = tally.errors.iter().max_by_key(|(_, times)| **times);
            let most = most.map_or(String::new(), |(text, times)| format!(", {times} times {text:?}"));
            println!("{name:20} {:7} replies, {:3} % errors{most}", tally.replies, errors * 100 / tally.replies);
        }
    }
    for (name, times) in &findings.missing {
        println!("not implemented: {name} (met {times} times, then no longer drawn)");
    }
    println!(
        "differential: seed {}, {} commands in {} episodes, {} differences, {} commands not implemented, {:.1} s",
        ask.seed,
        findings.played,
        findings.episodes,
        findings.failures.len(),
        findings.missing.len(),
        start.elapsed().as_secs_f64()
    );
    if !findings.failures.is_empty() {
        return Err(format!("{} differences", findings.failures.len()));
    }
    if !findings.missing.is_empty() && !ask.allow_missing {
        return Err(format!(
            "{} commands are not implemented (--allow-missing lets that pass)",
            findings.missing.len()
        ));
    }
    Ok(())
}

/// What is not compared and why, as a table for documents.
pub fn masks() -> String {
    let rows = compare::MASKS.iter().map(|(what, why)| format!("| {what} | {why} |\n"));
    format!("| not compared | why |\n|---|---|\n{}", rows.collect::<String>())
}

/// Plays episodes until the commands are used up or enough is found.
fn search(arena: &Arena, ask: &Ask, loud: bool) -> Result<Findings, String> {
    let mut findings = Findings::default();
    let mut generator = Generator::new(ask.seed, &ask.families)?;
    let mut lengths = Rng::new(ask.seed ^ 0x6c65_6e67_7468);
    while findings.played < ask.commands && findings.failures.len() < ask.failures_max {
        generator.restart();
        let length = (100 + lengths.below(900)).min(ask.commands - findings.played);
        let protocols = lengths.next();
        let steps: Vec<Step> = (0..length).map(|_| generator.step()).collect();
        findings.episodes += 1;
        let Some(mismatch) = arena.play(&steps, protocols)? else {
            findings.played += length;
            continue;
        };
        findings.played += mismatch.at + 1;
        if mismatch.missing {
            // "unknown subcommand": only that form is left out from here on.
            let words = if mismatch.right.starts_with("-ERR unknown sub") { 2 } else { 1 };
            let name: Vec<_> = mismatch
                .command
                .iter()
                .take(words)
                .map(|word| String::from_utf8_lossy(word).to_ascii_uppercase())
                .collect();
            let name = name.join(" ");
            *findings.missing.entry(name.clone()).or_default() += 1;
            generator.banned.insert(name);
            continue;
        }
        if findings.failures.contains_key(&mismatch.signature()) {
            continue;
        }
        let report = report(arena, ask, &steps, protocols, &mismatch, loud);
        if loud {
            println!("{report}\n");
        }
        findings.failures.insert(mismatch.signature(), report);
    }
    Ok(findings)
}

fn report(arena: &Arena, ask: &Ask, steps: &[Step], protocols: u64, mismatch: &Mismatch, shorten: bool) -> String {
    let tried = if shorten { shrink::shrink(arena, steps, protocols, mismatch, SHRINK_TIME) } else { Ok(None) };
    let recent = &steps[mismatch.at.saturating_sub(15)..=mismatch.at];
    let (steps, mismatch, note) = match &tried {
        Ok(Some(found)) => {
            (&found.steps[..], &found.mismatch, format!("shrunk to {} in {} tries", found.steps.len(), found.tries))
        }
        Ok(None) => (recent, mismatch, "NOT seen again when played alone: the last 15 commands".to_owned()),
        // A server that fell over is the worst difference of all: what made it fall is told all the same.
        Err(why) => (recent, mismatch, format!("not shrunk, {why}: the last 15 commands")),
    };
    let speakers: Vec<_> =
        (0..=generate::CONNECTIONS).map(|at| if protocols >> at & 1 == 1 { "RESP3" } else { "RESP2" }).collect();
    let mut out = format!("DIFFERENCE (seed {}; {note}; connections {})\n", ask.seed, speakers.join(" "));
    for step in steps {
        out.push_str(&format!("    {}\n", show_step(step)));
    }
    out.push_str(&format!(
        "  at:    {}\n  left:  {}\n  right: {}",
        crate::resp::show_command(&mismatch.command),
        mismatch.left,
        mismatch.right
    ));
    out
}

/// Each planted bug must be found; the unplanted pair must be clean over the same commands.
fn prove(arena: &mut Arena, ask: &Ask) -> Result<(), String> {
    let mut missed = Vec::new();
    for plant in plants::PLANTS {
        arena.plant = Some(*plant);
        let ask = Ask { failures_max: 1, families: Vec::new(), ..*ask };
        let findings = search(arena, &ask, false)?;
        if findings.failures.is_empty() && findings.missing.is_empty() {
            missed.push(plant.name);
            println!("planted {:24} MISSED in {} commands", plant.name, findings.played);
        } else {
            println!("planted {:24} found after {} commands", plant.name, findings.played);
        }
    }
    arena.plant = None;
    let findings = search(arena, ask, true)?;
    println!("nothing planted: {} differences in {} commands", findings.failures.len(), findings.played);
    if !missed.is_empty() || !findings.failures.is_empty() {
        return Err(format!("missed: {}; false alarms: {}", missed.join(", "), findings.failures.len()));
    }
    Ok(())
}

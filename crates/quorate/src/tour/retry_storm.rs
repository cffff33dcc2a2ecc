//! Half of all answers fail. Retries help, but only as far as the budget lets them: an upstream in trouble does not get twice the load.

use std::path::Path;

use super::front::{Backend, Load, look, tell, upstream};
use super::{Server, grouped};

const REQUESTS: u64 = 4000;
const CLIENTS: usize = 8;
/// Promised: so many times the requests of the clients reach the upstream.
const GROWTH_MAX: f64 = 1.2;

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &[], &[])?;
    // Servers that fail as often as each other are no outliers; ejection and breaker are off so that the budget is alone in this.
    let alone = ["--set", "outlier.enabled=false", "--set", "breaker.enabled=false"];
    let backends = Backend::several("server-", 3)?;
    for backend in &backends {
        backend.fail(50);
    }
    println!("Half of the answers of three servers are 503; a route tries at most three times.");
    upstream(&server, "add", "guarded", &backends, &alone)?;
    tell(&server, &["route", "add", "shop", "--to", "guarded", "--path", "/*"])?;
    let guarded = storm(&server, &backends, "guarded")?;

    println!("What it would be without the budget (as many retries as there are requests):");
    let mut options = alone.to_vec();
    options.extend(["--set", "retry_budget.percent=100"]);
    upstream(&server, "add", "unguarded", &backends, &options)?;
    tell(&server, &["route", "set", "shop", "--to", "unguarded"])?;
    let unguarded = storm(&server, &backends, "unguarded")?;

    println!("With the defaults all at work, ejection and breaker too:");
    upstream(&server, "add", "defaults", &backends, &[])?;
    tell(&server, &["route", "set", "shop", "--to", "defaults"])?;
    let defaults = storm(&server, &backends, "defaults")?;

    println!(
        "The upstream's traffic grew {guarded:.3} times with the budget, {defaults:.3} times with everything on, and would have grown {unguarded:.3} times without; promised is at most {GROWTH_MAX}."
    );
    if guarded > GROWTH_MAX || defaults > GROWTH_MAX {
        return Err(format!("it grew more than {GROWTH_MAX} times"));
    }
    if guarded < 1.1 || unguarded < 1.5 {
        return Err("there was no storm: too few retries to say anything".into());
    }
    Ok(())
}

/// How many times the requests of the clients reached the servers.
fn storm(server: &Server, backends: &[Backend], name: &str) -> Result<f64, String> {
    let seen = || backends.iter().map(Backend::requests).sum::<u64>();
    let before = seen();
    let figures = Load::new(server.gateway, CLIENTS).most(REQUESTS).run(|| Ok(()))?;
    let reached = seen() - before;
    let growth = reached as f64 / figures.requests as f64;
    let now = look(server, name)?;
    println!(
        "      {} requests of clients, {} retries, {} reached the servers: {growth:.3} times; {:.1} % of the clients got their answer",
        grouped(figures.requests),
        now["retries_total"],
        grouped(reached),
        100.0 * (figures.requests - figures.failed) as f64 / figures.requests as f64
    );
    Ok(growth)
}

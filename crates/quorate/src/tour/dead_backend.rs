//! One of three servers is killed under load: nobody notices but the gateway.

use std::path::Path;
use std::time::{Duration, Instant};

use super::front::{Backend, Load, endpoint, look, millis, tell, upstream, wait};
use super::{Server, grouped};

const CLIENTS: usize = 12;
const KILLS: usize = 3;
const A_WHILE: Duration = Duration::from_millis(1200);
/// How long the gateway may take to see that a server is dead, or back.
const NOTICE_MAX: Duration = Duration::from_secs(8);

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &[], &[])?;
    let backends = Backend::several("server-", 3)?;
    let often = ["--check", "/", "--set", "health.interval=200ms", "--set", "slow_start=1s"];
    upstream(&server, "add", "shop", &backends, &often)?;
    tell(&server, &["route", "add", "shop", "--to", "shop", "--path", "/*"])?;
    println!(
        "{CLIENTS} clients ask without a pause; each answer takes 3 ms. One server is killed with requests under way."
    );
    for backend in &backends {
        backend.delay(Duration::from_millis(3));
    }
    let victim = &backends[1];
    let is_in = || {
        let endpoint =
            endpoint(&look(&server, "shop")?, victim).ok_or("the killed server is in the upstream no more")?;
        Ok::<bool, String>(endpoint["ejected"] == false && endpoint["health"] == "passing")
    };
    let load = Load::new(server.gateway, CLIENTS);
    let figures = load.run(|| {
        std::thread::sleep(A_WHILE);
        for number in 1..=KILLS {
            let killed = Instant::now();
            victim.kill();
            wait("the dead server was taken out", NOTICE_MAX, || is_in().map(|is_in| !is_in))?;
            let noticed = killed.elapsed();
            std::thread::sleep(A_WHILE);
            let before = victim.requests();
            let back = Instant::now();
            victim.restart()?;
            wait("the server that is back got requests", NOTICE_MAX, || Ok(victim.requests() > before))?;
            let first = back.elapsed();
            wait("the server that is back was taken in", NOTICE_MAX, is_in)?;
            std::thread::sleep(A_WHILE);
            println!(
                "  kill number {number}: out after {}; back, its first request after {}, {} requests in the first {:.1} s",
                millis(noticed),
                millis(first),
                grouped(victim.requests() - before),
                back.elapsed().as_secs_f64()
            );
        }
        Ok(())
    })?;
    let now = look(&server, "shop")?;
    println!(
        "{} requests, {} failed for a client; {} attempts broke and {} were made again elsewhere.",
        grouped(figures.requests),
        figures.failed,
        now["failures_total"],
        now["retries_total"]
    );
    figures.none_failed()
}

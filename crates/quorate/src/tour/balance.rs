//! Three servers behind one route, and how requests spread over them by each way of choosing.

use std::path::Path;
use std::time::Duration;

use super::front::{Backend, Figures, Load, millis, tell, upstream};
use super::{Server, grouped};

const REQUESTS: u64 = 3000;
/// How far a share may be from the promised one, in percent of all: what is under way at the end.
const OFF_MAX: f64 = 1.0;
const FAST: Duration = Duration::from_millis(4);
const SLOW: Duration = Duration::from_millis(80);

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &[], &[])?;
    let backends = Backend::several("server-", 3)?;
    upstream(&server, "add", "shop", &backends, &["--balance", "round_robin", "--set", "slow_start=0s"])?;
    tell(&server, &["route", "add", "shop", "--to", "shop", "--path", "/*"])?;
    let load = |clients, requests| Load::new(server.gateway, clients).most(requests).run(|| Ok(()));

    let figures = load(8, REQUESTS)?;
    show(&figures, &backends)?;
    near(&figures, &backends, [100.0 / 3.0; 3])?;

    println!("By weight, 6 to 3 to 1:");
    let weighted: Vec<String> =
        backends.iter().zip([6, 3, 1]).map(|(backend, weight)| format!("{}={weight}", backend.address)).collect();
    let mut words = vec!["upstream", "set", "shop"];
    words.extend(weighted.iter().map(String::as_str));
    words.extend(["--balance", "weighted_round_robin"]);
    tell(&server, &words)?;
    let figures = load(8, REQUESTS)?;
    show(&figures, &backends)?;
    near(&figures, &backends, [60.0, 30.0, 10.0])?;

    println!("Now {} is slow: {} for each answer, the others {}.", backends[2].name, millis(SLOW), millis(FAST));
    for (backend, delay) in backends.iter().zip([FAST, FAST, SLOW]) {
        backend.delay(delay);
    }
    let mut p90 = Vec::new();
    for balance in ["round_robin", "least_connections"] {
        upstream(&server, "set", "shop", &backends, &["--balance", balance])?;
        let mut figures = load(12, 900)?;
        show(&figures, &backends)?;
        println!("      p50 {}, p90 {}", millis(figures.quantile(0.5)), millis(figures.quantile(0.9)));
        p90.push((figures.percent(&backends[2]), figures.quantile(0.9)));
    }
    let [(_, blind), (slow_share, seeing)] = p90[..] else { return Err("two ways were tried".into()) };
    if slow_share > 20.0 {
        return Err(format!("the slow server got {slow_share:.1} % by least connections, wanted is at most 20 %"));
    }
    println!(
        "Least connections sees the slow one by what is under way there: {slow_share:.1} % instead of 33.3 %, and p90 falls from {} to {}.",
        millis(blind),
        millis(seeing)
    );
    Ok(())
}

fn show(figures: &Figures, backends: &[Backend]) -> Result<(), String> {
    figures.none_failed()?;
    let parts: Vec<String> = backends
        .iter()
        .map(|backend| format!("{} {} ({:.1} %)", backend.name, grouped(figures.of(backend)), figures.percent(backend)))
        .collect();
    println!("      of {} requests: {}", grouped(figures.requests), parts.join(", "));
    Ok(())
}

fn near(figures: &Figures, backends: &[Backend], wanted: [f64; 3]) -> Result<(), String> {
    for (backend, wanted) in backends.iter().zip(wanted) {
        let got = figures.percent(backend);
        if (got - wanted).abs() > OFF_MAX {
            return Err(format!("{} got {got:.1} %, promised is {wanted:.1} %", backend.name));
        }
    }
    Ok(())
}

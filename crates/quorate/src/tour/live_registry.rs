//! Services come and go by Consul's HTTP API: after the answer to a deregistration not one request arrives.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::front::{Backend, Figures, Load, millis, tell, wait};
use super::{Server, grouped};
use crate::ask;

const CLIENTS: usize = 12;
const ROUNDS: usize = 10;
const A_WHILE: Duration = Duration::from_millis(250);
/// How long an instance that passes may be without a request, under load.
const FIRST_MAX: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(2);

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &[], &[])?;
    let backends = Backend::several("web-", 3)?;
    for backend in &backends {
        register(&server, backend, None)?;
    }
    println!("  three instances of the service web are registered: PUT /v1/agent/service/register");
    tell(&server, &["upstream", "add", "web", "--service", "web", "--set", "slow_start=0s"])?;
    tell(&server, &["route", "add", "web", "--to", "web", "--path", "/*"])?;
    let load = Load::new(server.gateway, CLIENTS);
    let figures = load.run(|| {
        std::thread::sleep(A_WHILE);
        comes_and_goes(&server, &load, &backends[1])?;
        critical(&server, &load, &backends[2])
    })?;
    spread(&figures, &backends);
    figures.none_failed()
}

fn comes_and_goes(server: &Server, load: &Load, backend: &Backend) -> Result<(), String> {
    let (mut longest, mut slowest) = (Duration::ZERO, Duration::ZERO);
    let before = backend.requests();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        consul(server, "PUT", &format!("/v1/agent/service/deregister/{}", backend.name), None)?;
        longest = longest.max(began.elapsed());
        silent(load, backend, "its deregistration was answered")?;
        let reached = backend.requests();
        register(server, backend, None)?;
        slowest =
            slowest.max(wait("the registered instance got a request", FIRST_MAX, || Ok(backend.requests() > reached))?);
        std::thread::sleep(A_WHILE / 5);
    }
    println!(
        "  {} deregistered and registered {ROUNDS} times under load, {} requests served meanwhile: 0 after the answer (which took at most {}); its first request at most {} after it was back",
        backend.name,
        grouped(backend.requests() - before),
        millis(longest),
        millis(slowest)
    );
    Ok(())
}

fn critical(server: &Server, load: &Load, backend: &Backend) -> Result<(), String> {
    register(server, backend, Some(json!({ "TTL": format!("{}s", TTL.as_secs()) })))?;
    let check = format!("service:{}", backend.name);
    let reached = backend.requests();
    consul(server, "PUT", &format!("/v1/agent/check/pass/{check}"), None)?;
    wait("the instance that passes got a request", FIRST_MAX, || Ok(backend.requests() > reached))?;
    let passed = Instant::now();
    consul(server, "PUT", &format!("/v1/agent/check/fail/{check}"), None)?;
    silent(load, backend, "its check failed")?;
    println!("  {}'s TTL check said critical: 0 requests after the answer", backend.name);

    let reached = backend.requests();
    consul(server, "PUT", &format!("/v1/agent/check/pass/{check}"), None)?;
    wait("the instance that passes again got a request", FIRST_MAX, || Ok(backend.requests() > reached))?;
    let is_critical = || {
        let health: Value = consul(server, "GET", "/v1/health/checks/web", None)?;
        let checks = health.as_array().ok_or("no list of checks")?;
        Ok(checks.iter().any(|one| one["CheckID"] == *check && one["Status"] == "critical"))
    };
    let took = wait("a TTL that nobody renewed ran out", TTL * 3, is_critical)?;
    silent(load, backend, "the registry said that its TTL had run out")?;
    println!(
        "  nobody renewed its TTL of {} s: critical after {:.1} s, 0 requests from then on ({:.1} s in all)",
        TTL.as_secs(),
        took.as_secs_f64(),
        passed.elapsed().as_secs_f64()
    );
    Ok(())
}

/// An error if a request that was begun from now on reaches the server.
fn silent(load: &Load, backend: &Backend, since: &str) -> Result<(), String> {
    let before = backend.late();
    load.late(true);
    std::thread::sleep(A_WHILE);
    let late = backend.late() - before;
    load.late(false);
    // What is still marked is under way; it is over before the server may be asked again.
    std::thread::sleep(Duration::from_millis(20));
    match late {
        0 => Ok(()),
        late => Err(format!("{} got {late} requests that were begun after {since}", backend.name)),
    }
}

fn register(server: &Server, backend: &Backend, check: Option<Value>) -> Result<(), String> {
    let mut service = json!({
        "Name": "web",
        "ID": backend.name,
        "Address": backend.address.ip().to_string(),
        "Port": backend.address.port(),
    });
    if let Some(check) = check {
        service["Check"] = check;
    }
    consul(server, "PUT", "/v1/agent/service/register", Some(&service)).map(|_| ())
}

pub(super) fn consul(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let (status, said) = ask::request(server.consul, method, path, None, "application/json", body.as_bytes())?;
    if status != 200 {
        return Err(format!("{method} {path} was answered {status}: {}", said.trim()));
    }
    Ok(serde_json::from_str(&said).unwrap_or(Value::Null))
}

fn spread(figures: &Figures, backends: &[Backend]) {
    let parts: Vec<String> =
        backends.iter().map(|backend| format!("{} {}", backend.name, grouped(figures.of(backend)))).collect();
    println!("{} requests, {} failed: {}.", grouped(figures.requests), figures.failed, parts.join(", "));
}

//! The project's own tools: `cargo xtask NAME …`.

mod bench;
mod chaos;
mod clients;
mod cluster;
mod commits;
mod compat;
mod differential;
mod failover;
mod fix;
mod gateway_proof;
mod ground;
mod interrupt;
mod kafka;
mod mutants;
mod net;
mod nodes;
mod redis_suite;
mod resp;
mod rng;
mod server;
mod shell;
mod sim;
mod source;
mod tair;
mod test;
mod tidy;
mod verify;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match args.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("", &args[..]),
    };
    let done = match name {
        "differential" => differential::run(rest),
        "chaos" => chaos::run(rest),
        "cluster" => cluster::run(rest),
        "failover" => failover::run(rest),
        "clients" => clients::run(rest),
        "bench" => bench::run(rest),
        "commits" => commits::run(rest),
        "compat" => compat::run(rest),
        "fix" => fix::run(rest),
        "gateway-proof" => gateway_proof::run(rest),
        "mutants" => mutants::run(rest),
        "redis-suite" => redis_suite::run(rest),
        "sim" => sim::run(rest),
        "tair" => tair::run(rest),
        "test" => test::run(rest),
        "tidy" => tidy::run(rest),
        "verify" => verify::run(rest),
        _ => Err(format!(
            "no tool {name:?}; there are: bench, chaos, clients, cluster, commits, compat, differential, failover, fix, gateway-proof, mutants, redis-suite, sim, tair, test, tidy, verify"
        )),
    };
    if let Err(message) = done {
        eprintln!("{name}: {message}");
        std::process::exit(1);
    }
}

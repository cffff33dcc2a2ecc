//! `cargo run --release -p sim -- --seeds A..B`: seeds of the simulator, for nights and for a seed that failed.

use sim::world::{Options, Report, run};

fn main() {
    let mut seeds = 0..100u64;
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        let number = || value.parse().unwrap_or_else(|_| usage());
        match arg.as_str() {
            "--seeds" => {
                let Some((from, to)) = value.split_once("..") else { usage() };
                let bound = |text: &str| text.parse().unwrap_or_else(|_| usage());
                seeds = bound(from)..bound(to);
            }
            "--lives" => options.lives = number(),
            "--steps" => options.ticks = number(),
            _ => usage(),
        }
    }
    let mut total = Report::default();
    let count = seeds.end.saturating_sub(seeds.start);
    for (done, seed) in seeds.enumerate() {
        match run(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                eprintln!("{failure} --lives {} --steps {}", options.lives, options.ticks);
                std::process::exit(1);
            }
        }
        if (done + 1) % 100 == 0 {
            println!("{} of {count} seeds: {total}", done + 1);
        }
    }
    println!("{count} seeds: {total}; checksum {:016x}", total.digest);
}

fn usage() -> ! {
    eprintln!("usage: sim --seeds A..B [--lives N] [--steps N]");
    std::process::exit(2)
}

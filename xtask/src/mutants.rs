//! `cargo xtask mutants`: changes the consensus and store rooms line by line, and asks whether any test notices (cargo-mutants). For
//! nights: whoever is not noticed is explained in docs/mutants.md, or gets a test.

use crate::shell::{output, root, visibly};

/// The version of cargo-mutants; the registry serves its source.
const VERSION: &str = "27.1.0";

/// Runs `mutants [--shard N/M] [PACKAGE…]`.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut shard = String::new();
    let mut packages: Vec<&str> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--shard" => shard.clone_from(args.next().ok_or("--shard wants N/M, as 0/20: the first of 20 parts")?),
            "--help" | "-h" => {
                println!(
                    "cargo xtask mutants [--shard N/M] [PACKAGE…]\n\nWithout packages: consensus, store and cluster. Hours; a part of it with --shard."
                );
                return Ok(());
            }
            package => packages.push(package),
        }
    }
    if packages.is_empty() {
        packages = vec!["consensus", "store", "cluster"];
    }
    let tools = root().join(".tools/mutants");
    let program = tools.join("bin/cargo-mutants").to_string_lossy().into_owned();
    if !output(&program, &["mutants", "--version"]).is_ok_and(|said| said.contains(VERSION)) {
        let at = tools.to_string_lossy().into_owned();
        visibly(
            "cargo",
            &["install", "cargo-mutants", "--locked", "--debug", "--force", "--version", VERSION, "--root", &at],
        )?;
    }
    // The simulator's feature is on, as in every test of these rooms: planted bugs are code of the tests.
    let mut words =
        vec!["mutants", "--no-shuffle", "--baseline", "run", "--timeout", "120", "--output", "target/mutants"];
    for package in &packages {
        words.extend(["--package", package, "--test-package", package]);
    }
    if !shard.is_empty() {
        words.extend(["--shard", &shard]);
    }
    words.extend(["--", "--lib", "--tests"]);
    visibly(&program, &words)
}

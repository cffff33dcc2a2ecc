//! `cargo xtask verify`: format, lints, the rules of the house, unit tests. It never writes: `cargo xtask fix` may.
//!
//! ```text
//! cargo xtask verify [--no-tests]
//! ```

use crate::shell::visibly;
use crate::tidy;

/// Entry of `cargo xtask verify`.
pub fn run(args: &[String]) -> Result<(), String> {
    let tests = match args {
        [] => true,
        [flag] if flag == "--no-tests" => false,
        _ => return Err(format!("verify does not know {}", args.join(" "))),
    };
    visibly("cargo", &["fmt", "--all", "--", "--check"]).map_err(|why| format!("{why}\n`cargo xtask fix` formats"))?;
    tidy::run(&[])?;
    visibly("cargo", &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    if tests {
        visibly("cargo", &["test", "--locked", "--workspace", "--lib", "--bins"])?;
    }
    println!("verify: all well");
    Ok(())
}

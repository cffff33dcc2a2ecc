//! `cargo xtask fix`: what `verify` complains about and a program can mend, mended.

use crate::shell::visibly;

/// Entry of `cargo xtask fix`.
pub fn run(args: &[String]) -> Result<(), String> {
    if let Some(flag) = args.first() {
        return Err(format!("fix takes no arguments, so not {flag}"));
    }
    visibly("cargo", &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
    visibly("cargo", &["fmt", "--all"])
}

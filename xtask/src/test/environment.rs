//! What stages need from outside, installed where that is possible.

use super::{Ctx, Outcome};
use crate::shell::there;

/// A program and the Debian packages that bring it.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("git", &["git"]),
    ("redis-server", &["redis-server"]),
    ("redis-cli", &["redis-tools"]),
    ("redis-benchmark", &["redis-tools"]),
    ("promtool", &["prometheus"]),
    ("python3", &["python3"]),
    ("kcat", &["kcat"]),
    ("etcd", &["etcd-server"]),
    ("etcdctl", &["etcd-client"]),
    ("node", &["nodejs"]),
    ("npm", &["npm"]),
    ("chromium", &["chromium"]),
    ("curl", &["curl"]),
    ("h2load", &["nghttp2-client"]),
    ("nghttp", &["nghttp2-client"]),
    ("wrk", &["wrk"]),
    ("nginx", &["nginx"]),
    ("haproxy", &["haproxy"]),
    ("slowhttptest", &["slowhttptest"]),
    ("dig", &["bind9-dnsutils"]),
    ("openssl", &["openssl"]),
    ("cc", &["gcc", "libc6-dev"]),
    ("mkfs.ext4", &["e2fsprogs"]),
    ("ip", &["iproute2"]),
];

/// Installs what is missing by apt-get, where root is at hand.
pub fn run(ctx: &Ctx) -> Result<Outcome, String> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !found(program))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    // A Python without the parts that make environments is as good as none.
    if ctx.run("python3", &["-c", "import venv, ensurepip"], 1).is_err() {
        packages.extend(["python3", "python3-venv"]);
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(Outcome::Passed("nothing is missing".into()));
    }
    let root = ctx.run("id", &["-u"], 1).is_ok_and(|id| id.trim() == "0");
    let sudo = !root && there("sudo") && ctx.run("sudo", &["-n", "true"], 1).is_ok();
    if !there("apt-get") || !(root || sudo) {
        return Ok(Outcome::Skipped(format!(
            "missing, and no apt-get as root here to install: {}",
            packages.join(" ")
        )));
    }
    let apt = |words: &[&str], minutes_max| {
        let words = [&["DEBIAN_FRONTEND=noninteractive", "apt-get"], words].concat();
        if sudo {
            ctx.run("sudo", &[&["-n", "env"], &words[..]].concat(), minutes_max)
        } else {
            ctx.run("env", &words, minutes_max)
        }
    };
    apt(&["update", "-qq"], 5)?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    let mut refused = Vec::new();
    if apt(&[&install[..], &packages[..]].concat(), 12).is_err() {
        // One by one, so that one missing package does not take the others with it.
        for package in &packages {
            if apt(&[&install[..], &[*package]].concat(), 6).is_err() {
                refused.push(*package);
            }
        }
    }
    if refused.is_empty() {
        Ok(Outcome::Passed(format!("installed {}", packages.join(" "))))
    } else {
        Ok(Outcome::Skipped(format!("apt-get could not install {}", refused.join(" "))))
    }
}

/// Also looks where root's programs are, which are not on everybody's PATH.
fn found(program: &str) -> bool {
    there(program) || ["/usr/sbin", "/sbin"].iter().any(|dir| std::path::Path::new(dir).join(program).is_file())
}

//! `quorate config check`: what a node would run with. `quorate config example`: a file with every key.

use std::path::PathBuf;
use std::process::ExitCode;

use store::keyspace::Keyspaces;

use crate::UpArgs;
use crate::config::{self, Settings};
use crate::keys::{KEYS, KEYSPACE_KEYS, quoted};

/// Reads the file as `quorate up` does and prints the settings as TOML, secrets left out.
pub fn run(file: Option<PathBuf>) -> Result<ExitCode, String> {
    let named = file.as_ref().map_or("no file, only defaults".into(), |file| format!("{} is valid", file.display()));
    let settings = config::load(&UpArgs { config: file, ..UpArgs::default() })?;
    print!("# {named}\n{}", effective(&settings));
    Ok(ExitCode::SUCCESS)
}

/// All settings, as a file that would set them.
pub fn effective(settings: &Settings) -> String {
    let mut text = String::new();
    for key in KEYS {
        let mark = if settings.given.contains(key.name) { "" } else { "  # default" };
        text.push_str(&format!("{} = {}{mark}\n", key.name, (key.show)(settings)));
    }
    for (door, password) in [("Redis", &settings.password), ("admin", &settings.admin_password)] {
        text.push_str(&match password {
            Some(_) => format!("# the {door} door has a password; it is not shown\n"),
            None => format!("# the {door} door has no password\n"),
        });
    }
    for space in &settings.keyspaces {
        text.push_str(&format!("\n[keyspace.{}]\n", quoted(&String::from_utf8_lossy(&space.prefix))));
        for key in KEYSPACE_KEYS {
            text.push_str(&format!("{} = {}\n", key.name, (key.show)(space)));
        }
    }
    text
}

const EXAMPLE_HEAD: &str = "\
# Every setting of a Quorate node, with its default. Use it with `quorate up --config quorate.toml`;
# look at what a file makes of a node with `quorate config check quorate.toml`.
#
# A line is commented out where it says the default. Bytes are numbers or \"64KiB\", \"64MiB\", \"64GiB\"; spans are
# \"500ms\", \"10s\", \"5m\", \"2h\", \"7d\". A flag wins over this file: `--set limits.args_max=1000` sets any key.
# `quorate config example` prints this file.
";

const EXAMPLE_KEYSPACES: &str = "
# Keys that begin with a prefix may have settings of their own; the longest prefix wins. [keyspace.\"\"] is the default
# keyspace, all other keys. For example, a cache of at most 256 MiB whose keys go after ten minutes:
#
# [keyspace.\"cache:\"]
# durability = \"memory\"
# max_bytes = \"256MiB\"
# default_expiry = \"10m\"
#
# The keys of such a table, with their defaults (a \"memory\" keyspace has eviction = \"lru\" unless it says otherwise):
#
";

const EXAMPLE_SERVICES: &str = "
# Services that this node registers at its start, with the fields of Consul's agent API; the node makes their checks
# (HTTP, TCP or TTL). One that leaves this file is deregistered at the next start. For example:
#
# [[service]]
# name = \"web\"
# port = 8081
# tags = [\"blue\"]
# check = { http = \"http://127.0.0.1:8081/healthz\", interval = \"5s\", timeout = \"2s\" }
";

const EXAMPLE_GATEWAY: &str = "
# Routes of the gateway: which requests go where. What stands here is written at the start, over what was said at run time
# under the same names, and goes when it no longer stands here. docs/routes.md has every key. For example, two servers, a
# route with a limit for each client, and a new version that gets 5 % of the users, each of whom stays where they were:
#
# [upstream.shop]
# endpoints = [\"127.0.0.1:9001\", \"127.0.0.1:9002\"]
# [upstream.shop-next]
# service = \"shop-next\"
# [route.shop]
# hosts = [\"shop.example.com\"]
# path = \"/*\"
# to = [{ upstream = \"shop\", weight = 95 }, { upstream = \"shop-next\", weight = 5 }]
# sticky = \"cookie:session\"
# rate_limit = \"100/s\"
# [listener.web]
# bind = \"0.0.0.0:443\"
# certificates = [{ chain = \"shop.pem\", key = \"shop.key\" }]
";

/// The committed `quorate.toml`: every key with its reason, commented out at its default.
pub fn example() -> String {
    let mut text = EXAMPLE_HEAD.to_owned();
    let defaults = Settings::default();
    let mut table = "";
    for key in KEYS {
        let (own, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if own != table {
            text.push_str(&format!("\n[{own}]"));
            table = own;
        }
        text.push('\n');
        comment(&mut text, key.doc, "");
        text.push_str(&format!("# {name} = {}\n", (key.show)(&defaults)));
    }
    text.push_str(EXAMPLE_KEYSPACES);
    let space = Keyspaces::default().get(0).clone();
    for key in KEYSPACE_KEYS {
        comment(&mut text, key.doc, "  ");
        text.push_str(&format!("#   {} = {}\n", key.name, (key.show)(&space)));
    }
    text.push_str(EXAMPLE_SERVICES);
    text.push_str(EXAMPLE_GATEWAY);
    text
}

/// Longest line of a comment.
const WIDTH: usize = 110;

fn comment(text: &mut String, words: &str, indent: &str) {
    let mut line = format!("#{indent}");
    for word in words.split(' ') {
        if line.len() + word.len() >= WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = format!("#{indent}");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMMITTED: &str = include_str!("../../../quorate.toml");

    #[test]
    fn the_committed_file_is_the_example() {
        assert_eq!(COMMITTED, example(), "`cargo run -- config example > quorate.toml` writes it again");
    }

    #[test]
    fn the_file_is_valid_as_it_is_and_sets_nothing() {
        let mut settings = Settings::default();
        settings.read_toml("quorate.toml", COMMITTED).expect("valid");
        assert!(settings.given.is_empty() && settings.keyspaces.is_empty());
    }

    #[test]
    fn without_the_comment_marks_it_sets_every_key_to_its_default() {
        let is_key = |line: &str| {
            line.strip_prefix("# ").is_some_and(|rest| {
                KEYS.iter().any(|key| {
                    let name = key.name.rsplit('.').next().unwrap_or(key.name);
                    rest.starts_with(&format!("{name} = "))
                })
            })
        };
        let before_keyspaces = COMMITTED.split("\n# Keys that begin").next().expect("a first part");
        let lines: Vec<&str> =
            before_keyspaces.lines().map(|line| if is_key(line) { &line[2..] } else { line }).collect();
        let mut settings = Settings::default();
        settings.read_toml("quorate.toml", &lines.join("\n")).expect("valid");
        for key in KEYS {
            assert!(settings.given.contains(key.name), "{} is missing", key.name);
            assert_eq!((key.show)(&settings), (key.show)(&Settings::default()), "{}", key.name);
        }
        for key in KEYSPACE_KEYS {
            assert!(COMMITTED.contains(&format!("#   {} = ", key.name)), "{} is missing", key.name);
        }
    }

    #[test]
    fn the_page_of_limits_has_every_limit() {
        let page = include_str!("../../../docs/limits.md");
        for limit in base::Limit::ALL {
            assert!(page.contains(&format!("\n| `{}` |", limit.name())), "{} is missing", limit.name());
        }
        let settings = KEYS.iter().filter_map(|key| key.name.strip_prefix("limits."));
        let counted = base::Limit::ALL[..base::Limit::SETTINGS].iter().map(|limit| limit.name());
        assert_eq!(
            settings.collect::<BTreeSet<_>>(),
            counted.collect::<BTreeSet<_>>(),
            "each can be set and is counted"
        );
    }

    #[test]
    fn what_check_prints_sets_the_same_again() {
        let mut settings = Settings::default();
        let text = "data_shards = 3\n[limits]\nargs_max = 5\n[keyspace.\"c:\"]\ndurability = \"memory\"\nmax_bytes = \"1MiB\"\n";
        settings.read_toml("a", text).expect("valid");
        settings.password = Some(doors::secret::Secret::new("hunter2".into()));
        let printed = effective(&settings);
        assert!(!printed.contains("hunter2"));
        let mut again = Settings::default();
        again.read_toml("b", &printed).expect("valid");
        assert_eq!(again.keyspaces, settings.keyspaces);
        for key in KEYS {
            assert_eq!((key.show)(&again), (key.show)(&settings));
        }
    }
}

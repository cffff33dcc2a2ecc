//! `quorate config keep`, `set`, `history` …: configuration that lies in the cluster, through the admin door.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::route::At;

/// Whose keys.
#[derive(Clone, Copy, ValueEnum)]
pub enum Space {
    /// Consul's key-value tree.
    Consul,
    /// etcd's keys.
    Etcd,
}

/// Where, and whose keys.
#[derive(Args)]
pub struct Where {
    #[command(flatten)]
    at: At,
    /// Whose keys: those of the Consul door's tree, or of the etcd door.
    #[arg(long, value_enum, default_value = "consul")]
    space: Space,
}

/// Who says that he changes something.
#[derive(Args)]
pub struct By {
    /// Your name, for the history; else $USER.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// The prefixes whose keys are configuration, with their schemas.
    Prefixes {
        #[command(flatten)]
        at: At,
    },
    /// Keys that begin with PREFIX are configuration from now on: changes are remembered, and held against a schema.
    #[command(after_help = KEEP_EXAMPLES)]
    Keep {
        /// How the keys begin.
        prefix: String,
        /// A file with the JSON schema of each value; - is standard input. Without it any value will do.
        #[arg(long, value_name = "FILE")]
        schema: Option<PathBuf>,
        #[command(flatten)]
        place: Where,
    },
    /// Keys that begin with PREFIX are keys like any other again. They stay, and so does what is remembered of them.
    Forget {
        /// How the keys begin.
        prefix: String,
        #[command(flatten)]
        place: Where,
    },
    /// Keys and values that are configuration.
    List {
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        place: Where,
    },
    /// Writes a value. Clients that watch the key hear of it at once.
    #[command(
        after_help = "Examples:\n  quorate config set flags/checkout true\n  quorate config set limits/api - < limits.json"
    )]
    Set {
        /// The key.
        key: String,
        /// The value; - is standard input.
        value: String,
        /// Only if the key is as of this index (see list); 0: only if it is not there.
        #[arg(long, value_name = "INDEX")]
        index: Option<u64>,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Where,
    },
    /// Takes a key away.
    Remove {
        /// The key.
        key: String,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Where,
    },
    /// Who changed what when, from what to what; the newest first.
    History {
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        count: u64,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Puts a key back to what it was after a change.
    #[command(
        after_help = "Examples:\n  quorate config history flags/checkout\n  quorate config rollback flags/checkout --to 17"
    )]
    Rollback {
        /// The key.
        key: String,
        /// The number of the change, as history tells it.
        #[arg(long, value_name = "NUMBER")]
        to: u64,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Where,
    },
}

const KEEP_EXAMPLES: &str = r#"Examples:
  echo '{"type": "boolean"}' | quorate config keep flags/ --schema -
  quorate config set flags/checkout true --by maria
  curl -X PUT -d maybe localhost:8500/v1/kv/flags/checkout      # 400: boolean is wanted
  curl 'localhost:8500/v1/kv/flags/checkout?raw&index=1'        # waits for changes
  quorate config history flags/
  quorate config rollback flags/checkout --to 1"#;

/// Does it.
///
/// # Errors
/// The door cannot be asked, or refuses; a sentence.
pub fn run(verb: &Verb) -> Result<ExitCode, String> {
    match verb {
        Verb::Prefixes { at } => {
            let told = ask(at, "GET", "", &Value::Null)?;
            let all = told["prefixes"].as_array().cloned().unwrap_or_default();
            for one in &all {
                let schema = if one["schema"].is_null() { "no schema".to_owned() } else { one["schema"].to_string() };
                println!("{:<8}{}  {schema}", text(&one["space"]), text(&one["prefix"]));
            }
            if all.is_empty() {
                println!("no keys are configuration yet; see `quorate config keep --help`");
            }
        }
        Verb::Keep { prefix, schema, place } => {
            let schema = match schema {
                None => Value::Null,
                Some(path) => {
                    let read = content(path)?;
                    serde_json::from_str(&read).map_err(|error| format!("{}: no JSON: {error}", path.display()))?
                }
            };
            place.post("keep", json!({ "prefix": prefix, "schema": schema }))?;
            println!("keys below {prefix} are configuration");
        }
        Verb::Forget { prefix, place } => {
            place.post("forget", json!({ "prefix": prefix }))?;
            println!("keys below {prefix} are keys like any other");
        }
        Verb::List { prefix, place } => {
            let told = place.post("list", json!({ "prefix": prefix }))?;
            for one in told["keys"].as_array().into_iter().flatten() {
                println!("{} = {}  (index {})", text(&one["key"]), text(&one["value"]), one["index"]);
            }
            if told["complete"] == json!(false) {
                println!("there are more: give a longer prefix");
            }
        }
        Verb::Set { key, value, index, by, place } => {
            let value = if value == "-" { content(&PathBuf::from("-"))?.trim_end().to_owned() } else { value.clone() };
            let told = place.post("set", json!({ "key": key, "value": value, "index": index, "by": by.name() }))?;
            println!("{key} is set (index {})", told["index"]);
        }
        Verb::Remove { key, by, place } => {
            place.post("remove", json!({ "key": key, "by": by.name() }))?;
            println!("{key} is gone");
        }
        Verb::History { prefix, count, json, place } => {
            let told = place.post("history", json!({ "prefix": prefix, "count": count }))?;
            if *json {
                println!("{:#}", told["changes"]);
                return Ok(ExitCode::SUCCESS);
            }
            for one in told["changes"].as_array().into_iter().flatten() {
                let value = |value: &Value| if value.is_null() { "(not there)".to_owned() } else { text(value) };
                println!(
                    "{:>6}  {}  {}  {}: {} -> {}",
                    one["number"],
                    moment(one["at_ms"].as_u64().unwrap_or(0)),
                    text(&one["who"]),
                    text(&one["key"]),
                    value(&one["from"]),
                    value(&one["to"])
                );
            }
        }
        Verb::Rollback { key, to, by, place } => {
            place.post("rollback", json!({ "key": key, "to": to, "by": by.name() }))?;
            println!("{key} is as it was after change {to}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl By {
    fn name(&self) -> String {
        self.by.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_default()
    }
}

impl Where {
    fn post(&self, verb: &str, mut body: Value) -> Result<Value, String> {
        let space = match self.space {
            Space::Consul => "consul",
            Space::Etcd => "etcd",
        };
        body.as_object_mut().unwrap_or(&mut Map::new()).insert("space".into(), space.into());
        ask(&self.at, "POST", verb, &body)
    }
}

fn ask(at: &At, method: &str, verb: &str, body: &Value) -> Result<Value, String> {
    let path = if verb.is_empty() { "/config".to_owned() } else { format!("/config/{verb}") };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let (code, told) = at.door()?.ask(method, &path, "application/json", &body)?;
    let value: Value = serde_json::from_str(&told).unwrap_or_default();
    match (code, value["error"].as_str()) {
        (200, _) => Ok(value),
        (_, Some(why)) => Err(why.to_owned()),
        (code, None) => Err(format!("the admin door answered {code}: {}", told.trim())),
    }
}

fn content(path: &PathBuf) -> Result<String, String> {
    let mut read = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut read).map_err(|error| format!("standard input: {error}"))?;
    } else {
        read = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(read)
}

fn text(value: &Value) -> String {
    // What others wrote must not move the cursor.
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().map(|one| if one.is_control() && one != '\t' { '\u{fffd}' } else { one }).collect()
}

/// A moment of shard time, to the second.
fn moment(at_ms: u64) -> String {
    format!("{} UTC", crate::explain::to_the_second(at_ms))
}

#[cfg(test)]
mod tests {
    use super::{moment, text};

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_827_696_000), "2000-02-29 12:34:56 UTC");
        assert_eq!(moment(1_795_430_400_123), "2026-11-23 10:40:00 UTC");
    }

    #[test]
    fn values_move_no_cursor() {
        assert_eq!(text(&"a\u{1b}[2Jb".into()), "a\u{fffd}[2Jb");
    }
}

//! `quorate route`, `upstream`, `listener` and `apply`: what the gateway is told, through the admin door.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::ask::Admin;

/// Which node.
#[derive(Args)]
pub struct At {
    /// Its admin door.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070", global = true)]
    admin: SocketAddr,
    /// File whose first line is the admin door's password.
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
}

impl At {
    /// Of this node.
    pub(crate) fn door(&self) -> Result<Admin, String> {
        Admin::new(self.admin, self.password_file.as_deref())
    }
}

/// What to do with the documents of one kind.
#[derive(Subcommand)]
pub enum Verb<Options: Args> {
    /// All of them.
    List,
    /// One, as JSON without what is the default.
    Show {
        /// Its name.
        name: String,
    },
    /// A new one; an error where the name is taken.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Changes one: only what is named here.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Takes one away.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Options of a route.
#[derive(Args, Default)]
pub struct RouteOptions {
    /// An upstream that gets its requests, with its share of them: shop, or shop=95 beside shop-next=5.
    #[arg(long = "to", value_name = "UPSTREAM[=WEIGHT]")]
    to: Vec<String>,
    /// Paths: "/health" (this one), "/api/*" (and all below), "/users/{id}".
    #[arg(long, value_name = "PATTERN")]
    path: Option<String>,
    /// Hosts: shop.example.com, "*.example.com".
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Methods: GET, POST …
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// The path for the upstream: "/{rest}" takes the prefix of "/api/*" away.
    #[arg(long, value_name = "TEMPLATE")]
    rewrite: Option<String>,
    /// How often one client may ask: "100/s".
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// By what a user stays with one target: client, cookie:NAME, header:NAME.
    #[arg(long, value_name = "KEY")]
    sticky: Option<String>,
    /// Sends clients elsewhere: "https://{host}{path}{query}".
    #[arg(long, value_name = "URL", conflicts_with = "to")]
    redirect: Option<String>,
    /// Any other setting, as in quorate.toml: timeouts.total=5s.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Options of an upstream.
#[derive(Args, Default)]
pub struct UpstreamOptions {
    /// Its endpoints: 127.0.0.1:9001, with a weight 127.0.0.1:9001=3 (0 drains).
    #[arg(value_name = "ADDR:PORT[=WEIGHT]")]
    endpoints: Vec<String>,
    /// Endpoints are the instances of this service of the registry instead.
    #[arg(long, value_name = "NAME", conflicts_with = "endpoints")]
    service: Option<String>,
    /// How one is chosen: least_connections, round_robin, weighted_round_robin, peak_ewma, random, ip_hash, hash.
    #[arg(long, value_name = "WAY")]
    balance: Option<String>,
    /// Check endpoints by a GET of this path.
    #[arg(long, value_name = "PATH")]
    check: Option<String>,
    /// Any other setting, as in quorate.toml: breaker.enabled=false.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Options of a listener.
#[derive(Args, Default)]
pub struct ListenerOptions {
    /// Address and port.
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// http, tcp or tls.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// File with a certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<String>,
    /// File with its key, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<String>,
    /// Any other setting, as in quorate.toml: access_log=text.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What becomes a document.
pub trait Options: Args {
    /// The word of its kind.
    const KIND: &'static str;
    /// What was said, as a table of the document.
    fn table(&self) -> Result<Map<String, Value>, String>;
}

impl Options for RouteOptions {
    const KIND: &'static str = "route";

    fn table(&self) -> Result<Map<String, Value>, String> {
        let mut table = settings(&self.set)?;
        if !self.to.is_empty() {
            let targets: Result<Vec<Value>, String> = self.to.iter().map(|text| weighted(text, "upstream")).collect();
            table.insert("to".into(), Value::Array(targets?));
        }
        let lists = [("hosts", &self.hosts), ("methods", &self.methods)];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            table.insert(key.into(), json!(list));
        }
        let texts = [("path", &self.path), ("sticky", &self.sticky), ("rate_limit", &self.rate)];
        for (key, text) in texts {
            if let Some(text) = text {
                table.insert(key.into(), json!(text));
            }
        }
        if let Some(path) = &self.rewrite {
            table.insert("rewrite".into(), json!({ "path": path }));
        }
        if let Some(to) = &self.redirect {
            table.insert("redirect".into(), json!({ "to": to }));
        }
        Ok(table)
    }
}

impl Options for UpstreamOptions {
    const KIND: &'static str = "upstream";

    fn table(&self) -> Result<Map<String, Value>, String> {
        let mut table = settings(&self.set)?;
        if !self.endpoints.is_empty() {
            let endpoints: Result<Vec<Value>, String> =
                self.endpoints.iter().map(|text| weighted(text, "address")).collect();
            table.insert("endpoints".into(), Value::Array(endpoints?));
        }
        if let Some(service) = &self.service {
            table.insert("service".into(), json!(service));
        }
        if let Some(balance) = &self.balance {
            table.insert("balance".into(), json!(balance));
        }
        if let Some(path) = &self.check {
            put(&mut table, "health.path", json!(path));
            put(&mut table, "health.kind", json!("http"));
        }
        Ok(table)
    }
}

impl Options for ListenerOptions {
    const KIND: &'static str = "listener";

    fn table(&self) -> Result<Map<String, Value>, String> {
        let mut table = settings(&self.set)?;
        if let Some(bind) = &self.bind {
            table.insert("bind".into(), json!(bind));
        }
        if let Some(protocol) = &self.protocol {
            table.insert("protocol".into(), json!(protocol));
        }
        if let (Some(chain), Some(key)) = (&self.certificate, &self.key) {
            table.insert("certificates".into(), json!([{ "chain": chain, "key": key }]));
        }
        Ok(table)
    }
}

/// How often, and at which distance, it is looked whether a listener is open.
const OPENING_TURNS: u32 = 15;
const OPENING_TURN: Duration = Duration::from_millis(100);

/// `shop` or `shop=95`.
fn weighted(text: &str, key: &str) -> Result<Value, String> {
    let Some((name, weight)) = text.split_once('=') else {
        return Ok(json!({ key: text }));
    };
    let weight: u32 = weight.parse().map_err(|_| format!("{text}: a weight is a whole number, as in {name}=95"))?;
    Ok(json!({ key: name, "weight": weight }))
}

/// `a.b=value` of every `--set`.
fn settings(set: &[String]) -> Result<Map<String, Value>, String> {
    let mut table = Map::new();
    for text in set {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("--set {text}: wants KEY=VALUE"))?;
        // A value of JSON is that value; anything else is a text, so that nobody needs quotes for 5s.
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        put(&mut table, key, value);
    }
    Ok(table)
}

fn put(table: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first.to_owned()).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Runs a command on documents of one kind.
pub fn run<O: Options>(at: &At, verb: Option<&Verb<O>>) -> Result<ExitCode, String> {
    let door = at.door()?;
    let path = |name: &str| format!("/gateway/{}/{name}", O::KIND);
    let json = "application/json";
    match verb.unwrap_or(&Verb::List) {
        Verb::List => list(&door, O::KIND),
        Verb::Show { name } => {
            let table = expect(door.ask("GET", &path(name), json, &[])?)?;
            println!("{table:#}");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Add { name, options } => {
            if door.ask("GET", &path(name), json, &[])?.0 == 200 {
                return Err(format!(
                    "there is a {} {name:?} already: `quorate {} set {name} …` changes it",
                    O::KIND,
                    O::KIND
                ));
            }
            let table = Value::Object(options.table()?).to_string();
            expect(door.ask("PUT", &path(name), json, table.as_bytes())?)?;
            added::<O>(&door, name)
        }
        Verb::Set { name, options } => {
            let table = options.table()?;
            if table.is_empty() {
                return Err(format!("nothing to set: see `quorate {} set --help`", O::KIND));
            }
            let applied = expect(door.ask("PATCH", &path(name), json, Value::Object(table).to_string().as_bytes())?)?;
            println!("{} {name} is changed, at position {}", O::KIND, applied["index"]);
            opened::<O>(&door, name)
        }
        Verb::Remove { name } => {
            let applied = expect(door.ask("DELETE", &path(name), json, &[])?)?;
            println!("{} {name} is gone, at position {}", O::KIND, applied["index"]);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn added<O: Options>(door: &Admin, name: &str) -> Result<ExitCode, String> {
    println!("{} {name} is there", O::KIND);
    let code = opened::<O>(door, name)?;
    let look = expect(door.ask("GET", "/gateway/look", "", &[])?)?;
    let listener = look["listeners"][0]["address"].as_str().unwrap_or("127.0.0.1:8080").to_owned();
    match O::KIND {
        "upstream" => println!("Try next:  quorate route add {name} --to {name} --path '/*'"),
        "route" => println!("Try next:  curl -i http://{listener}/    and    quorate route"),
        _ => {}
    }
    Ok(code)
}

/// A listener's document is one thing, its socket another: says whether the node could open it, or what is in the way.
fn opened<O: Options>(door: &Admin, name: &str) -> Result<ExitCode, String> {
    if O::KIND != "listener" {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = expect(door.ask("GET", &format!("/gateway/listener/{name}"), "", &[])?)?;
    let wanted: Option<SocketAddr> = wanted["bind"].as_str().and_then(|bind| bind.parse().ok());
    let mut trouble = None;
    for _ in 0..OPENING_TURNS {
        let look = expect(door.ask("GET", "/gateway/look", "", &[])?)?;
        let all = |list: &str| look[list].as_array().cloned().unwrap_or_default();
        let open = all("listeners").into_iter().find(|one| one["name"] == name);
        let open: Option<SocketAddr> = open.and_then(|one| one["address"].as_str()?.parse().ok());
        if let (Some(open), Some(wanted)) = (open, wanted)
            && open.ip() == wanted.ip()
            && [open.port(), 0].contains(&wanted.port())
        {
            println!("it is open at {open}");
            return Ok(ExitCode::SUCCESS);
        }
        trouble = all("troubles").into_iter().find(|one| one["about"] == format!("listener {name}"));
        std::thread::sleep(OPENING_TURN);
    }
    let why = trouble.map_or_else(|| "it has not been opened yet".to_owned(), |trouble| text(&trouble["what"]));
    Err(format!("the document of listener {name} is stored, but {why}. The node tries again every second"))
}

/// The answer's table, or what is wrong in words.
fn expect((code, body): (u16, String)) -> Result<Value, String> {
    let value: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    if code == 200 {
        return Ok(value);
    }
    let mut why = value["error"].as_str().map_or_else(|| format!("{code}: {}", body.trim()), str::to_owned);
    for wrong in value["wrong"].as_array().into_iter().flatten() {
        why.push_str("\n  ");
        why.push_str(wrong.as_str().unwrap_or_default());
    }
    Err(why)
}

fn list(door: &Admin, kind: &str) -> Result<ExitCode, String> {
    let all = expect(door.ask("GET", "/gateway", "", &[])?)?;
    let look = expect(door.ask("GET", "/gateway/look", "", &[])?)?;
    let empty = Map::new();
    let documents = all[kind].as_object().unwrap_or(&empty);
    let live = |list: &str, name: &str| {
        let all = look[list].as_array();
        all.and_then(|all| all.iter().find(|one| one["name"] == name)).cloned().unwrap_or(Value::Null)
    };
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(0);
    match kind {
        "listener" => {
            for one in look["listeners"].as_array().into_iter().flatten() {
                println!("{:<16} {}", text(&one["name"]), text(&one["address"]));
            }
        }
        "upstream" => {
            for name in documents.keys() {
                let now = live("upstreams", name);
                println!(
                    "{name:<16} breaker {}, {} requests, {} failures, {} retries, p99 {} ms",
                    text(&now["breaker"]).to_lowercase(),
                    number(&now, "requests_total"),
                    number(&now, "failures_total"),
                    number(&now, "retries_total"),
                    text(&now["p99_ms"])
                );
                for endpoint in now["endpoints"].as_array().into_iter().flatten() {
                    let ejected = if endpoint["ejected"] == true { ", ejected" } else { "" };
                    println!(
                        "  {:<24} {}{ejected}, weight {}, {} requests, {} failures",
                        text(&endpoint["name"]),
                        text(&endpoint["health"]),
                        endpoint["weight"],
                        number(endpoint, "requests_total"),
                        number(endpoint, "failures_total")
                    );
                }
            }
        }
        _ => {
            for (name, document) in documents {
                let now = live("routes", name);
                let path = document["path"].as_str().unwrap_or("/*");
                let hosts = document["hosts"]
                    .as_array()
                    .map_or(String::new(), |hosts| hosts.iter().map(text).collect::<Vec<_>>().join(","));
                println!(
                    "{name:<16} {hosts}{path} -> {}: {} requests, {} limited, {} refused, p99 {} ms",
                    goes_to(document),
                    number(&now, "requests_total"),
                    number(&now, "limited_total"),
                    number(&now, "refused_total"),
                    text(&now["p99_ms"])
                );
            }
        }
    }
    if documents.is_empty() && kind != "listener" {
        println!("no {kind}s yet; `quorate {kind} add --help` says how");
    }
    for trouble in look["troubles"].as_array().into_iter().flatten() {
        println!("! {}: {}", text(&trouble["about"]), text(&trouble["what"]));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn goes_to(document: &Value) -> String {
    let share = |target: &Value| match target {
        Value::String(name) => name.clone(),
        target => match target["weight"].as_u64() {
            Some(weight) => format!("{}={weight}", text(&target["upstream"])),
            None => text(&target["upstream"]),
        },
    };
    match (&document["to"], &document["redirect"], &document["respond"]) {
        (Value::Array(targets), ..) => targets.iter().map(share).collect::<Vec<_>>().join(" "),
        (Value::String(name), ..) => name.clone(),
        (_, Value::Object(redirect), _) => format!("redirect {}", text(&redirect["to"])),
        (_, _, Value::Object(respond)) => format!("answer {}", respond["status"]),
        _ => "-".into(),
    }
}

/// `quorate apply FILE`.
pub fn apply(at: &At, file: &PathBuf, replace: bool, check: bool) -> Result<ExitCode, String> {
    let mut body = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut body).map_err(|error| format!("standard input: {error}"))?;
    } else {
        body = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let kind = if is_json { "application/json" } else { "application/toml" };
    let flags = match (replace, check) {
        (false, false) => "",
        (true, false) => "?replace",
        (false, true) => "?check",
        (true, true) => "?replace&check",
    };
    let applied = expect(at.door()?.ask("POST", &format!("/gateway/apply{flags}"), kind, &body)?)?;
    if check {
        for change in applied["changes"].as_array().into_iter().flatten() {
            println!("{}", text(change));
        }
        println!("it makes sense; nothing was changed");
    } else {
        println!("applied at position {}", applied["index"]);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_a_table_of_the_document() {
        let options = RouteOptions {
            to: vec!["shop=95".into(), "next=5".into()],
            rate: Some("100/s".into()),
            set: vec!["timeouts.total=5s".into(), "retry.attempts=3".into()],
            ..RouteOptions::default()
        };
        let table = options.table().expect("all of it makes sense");
        assert_eq!(
            Value::Object(table),
            json!({
                "to": [{ "upstream": "shop", "weight": 95 }, { "upstream": "next", "weight": 5 }],
                "rate_limit": "100/s",
                "timeouts": { "total": "5s" },
                "retry": { "attempts": 3 },
            })
        );
        assert!(weighted("shop=many", "upstream").is_err());
    }
}

//! The program as a user meets it: exit codes, messages, signals. Every node runs on ports and in a directory of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

#[path = "cli/limits.rs"]
mod limits;
#[path = "cli/registry.rs"]
mod registry;
#[path = "cli/stopping.rs"]
mod stopping;

/// How long anything may take before it counts as hung; generous, as machines of tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn quorate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).env_remove("QUORATE_PASSWORD").env_remove("QUORATE_ADMIN_PASSWORD").stdin(Stdio::null());
    command
}

/// Runs it to its end: exit code, what it said on stdout and stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = quorate(args).output().expect("it can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks text");
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

/// Runs it, wants exit code 1 and all of these words in its message.
fn refused(args: &[&str], words: &[&str]) {
    let (code, _, message) = run(args);
    assert_eq!(code, 1, "{args:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?} does not name {word:?}: {message}");
    }
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory of tests can be written");
        Scratch(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).expect("the directory of tests can be written");
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running node, killed with its value.
struct Node {
    child: Child,
    redis: SocketAddr,
    admin: SocketAddr,
    consul: SocketAddr,
    kafka: SocketAddr,
    dns: SocketAddr,
    /// What it printed before it was ready.
    said: String,
    /// What it says on stderr.
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Node {
    /// Starts a node with a free admin port.
    fn start(flags: &[&str]) -> Node {
        let mut child = quorate(&[
            "up",
            "--print-ready",
            "--admin-port",
            "0",
            "--consul-port",
            "0",
            "--dns-port",
            "0",
            "--kafka-port",
            "0",
            "--etcd-port",
            "0",
        ])
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
        let mut errors = child.stderr.take().expect("it is piped");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            eprint!("{text}");
            text
        });
        let out = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Node {
            child,
            redis: unknown,
            admin: unknown,
            consul: unknown,
            kafka: unknown,
            dns: unknown,
            said: String::new(),
            errors: Some(errors),
        };
        loop {
            let line = lines.recv_timeout(PATIENCE).expect("it says when it is ready");
            if let Some(addresses) = line.strip_prefix("ready redis=") {
                let mut words = addresses.split(' ');
                node.redis = words.next().expect("the first door").parse().expect("an address");
                for (door, address) in words.filter_map(|word| word.split_once('=')) {
                    match door {
                        "admin" => node.admin = address.parse().expect("an address"),
                        "kafka" => node.kafka = address.parse().expect("an address"),
                        "consul" => node.consul = address.parse().expect("an address"),
                        "dns" => node.dns = address.parse().expect("an address"),
                        _ => {}
                    }
                }
                return node;
            }
            node.said.push_str(&line);
            node.said.push('\n');
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end: the exit code.
    fn end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status.code().expect("it ended by itself");
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has said on stderr, once it has ended.
    fn complaints(&mut self) -> String {
        let errors = self.errors.take().expect("asked once");
        errors.join().expect("it speaks text")
    }

    /// Sends an inline command and reads one line of the answer.
    fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis.port())).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(stream, "{line}\r\n").expect("it reads");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("it answers");
        answer.trim_end().to_owned()
    }

    fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// With further lines of head.
    fn get_with(&self, path: &str, lines: &str) -> String {
        self.try_get(path, lines).expect("it answers")
    }

    /// The same where the door may refuse to talk.
    fn try_get(&self, path: &str, lines: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{lines}Connection: close\r\n\r\n", self.admin)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_help_teaches() {
    for args in [&["bake"][..], &[], &["up", "--port"], &["up", "--redis-port", "x"], &["log", "verify"]] {
        assert_eq!(run(args).0, 2, "{args:?}");
    }
    for args in [&["--help"][..], &["up", "--help"], &["cli", "--help"], &["tour", "--help"], &["status", "--help"]] {
        let (code, out, _) = run(args);
        assert!(code == 0 && out.contains("Examples:"), "{args:?}: {out}");
    }
    assert_eq!(run(&["--version"]).1, format!("quorate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_default_port_that_is_taken_moves_the_door_and_the_table_says_so() {
    let scratch = Scratch::new();
    // Somebody may have it already; then it is taken all the same.
    let _taken = TcpListener::bind("127.0.0.1:6379");
    let mut node = Node::start(&["--data", &scratch.path("data")]);
    assert!((6380..=6399).contains(&node.redis.port()), "{}", node.redis);
    assert!(node.said.contains("port 6379 is taken"), "{}", node.said);
    assert!(node.said.contains(&format!("quorate cli -p {} set hello world", node.redis.port())), "{}", node.said);
    assert_eq!(node.ask("SET hello world"), "+OK");
    node.signal(Signal::INT);
    assert_eq!(node.end(), 0);
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_an_error() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let data = scratch.path("data");
    refused(&["up", "--data", &data, "--admin-port", "0", "--redis-port", &port], &["Redis door", &port, "redis.bind"]);
    refused(&["up", "--data", &data, "--redis-port", "0", "--admin-port", &port], &["admin door", &port, "admin.bind"]);
}

#[test]
fn a_directory_in_use_or_unwritable_is_named_with_its_setting() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let _node = Node::start(&["--redis-port", "0", "--data", &data]);
    let up = |data: &str| ["up", "--redis-port", "0", "--admin-port", "0", "--data", data].map(str::to_owned);
    for (data, words) in [
        (data.clone(), ["is in use by another quorate", "data_dir"]),
        ("/proc/no-such-place/data".into(), ["/proc/no-such-place/data", "data_dir"]),
        (scratch.file("a-file", ""), ["a-file", "data_dir"]),
    ] {
        let args = up(&data);
        refused(&args.each_ref().map(String::as_str), &words);
    }
    refused(&["log", "verify", &data], &["is in use by another quorate"]);
}

#[test]
fn a_wrong_configuration_is_named_by_file_line_and_key() {
    let scratch = Scratch::new();
    let unknown = scratch.file("unknown.toml", "# mine\n[redis]\nbnd = \"127.0.0.1:1\"\n");
    for args in [["up", "--config", &unknown], ["config", "check", &unknown]] {
        refused(&args, &["unknown.toml:3", "redis.bnd", "redis.bind is one"]);
    }
    let value = scratch.file("value.toml", "stop_timeout = \"soon\"\n");
    refused(&["config", "check", &value], &["value.toml:1", "stop_timeout = \"soon\"", "\"10s\""]);
    refused(&["config", "check", &scratch.path("none.toml")], &["none.toml", "--config"]);
    refused(&["up", "--set", "limits.argsmax=3"], &["--set", "limits.argsmax", "limits.args_max is one"]);
    refused(&["up", "--durability", "paper"], &["--durability", "\"fsync\" or \"memory\""]);
}

#[test]
fn config_check_prints_what_a_node_would_run_with_and_no_secret() {
    let scratch = Scratch::new();
    let secret = scratch.file("secret", "hunter2\n");
    let text =
        format!("data_shards = 4\n[redis]\npassword_file = {secret:?}\n[keyspace.\"c:\"]\ndurability = \"memory\"\n");
    let (code, out, errors) = run(&["config", "check", &scratch.file("good.toml", &text)]);
    assert_eq!(code, 0, "{errors}");
    for line in [
        "data_shards = 4\n",
        "workers = 0  # default\n",
        "# the Redis door has a password; it is not shown\n",
        "# the admin door has no password\n",
        "[keyspace.\"c:\"]",
        "eviction = \"lru\"",
    ] {
        assert!(out.contains(line), "{line:?}: {out}");
    }
    assert!(!out.contains("hunter2"));
}

#[test]
fn beyond_loopback_a_password_or_a_word_of_consent_is_needed() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let open = ["up", "--admin-port", "0", "--data", &data, "--redis-bind", "0.0.0.0:0"];
    refused(&open, &["0.0.0.0:0", "no password", "redis.bind", "--insecure-bind"]);
    let words = ["admin door", "no password", "admin.bind", "--admin-password-file", "--insecure-bind"];
    refused(&["up", "--admin-bind", "0.0.0.0:0", "--password", "x"], &words);
    let secret = scratch.file("secret", "hunter2\nnot this line\n");
    // A password alone would cross the network as it is.
    let open = ["up", "--admin-port", "0", "--data", &data, "--redis-bind", "0.0.0.0:0", "--password-file", &secret];
    refused(&open, &["0.0.0.0:0", "no TLS", "redis.tls_cert", "redis.tls_key", "--insecure-bind"]);
    let flags = ["--data", &data, "--redis-bind", "0.0.0.0:0", "--password-file", &secret, "--insecure-bind"];
    let node = Node::start(&flags);
    assert_eq!(node.ask("GET a"), "-NOAUTH Authentication required.");
    assert_eq!(node.ask("AUTH hunter2"), "+OK");
    drop(node);
    let node = Node::start(&["--data", &data, "--redis-bind", "0.0.0.0:0", "--insecure-bind"]);
    assert_eq!(node.ask("SET a b"), "+OK");
}

#[test]
fn sigterm_stops_in_order_and_everything_is_there_again() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let flags = ["--redis-port", "0", "--data", &data];
    let mut node = Node::start(&flags);
    assert!(node.get("/healthz").starts_with("HTTP/1.1 200") && node.get("/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(node.ask("SET kept forever"), "+OK");
    // A client that says nothing must not hold the stop up.
    let _silent = TcpStream::connect(node.redis).expect("it listens");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);
    let (code, out, errors) = run(&["log", "verify", &data]);
    assert!(code == 0 && out.contains("is sound") && out.contains("the last stop was clean"), "{out}{errors}");

    let mut node = Node::start(&flags);
    assert_eq!(node.ask("STRLEN kept"), ":7");
    node.child.kill().expect("it runs");
    node.child.wait().expect("it is ours");
    let node = Node::start(&flags);
    assert_eq!(node.ask("STRLEN kept"), ":7");
}

#[test]
fn a_directory_of_one_shard_is_split_while_it_serves() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let flags = ["--redis-port", "0", "--data", &data];
    let mut node = Node::start(&flags);
    for key in 0..300 {
        assert_eq!(node.ask(&format!("SET key:{key} {key}")), "+OK");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);
    for again in 0..2 {
        let mut node = Node::start(&[&flags[..], &["--data-shards", "4"]].concat());
        let deadline = Instant::now() + PATIENCE;
        let slots_of = |view: &str| view.matches("\"slots\": \"").count() - view.matches("\"slots\": \"\"").count();
        // Each question is answered by whoever has the key at that moment.
        while !node.get("/cluster").contains("\"slot_moves\": []") || slots_of(&node.get("/cluster")) < 4 {
            assert!(Instant::now() < deadline, "it is not split: {}", node.get("/cluster"));
            let key = deadline.saturating_duration_since(Instant::now()).subsec_nanos() % 300;
            assert_eq!(node.ask(&format!("INCRBY key:{key} 0")), format!(":{key}"));
        }
        // Keys that have gone elsewhere are swept out by and by.
        while node.ask("DBSIZE") != ":300" {
            assert!(Instant::now() < deadline, "{}", node.ask("DBSIZE"));
        }
        for key in 0..300 {
            assert_eq!(node.ask(&format!("INCRBY key:{key} 0")), format!(":{key}"), "start {again}");
        }
        assert_eq!(node.ask("MSET key:1 1 key:2 2 key:3 3 key:4 4"), "+OK");
        node.signal(Signal::TERM);
        assert_eq!(node.end(), 0);
    }
}

#[test]
fn damage_stops_the_start_and_is_named_by_file_and_offset() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let flags = ["--redis-port", "0", "--data", &data];
    let mut node = Node::start(&flags);
    assert_eq!(node.ask("SET first needle-in-the-log"), "+OK");
    assert_eq!(node.ask("SET second other"), "+OK");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);
    let segment = Path::new(&data).join("0000000000000001.log");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    let at = bytes.windows(6).position(|word| word == b"needle").expect("it was written");
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("ours");
    let (code, out, errors) = run(&["log", "verify", &data]);
    assert!(
        code == 1 && out.contains("0000000000000001.log at byte ") && out.contains("damaged in 1 place"),
        "{out}{errors}"
    );
    let up = ["up", "--redis-port", "0", "--admin-port", "0", "--data", &data];
    refused(&up, &["0000000000000001.log is damaged at byte ", "quorate log verify"]);
    // A log that has gone is no sound directory either, and neither is one whose number of shards nobody knows.
    std::fs::remove_file(&segment).expect("ours");
    // However often it is tried: no start leaves a new log behind that the next one would take for the old.
    for _ in 0..2 {
        refused(&up, &["once held a log", "now it is gone"]);
    }
    let (code, out, errors) = run(&["log", "verify", &data]);
    assert!(code == 1 && out.contains("SHARDS at byte 0: it says that a log was here"), "{out}{errors}");
    std::fs::write(Path::new(&data).join("SHARDS"), "x").expect("ours");
    let (code, out, errors) = run(&["log", "verify", &data]);
    assert!(
        code == 1 && out.contains("SHARDS at byte 0: it does not say which shards there are; the next start mends it"),
        "{out}{errors}"
    );
    std::fs::write(Path::new(&data).join("SHARDS.copy"), "x").expect("ours");
    let (code, out, errors) = run(&["log", "verify", &data]);
    assert!(
        code == 1 && out.contains("SHARDS at byte 0: it does not say which shards there are, nor does"),
        "{out}{errors}"
    );
    refused(&["log", "verify", &scratch.path("nothing")], &["is no directory"]);
    refused(&["log", "verify", &scratch.path("")], &["is no data directory"]);
}

#[test]
fn small_files_that_rot_are_mended_and_what_cannot_be_says_how_to_go_on() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let flags = ["--redis-port", "0", "--peer-port", "0", "--data", &data];
    let lives = || {
        let mut node = Node::start(&flags);
        let mut stream = TcpStream::connect(node.redis).expect("it is ready");
        stream.write_all(b"INCR lives\r\n").expect("it reads");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("it answers");
        kill_process(Pid::from_raw(node.child.id() as i32).expect("it runs"), Signal::TERM).expect("it is ours");
        assert!(node.child.wait().expect("it ends").success());
        line.trim().to_owned()
    };
    assert_eq!(lives(), ":1");
    let file = |name: &str| Path::new(&data).join(name);
    let read = |name: &str| std::fs::read(file(name)).expect("it is there");
    let files = ["IDENTITY", "SHARDS"].map(|name| [name.to_owned(), format!("{name}.copy")]);
    let mut count = 1;
    for names in &files {
        for name in names {
            let sound = read(name);
            let mut bytes = sound.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(file(name), bytes).expect("ours");
            count += 1;
            assert_eq!(lives(), format!(":{count}"), "{name}");
            assert_eq!(read(name), sound, "{name} is mended");
        }
    }
    let up = ["up", "--redis-port", "0", "--admin-port", "0", "--peer-port", "0", "--data", &data];
    let how = ["backup", "quorate cluster token", "--data", "quorate cluster re"];
    for names in &files {
        let sound = names.each_ref().map(|name| read(name));
        names.iter().for_each(|name| std::fs::write(file(name), "x").expect("ours"));
        refused(&up, &how);
        refused(&up, &[&names[0], &names[1], &data]);
        names.iter().zip(sound).for_each(|(name, bytes)| std::fs::write(file(name), bytes).expect("ours"));
    }
    assert_eq!(lives(), format!(":{}", count + 1));
    // Only the identity is left, as after a wrong restore: it must not vote as if it had never voted.
    for entry in std::fs::read_dir(&data).expect("it is there") {
        let path = entry.expect("it is there").path();
        if !path.display().to_string().contains("IDENTITY") {
            std::fs::remove_file(&path).expect("ours");
        }
    }
    refused(&up, &how);
    refused(&up, &["node 1", "has been up", "replace 1 N"]);
}

#[test]
fn status_tells_how_a_node_is_and_whether_there_is_one() {
    let scratch = Scratch::new();
    let node = Node::start(&["--redis-port", "0", "--data", &scratch.path("data")]);
    let admin = node.admin.to_string();
    let (code, out, errors) = run(&["status", "--admin", &admin]);
    assert!(code == 0 && out.contains("ready") && out.contains(&node.redis.to_string()), "{out}{errors}");
    let (code, out, _) = run(&["status", "--admin", &admin, "--json"]);
    assert!(code == 0 && out.starts_with('{'), "{out}");
    drop(node);
    refused(&["status", "--admin", &admin], &[&admin, "quorate up"]);
}

#[test]
fn the_admin_door_asks_for_its_password_and_probes_need_none() {
    let scratch = Scratch::new();
    let (right, wrong) = (scratch.file("right", "hunter2\n"), scratch.file("wrong", "hunter3\n"));
    let data = scratch.path("data");
    let flags =
        ["--redis-port", "0", "--data", &data, "--admin-password-file", &right, "--set=admin.hosts=node.example"];
    let mut node = Node::start(&flags);
    for path in ["/", "/status", "/metrics", "/events", "/nothing"] {
        let answer = node.get(path);
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Basic"), "{path}: {answer}");
    }
    for path in ["/healthz", "/readyz"] {
        assert!(node.get(path).starts_with("HTTP/1.1 200"), "{path}");
    }
    let bearer = "Authorization: Bearer hunter2\r\n";
    assert!(node.get_with("/metrics", bearer).contains("quorate_auth_failures_total{door=\"admin\"} 0"));
    assert!(node.get_with("/", "Authorization: Basic cm9vdDpodW50ZXIy\r\n").contains("<title>"));
    assert!(node.get_with("/status", "Authorization: Bearer hunter\r\n").starts_with("HTTP/1.1 401"));
    assert!(node.get_with("/metrics", bearer).contains("quorate_auth_failures_total{door=\"admin\"} 1"));
    let admin = node.admin.to_string();
    refused(&["status", "--admin", &admin], &["password", "QUORATE_ADMIN_PASSWORD"]);
    refused(&["status", "--admin", &admin, "--password-file", &wrong], &["another password"]);
    let (code, out, errors) = run(&["status", "--admin", &admin, "--password-file", &right]);
    assert!(code == 0 && out.contains("ready"), "{out}{errors}");
    let given = quorate(&["status", "--admin", &admin]).env("QUORATE_ADMIN_PASSWORD", "hunter2").output();
    assert!(given.expect("it can be started").status.success());
    // A name that DNS could point here is refused unless it is said to be this node's.
    for (name, code) in [("node.example", "200"), ("NODE.example:7070", "200"), ("evil.example", "421")] {
        let mut stream = TcpStream::connect(node.admin).expect("it listens");
        write!(stream, "GET /status HTTP/1.1\r\nHost: {name}\r\n{bearer}Connection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{name}: {answer}");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);
    assert!(!node.said.contains("hunter2") && !node.complaints().contains("hunter2"));
}

#[test]
fn the_tour_lists_itself_and_knows_what_it_does_not_have() {
    let (code, out, _) = run(&["tour"]);
    assert!(code == 0 && ["durable", "one-commit", "limits"].iter().all(|name| out.contains(name)), "{out}");
    refused(&["tour", "venice"], &["venice", "durable, one-commit, "]);
}

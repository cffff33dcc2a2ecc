//! The registry of the whole program: what the file declares, what checks write to the log, how many may wait.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base::Limit;
use serde_json::Value;

use super::*;

/// Asks the Consul door: status and body.
fn consul(node: &Node, method: &str, target: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(node.consul).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

fn json(node: &Node, target: &str) -> Value {
    let (status, body) = consul(node, "GET", target, "");
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

fn status(node: &Node) -> Value {
    let answer = node.get("/status");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a head").1).expect("JSON")
}

/// How many entries the meta group has applied.
fn position(node: &Node) -> u64 {
    status(node)["groups"][0]["applied"].as_u64().expect("a number")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn file_of(services: std::ops::Range<u32>) -> String {
    services.fold(String::new(), |mut file, number| {
        let name = number / 2;
        writeln!(file, "[[service]]\nname = \"s{name}\"\nid = \"s{name}-{number}\"\nport = {}", 1000 + number)
            .expect("a string takes everything");
        file
    })
}

#[test]
fn who_reads_ready_finds_the_files_services_and_what_left_the_file_goes_with_a_restart() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let start = |services| {
        let config = scratch.file("quorate.toml", &file_of(services));
        Node::start(&["--redis-port", "0", "--data", &data, "--config", &config])
    };
    let mut node = start(0..3000);
    assert_eq!(json(&node, "/v1/catalog/services").as_object().map(serde_json::Map::len), Some(1500));
    assert_eq!(json(&node, "/v1/health/service/s1499?passing").as_array().map(Vec::len), Some(2));
    let entries = position(&node);
    assert!(entries < 100, "3,000 services took {entries} entries");
    let (code, _) = consul(&node, "PUT", "/v1/agent/service/register", "{\"Name\": \"own\"}");
    assert_eq!(code, 200);
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);

    let mut node = start(1000..3001);
    let seen = json(&node, "/v1/catalog/services");
    assert_eq!(seen.as_object().map(serde_json::Map::len), Some(1002), "those of the file, and the client's");
    assert!(seen.get("own").is_some() && seen.get("s0").is_none());
    let registry = &status(&node)["registry"];
    assert_eq!((&registry["services"], &registry["instances"]["passing"]), (&Value::from(1002), &Value::from(2002)));
    node.signal(Signal::TERM);
    assert_eq!(node.end(), 0);

    let node = start(0..0);
    assert_eq!(json(&node, "/v1/catalog/services"), serde_json::json!({"own": []}));
}

/// A backend that answers every request with this status, and counts.
fn backend(code: Arc<AtomicU32>, asked: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let number = asked.fetch_add(1, Ordering::SeqCst);
            let code = code.load(Ordering::SeqCst);
            // The output differs each time: that alone is not worth an entry either.
            let _ = write!(stream, "HTTP/1.1 {code} X\r\nConnection: close\r\n\r\nanswer {number}");
        }
    });
    address
}

#[test]
fn checks_and_renewals_write_nothing_until_a_status_changes() {
    let scratch = Scratch::new();
    let node = Node::start(&["--redis-port", "0", "--data", &scratch.path("data")]);
    let (code, asked) = (Arc::new(AtomicU32::new(200)), Arc::new(AtomicU64::new(0)));
    let address = backend(code.clone(), asked.clone());
    for body in [
        format!("{{\"Name\": \"web\", \"Check\": {{\"HTTP\": \"http://{address}/\", \"Interval\": \"1s\"}}}}"),
        "{\"Name\": \"job\", \"Check\": {\"TTL\": \"60s\"}}".to_owned(),
    ] {
        assert_eq!(consul(&node, "PUT", "/v1/agent/service/register", &body), (200, String::new()));
    }
    let renew = |note: &str| {
        let (code, why) = consul(&node, "PUT", &format!("/v1/agent/check/pass/service:job?note={note}"), "");
        assert_eq!(code, 200, "{why}");
    };
    let passing = |name: &str| json(&node, &format!("/v1/health/service/{name}?passing")) != serde_json::json!([]);
    renew("fine");
    assert!(passing("job"));
    wait_until("the HTTP check passes", || passing("web"));
    let (before, asked_before) = (position(&node), asked.load(Ordering::SeqCst));
    for number in 0..200 {
        renew("fine");
        renew(&format!("fine{number}"));
    }
    wait_until("it was checked thrice", || asked.load(Ordering::SeqCst) >= asked_before + 3);
    assert_eq!(position(&node), before, "400 renewals and 3 checks are no entries");
    code.store(500, Ordering::SeqCst);
    wait_until("the HTTP check fails", || !passing("web"));
    assert_eq!(position(&node), before + 1, "a changed status is one");
    let checks = json(&node, "/v1/agent/checks");
    assert_eq!(checks["service:job"]["Output"], "fine199", "the node itself knows the last word");
}

#[test]
fn a_check_that_runs_a_program_is_refused() {
    let scratch = Scratch::new();
    let node = Node::start(&["--redis-port", "0", "--data", &scratch.path("data")]);
    for check in
        ["\"Args\": [\"/bin/true\"]", "\"Script\": \"true\"", "\"DockerContainerID\": \"x\", \"Args\": [\"x\"]"]
    {
        let body = format!("{{\"Name\": \"a\", \"Check\": {{{check}, \"Interval\": \"1s\"}}}}");
        let (code, why) = consul(&node, "PUT", "/v1/agent/service/register", &body);
        assert!(code == 400 && why.contains("never runs programs"), "{code} {why}");
    }
    let config = scratch.file("c.toml", "[[service]]\nname = \"a\"\ncheck = { args = [\"x\"], interval = \"1s\" }\n");
    refused(&["up", "--data", &scratch.path("other"), "--config", &config], &["never runs programs"]);
}

/// The most connections of the Consul door.
const CONNECTIONS_MAX: usize = 4096;

#[test]
fn as_many_as_may_wait_do_and_one_more_is_told_so() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = 2 * CONNECTIONS_MAX as u64;
    if limit.maximum.is_some_and(|most| most < wanted) {
        eprintln!("skipped: this machine allows too few open files");
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("up to the hard limit");
    let scratch = Scratch::new();
    let node = Node::start(&["--redis-port", "0", "--data", &scratch.path("data")]);
    let (code, _) = consul(&node, "PUT", "/v1/agent/service/register", "{\"Name\": \"web\"}");
    assert_eq!(code, 200);
    let index = status(&node)["registry"]["index"].as_u64().expect("a number");
    let ask = |path: String| {
        let mut stream = TcpStream::connect(node.consul).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
        stream
    };
    // All but one follow something that does not change.
    let mut held: Vec<_> =
        (1..CONNECTIONS_MAX).map(|number| ask(format!("/v1/kv/k{number}?index={index}&wait=5m"))).collect();
    held.push(ask(format!("/v1/health/service/web?index={index}&wait=5m")));
    wait_until("all wait", || status(&node)["registry"]["waiting"] == CONNECTIONS_MAX);
    let mut refused = String::new();
    let mut late = TcpStream::connect(node.consul).expect("it listens");
    late.set_read_timeout(Some(PATIENCE)).expect("a socket");
    late.read_to_string(&mut refused).expect("it answers");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let hits = status(&node)["limits_hit"][Limit::consul_connections_max.name()].as_u64();
    assert_eq!(hits, Some(1));
    // A change that concerns one of them ends that one's wait.
    drop(held.remove(0));
    wait_until("a place is free", || status(&node)["registry"]["waiting"] == CONNECTIONS_MAX - 1);
    let body = "{\"Name\": \"web\", \"Port\": 80}";
    wait_until("it is taken", || {
        let mut stream = TcpStream::connect(node.consul).expect("it listens");
        let length = body.len();
        let head = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nConnection: close";
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").expect("it reads");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    });
    let mut told = String::new();
    held.pop().expect("the last follows the service").read_to_string(&mut told).expect("it answers");
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("\"Port\":80"), "{told}");
    assert_eq!(status(&node)["registry"]["waiting"], CONNECTIONS_MAX - 2, "nobody else was woken");
}

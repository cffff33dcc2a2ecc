//! The bounds that take the real program to be hit: sockets, files, time. The others are in `doors`
//! (`resp/session/limits.rs`), which has the same list; a new bound compiles in neither until it is hit in one.

use base::Limit;
use rustix::process::{Resource, Rlimit, prlimit};

use super::*;

/// How often a limit was hit, as Prometheus reads it; 0 where the door is too busy to say.
fn hits(node: &Node, limit: Limit) -> u64 {
    let name = format!("quorate_limit_hits_total{{limit=\"{}\"}} ", limit.name());
    let Ok(page) = node.try_get("/metrics", "") else { return 0 };
    if !page.starts_with("HTTP/1.1 200") {
        return 0;
    }
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{name} is not in {page}"))
}

/// Waits until it is counted.
fn wait_for(node: &Node, limit: Limit) {
    let deadline = Instant::now() + PATIENCE;
    while hits(node, limit) == 0 {
        assert!(Instant::now() < deadline, "{} is never counted", limit.name());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A client that asks for 32 MiB and reads nothing.
fn silent_reader(node: &Node) -> TcpStream {
    let mut stream = connect(node.redis);
    let value = "v".repeat(32 << 20);
    write!(stream, "*3\r\n$3\r\nSET\r\n$7\r\nc:large\r\n${}\r\n{value}\r\n", value.len()).expect("it reads");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"+OK\r\n");
    stream.write_all(b"GET c:large\r\n").expect("it reads");
    stream
}

/// The client's input waits behind a command that waits.
fn say_much(node: &Node) -> TcpStream {
    let mut stream = connect(node.redis);
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket");
    stream.write_all(b"BLPOP nothing 0\r\n").expect("it reads");
    let lines = b"PING\r\n".repeat(10_000);
    // It may be held back before all is sent: that is the limit.
    let _ = (0..50).try_for_each(|_| stream.write_all(&lines));
    stream
}

fn hit(limit: Limit, scratch: &Scratch) {
    let data = scratch.path(limit.name());
    let cache = scratch.file("cache.toml", "[keyspace.\"c:\"]\ndurability = \"memory\"\n");
    let start = |flags: &[&str]| {
        Node::start(&[&["--redis-port", "0", "--data", &data, "--config", &cache][..], flags].concat())
    };
    match limit {
        Limit::output_bytes_max => {
            let node = start(&["--set", "limits.output_bytes_max=4KiB"]);
            // One answer above the limit is an error; many below it that nobody reads end the connection.
            let mut stream = connect(node.redis);
            let value = "v".repeat(2 << 10);
            write!(stream, "*3\r\n$3\r\nSET\r\n$7\r\nc:large\r\n${}\r\n{value}\r\n", value.len()).expect("it reads");
            // The node may end it before all is sent: that is the limit.
            let _ = stream.write_all(&b"GET c:large\r\n".repeat(20_000));
            wait_for(&node, limit);
            let mut rest = Vec::new();
            // What the kernel has can be read; then it ends, by a reset or an end.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.len() < 32 << 20);
        }
        Limit::idle_timeout => {
            let node = start(&["--set", "redis.idle_timeout=50ms"]);
            let mut stream = connect(node.redis);
            assert_eq!(stream.read(&mut [0; 1]).expect("it closes"), 0);
            wait_for(&node, limit);
        }
        Limit::log_max_bytes => {
            let flags = ["log.segment_bytes=1MiB", "log.max_bytes=4MiB", "log.snapshot_bytes=1GiB"];
            let node = start(&flags.map(|flag| ["--set", flag]).concat());
            let value = "v".repeat(60_000);
            let answers = (0..200).map(|key| node.ask(&format!("SET {key} {value}")));
            assert!(answers.into_iter().any(|answer| answer.starts_with("-MISCONF")));
            wait_for(&node, limit);
        }
        Limit::open_files => {
            let node = start(&[]);
            let process = Pid::from_raw(node.child.id() as i32).expect("a process");
            let own = std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).expect("it runs").count() as u64;
            let held: Vec<TcpStream> = (0..20).map(|_| connect(node.redis)).collect();
            // With the clients' gone there is room for who looks at it.
            let most = Rlimit { current: Some(own + 4), maximum: Some(own + 4) };
            prlimit(Some(process), Resource::Nofile, most).expect("it is ours");
            let waiting: Vec<TcpStream> = (0..5).map(|_| connect(node.redis)).collect();
            std::thread::sleep(Duration::from_millis(50));
            drop((held, waiting));
            wait_for(&node, limit);
        }
        Limit::stop_timeout => {
            let mut node = start(&["--stop-timeout", "100ms"]);
            let _held = silent_reader(&node);
            // The answer is on its way and nobody takes it.
            std::thread::sleep(Duration::from_millis(100));
            node.signal(Signal::TERM);
            assert_eq!(node.end(), 0);
            assert!(node.complaints().contains("1 clients were not finished with when stop_timeout was over"));
        }
        Limit::unread_bytes_max => {
            let node = start(&[]);
            let _held = say_much(&node);
            wait_for(&node, limit);
        }
        Limit::admin_connections_max => {
            let node = start(&[]);
            let held: Vec<TcpStream> = (0..64).map(|_| connect(node.admin)).collect();
            let mut answer = String::new();
            let mut last = connect(node.admin);
            last.read_to_string(&mut answer).expect("it answers");
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            drop(held);
            wait_for(&node, limit);
        }
        Limit::admin_followers_max => {
            let node = start(&[]);
            let follow = || {
                let mut stream = connect(node.admin);
                write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
                let mut head = [0; 12];
                stream.read_exact(&mut head).expect("it answers");
                (stream, head)
            };
            let followers: Vec<_> = (0..17).map(|_| follow()).collect();
            assert_eq!(&followers[15].1, b"HTTP/1.1 200");
            assert_eq!(&followers[16].1, b"HTTP/1.1 503");
            wait_for(&node, limit);
        }
        Limit::admin_head_max => {
            let node = start(&[]);
            let mut stream = connect(node.admin);
            let _ = write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
            wait_for(&node, limit);
        }
        Limit::admin_body_bytes_max => {
            let node = start(&[]);
            let mut stream = connect(node.admin);
            let head = "POST /snapshot HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n";
            stream.write_all(head.as_bytes()).expect("it reads");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("it answers");
            assert_eq!(&answer, b"HTTP/1.1 413");
            wait_for(&node, limit);
        }
        Limit::consul_body_bytes_max => {
            let node = start(&[]);
            let mut stream = connect(node.consul);
            let head = "PUT /v1/kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n";
            stream.write_all(head.as_bytes()).expect("it reads");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("it answers");
            assert_eq!(&answer, b"HTTP/1.1 413");
            wait_for(&node, limit);
        }
        // `registry.rs` fills that door.
        Limit::consul_connections_max => {}
        Limit::dns_connections_max => {
            let node = start(&[]);
            let _held: Vec<TcpStream> = (0..256).map(|_| connect(node.dns)).collect();
            assert_eq!(connect(node.dns).read(&mut [0; 1]).expect("it closes"), 0);
            wait_for(&node, limit);
        }
        Limit::kafka_request_bytes_max => {
            let node = start(&[]);
            let mut stream = connect(node.kafka);
            stream.write_all(&[0x7f, 0, 0, 0]).expect("it reads");
            assert_eq!(stream.read(&mut [0; 1]).expect("it closes"), 0);
            wait_for(&node, limit);
        }
        // Four thousand connections, a quarter of a gigabyte: not here.
        Limit::etcd_connections_max | Limit::etcd_request_bytes_max | Limit::etcd_requests_bytes_max => {}
        Limit::kafka_connections_max | Limit::kafka_requests_bytes_max | Limit::kafka_fetched_bytes_max => {}
        // `doors::dns` cuts answers; here nothing is registered that would be as long.
        Limit::dns_udp_bytes_max => {}
        // `host::peers` has a third list: these take other nodes.
        Limit::peer_handshakes_max
        | Limit::peer_frame_bytes_max
        | Limit::peer_queue_bytes_max
        | Limit::peer_asks_max
        | Limit::peer_strangers_max
        | Limit::peer_joins_max => {}
        // `loading.rs` fills the door of a node that is not there yet.
        Limit::loading_connections_max => {}
        Limit::bulk_bytes_max
        | Limit::args_max
        | Limit::command_bytes_max
        | Limit::inline_bytes_max
        | Limit::unauthenticated_args_max
        | Limit::unauthenticated_bulk_bytes_max
        | Limit::pipeline_depth_max
        | Limit::multi_commands_max
        | Limit::connections_max
        | Limit::subscriptions_max
        | Limit::pending_bytes_max
        | Limit::entry_bytes_max
        | Limit::script_instructions_max
        | Limit::script_memory_bytes_max
        | Limit::script_bytes_max
        | Limit::scripts_max
        | Limit::waiters_max
        | Limit::forward_wait
        | Limit::commit_bytes_max
        | Limit::commit_parked_max
        | Limit::commit_prepared_max
        | Limit::commit_wait
        | Limit::keyspace_max_bytes => {}
    }
}

#[test]
fn what_only_the_program_can_hit_is_counted_when_it_is() {
    let scratch = Scratch::new();
    for limit in Limit::ALL {
        hit(*limit, &scratch);
    }
}

//! How a node ends, and how it begins while clients wait.

use super::*;

/// A node that takes its time to stop: a client does not read what it asked for.
fn slow_to_stop(scratch: &Scratch) -> (Node, TcpStream) {
    let node = Node::start(&["--redis-port", "0", "--data", &scratch.path("data"), "--stop-timeout", "30s"]);
    let value = "v".repeat(1 << 20);
    let mut stream = TcpStream::connect(node.redis).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nv\r\n${}\r\n{value}\r\n", value.len());
    stream.write_all(set.as_bytes()).expect("it reads");
    stream.read_exact(&mut [0; 5]).expect("it answers");
    stream.write_all(&b"GET v\r\n".repeat(64)).expect("it reads");
    // The first answer has begun to come: the rest stands in the way of a stop.
    stream.read_exact(&mut [0; 1]).expect("it answers");
    (node, stream)
}

#[test]
fn a_node_that_stops_says_so_to_its_probes() {
    let scratch = Scratch::new();
    let (mut node, _held) = slow_to_stop(&scratch);
    assert!(node.get("/readyz").starts_with("HTTP/1.1 200"));
    node.signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = node.get("/readyz");
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.ends_with("not ready: stopping\n"), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "it never says that it stops");
    }
    assert!(node.get("/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(node.end(), 0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        let scratch = Scratch::new();
        let (mut node, _held) = slow_to_stop(&scratch);
        node.signal(first);
        while !node.get("/readyz").contains("stopping") {}
        let begun = Instant::now();
        node.signal(second);
        assert_eq!(node.end(), 130);
        assert!(begun.elapsed() < Duration::from_millis(1500), "well before the client that does not read is given up");
    }
}

#[test]
fn a_client_that_came_while_the_log_was_read_goes_on_on_the_same_connection() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let port = free.port().to_string();
    let flags = ["--redis-port", &port, "--data", &data];
    let node = Node::start(&flags);
    let mut stream = TcpStream::connect(node.redis).expect("it listens");
    let mut filler = String::new();
    for key in 0..100_000 {
        filler.push_str(&format!("SET {key} {key}\r\n"));
    }
    let mut reading = stream.try_clone().expect("a socket");
    let reader = std::thread::spawn(move || reading.read_exact(&mut vec![0; 5 * 100_000]));
    stream.write_all(filler.as_bytes()).expect("it reads");
    reader.join().expect("no panic").expect("all are answered");
    drop(node);

    // It listens long before it is ready; whoever comes first is told -LOADING, and answered in the end.
    let starting = std::thread::spawn({
        let flags = flags.map(str::to_owned);
        move || Node::start(&flags.each_ref().map(String::as_str))
    });
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(free) {
            Ok(stream) => break stream,
            Err(_) => assert!(Instant::now() < deadline, "it listens"),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut writing = stream.try_clone().expect("a socket");
    let mut lines = BufReader::new(stream).lines();
    let mut loading = 0;
    loop {
        writing.write_all(b"EXISTS 99999\r\n").expect("it is open");
        let line = lines.next().expect("it is never closed").expect("it is never closed");
        if line == ":1" {
            break;
        }
        assert!(line.starts_with("-LOADING"), "{line}");
        loading += 1;
    }
    eprintln!("told {loading} times that it loads");
    drop(starting.join().expect("it starts"));
}

//! The `quorate` program.

use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let port: u16 = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(6379);
    let memory = std::env::args().any(|word| word == "--memory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("bind");
        let settings = if memory {
            vec![store::keyspace::Keyspace {
                prefix: Vec::new(),
                durability: store::keyspace::Durability::Memory,
                max_bytes: 0,
                eviction: store::keyspace::Eviction::Lru,
                default_expiry: 0,
            }]
        } else {
            Vec::new()
        };
        let config = host::node::NodeConfig {
            node: host::start::FIRST_NODE,
            data_dir: std::env::args().nth(1).unwrap_or("./quorate-data".into()).into(),
            password: None,
            limits: base::Limits::DEFAULT,
            keyspaces: store::keyspace::Keyspaces::new(settings).expect("one"),
            data_shards: 1,
            segment_bytes: 64 << 20,
            log_bytes_max: 0,
            snapshot_log_bytes: 256 << 20,
            stop_timeout: Duration::from_secs(10),
            idle_timeout: Duration::ZERO,
            config_file: String::new(),
        };
        let node = host::node::Node::start(config, listener, &mut |text| eprintln!("{text}")).unwrap_or_else(|error| {
            eprintln!("quorate: {error}");
            std::process::exit(1)
        });
        tokio::signal::ctrl_c().await.expect("signal");
        node.stop().await.expect("stop");
    });
}

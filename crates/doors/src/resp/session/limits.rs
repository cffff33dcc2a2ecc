//! Every bound is hit once, and counted once. Whoever adds a bound finds that this does not compile until it says where the
//! new one is hit: here, or with the real program (`quorate/tests/cli/limits.rs`, which has the same list).

use base::{Limit, Limits};
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};

use super::tests::Scene;
use super::{Pause, Session};
use crate::secret::Secret;
use base::Instant;
use shard::reply::{Protocol, Reply};
use std::sync::Arc;

/// One client, one conversation.
fn say(limits: Limits, lines: &str) -> Scene {
    let mut scene = Scene::new(limits);
    let mut session = scene.session();
    scene.say(&mut session, lines);
    scene
}

fn stranger(limits: Limits, line: &str) -> Scene {
    let mut scene = Scene::new(limits);
    Arc::get_mut(&mut scene.door).expect("nobody else has it yet").password = Some(Secret::new("x".into()));
    let mut session = scene.session();
    scene.say(&mut session, line);
    scene
}

/// Reads commands while the log does nothing.
fn feed(session: &mut Session, bytes: &[u8]) -> Pause {
    session.feed(bytes, Instant::default(), &mut Reply::new(Protocol::Resp2)).pause
}

/// Hits it; the scene that it happened in. `None` where it takes the program.
fn hit(limit: Limit, limits: Limits) -> Option<Scene> {
    let scene = match limit {
        Limit::bulk_bytes_max => say(Limits { bulk_bytes_max: 8, ..limits }, "*1|$9"),
        Limit::args_max => say(Limits { args_max: 3, ..limits }, "*4"),
        Limit::command_bytes_max => say(Limits { command_bytes_max: 16, ..limits }, "*2|$8|12345678|$9"),
        Limit::inline_bytes_max => say(Limits { inline_bytes_max: 16, ..limits }, "ECHO 0123456789abcdef"),
        Limit::unauthenticated_args_max => stranger(limits, "*11"),
        Limit::unauthenticated_bulk_bytes_max => stranger(limits, "*1|$16385"),
        Limit::pipeline_depth_max => say(Limits { pipeline_depth_max: 1, ..limits }, "SET a 1|SET a 2"),
        Limit::multi_commands_max => say(Limits { multi_commands_max: 1, ..limits }, "MULTI|PING|PING"),
        Limit::connections_max => {
            let scene = Scene::new(Limits { connections_max: 0, ..limits });
            assert!(scene.door.admit(String::new(), String::new(), Instant::default()).is_none());
            scene
        }
        Limit::subscriptions_max => say(Limits { subscriptions_max: 1, ..limits }, "SUBSCRIBE a b"),
        Limit::pending_bytes_max => {
            let scene = Scene::new(Limits { pending_bytes_max: 1, ..limits });
            let (mut one, mut two) = (scene.session(), scene.session());
            assert_eq!(feed(&mut one, b"SET a 1\r\n"), Pause::None);
            assert_eq!(feed(&mut two, b"SET b 1\r\n"), Pause::None);
            scene
        }
        Limit::entry_bytes_max => say(Limits { entry_bytes_max: 1, ..limits }, "SET a 1|SET a 2"),
        Limit::script_instructions_max => {
            say(Limits { script_instructions_max: 10_000, ..limits }, "EVAL 'while true do end' 0")
        }
        Limit::script_memory_bytes_max => {
            let script = "EVAL 'local t = string.rep(\"x\", 8000000) return #t' 0";
            say(Limits { script_memory_bytes_max: 1 << 20, ..limits }, script)
        }
        Limit::script_bytes_max => say(Limits { script_bytes_max: 4, ..limits }, "EVAL 'return 1' 0"),
        Limit::scripts_max => say(Limits { scripts_max: 1, ..limits }, "EVAL 'return 1' 0|EVAL 'return 2' 0"),
        Limit::waiters_max => say(Limits { waiters_max: 0, ..limits }, "BLPOP nothing 0"),
        Limit::keyspace_max_bytes => {
            let space = Keyspace {
                prefix: Vec::new(),
                durability: Durability::Fsync,
                max_bytes: 1,
                eviction: Eviction::Refuse,
                default_expiry: 0,
            };
            let mut scene = Scene::with(limits, Keyspaces::new(vec![space]).expect("one keyspace"));
            let mut session = scene.session();
            assert!(scene.say(&mut session, "SET a 1").starts_with("-OOM"));
            scene
        }
        Limit::forward_wait => {
            let scene = Scene::new(limits);
            let (door, shard) = (&scene.door, &scene.door.shards[0]);
            door.forward.join(base::NodeId(1), shard.clone());
            shard.set_lease(None);
            shard.set_refusal(Some(shard::live::Refusal::Elsewhere(None)));
            let mut session = scene.session();
            assert_eq!(feed(&mut session, b"SET a 1\r\n"), Pause::None);
            scene
                .clock
                .store(crate::resp::forward::FORWARD_WAIT.as_nanos() as u64, std::sync::atomic::Ordering::SeqCst);
            door.forward_tick();
            scene
        }
        // `shard::commit` meets the first three in its tests, those of `forward` the last one.
        Limit::commit_bytes_max
        | Limit::commit_parked_max
        | Limit::commit_prepared_max
        | Limit::commit_wait
        | Limit::output_bytes_max
        | Limit::idle_timeout
        | Limit::log_max_bytes
        | Limit::stop_timeout
        | Limit::open_files
        | Limit::unread_bytes_max
        | Limit::loading_connections_max
        | Limit::admin_connections_max
        | Limit::admin_followers_max
        | Limit::admin_head_max
        | Limit::admin_body_bytes_max
        | Limit::consul_connections_max
        | Limit::consul_body_bytes_max
        | Limit::dns_connections_max
        | Limit::etcd_connections_max
        | Limit::etcd_request_bytes_max
        | Limit::etcd_requests_bytes_max
        | Limit::kafka_connections_max
        | Limit::kafka_request_bytes_max
        | Limit::kafka_requests_bytes_max
        | Limit::kafka_fetched_bytes_max
        | Limit::dns_udp_bytes_max
        | Limit::peer_handshakes_max
        | Limit::peer_frame_bytes_max
        | Limit::peer_queue_bytes_max
        | Limit::peer_asks_max
        | Limit::peer_strangers_max
        | Limit::peer_joins_max => return None,
    };
    Some(scene)
}

#[test]
fn every_limit_is_counted_under_its_own_name_and_nothing_else_is() {
    for limit in Limit::ALL {
        let Some(scene) = hit(*limit, Limits::DEFAULT.counting()) else { continue };
        for (other, count) in scene.door.limits.hits.all() {
            assert_eq!(count, u64::from(other == *limit), "{} when {} was hit", other.name(), limit.name());
        }
    }
}

#[test]
fn what_stays_within_its_limits_hits_none() {
    let lines = "SET a 1|MULTI|PING|EXEC|SUBSCRIBE a|UNSUBSCRIBE a|EVAL 'return 1' 0|BLPOP a 1|GET";
    let scene = say(Limits::DEFAULT.counting(), lines);
    assert!(scene.door.limits.hits.all().all(|(_, count)| count == 0));
}

//! A conversation over a shard whose log is as quick as the test wants.

use std::sync::Arc;

use base::{GroupId, Instant, Limits};
use shard::live::{Gate, Shard};
use shard::reply::{Protocol, Reply};
use shard::state::State;
use store::keyspace::Keyspaces;

use super::{Pause, Session};
use crate::resp::door::{Client, Door, Outbox, World};
use crate::resp::introspect::{Config, ConfigFacts, Facts};

struct Nothing;

impl World for Nothing {
    fn wake_driver(&self) {}
    fn wall_micros(&self) -> u64 {
        0
    }
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

pub(super) struct Scene {
    pub(super) door: Arc<Door>,
    applied: u64,
}

impl Scene {
    pub(super) fn new(limits: Limits) -> Scene {
        Scene::with(limits, Keyspaces::default())
    }

    pub(super) fn with(limits: Limits, keyspaces: Keyspaces) -> Scene {
        let state = State::new(GroupId(1), limits.clone(), Arc::new(keyspaces), 1);
        let shard = Arc::new(Shard::<Client>::new(GroupId(1), state, &limits, Arc::new(Gate::default())));
        shard.set_refusal(None);
        let config = Config::new(&ConfigFacts {
            port: 0,
            bind: String::new(),
            dir: String::new(),
            maxclients: limits.connections_max as u64,
            timeout_seconds: 0,
            maxmemory: 0,
            maxmemory_policy: String::new(),
            databases: 16,
            bulk_bytes_max: limits.bulk_bytes_max,
            command_bytes_max: limits.command_bytes_max,
            has_password: false,
        });
        Scene { door: Arc::new(Door::new(limits, vec![shard], None, config, Box::new(Nothing))), applied: 0 }
    }

    pub(super) fn session(&self) -> Session {
        let client = self.door.admit(String::new(), String::new(), Instant::default()).expect("there is room");
        Session::new(self.door.clone(), client, 1)
    }

    /// What the driver does, on a disk that takes no time.
    fn drive(&mut self) {
        let mut outbox = Outbox::new(&self.door);
        while let Some(mut batch) = self.door.shards[0].take() {
            let mut state = self.door.shards[0].state_mut();
            if batch.needs_entry() {
                self.applied += 1;
                let entry = batch.take_entry(1, 1);
                state.apply(self.applied, &entry, Some(&batch), &mut outbox).expect("readable");
            } else {
                state.run_local(&batch, 1, &mut outbox).expect("readable");
            }
        }
        outbox.flush();
    }

    /// Feeds inline commands and drives until all have been answered.
    pub(super) fn say(&mut self, session: &mut Session, lines: &str) -> String {
        let bytes = lines.replace('|', "\r\n") + "\r\n";
        let (mut from, mut out) = (0, Reply::new(Protocol::Resp2));
        loop {
            let fed = session.feed(&bytes.as_bytes()[from..], Instant::default(), &mut out);
            from += fed.consumed;
            self.drive();
            session.collect(&mut out);
            if fed.pause == Pause::None {
                return String::from_utf8_lossy(&out.bytes).replace("\r\n", " ");
            }
        }
    }
}

#[test]
fn select_in_a_transaction_that_does_nothing_selects_nothing() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.say(&mut one, "WATCH w");
    scene.say(&mut two, "SET w 1");
    assert_eq!(scene.say(&mut one, "MULTI|SELECT 5|EXEC|SET k 1"), "+OK +QUEUED *-1 +OK ");
    assert_eq!(scene.say(&mut two, "GET k|SELECT 5|GET k"), "$1 1 +OK $-1 ");
    assert_eq!(scene.say(&mut one, "WATCH w|MULTI|SELECT 5|EXEC|SET k 2"), "+OK +OK +QUEUED *1 +OK +OK ");
    assert_eq!(scene.say(&mut two, "GET k"), "$1 2 ");
}

#[test]
fn exec_with_words_behind_it_forgets_what_was_watched() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut one, mut two) = (scene.session(), scene.session());
    let refused = "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command ";
    assert_eq!(scene.say(&mut one, "WATCH k|EXEC 0"), format!("+OK {refused}"));
    scene.say(&mut two, "SET k 1");
    assert_eq!(scene.say(&mut one, "MULTI|EXEC"), "+OK *0 ");
}

#[test]
fn a_transaction_is_bounded_whatever_is_queued() {
    let mut scene = Scene::new(Limits { command_bytes_max: 64, ..Limits::DEFAULT });
    let mut session = scene.session();
    for word in ["ECHO", "PUBLISH c"] {
        let line = format!("{word} {}", "x".repeat(40));
        let answers = scene.say(&mut session, &format!("MULTI|{line}|{line}|{line}|EXEC"));
        assert!(answers.starts_with("+OK +QUEUED +QUEUED -ERR too many commands or bytes"), "{answers}");
        assert!(answers.contains("-EXECABORT"), "{answers}");
    }
}

#[test]
fn a_full_queue_does_not_make_a_transaction_take_a_command_twice() {
    let mut scene = Scene::new(Limits { pending_bytes_max: 1, ..Limits::DEFAULT });
    let mut session = scene.session();
    // The SET is under way and fills the queue when the rest is read.
    assert_eq!(scene.say(&mut session, "SET n 1|MULTI|INCR n"), "+OK +OK +QUEUED ");
    assert_eq!(scene.say(&mut session, "EXEC|GET n"), "*1 :2 $1 2 ");
}

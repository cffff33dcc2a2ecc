//! Transactions over several shards, whose leaders are several nodes.

use super::*;

/// Four shards, led by three nodes.
fn spread() -> Cluster {
    let mut cluster = Cluster::new(3, 4);
    (0..4).for_each(|at| cluster.elect(at, Some(at % 3)));
    cluster
}

/// All four on one node that is alone.
fn alone() -> Cluster {
    Cluster::lead(1, 4, 0)
}

const ANY_KEYS: &[&str] = &[
    "MSET a 1 b 2 c 3 d 4 e 5|MGET a b c d e none",
    "DEL a b none|EXISTS a b c d|TOUCH c d e",
    "UNLINK c e|MGET a b c d e",
    "MSETNX x 1 y 2 a 3|MSETNX x 9 z 9|MGET x y z",
    "RENAME x w|GET w|RENAME none w|RENAMENX w y|RENAMENX w v",
    "COPY y u|COPY y u|COPY y u REPLACE|COPY y t DB 3|SELECT 3|GET t|SELECT 0",
    "SADD s1 a b c|SADD s2 b c d|SINTERSTORE s3 s1 s2|SUNIONSTORE s4 s1 s2|SDIFFSTORE s5 s1 s2|SMEMBERS s5|SCARD s4|SINTERCARD 2 s1 s2",
    "SMOVE s1 s2 a|SISMEMBER s2 a|SMOVE s1 s2 none",
    "RPUSH l1 1 2 3|LMOVE l1 l2 LEFT RIGHT|RPOPLPUSH l1 l2|LRANGE l2 0 -1|LMPOP 2 l9 l2 LEFT",
    "ZADD z1 1 a 2 b|ZADD z2 3 b 4 c|ZUNIONSTORE z3 2 z1 z2|ZINTERSTORE z4 2 z1 z2|ZRANGE z3 0 -1 WITHSCORES|ZDIFF 2 z1 z2|ZRANGESTORE z5 z3 0 1",
    "RPUSH n 3 1 2|SORT n STORE m|LRANGE m 0 -1",
    "SET b1 abc|SET b2 xyz|BITOP AND b3 b1 b2|GET b3|BITCOUNT b3|LCS b1 b2",
    "PFADD p1 a b|PFADD p2 c|PFMERGE p3 p1 p2|PFCOUNT p1 p2",
    "MULTI|INCR c1|INCR c2|INCR c3|GET c1|PING|EXEC|MGET c1 c2 c3",
    "MULTI|INCR c1|LPUSH c2 x|SELECT 2|SET c3 z|EXEC|GET c3|SELECT 0",
    "WATCH c1 c2 c3|MULTI|INCR c1|INCR c2|EXEC",
    "WATCH c1 c2|SET c2 9|MULTI|INCR c1|INCR c2|EXEC|MGET c1 c2",
    "WATCH w1|WATCH w2|UNWATCH|MULTI|SET w1 1|SET w2 2|DISCARD|MGET w1 w2",
    "WATCH w1 w2|SELECT 4|MULTI|SET w1 1|SET w2 2|SELECT 5|EXEC|GET w1|SELECT 0",
    "EVAL \"return redis.call('incr',KEYS[1])+redis.call('incr',KEYS[2])\" 2 e1 e2|MGET e1 e2",
    "EVAL \"redis.call('set',KEYS[1],'x') return redis.call('nonsense')\" 2 e1 e2|GET e1",
    "EVAL_RO \"return {redis.call('get',KEYS[1]),redis.call('get',KEYS[2])}\" 2 e1 e2",
    "XADD t1 1-1 f v|XADD t2 2-1 f v|XREAD COUNT 5 STREAMS t1 t2 0 0|XLEN t1",
    "HELLO 3|MULTI|GET a|GET b|EXEC|WATCH a b|SET a 1|MULTI|GET a|GET b|EXEC|HELLO 2",
    "SET ex 1 PX 100000|RENAME ex ey|PERSIST ey|TTL ey|TTL ex",
    "LPUSH a x|MSET a 1 b 2|GETDEL a|APPEND b x",
    "CLIENT REPLY SKIP|MSET a 1 b 2|MGET a b",
    "MSET a|MGET|DEL|RENAME a",
];

#[test]
fn any_keys_may_stand_together_wherever_their_shards_are_led() {
    let mut rng = Rng::new(11);
    for round in 0..40 {
        let mut one = Cluster::lead(1, 1, 0);
        let mut many = if round % 4 == 0 { alone() } else { spread() };
        let nodes = many.doors.len();
        let (mut here, mut there) = (one.session(0), many.session(round % nodes));
        for _ in 0..15 {
            let count = 1 + rng.index(2);
            let lines: Vec<&str> = (0..count).map(|_| ANY_KEYS[rng.index(ANY_KEYS.len())]).collect();
            let lines = lines.join("|");
            let (own, other) = (one.say(&mut here, &lines), many.say(&mut there, &lines));
            let sorted = |text: &str| {
                // Sets have no order, and scripts' texts name a line.
                let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
                words.sort();
                words
            };
            assert_eq!(sorted(&other), sorted(&own), "{lines}");
        }
        there.close();
        many.settle();
        assert!(many.is_still(), "nothing stays behind");
    }
}

impl Cluster {
    /// Whether nothing is locked and no transaction is under way.
    fn is_still(&self) -> bool {
        self.doors.iter().all(|door| {
            door.forward_figures().away == 0
                && door.commits_under_way() == 0
                && door.shards.iter().all(|shard| {
                    let state = shard.state();
                    state.commits().is_quiet() && state.commits().is_still()
                })
        })
    }

    /// Something happens: a frame arrives, or the drivers turn.
    fn happen(&mut self, rng: &mut Rng) {
        if rng.chance(1, 3) {
            self.drive();
        } else {
            self.deliver(rng.index(16));
        }
    }

    fn begin_clocks(&self) {
        let now = Instant(self.clock.load(Ordering::SeqCst));
        for door in &self.doors {
            door.shards.iter().for_each(|shard| shard.clock.begin(now, 1, Some(1)));
        }
    }
}

/// A client that sends one thing after the other.
struct Busy {
    session: Session,
    out: Reply,
    rest: Vec<u8>,
    said: usize,
}

impl Busy {
    /// Goes on. True where it is ready for more.
    fn go_on(&mut self, now: Instant) -> bool {
        let fed = self.session.feed(&self.rest, now, &mut self.out);
        self.rest.drain(..fed.consumed);
        self.session.collect(&mut self.out);
        self.rest.is_empty() && !self.session.is_pending()
    }
}

#[test]
fn many_clients_move_money_and_none_is_lost() {
    for seed in 0..25 {
        let mut rng = Rng::new(seed);
        let mut cluster = if seed % 5 == 0 { alone() } else { spread() };
        let mut teller = cluster.session(0);
        cluster.say(&mut teller, "MSET a0 100 a1 100 a2 100 a3 100 a4 100 a5 100");
        let nodes = cluster.doors.len();
        let busy = |at: usize| Busy {
            session: cluster.session(at % nodes),
            out: Reply::new(Protocol::Resp2),
            rest: Vec::new(),
            said: 0,
        };
        let mut clients: Vec<Busy> = (0..6).map(busy).collect();
        let (mut audits, mut idle) = (0, 0);
        let all = clients.len();
        while idle < all {
            idle = 0;
            for (at, client) in clients.iter_mut().enumerate() {
                if !client.go_on(Instant(cluster.clock.load(Ordering::SeqCst))) {
                    continue;
                }
                let answer = String::from_utf8_lossy(&std::mem::take(&mut client.out.bytes)).into_owned();
                if let Some(sums) = answer.strip_prefix("*6\r\n") {
                    audits += 1;
                    let sum: i64 = sums.split("\r\n").filter_map(|line| line.parse::<i64>().ok()).sum();
                    assert_eq!(sum, 600, "seed {seed}: {sums:?}");
                }
                if client.said == 12 {
                    idle += 1;
                    continue;
                }
                client.said += 1;
                let (from, to, sum) = (rng.index(6), rng.index(6), rng.below(9));
                let lines = match rng.index(4) {
                    0 => "MGET a0 a1 a2 a3 a4 a5\r\n".to_owned(),
                    1 => format!("SET other{at} {sum}\r\nGET a{from}\r\nSET other{at} x\r\nGET other{at}\r\n"),
                    _ => format!("MULTI\r\nDECRBY a{from} {sum}\r\nINCRBY a{to} {sum}\r\nEXEC\r\n"),
                };
                client.rest.extend_from_slice(lines.as_bytes());
            }
            for _ in 0..rng.index(6) {
                cluster.happen(&mut rng);
            }
            if rng.chance(1, 10) {
                cluster.tick(7);
            }
        }
        assert!(audits > 3);
        for client in &clients {
            assert!(!client.session.client.is_doomed(), "no link broke");
        }
        cluster.settle();
        cluster.tick(1);
        cluster.settle();
        assert!(cluster.is_still(), "seed {seed}: nothing stays behind");
        assert!(cluster.say(&mut teller, "MGET a0 a1 a2 a3 a4 a5").starts_with("*6"));
    }
}

#[test]
fn answers_keep_their_order_behind_one_that_waits_for_a_lock() {
    let mut cluster = alone();
    let door = cluster.doors[0].clone();
    let (mut one, mut two) = (cluster.session(0), cluster.session(0));
    cluster.say(&mut one, "MSET a 1 b 1 c 1 d 1");
    // Prepared, and not decided yet.
    let mut out = Reply::new(Protocol::Resp2);
    let now = Instant(cluster.clock.load(Ordering::SeqCst));
    one.feed(b"MULTI\r\nINCR a\r\nINCR b\r\nINCR c\r\nINCR d\r\nEXEC\r\n", now, &mut out);
    let locked = |key: &str| door.shards[door.shard_of(key.as_bytes())].state().commits().locks(key.as_bytes());
    while !["a", "b", "c", "d"].iter().any(|key| locked(key)) {
        cluster.drive();
    }
    let key = ["a", "b", "c", "d"].into_iter().find(|key| locked(key)).expect("one is");
    let tag =
        (0..).map(|n| format!("k{n}")).find(|other| door.shard_of(other.as_bytes()) == door.shard_of(key.as_bytes()));
    let other = tag.expect("some key");
    let lines = format!("SET {other} 5|GET {key}|SET {other} 6|INCR {key}|GET {other}");
    assert_eq!(cluster.say(&mut two, &lines), "+OK $1 2 +OK :3 $1 6 ");
    cluster.settle();
    one.collect(&mut out);
    assert!(String::from_utf8_lossy(&out.bytes).ends_with("*4\r\n:2\r\n:2\r\n:2\r\n:2\r\n"));
    assert!(cluster.is_still());
}

#[test]
fn a_door_that_is_cut_off_leaves_nothing_half_done() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster::new(3, 4);
        // The door's own node leads nothing.
        (0..4).for_each(|at| cluster.elect(at, Some(1 + at % 2)));
        let (mut one, mut two) = (cluster.session(0), cluster.session(1));
        cluster.say(&mut two, "MSET a 1 b 1 c 1 d 1");
        let mut out = Reply::new(Protocol::Resp2);
        let now = Instant(cluster.clock.load(Ordering::SeqCst));
        one.feed(b"MULTI\r\nINCR a\r\nINCR b\r\nINCR c\r\nINCR d\r\nEXEC\r\n", now, &mut out);
        for _ in 0..seed {
            cluster.happen(&mut rng);
        }
        one.collect(&mut out);
        let acknowledged = out.bytes.ends_with(b":2\r\n");
        cluster.cut(0, 1);
        cluster.cut(0, 2);
        cluster.begin_clocks();
        for _ in 0..40 {
            cluster.settle();
            cluster.tick(300);
        }
        let found = cluster.say(&mut two, "MGET a b c d");
        let none = found == "*4 $1 1 $1 1 $1 1 $1 1 ";
        assert!(none && !acknowledged || found == "*4 $1 2 $1 2 $1 2 $1 2 ", "seed {seed}: {found}");
        cluster.settle();
        assert!(
            cluster.doors[1..].iter().all(|door| door.shards.iter().all(|shard| shard.state().commits().is_quiet()))
        );
    }
}

#[test]
fn what_cannot_stand_together_is_said() {
    let mut cluster = alone();
    let mut session = cluster.session(0);
    assert!(cluster.say(&mut session, "BLPOP a b c d 0").contains("who waits for data"));
    assert!(cluster.say(&mut session, "XREAD BLOCK 0 STREAMS a b c d 0 0 0 0").contains("who waits for data"));
    assert!(cluster.say(&mut session, "MSET mem:a 1 mem:b 2 mem:c 3 mem:d 4").contains("memory keyspace"));
    assert!(cluster.say(&mut session, "MSET mem:a 1 b 2 c 3 d 4").starts_with("-CROSSKEYSPACE"));
    assert!(cluster.say(&mut session, "MULTI|SET mem:a 1|SET b 1|EXEC").contains("-EXECABORT"));
    let mut session = cluster.session(0).on_cluster_door();
    assert!(cluster.say(&mut session, "MSET a 1 b 2").starts_with("-CROSSSLOT"));
    assert!(cluster.say(&mut session, "MULTI|SET a 1|SET b 2|EXEC").contains("-CROSSSLOT"));
}

/// A commit that has a name happens once, over one shard or several, and is answered the same whoever asks.
#[test]
fn a_named_commit_happens_once_and_can_be_asked_for() {
    for mut cluster in [Cluster::lead(1, 1, 0), alone(), spread()] {
        let nodes = cluster.doors.len();
        let (mut one, mut other) = (cluster.session(0), cluster.session(nodes - 1));
        let mut say = |session: &mut Session, lines: &str| cluster.say(session, lines).trim_end().to_owned();
        let named = "MULTI|Q.TXID pay:7|INCR c1|INCR c2|INCR c3|EXEC";
        let queued = "+OK +QUEUED +QUEUED +QUEUED +QUEUED *4 +OK";
        assert_eq!(say(&mut one, "Q.TXRESULT pay:7"), "$-1");
        assert_eq!(say(&mut one, named), format!("{queued} :1 :1 :1"));
        assert_eq!(say(&mut other, named), format!("{queued} :1 :1 :1"), "again, at another node");
        assert_eq!(say(&mut other, "MGET c1 c2 c3|Q.TXRESULT pay:7"), "*3 $1 1 $1 1 $1 1 *4 +OK :1 :1 :1");
        // By itself it has changed what it watched: the answer is the first one.
        let watched = "WATCH c1 c2 c3|MULTI|Q.TXID pay:8|INCR c1|INCR c3|EXEC";
        let said = say(&mut one, watched);
        assert!(said.ends_with("*3 +OK :2 :2"), "{said}");
        say(&mut one, "WATCH c1 c2 c3");
        say(&mut other, "MULTI|INCR c1|INCR c2|INCR c3|EXEC");
        assert!(say(&mut one, "MULTI|Q.TXID pay:8|INCR c1|INCR c3|EXEC").ends_with("*3 +OK :2 :2"));
        say(&mut one, "WATCH c1 c2 c3");
        say(&mut other, "INCR c1");
        let said = say(&mut one, "MULTI|Q.TXID pay:9|INCR c1|INCR c3|EXEC|Q.TXRESULT pay:9");
        assert!(said.ends_with("*-1 $-1"), "what was watched has changed: not done, and the name is free: {said}");
        // Given up for good.
        assert_eq!(say(&mut one, "Q.TXABORT pay:10|Q.TXABORT pay:10 EX 60|TTL pay:10"), "$-1 $-1 :3600");
        assert!(say(&mut one, "MULTI|Q.TXID pay:10|INCR c1|INCR c3|EXEC").contains("-TXABORTED"));
        assert_eq!(say(&mut one, "Q.TXABORT pay:7"), "*4 +OK :1 :1 :1", "too late");
        // Wrong uses.
        let said = say(&mut one, "Q.TXID alone|SET text x|Q.TXRESULT text");
        assert!(said.starts_with("-ERR Q.TXID must be the first") && said.contains("-ERR this key holds no outcome"));
        assert!(say(&mut one, "MULTI|INCR c1|Q.TXID late|EXEC").contains("-EXECABORT"));
        for wrong in ["Q.TXID text", "Q.TXID n EX 0", "Q.TXID n EX 604801", "Q.TXID n PX 5"] {
            let said = say(&mut one, &format!("MULTI|{wrong}|INCR c1|INCR c2|EXEC"));
            assert!(said.contains("-EXECABORT"), "{wrong}: {said}");
        }
        say(&mut one, "SETRANGE long 70000 x");
        say(&mut one, "MULTI|Q.TXID big EX 5|GET long|INCR c2|EXEC");
        assert!(say(&mut one, "Q.TXRESULT big").starts_with("-TXDONE"));
        assert!(say(&mut other, "HELLO 3|Q.TXRESULT pay:7").contains("-TXDONE"), "of RESP2");
        one.close();
        other.close();
        cluster.settle();
        assert!(cluster.is_still(), "nothing stays behind");
    }
}

/// Who meets the keys of an older transaction again and again is told so after a while.
#[test]
fn who_waits_too_long_for_older_transactions_is_told_so_and_nothing_was_done() {
    use shard::commit::{Age, Step, TxId};
    use shard::pending::Place;
    let limits = Limits::DEFAULT.counting();
    let mut cluster = Cluster::with(1, 4, limits.clone());
    (0..4).for_each(|at| cluster.elect(at, Some(0)));
    let mut session = cluster.session(0);
    assert_eq!(cluster.say(&mut session, "MSET a 1 b 2 c 3 d 4"), "+OK ");
    // Its home is a shard that nobody finds: it holds its key for good.
    let tx = TxId { home: GroupId(90), origin: 9, incarnation: 1, number: 1 };
    let age = Age { at: 0, origin: 0, number: 0 };
    let unit = Step::Prepare { tx, age, deadline: 1 << 50, keys: vec![b"a"], watches: vec![] }.bytes();
    let door = cluster.doors[0].clone();
    let peer = Arc::new(crate::resp::peer::Peer::new(77, String::new(), String::new(), Instant(0), usize::MAX));
    let at = door.shard_of(b"a");
    door.shards[at].submit(|batch| batch.unit(Place::Logged, true, peer.clone(), &unit)).expect("there is room");
    cluster.settle();
    let mut out = Reply::new(Protocol::Resp2);
    let now = Instant(cluster.clock.load(Ordering::SeqCst));
    session.feed(b"MSET a 9 b 9 c 9 d 9\r\n", now, &mut out);
    for _ in 0..40 {
        cluster.settle();
        cluster.tick(100);
    }
    session.collect(&mut out);
    assert!(out.bytes.starts_with(b"-TRYAGAIN transactions across shards"), "{}", String::from_utf8_lossy(&out.bytes));
    assert_eq!(limits.hits.of(base::Limit::commit_wait), 1);
    assert_eq!(cluster.say(&mut session, "MGET b|GET c|GET d"), "*1 $1 2 $1 3 $1 4 ");
}

/// A MULTI that shows a stale number does nothing, wherever its keys and its fence lie; nor does a script.
#[test]
fn a_stale_number_stops_the_whole_commit() {
    for mut cluster in [Cluster::lead(1, 1, 0), alone(), spread()] {
        let nodes = cluster.doors.len();
        let (mut one, mut other) = (cluster.session(0), cluster.session(nodes - 1));
        let mut say = |session: &mut Session, lines: &str| cluster.say(session, lines).trim_end().to_owned();
        assert_eq!(say(&mut one, "Q.LOCK {l}ock {l}fence a 60000"), ":1");
        assert_eq!(say(&mut other, "Q.LOCK {l}ock {l}fence b 60000"), "$-1");
        let write = "MULTI|INCR c1|Q.FENCE {l}fence 1|INCR c2|INCR c3|EXEC";
        assert!(say(&mut one, write).ends_with("*4 :1 +OK :1 :1"));
        assert_eq!(say(&mut other, "DEL {l}ock|Q.LOCK {l}ock {l}fence b 60000"), ":1 :2");
        let said = say(&mut one, write);
        assert!(said.contains(" -FENCED the number 1 is stale, 2 has been seen"), "{said}");
        assert_eq!(say(&mut other, "MGET c1 c2 c3 {l}fence"), "*4 $1 1 $1 1 $1 1 $1 2");
        let named = "MULTI|Q.TXID pay:1|Q.FENCE {l}fence 1|INCR c1|EXEC|Q.TXRESULT pay:1";
        assert!(say(&mut one, named).ends_with("$-1"), "refused, and the name is free");
        assert!(say(&mut one, "Q.FENCE {l}fence 1").starts_with("-FENCED"));
        let wrong = say(&mut one, "MULTI|INCR c1|Q.FENCE {l}fence none|EXEC");
        assert!(wrong.contains("-ERR a fencing number"), "{wrong}");
        assert_eq!(say(&mut other, "GET c1"), "$1 1");
        one.close();
        other.close();
        cluster.settle();
    }
}

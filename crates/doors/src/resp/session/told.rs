//! What clients are told without asking, and what the door measures: keyspace notifications, CLIENT TRACKING, SLOWLOG, LATENCY.

use base::Limits;
use shard::reply::Reply;
use store::keyspace::Keyspaces;

use super::Session;
use super::tests::Scene;
use crate::resp::peer::Peer;

fn scene() -> Scene {
    let scene = Scene::with(Limits::DEFAULT, Keyspaces::default());
    scene.door.shards.iter().for_each(|shard| shard.state_mut().set_leads(true));
    scene
}

/// What has come for a client that did not ask.
fn heard(session: &mut Session) -> String {
    let mut out = Reply::default();
    session.collect(&mut out);
    String::from_utf8_lossy(&out.bytes).replace("\r\n", " ")
}

#[test]
fn what_happens_to_keys_is_told_by_redis_s_names() {
    let mut scene = scene();
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.say(&mut two, "PSUBSCRIBE __keyevent@0__:*");
    scene.say(&mut one, "SET before 1");
    assert_eq!(heard(&mut two), "", "nobody has asked for them");
    assert_eq!(
        scene.say(&mut one, "CONFIG SET notify-keyspace-events EA|CONFIG GET notify-keyspace-events"),
        "+OK *2 $22 notify-keyspace-events $2 AE "
    );
    let mut told = |line: &str| {
        scene.say(&mut one, line);
        let told = heard(&mut two);
        let events = told.split("*4 $8 pmessage $16 __keyevent@0__:* ").skip(1);
        let words = events.map(|event| {
            let words: Vec<&str> = event.split(' ').collect();
            format!("{} {}", words[1].trim_start_matches("__keyevent@0__:"), words[3])
        });
        words.collect::<Vec<_>>().join(", ")
    };
    for (line, events) in [
        ("SET k v", "set k"),
        ("SET k v EX 100", "set k, expire k"),
        ("GET k", ""),
        ("APPEND k w", "append k"),
        ("PERSIST k", "persist k"),
        ("EXPIRE k 10", "expire k"),
        ("EXPIRE k -1", "del k"),
        ("MSET a 1 b 2", "set a, set b"),
        ("INCRBY a 5|DECR a", "incrby a, incrby a"),
        ("DEL a b nosuch", "del a, del b"),
        ("RPUSH l x y", "rpush l"),
        ("LMOVE l m LEFT RIGHT", "rpush m, lpop l"),
        ("LPOP l", "lpop l, del l"),
        ("RENAME m n", "rename_from m, rename_to n"),
        ("COPY n o", "copy_to o"),
        ("SADD s a b|SREM s a b", "sadd s, srem s, del s"),
        ("ZADD z 1 a|ZADD z INCR 1 a|ZPOPMIN z", "zadd z, zincr z, zpopmin z, del z"),
        ("HSET h f v|HDEL h f", "hset h, hdel h, del h"),
        ("XADD x * f v|XGROUP CREATE x g $", "xadd x, xgroup-create x"),
        ("MULTI|SET a 1|DEL a|EXEC", "set a, del a"),
        ("EVAL \"redis.call('set','a','1') redis.call('incr','a')\" 0", "set a, incrby a"),
        ("BITOP NOT d none|SETBIT d 1 1", "setbit d"),
    ] {
        assert_eq!(told(line), events, "{line}");
    }
    assert_eq!(
        scene.say(&mut one, "CONFIG SET notify-keyspace-events q"),
        "-ERR CONFIG SET failed (possibly related to argument 'notify-keyspace-events') - Invalid event class character. Use 'Ag$lshzxeKEtmdn'. "
    );
}

#[test]
fn a_waiting_client_s_share_is_told_too() {
    let mut scene = scene();
    let (mut one, mut two, mut three) = (scene.session(), scene.session(), scene.session());
    scene.say(&mut one, "CONFIG SET notify-keyspace-events Kl");
    scene.say(&mut two, "SUBSCRIBE __keyspace@0__:l");
    let mut out = Reply::default();
    three.feed(b"BLPOP l 0\r\n", base::Instant::default(), &mut out);
    scene.say(&mut one, "RPUSH l x");
    let told = heard(&mut two);
    assert!(told.contains("$5 rpush") && told.contains("$4 lpop"), "{told}");
}

#[test]
fn who_tracks_is_told_when_what_it_read_changes() {
    let mut scene = scene();
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.say(&mut one, "SET k 1|SET other 1");
    assert!(scene.say(&mut two, "HELLO 3|CLIENT TRACKING ON|GET k|MULTI|GET m|EXEC").contains("+OK $1 1 "));
    scene.say(&mut one, "SET other 2");
    assert_eq!(heard(&mut two), "", "it has not read it");
    scene.say(&mut one, "SET k 2");
    assert_eq!(heard(&mut two), ">2 $10 invalidate *1 $1 k ");
    scene.say(&mut one, "SET k 3");
    assert_eq!(heard(&mut two), "", "it has not read it again");
    scene.say(&mut one, "SET m 1");
    assert_eq!(heard(&mut two), ">2 $10 invalidate *1 $1 m ", "EXEC has read it");
    scene.say(&mut one, "FLUSHALL");
    assert_eq!(heard(&mut two), ">2 $10 invalidate _ ");
    scene.say(&mut two, "CLIENT TRACKING OFF|CLIENT TRACKING ON OPTIN");
    assert_eq!(scene.say(&mut two, "GET a|CLIENT CACHING YES|GET b|GET c"), "_ +OK _ _ ");
    scene.say(&mut one, "MSET a 1 b 1 c 1");
    assert_eq!(heard(&mut two), ">2 $10 invalidate *1 $1 b ");
    let bcast = "CLIENT TRACKING OFF|CLIENT TRACKING ON BCAST PREFIX x: NOLOOP";
    assert_eq!(scene.say(&mut two, bcast), "+OK +OK ");
    scene.say(&mut one, "MSET x:1 1 y:1 1 x:2 1");
    assert_eq!(heard(&mut two), ">2 $10 invalidate *2 $3 x:1 $3 x:2 ");
    assert_eq!(scene.say(&mut two, "SET x:1 2"), "+OK ");
    assert_eq!(heard(&mut two), "", "its own changes are not told to it");
    let info = scene.say(&mut two, "CLIENT TRACKINGINFO");
    assert!(info.contains("~3 $2 on $5 bcast $6 noloop $8 redirect :0 $8 prefixes *1 $2 x:"), "{info}");
    two.close();
    assert!(!scene.door.tracking.is_on());
}

#[test]
fn messages_go_where_they_are_redirected() {
    let mut scene = scene();
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.say(&mut two, "SUBSCRIBE __redis__:invalidate");
    let id = |client: &Peer| client.id;
    let redirect = format!("CLIENT TRACKING ON REDIRECT {}|CLIENT GETREDIR|GET k|SET k 1", id(&two.client));
    assert_eq!(scene.say(&mut one, &redirect), format!("+OK :{} $-1 +OK ", id(&two.client)));
    assert_eq!(heard(&mut two), "*3 $7 message $20 __redis__:invalidate *1 $1 k ");
    two.close();
    assert!(scene.say(&mut one, "HELLO 3|GET k|SET k 2").ends_with("$1 1 +OK >2 $21 tracking-redir-broken :2 "));
}

#[test]
fn tracked_keys_are_bounded() {
    let mut scene = scene();
    let mut one = scene.session();
    scene.say(&mut one, "HELLO 3|CONFIG SET tracking-table-max-keys 2|CLIENT TRACKING ON");
    let said = scene.say(&mut one, "GET a|GET b|GET c");
    assert!(said.contains("invalidate"), "{said}: to remember the third, one is told as changed");
    assert_eq!(scene.door.tracking.counts()[1], 2);
}

#[test]
fn what_ran_is_measured_where_it_ran() {
    let mut scene = scene();
    let mut one = scene.session();
    scene.say(&mut one, "CONFIG SET slowlog-log-slower-than 0");
    scene.say(&mut one, "SLOWLOG RESET|SET k v|GET k|INCR k|NONSENSE|MULTI|SADD s a|EXEC|AUTH secret");
    let log = scene.say(&mut one, "SLOWLOG GET -1");
    for shown in ["$3 SET $1 k $1 v", "$3 GET $1 k", "$4 SADD $1 s $1 a", "$10 (redacted)"] {
        assert!(log.contains(shown), "{shown}: {log}");
    }
    assert!(!log.contains("EXEC") && !log.contains("secret"), "{log}");
    let text = scene.door.figures.command_lines();
    for shown in
        ["cmdstat_set:calls=1,", "cmdstat_incr:calls=1,", "cmdstat_sadd:calls=1,", "cmdstat_slowlog|reset:calls=1,"]
    {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("cmdstat_incr:") && line.ends_with("failed_calls=1")), "{text}");
    assert!(scene.door.figures.error_lines().contains("errorstat_ERR:count=3"));
    assert!(scene.say(&mut one, "LATENCY HISTOGRAM set").starts_with("*2 $3 set *4 $5 calls :1 "));
    assert!(scene.say(&mut one, "LATENCY DOCTOR").contains("I'm sorry, Dave"));
}

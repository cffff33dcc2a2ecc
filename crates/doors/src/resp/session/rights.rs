//! What a session does for users of whom the meta group knows; how they get there is tried with real nodes.

use std::sync::Arc;

use base::{GroupId, Limits, NodeId};
use shard::entry;
use shard::live::{Gate, Shard};
use shard::state::{Silent, State};
use store::keyspace::Keyspaces;
use users::Change;
use users::commands::Commands;

use super::tests::Scene;
use crate::access::digest_of;
use crate::resp::door::Client;
use crate::resp::introspect::DOOR_SPECS;

/// A door that knows these users; each has its own name as its password.
fn scene(users: &[(&str, &str)]) -> Scene {
    let (limits, keyspaces) = (Limits::DEFAULT, Arc::new(Keyspaces::default()));
    let mut state = State::new(GroupId(0), &limits, keyspaces, 1);
    for (nth, (name, rules)) in users.iter().enumerate() {
        let digest: String = digest_of(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut words = vec![format!("#{digest}").into_bytes()];
        words.extend(users::rules::split(rules.as_bytes()));
        let mut data = Vec::new();
        entry::put_header(&mut data);
        entry::put_users(
            &mut data,
            &Change::Set { name: name.as_bytes().to_vec(), base: None, words, proofs: Vec::new() },
        );
        state.apply::<Client, _>(nth as u64 + 1, &data, None, &mut Silent).expect("readable");
    }
    let meta = Arc::new(Shard::<Client>::new(GroupId(0), state, &limits, Arc::new(Gate::default())));
    let scene = Scene::new(limits);
    scene.door.forward.join(NodeId(0), meta);
    scene
}

#[test]
fn a_user_may_what_the_rules_say() {
    let mut scene = scene(&[
        ("app", "on ~app:* &app.* +@all -@dangerous +sort"),
        ("reader", "on %R~* +@read +@connection"),
        ("off", "off ~* +@all"),
    ]);
    let mut own = scene.session();
    let (bad, no_key, no_channel) = (
        "-WRONGPASS invalid username-password pair or user is disabled. ",
        "-NOPERM No permissions to access a key ",
        "-NOPERM No permissions to access a channel ",
    );
    let no =
        |user: &str, command: &str| format!("-NOPERM User {user} has no permissions to run the '{command}' command ");
    for (lines, answer) in [
        ("ACL WHOAMI", "$7 default ".to_owned()),
        ("AUTH app wrong", bad.into()),
        ("AUTH nobody x", bad.into()),
        ("AUTH off off", bad.into()),
        ("AUTH app app|ACL WHOAMI", "+OK $3 app ".into()),
        ("SET app:a 1|GET app:a", "+OK $1 1 ".into()),
        ("SET b 1", no_key.into()),
        ("MSET app:b 1 b 2|EXISTS app:b", format!("{no_key}:0 ")),
        ("CONFIG GET x", no("app", "config|get")),
        ("KEYS *", no("app", "keys")),
        ("client list", no("app", "client|list")),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with:  ".into()),
        ("GET", "-ERR wrong number of arguments for 'get' command ".into()),
        ("WATCH b", no_key.into()),
        ("PUBLISH app.x 1|PUBLISH x 1", format!(":0 {no_channel}")),
        ("MULTI|SET app:a 2|SET b 2|EXEC|GET app:a", format!("+OK +QUEUED {no_key}-EXECABORT Transaction discarded because of previous errors. $1 1 ")),
        // Of a script's keys and of what it calls.
        ("EVAL \"return(redis.call('incr',KEYS[1]))\" 1 app:a", ":2 ".into()),
        ("EVAL \"return(redis.call('incr',KEYS[1]))\" 1 b", no_key.into()),
        ("EVAL \"return(redis.pcall('get','b').err)\" 0", "$57 ERR ACL failure in script: No permissions to access a key ".into()),
        ("EVAL \"return(redis.pcall('keys','*').err)\" 0", "$80 ERR ACL failure in script: User app has no permissions to run the 'keys' command ".into()),
        ("EVAL \"return(redis.pcall('publish','x','1').err)\" 0", "$61 ERR ACL failure in script: No permissions to access a channel ".into()),
        ("EVAL_RO \"return(redis.call('get',KEYS[1]))\" 1 app:a", "$1 2 ".into()),
        ("MULTI|EVAL \"return(redis.call('incr',KEYS[1]))\" 1 app:a|EXEC", "+OK +QUEUED *1 :3 ".into()),
        ("SORT app:a BY x*", no_key.into()),
        ("SORT app:l BY nosort", "*0 ".into()),
        ("AUTH reader reader|GET b|SET b 1|HSET h f v", format!("+OK $-1 {}{}", no("reader", "set"), no("reader", "hset"))),
        ("RESET|ACL WHOAMI", "+RESET $7 default ".into()),
        // What doors put before scripts is nothing that a client may say.
        ("\0as x EVAL return(1) 0", "-ERR unknown command '', with args beginning with: 'x' 'EVAL' 'return(1)' '0'  ".into()),
        ("ACL DRYRUN app GET b", "$49 User app has no permissions to access the 'b' key ".into()),
        ("ACL DRYRUN app GET app:b|ACL DRYRUN app client id", "+OK +OK ".into()),
        ("ACL DRYRUN x GET b", "-ERR User 'x' not found ".into()),
        ("ACL DRYRUN app x", "-ERR Command 'x' not found ".into()),
        ("ACL USERS", "*4 $3 app $7 default $3 off $6 reader ".into()),
        ("ACL GETUSER nobody", "$-1 ".into()),
        ("ACL SETUSER a b c", "-ERR Error in ACL SETUSER modifier 'b': Syntax error ".into()),
        ("ACL SETUSER a (~x", "-ERR Unmatched parenthesis in acl selector starting at '(~x'. ".into()),
        ("ACL DELUSER x default", "-ERR The 'default' user cannot be removed ".into()),
        ("ACL CAT nosuch", "-ERR Unknown category 'nosuch' ".into()),
        ("ACL GENPASS 0", "-ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096 ".into()),
        ("ACL GENPASS 5", "$2 00 ".into()),
        ("ACL LOG 0", "*0 ".into()),
    ] {
        assert_eq!(scene.say(&mut own, lines), answer, "{lines}");
    }
    let log = scene.say(&mut own, "ACL LOG 100");
    for part in ["$4 auth", "$11 client|list", "$5 multi", "$10 config|get", "user=app"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(scene.say(&mut own, "ACL LOG RESET|ACL LOG"), "+OK *0 ");
}

#[test]
fn a_default_user_with_a_password_lets_nobody_in_without_it() {
    let mut scene = scene(&[("default", "on ~* &* +@all")]);
    let mut own = scene.session();
    assert_eq!(
        scene.say(&mut own, "PING|AUTH wrong"),
        "-NOAUTH Authentication required. -WRONGPASS invalid username-password pair or user is disabled. "
    );
    assert_eq!(scene.say(&mut own, "HELLO 2|AUTH default|PING|RESET|PING").matches("NOAUTH").count(), 2);
    assert!(scene.say(&mut own, "HELLO 2 AUTH default default").starts_with("*14 "));
}

#[test]
fn every_command_of_the_door_has_its_categories() {
    for spec in DOOR_SPECS {
        for name in std::iter::once(spec.name).chain(spec.subcommands.iter().map(|sub| sub.name)) {
            assert!(Commands::all().find(name).is_some(), "users/src/commands.txt does not know {name}");
        }
    }
}

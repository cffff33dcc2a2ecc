//! Golden rules (what a real Redis makes of them), and properties of users in words.

use std::sync::Arc;

use proptest::prelude::*;
use store::codec::Input;

use crate::commands::{Commands, category};
use crate::rules::{Rule, merge};
use crate::{Asked, Change, Grant, Outcome, User, Users};

/// A user after these words, or the reason why not.
fn user(line: &str) -> Result<User, String> {
    let words = merge(line.split(' ').map(|word| word.as_bytes().to_vec())).map_err(|_| "unmatched".to_owned())?;
    let mut user = User::default();
    for word in words {
        let rule = Rule::parse(&word, &|_| false)?;
        assert_eq!(Rule::parse(&rule.word(), &|_| false).as_ref(), Ok(&rule), "{line}");
        rule.apply(&mut user)?;
    }
    Ok(user)
}

/// Rules and what `ACL LIST` of a real Redis 7.0.15 then says.
#[test]
fn rules_come_to_what_redis_shows() {
    for (line, shown) in [
        ("", "off sanitize-payload resetchannels -@all"),
        ("on nopass ~* &* +@all", "on nopass sanitize-payload ~* &* +@all"),
        ("on allkeys allchannels allcommands", "on sanitize-payload ~* &* +@all"),
        ("~a ~b ~a %R~b %R~c %W~c %W~d", "off sanitize-payload ~a ~b ~c %W~d resetchannels -@all"),
        ("+@all -get +client|kill -client", "off sanitize-payload resetchannels +@all -get -client"),
        ("+client -client|kill +CLIENT|ID", "off sanitize-payload resetchannels -@all +client -client|kill +client|id"),
        ("+@read -@dangerous +@READ", "off sanitize-payload resetchannels -@all -@dangerous +@read"),
        ("+select|0 +select|1", "off sanitize-payload resetchannels -@all +select|0 +select|1"),
        ("&a &b &a", "off sanitize-payload resetchannels &a &b -@all"),
        (
            "(~x +get) (%R~y &z)",
            "off sanitize-payload resetchannels -@all (~x resetchannels -@all +get) (%R~y resetchannels &z -@all)",
        ),
        ("(~x +get) clearselectors", "off sanitize-payload resetchannels -@all"),
        ("on ~a +get skip-sanitize-payload reset", "off sanitize-payload resetchannels -@all"),
        ("+@all +get", "off sanitize-payload resetchannels +@all +get"),
    ] {
        assert_eq!(String::from_utf8(user(line).expect(line).show()).expect("text"), shown, "{line}");
    }
}

#[test]
fn words_that_are_none_are_refused_as_by_redis() {
    for (line, why) in [
        ("hello", "Syntax error"),
        ("%~x", "Syntax error"),
        ("%R", "Syntax error"),
        ("%", "Syntax error"),
        ("%RR~x", "Syntax error"),
        ("%X~x", "Syntax error"),
        ("+nosuch", "Unknown command or category name in ACL"),
        ("+@nosuch", "Unknown command or category name in ACL"),
        ("-@nosuch", "Unknown command or category name in ACL"),
        ("+client|nosuch", "Unknown command or category name in ACL"),
        ("-select|0", "Unknown command or category name in ACL"),
        ("+client|kill|x", "Allowing first-arg of a subcommand is not supported"),
        ("+select|", "Syntax error"),
        ("#abc", "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"),
        ("!abc", "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"),
        ("(on)", "Syntax error"),
        ("(~a", "unmatched"),
        ("((~a)", "Syntax error"),
        ("(~a))", "Syntax error"),
        (")", "Syntax error"),
        ("(", "unmatched"),
        (">clear", "A password in the clear stands where only digests may"),
    ] {
        assert_eq!(user(line), Err(why.to_owned()), "{line}");
    }
    assert!(user("~* ~x").is_err_and(|why| why.contains("'allkeys'")));
    assert!(user("%RW~* ~x").is_err_and(|why| why.contains("'allkeys'")));
    assert!(user("&* &x").is_err_and(|why| why.contains("'allchannels'")));
}

/// Who may what: `rules : command words : answer`, the keys' places behind it.
#[test]
fn grants_are_redis_s() {
    let table: &[(&str, &str, &[usize], &str)] = &[
        ("+@all ~*", "get k", &[1], "yes"),
        ("+@all", "get k", &[1], "key"),
        ("+@all", "ping", &[], "yes"),
        ("~*", "get k", &[1], "command"),
        ("~*", "auth x", &[], "yes"),
        ("+get ~a*", "GET abc", &[1], "yes"),
        ("+get ~a*", "get b", &[1], "key"),
        ("+get %R~a", "get a", &[1], "yes"),
        ("+get %W~a", "get a", &[1], "key"),
        ("+set %W~a", "set a x", &[1], "yes"),
        ("+set %W~a", "set a get", &[1], "yes"),
        ("+set %W~a", "set a x get", &[1], "key"),
        ("+set %W~a %R~a", "set a x get", &[1], "yes"),
        ("+hset %R~a", "hset a f v", &[1], "key"),
        ("+incr %W~a", "incr a", &[1], "key"),
        ("+bitfield %R~a", "bitfield a get u8 0", &[1], "yes"),
        ("+bitfield %R~a", "bitfield a set u8 0 1", &[1], "key"),
        ("+copy %R~a %W~b", "copy a b", &[1, 2], "yes"),
        ("+copy %R~a %W~b", "copy b a", &[1, 2], "key"),
        ("+exists %W~a", "exists a", &[1], "yes"),
        ("+mget ~a ~b", "mget a b c", &[1, 2, 3], "key"),
        ("+@all -client|kill", "client kill x", &[], "command"),
        ("+@all -client|kill", "client id", &[], "yes"),
        ("+client|id", "client id", &[], "yes"),
        ("+client|id", "client getname", &[], "command"),
        ("+@all -@dangerous", "config get x", &[], "command"),
        ("+@all -@dangerous", "config help", &[], "yes"),
        ("+select|1", "select 1", &[], "yes"),
        ("+select|1", "select 2", &[], "command"),
        ("+@all -select +select|1", "select 2", &[], "command"),
        ("+publish &n*", "publish news x", &[], "yes"),
        ("+publish &n*", "publish old x", &[], "channel"),
        ("+@pubsub &n*", "psubscribe n*", &[], "yes"),
        ("+@pubsub &n*", "psubscribe news", &[], "channel"),
        ("+@pubsub &n*", "subscribe news other", &[], "channel"),
        ("+@pubsub", "unsubscribe news", &[], "yes"),
        ("+@all ~a (+get ~b)", "get b", &[1], "yes"),
        ("+@all ~a (+get ~b)", "set b x", &[1], "key"),
        ("+get ~a (+set ~b)", "get b", &[1], "key"),
        ("+@write ~* -set", "set a x", &[1], "command"),
        ("+@stream ~topic:*", "q.topic GET topic:x", &[2], "yes"),
    ];
    for (rules, line, keys, answer) in table {
        let grant = Grant::new(b"x", Arc::new(user(rules).expect(rules)));
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let name = line.split(' ').next().expect("a word").to_ascii_lowercase();
        let command = Commands::all().of_words(&name, &args).expect("known");
        let keys: Vec<(usize, &[u8])> = keys.iter().map(|place| (*place, args[*place])).collect();
        let said = match grant.check(&Asked { command, args: &args, keys: &keys }) {
            Ok(()) => "yes",
            Err(crate::Denied::Command) => "command",
            Err(crate::Denied::Key(_)) => "key",
            Err(crate::Denied::Channel(_)) => "channel",
        };
        assert_eq!(said, *answer, "{rules} : {line}");
    }
}

#[test]
fn who_may_do_everything_is_not_asked() {
    let is_all = |rules: &str| Grant::new(b"x", Arc::new(user(rules).expect(rules))).is_all;
    assert!(is_all("+@all ~* &*") && is_all("~x (+@all ~* &*)") && is_all("+@all +get ~* &*"));
    assert!(!is_all("+@all ~*") && !is_all("+@all -get ~* &*") && is_all("+@all -get +get ~* &*"));
    let grant = Grant::new(b"x", Arc::new(user("+@stream ~topic:* ~ab*c").expect("rules")));
    let xread = Commands::all().find("xread").expect("known");
    for (prefix, may) in [("topic:", true), ("topic:a", true), ("topic", false), ("", false), ("ab", false)] {
        assert_eq!(grant.may_on_all(xread, &[], prefix.as_bytes(), crate::commands::Access::BOTH), may, "{prefix}");
    }
}

#[test]
fn the_list_is_in_order_and_every_category_is_known() {
    let commands = Commands::all();
    let names: Vec<&str> = commands.iter().map(|command| command.name).collect();
    assert!(names.is_sorted(), "a command stands before its subcommands");
    for line in include_str!("commands.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() > 2 && words[2..].iter().all(|word| category(word).is_some()), "{line}");
        assert!(words[1].len() <= 2 && words[1].bytes().all(|letter| b"rwbnsf-".contains(&letter)), "{line}");
        // Redis: what is not fast is slow.
        assert_ne!(words.contains(&"fast"), words.contains(&"slow"), "{line}");
    }
}

fn set(name: &str, line: &str) -> Change {
    let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| word.as_bytes().to_vec());
    let words = merge(words).expect("closed");
    Change::Set { name: name.into(), base: None, words, proofs: Vec::new() }
}

#[test]
fn a_change_is_done_whole_or_not_at_all() {
    let mut users = Users::default();
    assert_eq!(users.apply(&set("a", "on +get")), Outcome::Done(1, 1));
    let before = users.clone();
    assert!(matches!(users.apply(&set("a", "off ~* ~x")), Outcome::Refused(Some(2), _)));
    assert_eq!(users, before);
    assert_eq!(users.apply(&set("b", "")), Outcome::Done(2, 1));
    let gone = Change::Delete { names: vec![b"a".to_vec(), b"x".to_vec()] };
    assert_eq!(users.apply(&gone), Outcome::Done(3, 1));
    assert_eq!(users.apply(&gone), Outcome::Done(3, 0));
    let never = Change::Delete { names: vec![b"b".to_vec(), b"default".to_vec()] };
    assert!(matches!(users.apply(&never), Outcome::Refused(None, _)) && users.get(b"b").is_some());
    // Another user of the same name is another one.
    users.apply(&set("a", ""));
    assert_eq!(users.get(b"a").map(|user| user.born), Some(4));
    let large = "x".repeat(crate::limits::USER_BYTES_MAX);
    assert!(matches!(users.apply(&set("a", &format!("~{large}"))), Outcome::Refused(None, _)));
    let many: Vec<String> = (0..=crate::limits::PATTERNS_MAX).map(|n| format!("~{n}")).collect();
    assert!(matches!(users.apply(&set("a", &many.join(" "))), Outcome::Refused(Some(_), _)));
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "on", "off", "nopass", "resetpass", "allkeys", "resetkeys", "allchannels", "resetchannels", "+@all", "-@all", "+get",
            "-get", "+client|kill", "-client", "+select|0", "+@read", "-@write", "reset", "clearselectors", "~a*", "%R~a*", "%W~*",
            "%R~*", "%RW~*", "&c", "~", "&", "sanitize-payload", "skip-sanitize-payload", "(~a +get)", "(%R~* %W~* +@all)", "()",
            "#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
            "!5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
        ]).prop_map(str::to_owned),
        1 => "[~%&+()<>#@|RWa -]{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is asked for: nothing panics, and a user comes back from its stored form as it was, so that no replica that was made
    /// from a snapshot differs from one that was not.
    #[test]
    fn users_come_back_from_their_words(changes in prop::collection::vec(prop::collection::vec(word(), 0..8), 0..6)) {
        let mut users = Users::default();
        for (nth, words) in changes.iter().enumerate() {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            let name = if nth % 2 == 0 { b"a".to_vec() } else { b"b".to_vec() };
            let change = Change::Set { name, base: None, words, proofs: Vec::new() };
            let back = Change::decode(&change.encode());
            prop_assert_eq!(back.as_ref(), Ok(&change));
            let outcome = users.apply(&change);
            prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
            let mut form = Vec::new();
            users.encode(&mut form);
            let back = Users::decode(&mut Input::new(&form));
            prop_assert_eq!(back.as_ref(), Ok(&users));
            for (_, user) in users.iter() {
                let rights = User::of_rights(&user.rights()).expect("they come back");
                prop_assert_eq!(rights.rights(), user.rights());
            }
        }
    }

    #[test]
    fn damaged_forms_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Change::decode(&bytes);
        let _ = Outcome::decode(&bytes);
        let _ = Users::decode(&mut Input::new(&bytes));
    }
}

use super::*;

const WHOLE: &str = r#"
[listener.web]
bind = "127.0.0.1:8080"
trusted_proxies = "10.0.0.0/8"

[upstream.shop]
endpoints = ["127.0.0.1:9001", { address = "127.0.0.1:9002", weight = 2 }]
balance = "peak_ewma"
health = { path = "/healthz" }

[upstream.next]
service = "shop"

[route.shop]
hosts = ["shop.example.com", "*.shop.example.com"]
path = "/api/{version}/*"
methods = "GET"
headers = { x-beta = "*" }
to = [{ upstream = "shop", weight = 95 }, { upstream = "next", weight = 5 }]
sticky = "cookie:session"
rate_limit = "100/s"
rewrite.path = "/{version}/{rest}"
timeouts.total = "5s"

[route.old]
path = "/old"
redirect = "/new"
"#;

fn documents(text: &str) -> Vec<Document> {
    read_toml(text).unwrap_or_else(|wrongs| panic!("{wrongs:?}"))
}

#[test]
fn what_people_write_is_read_with_its_shorthands() {
    let documents = documents(WHOLE);
    let keys: Vec<String> = documents.iter().map(Document::key).collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
    let body = |key: &str| &documents.iter().find(|document| document.key() == key).expect("there").body;
    let Body::Route(route) = body("route.shop") else { panic!("a route") };
    assert_eq!((route.to[1].upstream.as_str(), route.to[1].weight), ("next", 5));
    assert_eq!(route.methods[0].0, "GET");
    let limit = route.rate_limit.as_ref().expect("given");
    assert_eq!((limit.rate.count, limit.burst, &limit.per), (100, 0, &LimitKey::default()));
    assert_eq!((route.timeouts.total, route.timeouts.first_byte), (Span::secs(5), Span::secs(15)));
    let Body::Route(old) = body("route.old") else { panic!("a route") };
    assert_eq!(old.redirect.as_ref().map(|redirect| (redirect.to.as_str(), redirect.status)), Some(("/new", 308)));
    let Body::Upstream(shop) = body("upstream.shop") else { panic!("an upstream") };
    assert_eq!((shop.endpoints[0].weight, shop.endpoints[1].weight), (1, 2));
    assert_eq!(shop.check_kind(), CheckKind::Http);
    let Body::Upstream(next) = body("upstream.next") else { panic!("an upstream") };
    let service = next.service.as_ref().expect("given");
    assert!(service.service == "shop" && service.passing_only && next.check_kind() == CheckKind::Off);
}

#[test]
fn what_is_wrong_is_named_with_its_line_key_and_remedy() {
    for (text, wanted) in [
        ("[rout.a]\nto = \"b\"", "line 1: rout: no such table; route is one; is that meant?"),
        ("[route]\nto = \"b\"", "line 2: route.to: wants a table: [route.to]"),
        ("route = 3", "line 1: route: wants a table with a name: [route.NAME]"),
        ("[route.\"a b\"]\nto = \"b\"", "route.a b: a name has 1 to 64 letters"),
        ("[route.a]\n\ntoo = \"b\"", "line 3: route.a.too: no such key; to is one; is that meant?"),
        ("[route.a]\ntimeouts.totl = \"5s\"", "line 2: route.a.timeouts.totl: no such key; total is one"),
        ("[route.a]\ntimeouts = { total = 5 }", "line 2: route.a.timeouts.total: 5: wants a span such as"),
        ("[route.a]\nto = [{ upstream = \"b\" },\n { weight = 5 }]", "line 3: route.a.to[2]: upstream is missing"),
        ("[route.a]\nto = { upstream = \"b\", weigt = 1 }", "route.a.to.weigt: no such key; weight is one"),
        (
            "[route.a]\nto = { upstream = \"b\", weight = -1 }",
            "route.a.to.weight: -1: wants a whole number from 0 to 4294967295",
        ),
        ("[route.a]\npath = \"api\"", "line 2: route.a.path: \"api\": a path starts with /"),
        ("[route.a]\nmethods = [\"get\"]", "route.a.methods: methods are written in capitals: \"GET\""),
        ("[route.a]\npriority = \"high\"", "route.a.priority: \"high\": wants a whole number"),
        ("[route.a]\naccess_log = \"no\"", "route.a.access_log: \"no\": wants true or false"),
        ("[route.a]\nsticky = \"session\"", "route.a.sticky: \"session\": wants \"client\", \"cookie:NAME\""),
        (
            "[upstream.a]\nbalance = \"least_conections\"",
            "\"least_conections\" is no choice; least_connections is one; is that meant?",
        ),
        ("[upstream.a]\nbalance = 3", "upstream.a.balance: 3: wants one of round_robin,"),
        (
            "[upstream.a]\nhealth.interval = \"5 fortnights\"",
            "upstream.a.health.interval: \"5 fortnights\": wants a span",
        ),
        ("[upstream.a]\ntls = true", "upstream.a.tls: true: wants a table with the keys server_name,"),
        ("[listener.a]\nbind = \"here\"", "line 2: listener.a.bind: "),
        ("[listener.a]\nbind = 2020-01-01", "listener.a.bind: a date: wants"),
        ("[listener.a]\nbind = \"127.0.0.1:1\"\nbind = \"127.0.0.1:1\"", "line 3: duplicate key"),
        ("[listener", "line 1: "),
    ] {
        let wrongs = read_toml(text).expect_err(text);
        let shown = wrongs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(shown.contains(wanted), "{text:?}:\n{shown}\nwanted {wanted}");
    }
    let two = read_toml("[route.a]\nx = 1\n[route.b]\ny = 1").expect_err("both are wrong");
    assert_eq!(two.len(), 2, "all that is wrong is told: {two:?}");
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let wrong = Document::from_json(Kind::Route, "a", format!("{{\"hosts\":{deep}}}").as_bytes()).expect_err("deep");
    assert!(!wrong.what.is_empty());
    assert!(Document::from_json(Kind::Route, "a", &vec![b' '; stored::DOCUMENT_BYTES_MAX + 1]).is_err());
}

#[test]
fn the_stored_form_is_canonical_and_says_only_what_was_decided() {
    let golden = [
        ("listener.web", r#"{"form":1,"trusted_proxies":["10.0.0.0/8"]}"#),
        ("upstream.next", r#"{"form":1,"service":{"passing_only":true,"service":"shop","tags":[]}}"#),
        ("route.old", r#"{"form":1,"path":"/old","redirect":{"status":308,"to":"/new"}}"#),
        (
            "route.shop",
            concat!(
                r#"{"form":1,"headers":{"x-beta":"*"},"hosts":["shop.example.com","*.shop.example.com"],"methods":["GET"],"#,
                r#""path":"/api/{version}/*","rate_limit":{"burst":0,"per":"client","rate":"100/s"},"#,
                r#""rewrite":{"path":"/{version}/{rest}"},"sticky":"cookie:session","timeouts":{"total":"5s"},"#,
                r#""to":[{"upstream":"shop","weight":95},{"upstream":"next","weight":5}]}"#
            ),
        ),
    ];
    let documents = documents(WHOLE);
    for (key, wanted) in golden {
        let document = documents.iter().find(|document| document.key() == key).expect("there");
        assert_eq!(String::from_utf8_lossy(&document.to_stored()), wanted);
    }
    for document in &documents {
        let again = Document::from_stored(document.kind(), &document.name, &document.to_stored()).expect("our own");
        assert_eq!(again, *document);
        // What is shown can be written again.
        let shown = serde_json::Value::Object(document.to_table());
        let again = Document::from_human(document.kind(), &document.name, &Node::from_json(&shown)).expect("our own");
        assert_eq!(again, *document);
    }
}

#[test]
fn a_stored_form_of_a_newer_version_is_tolerated_or_refused_as_its_writer_said() {
    let read = |text: &str| Document::from_stored(Kind::Route, "a", text.as_bytes());
    let plain =
        read(r#"{"form":1,"to":[{"upstream":"b","weight":1,"later":true}],"timeouts":{"later":"5s"},"later":[1]}"#);
    let Body::Route(route) = plain.expect("unknown members are tolerated").body else { panic!("a route") };
    assert_eq!(route.to[0].upstream, "b");
    assert!(matches!(read(r#"{"form":1,"needs":["token"]}"#), Err(Unreadable::Newer(why)) if why.contains("token")));
    assert!(matches!(read(r#"{"form":2}"#), Err(Unreadable::Newer(_))));
    for damaged in ["", "{}", "[]", "{\"form\":1,\"path\":7e3}", "{\"form\":1,\"to\":3}", "\u{0}"] {
        assert!(matches!(read(damaged), Err(Unreadable::Damaged(_))), "{damaged}");
    }
}
use stored::Unreadable;

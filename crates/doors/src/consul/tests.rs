//! The door over a registry without a log: what is proposed is applied at once, each change at the next index.

use std::sync::Arc;

use base::{GroupId, Limits, Rng};
use discovery::change::Registered;
use discovery::config::{ConfigChange, Space};
use discovery::model::{CheckForm, NodeForm};
use serde_json::{Value, json};
use shard::live::Shard;
use shard::state::State;
use store::keyspace::Keyspaces;

use super::*;

struct World {
    door: Door,
    catalog: Catalog,
    index: u64,
    now: Instant,
}

impl World {
    fn new() -> World {
        let state = State::new(GroupId(0), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
        let shard = Arc::new(Shard::new(GroupId(0), state, &Limits::DEFAULT, Arc::default()));
        let facts = NodeFacts {
            name: "node1".into(),
            id: "6a1f".into(),
            address: "10.0.0.1".into(),
            datacenter: "dc1".into(),
            door: "127.0.0.1:8500".into(),
            version: "0.1.0".into(),
        };
        let door = Door {
            registry: Arc::new(Registry::new(shard, Box::new(|| {}))),
            checks: Arc::new(Mutex::new(Runner::new("node1", 1))),
            facts,
            token: None,
        };
        World { door, catalog: Catalog::default(), index: 10, now: Instant(1) }
    }

    fn plan(&self, method: &str, target: &str, body: &str) -> Plan {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = format!("/v1/{path}");
        self.door.plan(&Request {
            method,
            path: &path,
            query,
            token: None,
            namespace: None,
            partition: None,
            from: "10.0.0.9",
            body: body.as_bytes(),
            now: self.now,
            random: 0,
            more_random: self.index,
        })
    }

    fn apply(&mut self, change: &Change) -> Outcome {
        self.index += 1;
        self.catalog.apply(change, self.index)
    }

    /// Asks and answers at once.
    fn ask(&mut self, method: &str, target: &str, body: &str) -> Response {
        match self.plan(method, target, body) {
            Plan::Answer(response) => response,
            Plan::Read(mut read) => {
                read.give_up();
                read.poll(&self.catalog, self.now).expect("its time is over")
            }
            Plan::Write(write) => {
                let outcome = self.apply(&write.change);
                write.finish(Ok(outcome))
            }
        }
    }

    fn text(&mut self, method: &str, target: &str, body: &str) -> (u16, String) {
        let response = self.ask(method, target, body);
        (response.status, String::from_utf8(response.body).expect("text"))
    }

    fn json(&mut self, target: &str) -> Value {
        let response = self.ask("GET", target, "");
        assert_eq!(response.status, 200, "{target}: {}", String::from_utf8_lossy(&response.body));
        serde_json::from_slice(&response.body).expect("JSON")
    }

    fn web(&mut self) {
        let body = json!({
            "Name": "web", "id": "web1", "port": 80, "Tags": ["blue", "v1"], "meta": {"team": "x"},
            "check": {"ttl": "10s", "status": "passing", "deregister_critical_service_after": "90s"},
        });
        assert_eq!(self.text("PUT", "agent/service/register", &body.to_string()), (200, String::new()));
    }
}

fn index(response: &Response) -> u64 {
    let header = response.headers.iter().find(|(name, _)| *name == "x-consul-index").expect("every query has an index");
    header.1.parse().expect("a number")
}

#[test]
fn health_answers_have_consuls_shape() {
    let mut world = World::new();
    world.web();
    let node = json!({
        "ID": "", "Node": "node1", "Address": "10.0.0.1", "Datacenter": "dc1", "TaggedAddresses": {}, "Meta": {},
        "CreateIndex": 11, "ModifyIndex": 11,
    });
    let check = json!({
        "Node": "node1", "CheckID": "service:web1", "Name": "Service 'web' check", "Status": "passing", "Notes": "",
        "Output": "", "ServiceID": "web1", "ServiceName": "web", "ServiceTags": ["blue", "v1"], "Type": "ttl",
        "Interval": "10s", "Timeout": "", "ExposedPort": 0, "Definition": {}, "CreateIndex": 11, "ModifyIndex": 11,
    });
    let service = json!({
        "ID": "web1", "Service": "web", "Tags": ["blue", "v1"], "Address": "", "Meta": {"team": "x"}, "Port": 80,
        "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {}, "CreateIndex": 11, "ModifyIndex": 11,
    });
    let wanted = json!([{"Node": node, "Service": service, "Checks": [check]}]);
    assert_eq!(world.json("health/service/web?passing"), wanted);
    assert_eq!(world.json("health/service/WEB?tag=blue&tag=v1&near=_agent&stale"), wanted);
    assert_eq!(world.json("health/service/web?tag=green"), json!([]));
    assert_eq!(world.json("health/service/web?filter=%22blue%22%20in%20Service.Tags"), wanted);
    assert_eq!(world.json("health/service/web?filter=Service.Port%20!=%2080"), json!([]));
    assert_eq!(world.json("health/service/absent"), json!([]));
    assert_eq!(world.json("health/checks/web"), json!([check]));
    assert_eq!(world.json("health/node/node1"), json!([check]));
    assert_eq!(world.json("health/state/any"), json!([check]));
    assert_eq!(world.json("health/state/critical"), json!([]));
    assert_eq!(world.json("catalog/services"), json!({"web": ["blue", "v1"]}));
    assert_eq!(world.json("catalog/nodes"), json!([node]));
    assert_eq!(world.json("catalog/node/node1"), json!({"Node": node, "Services": {"web1": service}}));
    assert_eq!(world.json("catalog/node-services/node1"), json!({"Node": node, "Services": [service]}));
    assert_eq!(world.json("catalog/node/absent"), Value::Null);
    assert_eq!(world.json("catalog/service/web")[0]["ServiceWeights"], json!({"Passing": 1, "Warning": 1}));
    assert_eq!(world.json("agent/services")["web1"]["Datacenter"], "dc1");
    assert_eq!(world.json("agent/self")["Config"]["Datacenter"], "dc1");
    assert_eq!(world.json("status/leader"), "127.0.0.1:8500");
}

#[test]
fn keys_are_answered_as_consul_answers_them() {
    let mut world = World::new();
    let done = |text: &str| (200, text.to_owned());
    assert_eq!(world.text("GET", "kv/a", ""), (404, String::new()));
    assert_eq!(world.text("PUT", "kv/a/b?flags=7", "hello"), done("true"));
    assert_eq!(world.text("PUT", "kv/a/b?cas=0", "x"), done("false"));
    assert_eq!(world.text("PUT", "kv/a/b?cas=11", "bye"), done("true"));
    assert_eq!(world.text("PUT", "kv/a/c?cas=0", ""), done("true"));
    let b = json!({"LockIndex": 0, "Key": "a/b", "Flags": 0, "Value": "Ynll", "CreateIndex": 11, "ModifyIndex": 13});
    let c = json!({"LockIndex": 0, "Key": "a/c", "Flags": 0, "Value": null, "CreateIndex": 14, "ModifyIndex": 14});
    assert_eq!(world.json("kv/a/b"), json!([b]));
    assert_eq!(world.json("kv/a?recurse"), json!([b, c]));
    assert_eq!(world.text("GET", "kv/a/b?raw", ""), done("bye"));
    assert_eq!(world.json("kv/?keys"), json!(["a/b", "a/c"]));
    assert_eq!(world.json("kv/?keys&separator=/"), json!(["a/"]));
    assert_eq!(world.json("kv/a/?keys&separator=/"), json!(["a/b", "a/c"]));
    assert_eq!(world.text("GET", "kv/z?keys", "").0, 404);
    assert_eq!(world.text("DELETE", "kv/a/b?cas=1", ""), done("false"));
    assert_eq!(world.text("DELETE", "kv/a?recurse", ""), done("true"));
    assert_eq!(world.text("GET", "kv/?recurse", "").0, 404);
    assert_eq!(world.json("kv/?keys"), json!([]));
    assert_eq!(world.text("PUT", "kv/", "x"), (400, "Missing key name".into()));
    assert_eq!(world.text("PUT", "kv/a?cas=1&acquire=x", "x").0, 400);
    assert_eq!(world.text("PUT", "kv/a?acquire=x", "x"), (500, "invalid session \"x\"".into()));
    assert_eq!(world.text("PUT", "kv/big", &"x".repeat((512 << 10) + 1)).0, 413);
    let percent = world.text("PUT", "kv/sp%20ace+%C3%BC", "1");
    assert_eq!(percent, done("true"));
    assert_eq!(world.json("kv/?keys"), json!(["sp ace+ü"]));
}

#[test]
fn transactions_are_answered_as_consul_answers_them() {
    let mut world = World::new();
    let ops = json!([
        {"KV": {"Verb": "set", "Key": "a", "Value": "MQ==", "Flags": 3}},
        {"KV": {"Verb": "get", "Key": "a"}},
    ]);
    let (status, text) = world.text("PUT", "txn", &ops.to_string());
    let entry = |value: Value| json!({"KV": {"LockIndex": 0, "Key": "a", "Flags": 3, "Value": value, "CreateIndex": 11, "ModifyIndex": 11}});
    let wanted = json!({"Results": [entry(Value::Null), entry(json!("MQ=="))], "Errors": null});
    assert_eq!((status, serde_json::from_str::<Value>(&text).expect("JSON")), (200, wanted));
    let ops =
        json!([{"KV": {"Verb": "set", "Key": "b", "Value": ""}}, {"KV": {"Verb": "cas", "Key": "a", "Index": 5}}]);
    let (status, text) = world.text("PUT", "txn", &ops.to_string());
    let wanted =
        json!({"Results": null, "Errors": [{"OpIndex": 1, "What": "failed to set key \"a\", index is stale"}]});
    assert_eq!((status, serde_json::from_str::<Value>(&text).expect("JSON")), (409, wanted));
    assert!(world.catalog.key("b").is_none());
    for (ops, status) in [
        (json!({}), 400),
        (json!([{"Node": {}}]), 400),
        (json!([{"KV": {"Verb": "lock", "Key": "a"}}]), 409),
        (json!([{"KV": {"Verb": "dance", "Key": "a"}}]), 400),
        (json!([{"KV": {"Verb": "set", "Key": "a", "Value": "?"}}]), 400),
        (Value::Array(vec![json!({"KV": {"Verb": "get", "Key": "a"}}); 129]), 413),
    ] {
        assert_eq!(world.text("PUT", "txn", &ops.to_string()).0, status, "{ops}");
    }
}

#[test]
fn a_blocking_query_waits_for_its_own_change_and_no_other() {
    let mut world = World::new();
    world.web();
    let last = index(&world.ask("GET", "health/service/web", ""));
    assert_eq!(last, 11);
    let block = |world: &World, wait: &str| match world.plan(
        "GET",
        &format!("health/service/web?index={last}&wait={wait}"),
        "",
    ) {
        Plan::Read(read) => read,
        _ => panic!("a query"),
    };
    let mut read = block(&world, "10s");
    assert_eq!(read.deadline(), Some(world.now + Duration::from_secs(10)));
    assert_eq!(block(&world, "1h").deadline(), Some(world.now + WAIT_MAX));
    assert!(read.poll(&world.catalog, world.now).is_none());
    world.text("PUT", "kv/x", "1");
    world.text("PUT", "agent/service/register", "{\"Name\": \"other\"}");
    assert!(read.poll(&world.catalog, world.now).is_none(), "nothing of it has changed");
    let late = read.poll(&world.catalog, world.now + Duration::from_secs(11)).expect("its time is over");
    assert_eq!(index(&late), last, "the same index says that nothing has changed");
    let mut read = block(&world, "10s");
    world.text("PUT", "agent/service/deregister/web1", "");
    let woken = read.poll(&world.catalog, world.now).expect("it has gone");
    assert_eq!((index(&woken), woken.body.as_slice()), (14, b"[]".as_slice()));
    for (target, why) in [
        ("catalog/services?index=x", "Invalid index"),
        ("catalog/services?wait=10", "Invalid wait time"),
        ("catalog/services?stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
    ] {
        assert_eq!(world.text("GET", target, ""), (400, why.into()));
    }
}

#[test]
fn registrations_that_cannot_be_are_refused_with_consuls_words() {
    let mut world = World::new();
    for (body, why) in [
        (json!({}), "Missing service name"),
        (json!({"Name": "a", "Address": "0.0.0.0"}), "Invalid service address"),
        (json!({"Name": "a", "Check": {"Name": "c"}}), "Invalid check: TTL must be > 0 for TTL checks"),
        (json!({"Name": "a", "Check": {"HTTP": "http://x"}}), "Invalid check: Interval must be > 0"),
        (
            json!({"Name": "a", "Check": {"TTL": "1s", "Interval": "1s"}}),
            "Invalid check: Interval and TTL cannot both be specified",
        ),
        (
            json!({"Name": "a", "Check": {"Args": ["rm"], "Interval": "1s"}}),
            "Invalid check: Scripts are disabled on this agent",
        ),
        (json!({"Name": "a", "Check": {"UDP": "x:1", "Interval": "1s"}}), "UDP checks are not available"),
        (json!({"Name": "a", "Check": {"GRPC": "x", "Interval": "1s"}}), "GRPC wants host:port"),
        (json!({"Name": "a", "Check": {"GRPC": "x:1", "TCP": "x:1", "Interval": "1s"}}), "a check has one of"),
        (json!({"Name": "a", "Check": {"TCP": "x:1\r\n", "Interval": "1s"}}), "is no address"),
        (json!({"Name": "a", "Check": {"AliasService": "x", "Interval": "1s"}}), "cannot be set for Alias checks"),
        (json!({"Name": "a", "Check": {"HTTP": "file:///etc/passwd", "Interval": "1s"}}), "begins with http://"),
        (json!({"Name": "a", "Check": {"HTTP": "http://x\r\nX: y", "Interval": "1s"}}), "wants a URL"),
        (json!({"Name": "a", "Check": {"HTTP": "http://x", "Interval": "1s", "Header": {"A": ["b\r\nc"]}}}), "Header"),
        (json!({"Name": "a", "Check": {"TTL": "ten"}}), "invalid duration"),
        (json!({"Name": "a", "Kind": "connect-proxy"}), "service mesh"),
        (json!({"Name": "a", "Port": 70000}), "Port wants a number"),
        (json!({"Name": "a", "Tags": "x"}), "Tags wants a list"),
        (json!([]), "a service is an object"),
    ] {
        let (status, text) = world.text("PUT", "agent/service/register", &body.to_string());
        assert!(status == 400 && text.contains(why), "{body}: {status} {text}");
    }
    assert_eq!(world.text("PUT", "agent/service/register", "{").0, 400);
    assert_eq!(world.text("POST", "agent/service/register", "{}").0, 405);
    assert_eq!(world.text("PUT", "agent/service/deregister/none", "").0, 404);
    assert_eq!(world.text("PUT", "agent/check/pass/none", "").0, 404);
    assert_eq!(world.text("PUT", "event/fire/x", "").0, 501);
    assert_eq!(world.text("GET", "acl/tokens", ""), (401, "ACL support disabled".into()));
    assert_eq!(world.text("GET", "nonsense", "").0, 404);
    assert_eq!(world.text("GET", "catalog/nodes?dc=dc2", "").0, 500);
    assert!(world.catalog.is_empty());
}

#[test]
fn the_catalog_takes_what_others_monitor() {
    let mut world = World::new();
    let body = json!({
        "Datacenter": "dc1", "Node": "db", "Address": "10.1.1.1", "NodeMeta": {"rack": "7"},
        "Service": {"Service": "pg", "Port": 5432},
        "Check": {"CheckID": "c", "Name": "alive", "Status": "passing", "ServiceID": "pg", "Definition": {"TCP": "10.1.1.1:5432"}},
    });
    assert_eq!(world.text("PUT", "catalog/register", &body.to_string()), (200, "true".into()));
    let found = world.json("health/service/pg?passing=1&node-meta=rack:7");
    assert_eq!(found[0]["Checks"][0]["Definition"], json!({"TCP": "10.1.1.1:5432"}));
    assert_eq!(world.json("health/service/pg?node-meta=rack:8"), json!([]));
    world.door.checks.lock().sync(&world.catalog, world.now);
    assert_eq!(world.door.checks.lock().counts(), (0, 0), "nobody here makes it");
    let gone = json!({"Node": "db", "ServiceID": "pg"}).to_string();
    assert_eq!(world.text("PUT", "catalog/deregister", &gone), (200, "true".into()));
    assert_eq!(world.text("PUT", "catalog/deregister", &gone), (200, "true".into()), "gone is gone");
    assert_eq!(world.json("health/state/any"), json!([]));
    assert_eq!(world.text("PUT", "catalog/register", "{\"Node\": \"x\"}").0, 400);
}

#[test]
fn services_of_a_file_come_stay_and_go_with_it() {
    let mut world = World::new();
    world.web();
    let own = NodeForm { name: "node1".into(), address: "10.0.0.1".into(), ..NodeForm::default() };
    let read =
        |values: &[Value]| values.iter().map(|value| declared_service(value).expect("valid")).collect::<Vec<_>>();
    let start = |world: &mut World, services: &[Declared]| {
        let changes = declaration(&world.catalog, &own, services);
        for change in &changes {
            assert!(matches!(world.apply(change), Outcome::Done(_)));
        }
        changes.iter().map(Change::word).collect::<Vec<_>>()
    };
    let mut file = vec![
        json!({"name": "shop", "id": "shop-1", "port": 1, "check": {"http": "http://127.0.0.1:1/", "interval": "10s"}}),
        json!({"name": "shop", "id": "shop-2", "port": 2}),
    ];
    assert_eq!(start(&mut world, &read(&file)), ["register", "register"]);
    assert_eq!(start(&mut world, &read(&file)), [""; 0], "a start that changes nothing writes nothing");
    assert_eq!(world.json("catalog/service/shop").as_array().map(Vec::len), Some(2));
    let maintenance = CheckForm {
        id: "_service_maintenance:shop-1".into(),
        name: "Service Maintenance Mode".into(),
        service_id: "shop-1".into(),
        ..CheckForm::default()
    };
    let put = |check| Change::Register {
        node: own.clone(),
        keep_node: true,
        service: None,
        checks: vec![check],
        replace_checks: false,
    };
    world.apply(&put(maintenance));
    world.apply(&Change::Deregister { node: "node1".into(), what: Registered::Check("service:shop-1".into()) });
    assert_eq!(start(&mut world, &read(&file)), ["register"], "its check is there again");
    let checks = world.json("health/checks/shop");
    let ids: Vec<_> = checks.as_array().expect("a list").iter().map(|check| &check["CheckID"]).collect();
    assert_eq!(ids, ["_service_maintenance:shop-1", "service:shop-1"], "and it is still in maintenance");
    file[0]["port"] = json!(3);
    assert_eq!(start(&mut world, &read(&file)), ["register"]);
    assert_eq!(world.json("catalog/service/shop")[0]["ServicePort"], 3);
    file.remove(0);
    assert_eq!(start(&mut world, &read(&file)), ["deregister"]);
    file.remove(0);
    assert_eq!(start(&mut world, &read(&file)), ["deregister"]);
    assert_eq!(world.json("catalog/services"), json!({"web": ["blue", "v1"]}), "what clients registered stays");
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let mut world = World::new();
    world.door.token = Some(Secret::new("sesame".into()));
    assert_eq!(world.text("GET", "catalog/nodes", "").0, 403);
    assert_eq!(world.text("GET", "catalog/nodes?token=other", "").0, 403);
    assert_eq!(world.text("GET", "catalog/nodes?token=sesame", "").0, 200);
}

#[test]
fn requests_of_any_content_are_answered() {
    let mut world = World::new();
    world.web();
    let mut rng = Rng::new(3);
    let words = [
        "agent/",
        "catalog/",
        "health/",
        "kv/",
        "txn",
        "service/",
        "check/",
        "register",
        "deregister",
        "web",
        "?index=",
        "&wait=",
        "&filter=",
        "%",
        "%2",
        "%ff",
        "a",
        "1",
        "keys",
        "&recurse",
        "separator=",
        "\u{fc}",
        "(",
        ")",
        "\"",
        " in ",
        "==",
        "not ",
        "node1",
        "state/any",
        "update/",
        "service:web1",
        "maintenance",
        "?enable=true",
        "&reason=x",
    ];
    let bodies = [
        "",
        "{}",
        "[]",
        "null",
        "{\"Name\":\"x\",\"Check\":{\"TTL\":\"1s\"}}",
        "{\"Node\":\"x\"}",
        "[{\"KV\":{}}]",
        "{\"a\":",
    ];
    for _ in 0..20_000 {
        let target: String = (0..rng.below(7)).map(|_| words[rng.index(words.len())]).collect();
        let method = ["GET", "PUT", "DELETE", "POST"][rng.index(4)];
        let response = world.ask(method, &target, bodies[rng.index(bodies.len())]);
        assert!((200..600).contains(&response.status), "{method} {target}");
    }
}

#[test]
fn spans_read_and_show_as_go_does() {
    for (text, millis) in
        [("10s", 10_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500), ("0", 0), ("2m", 120_000)]
    {
        assert_eq!(query::span(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for wrong in ["", "10", "s", "1d", "-1s", "1s2", ".s", "1e99h", "ten"] {
        assert!(query::span(wrong).is_err(), "{wrong}");
    }
    let shown: Vec<_> = [0, 500, 10_000, 90_000, 3_600_000].map(query::show_span).into();
    assert_eq!(shown, ["", "500ms", "10s", "1m30s", "1h0m0s"]);
}

#[test]
fn base_64_goes_both_ways() {
    let mut rng = Rng::new(9);
    for length in 0..100 {
        let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        assert_eq!(shape::unbase64(&shape::base64(&bytes)), Some(bytes));
    }
    assert_eq!(shape::base64(b"hello"), "aGVsbG8=");
    for wrong in ["a", "ab", "abc", "a===", "=abc", "ab=c", "a b=", "ä==="] {
        assert_eq!(shape::unbase64(wrong), None, "{wrong}");
    }
}

#[test]
fn sessions_lock_keys_as_consuls_do() {
    let mut world = World::new();
    world.web();
    let (id, status) = ("serfHealth".to_owned(), discovery::model::Status::Passing);
    let alive = CheckForm { name: id.clone(), id, status, ..CheckForm::default() };
    let node = NodeForm { name: "node1".into(), ..NodeForm::default() };
    let (service, checks) = (None, vec![alive]);
    world.apply(&Change::Register { node, keep_node: true, service, checks, replace_checks: false });
    let create = |world: &mut World, body: &str| {
        let (status, text) = world.text("PUT", "session/create", body);
        let id = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["ID"].as_str().map(str::to_owned);
        if status == 200 { Ok(id(&text).expect("an id")) } else { Err((status, text)) }
    };
    let first = create(&mut world, "").expect("a session");
    let body = json!({
        "Name": "mine", "TTL": "10s", "LockDelay": 5, "Behavior": "delete",
        "ServiceChecks": [{"ID": "service:web1"}],
    });
    let second = create(&mut world, &body.to_string()).expect("a session");
    let shown = json!([{
        "ID": second, "Name": "mine", "Node": "node1", "LockDelay": 5_000_000_000u64, "Behavior": "delete", "TTL": "10s",
        "NodeChecks": ["serfHealth"], "ServiceChecks": [{"ID": "service:web1", "Namespace": ""}],
        "CreateIndex": world.index, "ModifyIndex": world.index,
    }]);
    assert_eq!(world.json(&format!("session/info/{second}")), shown);
    let (status, renewed) = world.text("PUT", &format!("session/renew/{second}"), "");
    assert_eq!((status, serde_json::from_str::<Value>(&renewed).expect("JSON")), (200, shown));
    assert_eq!(world.json("session/list").as_array().map(Vec::len), Some(2));
    assert_eq!(world.json("session/node/node1").as_array().map(Vec::len), Some(2));
    assert_eq!(world.json("session/info/none"), json!([]));
    assert_eq!(world.json("session/info/none?consistent"), json!([]));

    // Locks.
    let lock = |world: &mut World, session: &str| world.ask("PUT", &format!("kv/lead?acquire={session}"), "me");
    let fence = |response: &Response| response.header(kv::FENCE).and_then(|text| text.parse::<u64>().ok());
    let taken = lock(&mut world, &first);
    assert_eq!((taken.status, taken.body.as_slice()), (200, b"true".as_slice()));
    let number = fence(&taken).expect("a lock yields a number");
    let held = world.json("kv/lead");
    assert_eq!(
        (&held[0]["Session"], &held[0]["LockIndex"], &held[0]["Fence"]),
        (&json!(first), &json!(1), &json!(number))
    );
    assert_eq!(lock(&mut world, &second).body, b"false");
    assert_eq!(fence(&lock(&mut world, &second)), None);
    for (target, status, why) in [
        ("kv/lead?acquire=nobody", 500, "invalid session \"nobody\""),
        ("kv/lead?acquire=", 500, "missing session"),
        ("kv/lead?acquire=x&cas=1", 400, "Conflicting flags: cas&acquire\n"),
        ("kv/lead?release=nobody", 200, "false"),
        ("session/destroy/", 400, "Missing session"),
        ("session/renew/nobody", 404, "Session id 'nobody' not found"),
        ("session/nothing", 404, "Invalid URL path: not a recognized HTTP API endpoint"),
    ] {
        assert_eq!(world.text("PUT", target, ""), (status, why.into()), "{target}");
    }
    assert_eq!(world.text("GET", "session/create", "").0, 405);
    for (body, status, why) in [
        (json!({"Node": "n9"}), 500, "Missing node registration"),
        (json!({"Checks": ["c9"]}), 500, "Missing check 'c9' registration"),
        (json!({"Behavior": "keep"}), 500, "Invalid Behavior setting 'keep'"),
        (json!({"TTL": "9s"}), 500, "Invalid Session TTL '9000000000', must be between [10s=24h0m0s]"),
        (json!({"TTL": "soon"}), 500, "Session TTL 'soon' invalid: time: invalid duration \"soon\""),
        (json!({"LockDelay": true}), 400, "Request decode failed: LockDelay wants a span, as \"15s\""),
        (json!([]), 400, "Request decode failed: an object is wanted"),
    ] {
        assert_eq!(create(&mut world, &body.to_string()), Err((status, why.into())), "{body}");
    }
    let bare = create(&mut world, r#"{"NodeChecks": []}"#).expect("a session");
    assert_eq!(world.json(&format!("session/info/{bare}"))[0]["NodeChecks"], json!([]));

    // A transaction by who holds; then the lock goes to another, with a greater number.
    let verb =
        |verb: &str, session: &str| json!({"KV": {"Verb": verb, "Key": "lead", "Session": session, "Value": "eA=="}});
    let set = |verb: Value| json!([verb, {"KV": {"Verb": "set", "Key": "done", "Value": "eA=="}}]).to_string();
    assert_eq!(world.text("PUT", "txn", &set(verb("check-session", &first))).0, 200);
    let (status, text) = world.text("PUT", "txn", &set(verb("check-session", &second)));
    assert_eq!(status, 409);
    assert!(text.contains("failed session check for key"), "{text}");
    let (status, text) = world.text("PUT", "txn", &set(verb("lock", &second)));
    assert!(status == 409 && text.contains("lock is already held"), "{text}");
    assert_eq!(world.text("PUT", &format!("kv/lead?release={first}"), "").1, "true");
    assert_eq!(world.json("kv/lead")[0].get("Session"), None, "nobody holds it");
    let (status, text) = world.text("PUT", "txn", &set(verb("lock", &second)));
    assert_eq!(status, 200, "{text}");
    assert!(world.json("kv/lead")[0]["Fence"].as_u64() > Some(number));

    // What waits for a key hears of the end of who held it: the session's check fails.
    let mut read = match world.plan("GET", &format!("kv/lead?index={}&wait=10s", world.index), "") {
        Plan::Read(read) => read,
        _ => panic!("a query"),
    };
    assert!(read.poll(&world.catalog, world.now).is_none());
    world.apply(&Change::CheckStatus {
        node: "node1".into(),
        check: "service:web1".into(),
        status: discovery::model::Status::Critical,
        output: String::new(),
    });
    let over = read.poll(&world.catalog, world.now).map(|response| response.status);
    assert_eq!(over, Some(404), "it went with its holder");
    assert_eq!(lock(&mut world, &first).body, b"false", "the lock delay");
    assert_eq!(world.text("PUT", &format!("session/destroy/{first}"), ""), (200, "true".into()));
    assert_eq!(world.text("PUT", &format!("session/destroy/{first}"), ""), (200, "true".into()), "gone is gone");
}

#[test]
fn what_does_not_fit_its_schema_is_refused_as_consul_refuses() {
    let mut world = World::new();
    let (prefix, schema) = ("flags/".to_owned(), r#"{"type":"boolean"}"#.to_owned());
    let keep = Change::Config(ConfigChange::Keep { space: Space::Consul, prefix, schema });
    assert!(matches!(world.apply(&keep), Outcome::Done(_)));
    let told = world.ask("PUT", "kv/flags/a", "1");
    let text = String::from_utf8(told.body).expect("text");
    assert_eq!((told.status, told.kind), (400, TEXT));
    assert!(text.starts_with("the value of \"flags/a\" is refused") && text.contains("boolean is wanted"), "{text}");
    // MQ== is 1, dHJ1ZQ== is true.
    let op = |key: &str, value: &str| format!(r#"{{"KV":{{"Verb":"set","Key":"{key}","Value":"{value}"}}}}"#);
    let told = world.ask("PUT", "txn", &format!("[{},{}]", op("x", "MQ=="), op("flags/a", "MQ==")));
    let value: serde_json::Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!((told.status, &value["Errors"][0]["OpIndex"]), (409, &1.into()));
    assert_eq!(world.ask("GET", "kv/x", "").status, 404);
    assert_eq!(world.ask("PUT", "txn", &format!("[{}]", op("flags/a", "dHJ1ZQ=="))).status, 200);
    assert_eq!(world.ask("GET", "kv/flags/a?raw", "").body, b"true");
}

use super::*;
use crate::model::read_toml;

fn config(text: &str) -> Result<Config, String> {
    let documents = read_toml(text).unwrap_or_else(|wrongs| panic!("{text}: {wrongs:?}"));
    Config::new(documents).map_err(|wrongs| wrongs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const BASE: &str = "
[listener.web]
[listener.db]
bind = \"127.0.0.1:5432\"
protocol = \"tcp\"
[upstream.shop]
endpoints = \"127.0.0.1:9001\"
[upstream.next]
service = \"shop\"
[route.shop]
to = \"shop\"
";

#[test]
fn what_does_not_fit_together_is_told_with_what_to_do() {
    assert!(config(BASE).is_ok());
    for (more, wanted) in [
        (
            "[route.a]\npath=\"/a\"\nto = \"shp\"",
            "route.a.to: there is no upstream \"shp\"; shop is one; is that meant?",
        ),
        ("[route.a]\npath=\"/a\"", "route.a: says nothing to do: give it to = "),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nredirect=\"/b\"", "route.a: says two things to do"),
        ("[route.a]\npath=\"/a\"\nto=[\"shop\",\"shop\"]", "route.a.to: \"shop\" is there twice"),
        ("[route.a]\npath=\"/a\"\nto={upstream=\"shop\",weight=0}", "route.a.to: all weights are 0"),
        ("[route.a]\npath=\"/a\"\nto={upstream=\"shop\",weight=1001}", "weight 1001 of \"shop\": at most 1000"),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nlisteners=\"webb\"",
            "route.a.listeners: there is no listener \"webb\"; web is one",
        ),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nlisteners=\"db\"", "listener \"db\" is tcp: no paths"),
        ("[route.a]\nhosts=\"a\"\nto=\"shop\"\nlisteners=\"db\"", "no host is seen there"),
        ("[route.a]\nsticky=\"cookie:a\"\nto=\"shop\"\nlisteners=\"db\"", "only \"client\" is known there"),
        ("[route.a]\nredirect=\"/\"\nlisteners=\"db\"", "its routes need to ="),
        (
            "[route.a]\nto = \"shop\"",
            "route.shop: asks for the same as route.a (* /*): give one of them a higher priority",
        ),
        ("[route.a]\nhosts=[\"a\",\"a\"]\nto=\"shop\"", "route.a.hosts: a is there twice"),
        ("[route.a]\npath=\"/a\"\nredirect={to=\"/b\",status=300}", "route.a.redirect.status: 300: wants 301"),
        ("[route.a]\npath=\"/a\"\nredirect=\"b\"", "route.a.redirect.to: \"b\": wants a path"),
        ("[route.a]\npath=\"/a\"\nredirect=\"/{id}\"", "route.a.redirect.to: {id} is nothing that a request has"),
        ("[route.a]\npath=\"/a\"\nrespond=99", "route.a.respond.status: 99: wants 200 to 599"),
        ("[route.a]\npath=\"/a\"\nrespond={status=204,body=\"x\"}", "an answer of 204 has no body"),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nrewrite.path=\"b\"",
            "route.a.rewrite.path: \"b\": the path does not start with /",
        ),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nrewrite.path=\"/b//c\"", "has //, dots or letters"),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nrewrite.path=\"/{rest}\"", "which the route's path does not end in"),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nrewrite.host=\"a b\"",
            "route.a.rewrite.host: \"a b\": wants a host or \"upstream\"",
        ),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nrequest_headers.set.host=\"x\"",
            "route.a.request_headers.set.host: the host is rewritten by rewrite.host",
        ),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nrequest_headers.remove=\"connection\"",
            "connection belongs to the connection",
        ),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nresponse_headers.set.x=\"a\\nb\"",
            "route.a.response_headers.set.x: a header's value has no line breaks",
        ),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\nheaders={\"a b\"=\"1\"}",
            "route.a.headers: \"a b\" is no name of a header",
        ),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nretry.attempts=11", "route.a.retry.attempts: 11: at most 10"),
        ("[route.a]\npath=\"/a\"\nto=\"shop\"\nretry.on_status=404", "404: only 429 and 500 to 599"),
        (
            "[route.a]\npath=\"/a\"\nto=\"shop\"\ntimeouts={total=\"0s\",first_byte=\"0s\"}",
            "would hold requests for ever",
        ),
        (
            "[listener.b]\nbind=\"0.0.0.0:8080\"",
            "listener.web.bind: 127.0.0.1:8080 is taken by listener.b (0.0.0.0:8080)",
        ),
        (
            "[listener.b]\nbind=\"127.0.0.1:1\"\nprotocol=\"tls\"\ncertificates={chain=\"a\",key=\"b\"}",
            "passes TLS through unopened",
        ),
        (
            "[listener.b]\nbind=\"127.0.0.1:1\"\ncertificates={chain=\"a\",key=\"\"}",
            "listener.b.certificates: key is empty",
        ),
        ("[listener.b]\nbind=\"127.0.0.1:1\"\nhead_bytes_max=10", "listener.b.head_bytes_max: 10: at least 1024"),
        ("[listener.b]\nbind=\"127.0.0.1:1\"\nidle_timeout=\"0s\"", "listener.b.idle_timeout: 0s would close"),
        ("[upstream.b]", "upstream.b: has no endpoints: give it"),
        ("[upstream.b]\nendpoints=\"a:1\"\nservice=\"c\"", "upstream.b: has both endpoints and service"),
        ("[upstream.b]\nendpoints=[\"a:1\",\"a:1\"]", "\"a:1\" is there twice"),
        ("[upstream.b]\nendpoints=\"127.0.0.1\"", "upstream.b.endpoints: \"127.0.0.1\": the port is missing"),
        ("[upstream.b]\nendpoints=\"http://a:1\"", "wants \"host:port\""),
        ("[upstream.b]\nendpoints=\"a:1\"\nbalance=\"hash\"", "upstream.b.hash_key: balance = \"hash\" needs it"),
        ("[upstream.b]\nendpoints=\"a:1\"\nhash_key=\"client\"", "has a meaning only with balance"),
        ("[upstream.b]\nendpoints=\"a:1\"\nhealth.path=\"x\"", "upstream.b.health.path: \"x\": a path starts with /"),
        ("[upstream.b]\nendpoints=\"a:1\"\nhealth.status=[500,200]", "upstream.b.health.status"),
        ("[upstream.b]\nendpoints=\"a:1\"\nbreaker.failure_percent=150", "breaker.failure_percent: 150: at most 100"),
        (
            "[upstream.b]\nendpoints=\"a:1\"\nbreaker.failure_percent=0",
            "upstream.b.breaker: failure_percent is at least 1",
        ),
        ("[upstream.b]\nendpoints={address=\"a:1\",location=[nan,0.0]}", "location: wants degrees"),
        ("[upstream.b]\nendpoints=\"a:1\"\ntls={chain=\"a\"}", "upstream.b.tls: chain and key come together"),
    ] {
        let shown = config(&format!("{BASE}{more}\n")).expect_err(more);
        assert!(shown.contains(wanted), "{more}:\n{shown}\nwanted: {wanted}");
    }
}

#[test]
fn documents_of_one_name_are_told_and_all_that_is_wrong_is_told_at_once() {
    let mut documents = read_toml(BASE).expect("valid");
    documents.push(documents[0].clone());
    let wrongs = Config::new(documents).expect_err("twice");
    assert!(wrongs[0].what.contains("is there twice"), "{wrongs:?}");
    let shown = config("[upstream.a]\n[upstream.b]\n[route.c]\n").expect_err("three things");
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn tables_hold_the_routes_of_their_listener() {
    let config = config(&format!("{BASE}[route.pg]\nlisteners=\"db\"\nto=\"shop\"\n")).expect("valid");
    assert_eq!(config.table("web").map(RouteTable::len), Some(1));
    assert_eq!(config.table("db").and_then(|table| table.find_connection("")).map(|route| &*route.name), Some("pg"));
    assert_eq!(config.routes()[1].index, 1);
}

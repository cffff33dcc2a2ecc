use super::*;
use crate::Config;
use crate::model::read_toml;
use crate::request::PlainHead;

fn config(routes: &str) -> Config {
    let text = format!("[listener.web]\n[upstream.u]\nendpoints=\"127.0.0.1:1\"\n{routes}");
    let documents = read_toml(&text).unwrap_or_else(|wrongs| panic!("{wrongs:?}"));
    Config::new(documents).unwrap_or_else(|wrongs| panic!("{wrongs:?}"))
}

fn found(config: &Config, method: &str, url: &str, headers: &[(&str, &str)]) -> String {
    let (authority, target) = url["http://".len()..].split_once('/').expect("a path");
    let target = format!("/{target}");
    let head = PlainHead { method, authority, target: &target, fields: headers };
    let asked = Asked::of(&head).expect("a good request");
    let table = config.table("web").expect("there");
    table.find(&asked, &head, &mut Captures::default()).map_or("-".into(), |route| route.name.to_string())
}

#[test]
fn precedence() {
    let config = config(
        r#"
[route.any]
to = "u"
[route.shop]
hosts = ["shop.example"]
path = "/api/*"
to = "u"
[route.shop-get]
hosts = ["shop.example"]
path = "/api/*"
methods = ["GET"]
to = "u"
[route.shop-beta]
hosts = ["shop.example"]
path = "/api/*"
headers = { x-beta = "yes" }
to = "u"
[route.shop-beta-eu]
hosts = ["shop.example"]
path = "/api/*"
headers = { x-beta = "yes", x-region = "*" }
to = "u"
[route.shop-query]
hosts = ["shop.example"]
path = "/api/*"
query = { preview = "1" }
to = "u"
[route.below]
hosts = ["*.example"]
path = "/api/v1/deep"
to = "u"
[route.deeper]
hosts = ["*.shop.example"]
to = "u"
[route.maintenance]
priority = 10
path = "/down/*"
respond = 503
"#,
    );
    for (method, url, headers, wanted) in [
        ("POST", "http://shop.example/api/x", &[][..], "shop"),
        ("GET", "http://shop.example/api/x", &[], "shop-get"),
        ("HEAD", "http://shop.example/api/x", &[], "shop-get"),
        ("GET", "http://shop.example/api/x", &[("x-beta", "yes")], "shop-get"),
        ("POST", "http://shop.example/api/x", &[("x-beta", "yes")], "shop-beta"),
        ("POST", "http://shop.example/api/x", &[("x-beta", "no")], "shop"),
        ("POST", "http://shop.example/api/x", &[("x-beta", "yes"), ("x-region", "eu")], "shop-beta-eu"),
        ("POST", "http://shop.example/api/x?preview=%31", &[], "shop-query"),
        ("POST", "http://shop.example/api/x?preview=2", &[], "shop"),
        // The exact host's routes do not match this path, so less specific hosts have their say.
        ("GET", "http://shop.example/other", &[], "any"),
        ("GET", "http://a.example/api/v1/deep", &[], "below"),
        ("GET", "http://a.b.example/api/v1/deep", &[], "below"),
        ("GET", "http://example/api/v1/deep", &[], "any"),
        ("GET", "http://a.shop.example/api/v1/deep", &[], "deeper"),
        ("GET", "http://A.Shop.Example./x", &[], "deeper"),
        ("GET", "http://shop.example/down/x", &[], "maintenance"),
        ("GET", "http://other/x", &[], "any"),
        ("GET", "http://127.0.0.1/x", &[], "any"),
        ("GET", "http://[::1]/x", &[], "any"),
        // One normal form decides: nobody gets past a rule by another spelling.
        ("GET", "http://shop.example/%64own/x", &[], "maintenance"),
        ("GET", "http://shop.example//down//x", &[], "maintenance"),
        ("GET", "http://shop.example/api/../down/x", &[], "maintenance"),
        ("GET", "http://shop.example/api/%2e%2e/down", &[], "maintenance"),
    ] {
        assert_eq!(found(&config, method, url, headers), wanted, "{method} {url} {headers:?}");
    }
}

#[test]
fn too_many_at_one_place_are_refused() {
    let routes: String = (0..=ROUTES_PER_PATH_MAX)
        .map(|at| format!("[route.r{at}]\nheaders = {{ x-a = \"{at}\" }}\nto = \"u\"\n"))
        .collect();
    let text = format!("[listener.web]\n[upstream.u]\nendpoints=\"127.0.0.1:1\"\n{routes}");
    let wrongs = Config::new(read_toml(&text).expect("valid")).expect_err("too many");
    assert!(wrongs[0].what.contains("more than 64 routes"), "{wrongs:?}");
    let routes: String = (0..=PRIORITIES_MAX)
        .map(|at| format!("[route.r{at}]\npath = \"/{at}\"\npriority = {at}\nto = \"u\"\n"))
        .collect();
    let text = format!("[listener.web]\n[upstream.u]\nendpoints=\"127.0.0.1:1\"\n{routes}");
    let wrongs = Config::new(read_toml(&text).expect("valid")).expect_err("too many");
    assert!(wrongs[0].what.contains("17 different priorities"), "{wrongs:?}");
}

/// Ten thousand routes, over hosts and paths.
fn many(count: usize) -> Config {
    let routes: String = (0..count)
        .map(|at| {
            let host = match at % 3 {
                0 => format!("hosts = \"h{at}.example\"\n"),
                1 => format!("hosts = \"*.w{at}.example\"\n"),
                _ => String::new(),
            };
            format!("[route.r{at}]\n{host}path = \"/svc{at}/{{id}}/*\"\nto = \"u\"\n")
        })
        .collect();
    config(&routes)
}

#[test]
fn every_one_of_ten_thousand_routes_is_found() {
    let config = many(10_000);
    for at in (0..10_000).step_by(7) {
        let host = match at % 3 {
            0 => format!("h{at}.example"),
            1 => format!("x.w{at}.example"),
            _ => "elsewhere".into(),
        };
        assert_eq!(found(&config, "GET", &format!("http://{host}/svc{at}/7/x"), &[]), format!("r{at}"));
        assert_eq!(found(&config, "GET", &format!("http://{host}/svc{at}"), &[]), "-");
    }
}

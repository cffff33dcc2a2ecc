//! What `/metrics` tells of the gateway: plain values, which the host fills in.

use base::Counts;

use super::metrics::Page;

/// The gateway at one moment. What is named `…_total` only grows as long as its route, upstream or endpoint is there.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Routes by name.
    pub routes: Vec<Route>,
    /// Upstreams by name.
    pub upstreams: Vec<Upstream>,
    /// Requests under way.
    pub in_flight: u64,
    /// Answers that the gateway made by itself to requests without a route, by the first digit of their status; at 0 what was only closed.
    pub own_answers_total: [u64; 6],
    /// Requests without a route (404).
    pub unrouted_total: u64,
    /// Ill-formed requests (400).
    pub bad_total: u64,
    /// Requests shed (503).
    pub shed_total: u64,
    /// Lines of the access log that were dropped because writing them was too slow.
    pub log_dropped_total: u64,
    /// What a person should look at.
    pub troubles: u64,
}

/// A route.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Requests that took it.
    pub requests_total: u64,
    /// Answers to requests that went to an upstream, by the first digit of their status; at 0 requests that ended without one.
    pub answers_total: [u64; 6],
    /// Answers that the gateway made by itself, in the same way.
    pub own_answers_total: [u64; 6],
    /// Requests beyond its rate limit (429).
    pub limited_total: u64,
    /// Requests refused for want of a place, an endpoint, or because a breaker is open (503).
    pub refused_total: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that wait for a place.
    pub waiting: u64,
    /// From a request's head to its answer's.
    pub latency: Counts,
}

/// An upstream.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that take new requests.
    pub usable: u64,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Requests, each once however often it was tried.
    pub requests_total: u64,
    /// Attempts that failed.
    pub failures_total: u64,
    /// Attempts beside the first.
    pub retries_total: u64,
    /// Retries that its budget has left.
    pub retries_left: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// From an attempt's start to its answer's head.
    pub latency: Counts,
}

/// An endpoint.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// What people call it; with its address, no two of an upstream are the same.
    pub name: String,
    /// Whether it is in service: passing, and not ejected.
    pub is_up: bool,
    /// Whether it is ejected as an outlier.
    pub is_ejected: bool,
    /// Requests sent to it.
    pub requests_total: u64,
    /// Those that failed.
    pub failures_total: u64,
    /// Requests under way.
    pub in_flight: u64,
}

/// The states of a breaker, as labels.
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];
/// The classes of answers, as labels, by the first digit; `none` ended without an answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The gateway's part of the page that Prometheus reads.
pub fn render(front: &Front) -> String {
    let mut page = Page::default();
    page.gauge("quorate_gateway_in_flight", "Requests under way in the gateway.", front.in_flight);
    page.counter("quorate_gateway_unrouted_total", "Requests without a route (404).", front.unrouted_total);
    page.counter("quorate_gateway_bad_requests_total", "Ill-formed requests (400).", front.bad_total);
    page.counter("quorate_gateway_shed_total", "Requests shed under overload (503).", front.shed_total);
    let dropped = "Lines of the access log dropped: writing them was too slow.";
    page.counter("quorate_gateway_access_log_dropped_total", dropped, front.log_dropped_total);
    page.gauge("quorate_gateway_troubles", "What /gateway/look says a person should look at.", front.troubles);
    own_answers(&mut page, front);
    routes(&mut page, &front.routes);
    upstreams(&mut page, &front.upstreams);
    page.text
}

/// Kind, name, help and how it is read.
type Row<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

/// Direct answers, redirects, 404, 429, 503 and the like: no upstream had a part in them.
fn own_answers(page: &mut Page, front: &Front) {
    let of = |name, counts: [u64; 6]| CLASSES.iter().zip(counts).map(move |(class, count)| (name, *class, count));
    let mut rows: Vec<(&str, &str, u64)> = of("", front.own_answers_total).collect();
    rows.extend(front.routes.iter().flat_map(|route| of(&route.name, route.own_answers_total)));
    let help = "Answers of the gateway's own by route (empty: without one) and class; none: closed without.";
    page.each("counter", "quorate_gateway_own_answers_total", help, &rows, |(route, class, count)| {
        (vec![("route", route), ("class", class)], *count as f64)
    });
}

fn routes(page: &mut Page, routes: &[Route]) {
    let classes: Vec<_> =
        routes.iter().flat_map(|route| CLASSES.iter().zip(route.answers_total).map(move |row| (route, row))).collect();
    let help =
        "Answers to what went to an upstream, by route and class; none: ended without. Own answers are counted apart.";
    page.each("counter", "quorate_gateway_answers_total", help, &classes, |(route, (class, count))| {
        (vec![("route", &route.name), ("class", class)], *count as f64)
    });
    let rows: [Row<Route>; 5] = [
        ("counter", "quorate_gateway_requests_total", "Requests by route.", |route| route.requests_total),
        ("counter", "quorate_gateway_limited_total", "Requests beyond the rate limit (429).", |route| {
            route.limited_total
        }),
        ("counter", "quorate_gateway_refused_total", "Requests for which there was no place (503).", |route| {
            route.refused_total
        }),
        ("gauge", "quorate_gateway_route_in_flight", "Requests under way.", |route| route.in_flight),
        ("gauge", "quorate_gateway_route_waiting", "Requests that wait for a place.", |route| route.waiting),
    ];
    for (kind, name, help, figure) in rows {
        page.each(kind, name, help, routes, |route| (vec![("route", &route.name)], figure(route) as f64));
    }
    let help = "From a request's head to its answer's.";
    let used = routes.iter().filter(|route| route.latency.count() > 0);
    page.histograms(
        "quorate_gateway_request_duration_seconds",
        help,
        "route",
        used.map(|route| (&*route.name, &route.latency)),
    );
}

fn upstreams(page: &mut Page, upstreams: &[Upstream]) {
    let rows: [Row<Upstream>; 6] = [
        ("counter", "quorate_upstream_requests_total", "Requests, each once however often tried.", |up| {
            up.requests_total
        }),
        ("counter", "quorate_upstream_failures_total", "Attempts that failed.", |up| up.failures_total),
        ("counter", "quorate_upstream_retries_total", "Attempts beside the first.", |up| up.retries_total),
        ("gauge", "quorate_upstream_retries_left", "Retries that the budget has left.", |up| up.retries_left),
        ("gauge", "quorate_upstream_in_flight", "Requests under way.", |up| up.in_flight),
        ("gauge", "quorate_upstream_usable_endpoints", "Endpoints that take new requests.", |up| up.usable),
    ];
    for (kind, name, help, figure) in rows {
        page.each(kind, name, help, upstreams, |up| (vec![("upstream", &up.name)], figure(up) as f64));
    }
    let states: Vec<_> = upstreams.iter().flat_map(|up| BREAKER_STATES.iter().map(move |state| (up, *state))).collect();
    page.each(
        "gauge",
        "quorate_upstream_breaker_state",
        "1 for the state that the breaker is in.",
        &states,
        |(up, state)| (vec![("upstream", &up.name), ("state", state)], f64::from(u8::from(up.breaker == *state))),
    );
    let help = "From an attempt's start to its answer's head.";
    let used = upstreams.iter().filter(|up| up.latency.count() > 0);
    page.histograms(
        "quorate_upstream_attempt_duration_seconds",
        help,
        "upstream",
        used.map(|up| (&*up.name, &up.latency)),
    );
    let endpoints: Vec<_> = upstreams.iter().flat_map(|up| up.endpoints.iter().map(move |one| (up, one))).collect();
    let rows: [Row<Endpoint>; 5] = [
        ("gauge", "quorate_endpoint_up", "1 where it is healthy and not ejected.", |one| u64::from(one.is_up)),
        ("gauge", "quorate_endpoint_ejected", "1 where it is ejected as an outlier.", |one| u64::from(one.is_ejected)),
        ("counter", "quorate_endpoint_requests_total", "Requests sent to it.", |one| one.requests_total),
        ("counter", "quorate_endpoint_failures_total", "Those that failed.", |one| one.failures_total),
        ("gauge", "quorate_endpoint_in_flight", "Requests under way.", |one| one.in_flight),
    ];
    for (kind, name, help, figure) in rows {
        page.each(kind, name, help, &endpoints, |(up, one)| {
            (vec![("upstream", &up.name), ("endpoint", &one.name)], figure(one) as f64)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_lines_and_every_metric_named_once() {
        let histogram = base::Histogram::default();
        histogram.record(base::Duration::from_micros(80));
        let route = Route {
            name: "shop".into(),
            requests_total: 5,
            answers_total: [1, 0, 3, 0, 0, 1],
            own_answers_total: [0, 0, 0, 0, 7, 0],
            latency: histogram.snapshot(),
            ..Route::default()
        };
        let endpoint = Endpoint { name: "10.0.0.1:9000".into(), is_up: true, requests_total: 4, ..Endpoint::default() };
        let upstream =
            Upstream { name: "shop".into(), endpoints: vec![endpoint], breaker: "open", ..Upstream::default() };
        let text = render(&Front {
            routes: vec![route],
            upstreams: vec![upstream],
            shed_total: 2,
            own_answers_total: [0, 0, 0, 0, 9, 0],
            ..Front::default()
        });
        for line in [
            "quorate_gateway_shed_total 2\n",
            "quorate_gateway_own_answers_total{route=\"\",class=\"4xx\"} 9\n",
            "quorate_gateway_own_answers_total{route=\"shop\",class=\"4xx\"} 7\n",
            "# TYPE quorate_gateway_answers_total counter\nquorate_gateway_answers_total{route=\"shop\",class=\"none\"} 1\n",
            "quorate_gateway_answers_total{route=\"shop\",class=\"2xx\"} 3\n",
            "quorate_gateway_requests_total{route=\"shop\"} 5\n",
            "quorate_gateway_request_duration_seconds_bucket{route=\"shop\",le=\"0.0001\"} 1\n",
            "quorate_gateway_request_duration_seconds_count{route=\"shop\"} 1\n",
            "quorate_upstream_breaker_state{upstream=\"shop\",state=\"open\"} 1\n",
            "quorate_upstream_breaker_state{upstream=\"shop\",state=\"closed\"} 0\n",
            "quorate_endpoint_up{upstream=\"shop\",endpoint=\"10.0.0.1:9000\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n--- is not in ---\n{text}");
        }
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        // Without routes nothing but the totals.
        assert_eq!(render(&Front::default()).matches("# TYPE").count(), 7);
    }
}

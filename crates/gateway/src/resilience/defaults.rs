//! Every default of this room in one table: name, number, why. The settings' `Default`s are made from it, and so is `docs/limits.md`.

/// One default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRow {
    /// Its name; the last word is the unit where there is one.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it means and where it comes from.
    pub meaning: &'static str,
}

macro_rules! defaults {
    ($($name:ident = $value:expr, $meaning:literal;)*) => {
        /// The values of the table, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Defaults {
            $(#[doc = $meaning] pub $name: u64,)*
        }

        impl Defaults {
            /// What applies where nothing else is said.
            pub const DEFAULT: Defaults = Defaults { $($name: $value,)* };
        }

        /// The table, in the order in which a request meets the limits.
        pub const TABLE: &[DefaultRow] = &[$(DefaultRow { name: stringify!($name), value: $value, meaning: $meaning },)*];
    };
}

defaults! {
    shed_in_flight_max = 20_000, "Requests in flight in the whole gateway; beyond it 503 at once.";
    shed_bytes_max = 256 << 20, "Bytes held for requests (heads, kept bodies); beyond it 503 at once.";
    shed_delay_target_ms = 20, "Where requests wait longer for their turn, on the mean of five intervals in a row, a growing share is refused: 503 (DAGOR's 20 ms).";
    shed_interval_ms = 100, "The interval over which that mean is taken (RFC 8289's 100 ms).";
    rate_buckets_max = 131_072, "Clients whose rate is remembered, over all routes (2 MiB); beyond it the one nearest to a full bucket is forgotten.";
    timeout_connect_ms = 2_000, "Until a connection to an endpoint stands, TLS included: two lost SYNs' worth of patience, less than a client's.";
    timeout_answer_ms = 15_000, "From the request's last byte to the answer's head, one attempt.";
    timeout_request_ms = 30_000, "All attempts together, until the answer's head; passed upstream as what is left of it.";
    timeout_idle_ms = 300_000, "Between two bytes of a body, a WebSocket or a stream (Envoy's stream idle timeout, 5 min).";
    bulkhead_connections_max = 1_024, "Connections to one endpoint; beyond it the next endpoint, else 503.";
    bulkhead_in_flight_max = 1_024, "Requests in flight to one upstream, and of one route (Envoy's max_requests).";
    bulkhead_queue_max = 1_024, "Requests that wait for one of those places (Envoy's max_pending_requests); beyond it 503 at once.";
    bulkhead_queue_timeout_ms = 1_000, "Longest wait for a place; then 503.";
    retry_attempts_max = 3, "Attempts of one request, the first included.";
    retry_backoff_base_ms = 25, "The first pause before a retry is drawn from 0 to this (Envoy's 25 ms).";
    retry_backoff_cap_ms = 250, "And no pause from more than this (Envoy's ten times the base).";
    retry_budget_percent = 20, "Retries per hundred requests to an upstream, over ten seconds (Finagle's and linkerd's 20 %): traffic grows by at most 1.2 times.";
    retry_budget_floor = 10, "Retries in ten seconds that are allowed however few the requests.";
    check_interval_ms = 5_000, "From one active probe of an endpoint to the next.";
    check_jitter_percent = 10, "Each of those pauses is drawn anew within ± this.";
    check_timeout_ms = 2_000, "A probe without an answer has then failed.";
    check_rise = 2, "Good probes in a row until a failing endpoint passes (HAProxy's rise).";
    check_fall = 3, "Bad probes in a row until a passing endpoint fails (HAProxy's fall).";
    outlier_consecutive_errors = 5, "5xx, or no answer, in a row that eject an endpoint (Envoy's 5).";
    outlier_consecutive_gateway_failures = 5, "502 to 504, reset or timed out in a row that eject an endpoint (Envoy's 5).";
    outlier_consecutive_unreachable = 3, "Connections refused in a row that eject an endpoint: nobody is there.";
    outlier_interval_ms = 10_000, "From one look at success rates to the next (Envoy's 10 s).";
    outlier_base_ejection_ms = 10_000, "The first ejection; the n-th in a row lasts n times as long. Envoy's 30 s is long where half of the endpoints may be out; a return that comes too early costs five attempts.";
    outlier_max_ejection_ms = 300_000, "The longest ejection (Envoy's 300 s).";
    outlier_unreachable_ejection_ms = 1_000, "The first ejection of an endpoint that refuses connections: it may just be restarting; n times as long as above.";
    outlier_unreachable_ejection_max_ms = 30_000, "The longest ejection of an endpoint that refuses connections.";
    outlier_max_ejection_percent = 50, "Endpoints that may be ejected at once, unreachable ones aside; one always may, all never. Envoy's 10 is for clusters of dozens.";
    outlier_success_rate_hosts_min = 5, "Endpoints with enough requests, below which success rates are not compared (Envoy's 5).";
    outlier_success_rate_volume_min = 100, "Requests in an interval, below which an endpoint's success rate does not count (Envoy's 100).";
    outlier_success_rate_deviations_percent = 190, "Hundredths of a standard deviation below the mean that eject (Envoy's 1900 thousandths).";
    breaker_window_ms = 5_000, "The breaker counts failures over this: it opens after four seconds of nothing but failures. Hystrix's 10 s would need eight.";
    breaker_volume_min = 20, "Answers in the window below which it does not open (Hystrix's 20).";
    breaker_failure_percent = 75, "Failures of a hundred at which it opens. Hystrix's 50 would refuse the good half of an upstream that half fails, where ejection and budget do better.";
    breaker_pause_ms = 5_000, "How long it stays open first (Hystrix's 5 s); each failed probe doubles it.";
    breaker_pause_max_ms = 30_000, "And no longer than this.";
    breaker_probes = 5, "Requests let through when half open; when all succeed it closes.";
    breaker_probe_timeout_ms = 60_000, "A probe that has not reported by then is given up; longer than a request may take.";
}

/// The table as Markdown, as it stands in `docs/limits.md`.
pub fn markdown() -> String {
    let rows = TABLE.iter().map(|row| format!("| `{}` | {} | {} |\n", row.name, grouped(row.value), row.meaning));
    std::iter::once("| key | default | what it means |\n|---|---|---|\n".to_owned()).chain(rows).collect()
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let (rest, last) = (number / 1000, number % 1000);
    if rest == 0 { last.to_string() } else { format!("{},{last:03}", grouped(rest)) }
}

// The parts must fit each other.
const _: () = {
    let d = Defaults::DEFAULT;
    assert!(d.timeout_connect_ms < d.timeout_answer_ms && d.timeout_answer_ms <= d.timeout_request_ms);
    assert!(d.retry_backoff_base_ms <= d.retry_backoff_cap_ms && d.retry_backoff_cap_ms < d.timeout_request_ms);
    assert!(d.bulkhead_queue_timeout_ms < d.timeout_request_ms);
    assert!(d.bulkhead_in_flight_max + d.bulkhead_queue_max <= d.shed_in_flight_max);
    assert!(d.check_timeout_ms < d.check_interval_ms);
    assert!(d.outlier_base_ejection_ms <= d.outlier_max_ejection_ms && d.breaker_pause_ms <= d.breaker_pause_max_ms);
    assert!(d.timeout_request_ms < d.breaker_probe_timeout_ms);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_says_what_it_means_and_fits_where_it_is_used() {
        for row in TABLE {
            assert!(row.meaning.ends_with('.') && row.value > 0, "{row:?}");
            assert!(row.value <= u64::from(u32::MAX), "{row:?}: settings that are counts are u32");
        }
        assert_eq!(size_of::<Defaults>(), TABLE.len() * 8);
    }

    #[test]
    fn the_document_shows_this_table() {
        let document = include_str!("../../../../docs/limits.md");
        assert!(document.contains(&markdown()), "docs/limits.md, gateway: write\n{}", markdown());
    }
}

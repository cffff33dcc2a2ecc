//! Timeouts of each step, and the deadline that all of them stay within and that is passed upstream.

use super::defaults::Defaults;
use base::{Duration, Instant};

/// How long each step of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the request's last byte to the answer's head, for one attempt.
    pub answer: Duration,
    /// Between two bytes of a body, in either direction; also of a WebSocket or a long gRPC stream.
    pub idle: Duration,
    /// The whole request with its retries, until the answer's head. Bodies may take longer, as long as they move.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let Defaults { timeout_connect_ms, timeout_answer_ms, timeout_idle_ms, timeout_request_ms, .. } =
            Defaults::DEFAULT;
        Timeouts {
            connect: Duration::from_millis(timeout_connect_ms),
            answer: Duration::from_millis(timeout_answer_ms),
            idle: Duration::from_millis(timeout_idle_ms),
            request: Duration::from_millis(timeout_request_ms),
        }
    }
}

/// When a request must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The deadline of a request that came at `now`: the route's, or the client's where that is earlier (`grpc-timeout`, or
    /// [`TIMEOUT_HEADER`] from a client that is trusted to say so). A client cannot make it later.
    pub fn new(now: Instant, timeouts: &Timeouts, client: Option<Duration>) -> Deadline {
        Deadline(now + client.map_or(timeouts.request, |client| client.min(timeouts.request)))
    }

    /// What is left of it; nothing when it has passed, and then nothing is sent any more.
    pub fn left(self, now: Instant) -> Option<Duration> {
        Some(self.0.since(now)).filter(|left| !left.is_zero())
    }

    /// How long a step that begins at `now` may take, given its own timeout.
    pub fn step(self, now: Instant, timeout: Duration) -> Option<Duration> {
        self.left(now).map(|left| left.min(timeout))
    }
}

/// The header that tells an upstream how many milliseconds are left, for requests that are not gRPC. As Envoy's
/// `x-envoy-expected-rq-timeout-ms`, there being no standard one.
pub const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// The value of [`TIMEOUT_HEADER`]: whole milliseconds, rounded down, but not to nothing.
pub fn format_timeout_ms(left: Duration) -> String {
    left.as_millis().max(1).to_string()
}

/// Reads [`TIMEOUT_HEADER`]; nothing unless it is one to nine digits.
pub fn parse_timeout_ms(value: &[u8]) -> Option<Duration> {
    digits(value, 9).map(Duration::from_millis)
}

fn digits(value: &[u8], at_most: usize) -> Option<u64> {
    let right = (1..=at_most).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    right.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Nanoseconds of gRPC's units, the finest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Reads a `grpc-timeout`: one to eight digits and a unit (grpc/grpc, `doc/PROTOCOL-HTTP2.md`, *Timeout*). Nothing where it is malformed. A
/// timeout too long to be counted in nanoseconds is the longest that can be.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, number) = value.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    digits(number, 8).map(|number| Duration::from_nanos(number.saturating_mul(*nanos)))
}

/// Writes a `grpc-timeout` in the finest unit whose number has at most eight digits, rounded down, so that the upstream never gets more time
/// than there is.
pub fn format_grpc_timeout(left: Duration) -> String {
    let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
    let (unit, of) = UNITS.into_iter().find(|(_, of)| nanos / of <= 99_999_999).expect("2^64 ns are 5 million hours");
    format!("{}{}", nanos / of, char::from(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_may_shorten_the_deadline_and_not_lengthen_it() {
        let timeouts = Timeouts { request: SECOND * 30, ..Timeouts::default() };
        let at = |client| Deadline::new(Instant(0), &timeouts, client).0.since(Instant(0));
        assert_eq!([at(None), at(Some(SECOND)), at(Some(SECOND * 99))], [SECOND * 30, SECOND, SECOND * 30]);
        let deadline = Deadline::new(Instant(0), &timeouts, Some(SECOND));
        let now = Instant(600_000_000);
        assert_eq!(deadline.left(now), Some(Duration::from_millis(400)));
        assert_eq!(deadline.step(now, SECOND), Some(Duration::from_millis(400)));
        assert_eq!(deadline.step(now, Duration::from_millis(10)), Some(Duration::from_millis(10)));
        assert_eq!([deadline.left(Instant(1_000_000_000)), deadline.left(Instant(u64::MAX))], [None, None]);
    }

    #[test]
    fn grpc_timeouts_of_the_protocol() {
        assert_eq!(parse_grpc_timeout(b"1S"), Some(SECOND));
        assert_eq!(parse_grpc_timeout(b"250m"), Some(SECOND / 4));
        assert_eq!(parse_grpc_timeout(b"2M"), Some(SECOND * 120));
        assert_eq!(parse_grpc_timeout(b"99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(parse_grpc_timeout(b"99999999H"), Some(Duration::from_nanos(u64::MAX)));
        for wrong in ["", "S", "1", "1s", "100000000n", "-1S", "+1S", "1.5S", " 1S", "1S ", "1SS"] {
            assert_eq!(parse_grpc_timeout(wrong.as_bytes()), None, "{wrong:?}");
        }
        let texts = [0, 1, 99_999_999, 100_000_000, 5_000_000_000, 99_999_999_999, u64::MAX]
            .map(|n| format_grpc_timeout(Duration::from_nanos(n)));
        assert_eq!(texts, ["0n", "1n", "99999999n", "100000u", "5000000u", "99999999u", "5124095H"]);
    }

    #[test]
    fn milliseconds_are_digits() {
        assert_eq!(parse_timeout_ms(b"1500"), Some(Duration::from_millis(1500)));
        assert!([&b""[..], b"1e3", b"-1", b"1234567890"].iter().all(|wrong| parse_timeout_ms(wrong).is_none()));
        assert_eq!([format_timeout_ms(Duration::from_nanos(5)), format_timeout_ms(SECOND)], ["1", "1000"]);
    }

    proptest! {
        #[test]
        fn the_upstream_never_gets_more_time_than_there_is_and_hardly_less(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let read = parse_grpc_timeout(format_grpc_timeout(left).as_bytes()).expect("well-formed");
            prop_assert!(read <= left);
            // At least five digits are left after a change of the unit.
            prop_assert!(left.as_nanos() - read.as_nanos() <= left.as_nanos() / 1000 + 1);
        }

        #[test]
        fn anything_may_stand_in_a_header(value in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = (parse_grpc_timeout(&value), parse_timeout_ms(&value));
        }
    }
}

//! A least rate for bodies of requests: who sends a byte now and then is never idle, and would keep a connection, a place and an upstream's for as
//! long as it likes. Looked at every [`BODY_GRACE`], as Kestrel does (240 bytes a second after 5 s, its `MinRequestBodyDataRate`).

use crate::head::{BodyLength, RequestHead};
use crate::plan::{BODY_GRACE, Rules};
use tokio::time::Instant;

/// Whether a request's body comes fast enough.
pub(crate) struct Pace {
    /// When it is looked at again.
    pub until: Instant,
    /// What had come by the last look.
    bytes: u64,
    /// What must come until the next.
    least: u64,
    /// It may wait to be told to go on, and is not slow before its first byte.
    waits: bool,
}

impl Pace {
    /// For a request that comes now; nothing where its body may take its time.
    pub fn of(rules: &Rules, request: &RequestHead, now: Instant) -> Option<Pace> {
        let least = rules.body_bytes_per_second_min.saturating_mul(BODY_GRACE.as_secs());
        let waits = request.fields().get("expect").is_some();
        let may = least > 0 && request.body != BodyLength::None && !request.is_grpc();
        may.then(|| Pace { until: now + BODY_GRACE, bytes: 0, least, waits })
    }

    /// To be asked when it is time; so many bytes have come in all.
    pub fn is_slow(&mut self, bytes: u64, now: Instant) -> bool {
        let came = bytes - std::mem::replace(&mut self.bytes, bytes);
        self.until = now + BODY_GRACE;
        came < self.least && (bytes > 0 || !self.waits) && !base::is_planted(base::Bug::BodyNeverSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow() {
        let rules = Rules { body_bytes_per_second_min: 240, ..Rules::default() };
        let mut request = RequestHead { body: BodyLength::Known(100_000), ..RequestHead::default() };
        let begun = Instant::now();
        let at = |windows: u32| begun + BODY_GRACE * windows;
        let mut pace = Pace::of(&rules, &request, begun).expect("it has a body");
        assert_eq!(pace.until, at(1));
        assert!(!pace.is_slow(1200, at(1)));
        assert_eq!(pace.until, at(2));
        assert!(pace.is_slow(2399, at(2)), "what came in one window does not count in the next");
        assert!(Pace::of(&rules, &request, begun).expect("it has a body").is_slow(0, at(1)));
        assert!(Pace::of(&Rules::default(), &request, begun).is_none());
        request.fields.push(b"expect", b"100-continue");
        let mut waits = Pace::of(&rules, &request, begun).expect("it has a body");
        assert!(!waits.is_slow(0, at(1)) && waits.is_slow(1, at(2)), "until its first byte it may wait");
        request.fields.push(b"content-type", b"application/grpc");
        assert!(Pace::of(&rules, &request, begun).is_none(), "streams may be silent");
        assert!(Pace::of(&rules, &RequestHead::default(), begun).is_none());
    }
}

//! W3C Trace Context (Recommendation of 23 November 2021): `traceparent` made or passed on, `tracestate` passed on with it.
//!
//! The gateway is a participant: it keeps the trace and the sampled flag, and puts its own span in the parent's place. A traceparent
//! that is not valid begins a new trace, and its tracestate goes (§4.2, §4.3). A new trace is sampled: servers that sample by
//! their parent would otherwise record nothing at all.

use std::fmt;

use base::Rng;

use crate::request::Head;

/// A trace's id; never zero. Shown as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// Where in a trace a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span of whoever sends it on; never zero.
    pub span: u64,
    /// Whether it is recorded.
    pub sampled: bool,
}

fn lower_hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, digit| match digit {
        b'0'..=b'9' => Some(value << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(value << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

impl TraceContext {
    /// Reads a traceparent (§3.2). One of a later version is read as far as this one goes (§3.2.3).
    pub fn parse(value: &[u8]) -> Option<TraceContext> {
        let [v0, v1, b'-', rest @ ..] = value else { return None };
        let version = lower_hex(&[*v0, *v1])?;
        if version == 0xff || value.len() < 55 || version == 0 && value.len() != 55 {
            return None;
        }
        if value.len() > 55 && value[55] != b'-' || rest[32] != b'-' || rest[49] != b'-' {
            return None;
        }
        let trace = lower_hex(&rest[..32]).filter(|id| *id != 0)?;
        let span = lower_hex(&rest[33..49]).filter(|id| *id != 0)?;
        let flags = lower_hex(&rest[50..52])?;
        Some(TraceContext { trace: TraceId(trace), span: span as u64, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The context in which a request goes on, and whether it continues the client's: if not, the client's tracestate must go.
pub fn next_trace(head: &impl Head, rng: &mut Rng) -> (TraceContext, bool) {
    let mut given = head.values("traceparent");
    let parent = match (given.next(), given.next()) {
        (Some(value), None) => TraceContext::parse(value),
        _ => None,
    };
    let mut id = || loop {
        let id = rng.next_u64();
        if id != 0 {
            return id;
        }
    };
    let span = id();
    match parent {
        Some(parent) => (TraceContext { span, ..parent }, true),
        None => {
            let trace = TraceId(u128::from(id()) << 64 | u128::from(id()));
            (TraceContext { trace, span, sampled: true }, false)
        }
    }
}

impl TraceContext {
    /// The value of traceparent, as [`fmt::Display`] has it, only faster.
    pub fn to_text(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (at, digit) in text[3..35].iter_mut().enumerate() {
            *digit = HEX[(self.trace.0 >> (124 - 4 * at)) as usize & 15];
        }
        for (at, digit) in text[36..52].iter_mut().enumerate() {
            *digit = HEX[(self.span >> (60 - 4 * at)) as usize & 15];
        }
        text[54] = if self.sampled { b'1' } else { b'0' };
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{TraceContext, TraceId, next_trace};
    use crate::request::PlainHead;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn golden() {
        for (text, wanted) in [
            (GOOD.to_owned(), Some(GOOD.to_owned())),
            (GOOD.replace("-01", "-00"), Some(GOOD.replace("-01", "-00"))),
            (GOOD.replace("-01", "-ff"), Some(GOOD.to_owned())),
            (GOOD.replacen("00", "cc", 1) + "-what-comes-later", Some(GOOD.to_owned())),
            (GOOD.replacen("00", "cc", 1) + "what", None),
            (GOOD.to_owned() + "-", None),
            (GOOD.replacen("00", "ff", 1), None),
            (GOOD.to_uppercase(), None),
            (GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), None),
            (GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)), None),
            (GOOD.replace('-', "_"), None),
            (GOOD[..54].to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()).map(|context| context.to_string()), wanted, "{text}");
        }
    }

    #[test]
    fn a_trace_goes_on_with_our_span_or_begins_anew() {
        let mut rng = base::Rng::new(1);
        let mut next = |fields: &[(&str, &str)]| {
            next_trace(&PlainHead { method: "GET", authority: "a", target: "/", fields }, &mut rng)
        };
        let (context, continued) = next(&[("Traceparent", GOOD)]);
        let sent = context.to_text();
        assert!(
            continued
                && sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
                && sent.ends_with("-01")
                && sent != GOOD
        );
        let (context, continued) = next(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert!(!continued && context.sampled, "two parents are none");
        let (context, continued) = next(&[]);
        assert!(!continued && context.sampled && TraceContext::parse(context.to_text().as_bytes()) == Some(context));
    }

    proptest! {
        #[test]
        fn anything_may_stand_there(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&value);
        }
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = TraceContext { trace: TraceId(trace), span, sampled };
            prop_assert_eq!(TraceContext::parse(context.to_text().as_bytes()), Some(context));
            prop_assert_eq!(context.to_text(), context.to_string());
        }
    }
}

//! Whether a failed attempt is made again.
//!
//! Only where the upstream cannot act twice on it: the request is *idempotent* (RFC 9110 §9.2.2; a proxy must not retry others by itself), or
//! nothing of it was sent, or the upstream said that it did nothing (HTTP/2 REFUSED_STREAM, a GOAWAY below the stream: RFC 9113 §8.7), or it
//! carries an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) on a route whose owner says that the upstream honours it.
//!
//! And only where it can help: the answer has not begun to reach the client, the body can be sent again, attempts and time are left, the
//! failure is one that another endpoint may not have, and the [`RetryBudget`] pays.

use super::backoff::Backoff;
use super::budget::RetryBudget;
use super::deadline::Deadline;
use super::defaults::Defaults;
use base::{Duration, Instant, Rng};

/// What a method promises (RFC 9110 §9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    /// GET, HEAD, OPTIONS, TRACE, QUERY: changes nothing.
    Safe,
    /// PUT, DELETE: twice is as good as once.
    Idempotent,
    /// POST, PATCH, CONNECT and whatever is unknown.
    Neither,
}

impl Idempotence {
    /// Of a method's name; methods are case-sensitive.
    pub fn of_method(method: &str) -> Idempotence {
        match method {
            "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" => Idempotence::Safe,
            "PUT" | "DELETE" => Idempotence::Idempotent,
            _ => Idempotence::Neither,
        }
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, timed out, or TLS failed. Which of these the time that it took says: a refusal does not wait.
    Connect,
    /// The upstream said that it did nothing (REFUSED_STREAM, or GOAWAY with a lower last stream), or it was not even asked since it has as many
    /// connections as it may. Says nothing about its health.
    Refused,
    /// The connection ended, or was reset, before the answer's head.
    Reset,
    /// No answer's head in time.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

/// An attempt that failed, and the request it was for.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// How.
    pub failure: Failure,
    /// Of the request's method.
    pub idempotence: Idempotence,
    /// It carries an `Idempotency-Key`.
    pub has_idempotency_key: bool,
    /// Whether any byte of it left for the upstream in this attempt.
    pub sent: bool,
    /// Its body is kept and can be sent again, or it has none.
    pub replayable: bool,
    /// Bytes of an answer went to the client.
    pub answer_begun: bool,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// The upstream's `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Until when the client waits.
    pub deadline: Deadline,
}

/// Which failures are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts of a request, the first included; one: never again.
    pub attempts_max: u32,
    /// Statuses after which it is worth trying elsewhere.
    pub statuses: Vec<u16>,
    /// Whether a timeout is. The upstream may be slow rather than broken: off by default, since it doubles the load of an upstream that is
    /// late for everybody.
    pub on_timeout: bool,
    /// Whether the upstream honours `Idempotency-Key`.
    pub idempotency_keys: bool,
    /// The pauses between.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts_max: Defaults::DEFAULT.retry_attempts_max as u32,
            statuses: vec![502, 503, 504],
            on_timeout: false,
            idempotency_keys: false,
            backoff: Backoff::default(),
        }
    }
}

/// Why not again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// The failure is the answer: another endpoint would say the same.
    Final,
    /// The client has seen some of an answer.
    AnswerBegun,
    /// The upstream may have acted on it.
    NotIdempotent,
    /// Its body is gone.
    BodyGone,
    /// Enough attempts.
    Attempts,
    /// The client will not wait that long.
    Deadline,
    /// Too many retries of this upstream.
    Budget,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryVerdict {
    /// After this pause, at another endpoint.
    After(Duration),
    /// Not.
    No(NoRetry),
}

impl RetryPolicy {
    /// Decides, and spends from the budget if it says yes. The budget is asked last, so that only retries that happen are paid for.
    pub fn decide(&self, tried: &Tried, budget: &RetryBudget, now: Instant, rng: &mut Rng) -> RetryVerdict {
        if let Some(why) = self.forbids(tried) {
            return RetryVerdict::No(why);
        }
        let pause =
            self.backoff.pause(tried.attempts.saturating_sub(1), rng).max(tried.retry_after.unwrap_or_default());
        if tried.deadline.left(now).is_none_or(|left| left <= pause) {
            return RetryVerdict::No(NoRetry::Deadline);
        }
        if budget.withdraw(now) { RetryVerdict::After(pause) } else { RetryVerdict::No(NoRetry::Budget) }
    }

    fn forbids(&self, tried: &Tried) -> Option<NoRetry> {
        let worth = match tried.failure {
            Failure::Connect if base::is_planted(base::Bug::RefusedNotRetried) => false,
            Failure::Connect | Failure::Refused | Failure::Reset => true,
            Failure::Timeout => self.on_timeout,
            Failure::Status(status) => self.statuses.contains(&status),
        };
        if !worth {
            return Some(NoRetry::Final);
        }
        if tried.answer_begun {
            return Some(NoRetry::AnswerBegun);
        }
        let untouched = matches!(tried.failure, Failure::Connect | Failure::Refused) || !tried.sent;
        let keyed = self.idempotency_keys && tried.has_idempotency_key;
        let again = untouched || keyed || base::is_planted(base::Bug::PostSentAgain);
        if !again && tried.idempotence == Idempotence::Neither {
            return Some(NoRetry::NotIdempotent);
        }
        if !tried.replayable {
            return Some(NoRetry::BodyGone);
        }
        (tried.attempts >= self.attempts_max).then_some(NoRetry::Attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::RetryBudgetConfig;
    use super::*;
    use base::Rng;
    use proptest::prelude::*;

    const TRIED: Tried = Tried {
        failure: Failure::Reset,
        idempotence: Idempotence::Safe,
        has_idempotency_key: false,
        sent: true,
        replayable: true,
        answer_begun: false,
        attempts: 1,
        retry_after: None,
        deadline: Deadline(Instant(30_000_000_000)),
    };

    fn decide(policy: &RetryPolicy, tried: Tried) -> RetryVerdict {
        let budget = RetryBudget::new(RetryBudgetConfig::default());
        policy.decide(&tried, &budget, Instant(0), &mut Rng::new(1))
    }

    fn why(tried: Tried) -> Option<NoRetry> {
        match decide(&RetryPolicy::default(), tried) {
            RetryVerdict::After(_) => None,
            RetryVerdict::No(why) => Some(why),
        }
    }

    #[test]
    fn a_post_that_was_sent_is_never_sent_again_unless_nothing_was_done() {
        let post = Tried { idempotence: Idempotence::of_method("POST"), ..TRIED };
        for failure in [Failure::Reset, Failure::Status(503)] {
            assert_eq!(why(Tried { failure, ..post }), Some(NoRetry::NotIdempotent), "{failure:?}");
        }
        assert_eq!(why(Tried { failure: Failure::Connect, sent: false, ..post }), None);
        assert_eq!(why(Tried { failure: Failure::Refused, ..post }), None);
        assert_eq!(why(Tried { sent: false, ..post }), None, "a pooled connection that was dead");
        let keyed = Tried { has_idempotency_key: true, ..post };
        assert_eq!(
            why(keyed),
            Some(NoRetry::NotIdempotent),
            "the route's owner did not say that the upstream honours keys"
        );
        let policy = RetryPolicy { idempotency_keys: true, ..RetryPolicy::default() };
        assert!(matches!(decide(&policy, keyed), RetryVerdict::After(_)));
    }

    #[test]
    fn what_is_tried_again_and_what_is_the_answer() {
        assert_eq!(why(TRIED), None);
        assert_eq!(
            [500, 404, 501].map(|status| why(Tried { failure: Failure::Status(status), ..TRIED })),
            [Some(NoRetry::Final); 3]
        );
        assert_eq!([502, 503, 504].map(|status| why(Tried { failure: Failure::Status(status), ..TRIED })), [None; 3]);
        assert_eq!(why(Tried { failure: Failure::Timeout, ..TRIED }), Some(NoRetry::Final));
        assert_eq!(why(Tried { answer_begun: true, ..TRIED }), Some(NoRetry::AnswerBegun));
        assert_eq!(why(Tried { replayable: false, ..TRIED }), Some(NoRetry::BodyGone));
        assert_eq!(why(Tried { attempts: 3, ..TRIED }), Some(NoRetry::Attempts));
        assert_eq!(why(Tried { deadline: Deadline(Instant(0)), ..TRIED }), Some(NoRetry::Deadline));
        let later = Some(Duration::from_secs(60));
        assert_eq!(why(Tried { retry_after: later, ..TRIED }), Some(NoRetry::Deadline), "longer than the client waits");
        let policy = RetryPolicy::default();
        assert_eq!(
            decide(&policy, Tried { retry_after: Some(Duration::from_secs(2)), ..TRIED }),
            RetryVerdict::After(Duration::from_secs(2))
        );
    }

    #[test]
    fn a_refused_retry_costs_nothing_and_the_budget_ends_them() {
        let budget = RetryBudget::new(RetryBudgetConfig { percent: 0, floor: 2 });
        let mut rng = Rng::new(1);
        let policy = RetryPolicy::default();
        let mut decide = |tried| policy.decide(&tried, &budget, Instant(0), &mut rng);
        (0..10).for_each(|_| assert!(matches!(decide(Tried { attempts: 9, ..TRIED }), RetryVerdict::No(_))));
        assert_eq!((0..10).filter(|_| matches!(decide(TRIED), RetryVerdict::After(_))).count(), 2);
        assert_eq!(decide(TRIED), RetryVerdict::No(NoRetry::Budget));
    }

    proptest! {
        #[test]
        fn whatever_happens_an_upstream_never_acts_twice_on_what_it_must_not(
            which in 0usize..5, method in "(GET|POST|PATCH|PUT|get|FOO)", key: bool, sent: bool, begun: bool, attempts in 1u32..5, honours: bool
        ) {
            let failure = [Failure::Connect, Failure::Refused, Failure::Reset, Failure::Timeout, Failure::Status(503)][which];
            let idempotence = Idempotence::of_method(&method);
            let tried = Tried { failure, idempotence, has_idempotency_key: key, sent, answer_begun: begun, attempts, ..TRIED };
            let policy = RetryPolicy { idempotency_keys: honours, on_timeout: true, ..RetryPolicy::default() };
            if let RetryVerdict::After(pause) = decide(&policy, tried) {
                let untouched = !sent || which < 2;
                prop_assert!(!begun && attempts < policy.attempts_max);
                prop_assert!(untouched || key && honours || ["GET", "PUT"].contains(&&*method));
                prop_assert!(pause <= policy.backoff.cap);
            }
        }
    }
}

//! How an attempt at an endpoint ended, as far as the endpoint's health is concerned.

/// See the variants. Timeouts and resets are [`Outcome::GatewayFailure`] like the statuses that a gateway gives for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer below 500: the endpoint works, whatever it said.
    Answered,
    /// A 5xx other than those of a gateway: it runs, and fails.
    ServerError,
    /// 502, 503, 504, or no answer at all: reset, timed out.
    GatewayFailure,
    /// Nobody is there: connection refused, no route, no such name. Unlike a timeout this is no sign of overload.
    Unreachable,
    /// We or the client gave up for reasons of our own: says nothing.
    Cancelled,
}

impl Outcome {
    /// What an HTTP status says.
    pub fn of_status(status: u16) -> Outcome {
        match status {
            502..=504 => Outcome::GatewayFailure,
            500.. => Outcome::ServerError,
            _ => Outcome::Answered,
        }
    }

    /// What the status of a gRPC answer (`grpc-status`) says: UNAVAILABLE is a gateway's failure; DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
    /// DATA_LOSS and UNKNOWN are errors of the server (grpc/grpc, `doc/http-grpc-status-mapping.md` and `doc/statuscodes.md`).
    pub fn of_grpc_status(status: u32) -> Outcome {
        match status {
            14 => Outcome::GatewayFailure,
            2 | 4 | 12 | 13 | 15 => Outcome::ServerError,
            _ => Outcome::Answered,
        }
    }

    /// Whether it counts as a failure of the endpoint.
    pub fn is_failure(self) -> bool {
        matches!(self, Outcome::ServerError | Outcome::GatewayFailure | Outcome::Unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn statuses() {
        assert!([200, 301, 404, 429, 499].iter().all(|status| Outcome::of_status(*status) == Outcome::Answered));
        assert!([500, 501, 505, 599].iter().all(|status| Outcome::of_status(*status) == Outcome::ServerError));
        assert!([502, 503, 504].iter().all(|status| Outcome::of_status(*status) == Outcome::GatewayFailure));
        assert_eq!([0, 5, 13, 14].map(|s| Outcome::of_grpc_status(s).is_failure()), [false, false, true, true]);
    }
}

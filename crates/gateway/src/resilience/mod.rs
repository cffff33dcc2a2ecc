//! How a request is kept from harming, and from being harmed by, an upstream that does badly.
//!
//! ```text
//!  request ─► Shedder ─► RateTable ─► Breaker ─► Bulkhead ─► pick ─► attempt ─► Outcome ─┬─► Tally ─► Outliers ─► Health
//!             gateway    route,       upstream   route and      ▲   Deadline, Timeouts   ├─► Breaker
//!             is full    client       is down    upstream       │                        └─► RetryPolicy ─► RetryBudget ─┐
//!                                                               └────────────────── after a jittered pause ──────────────┘
//! ```
//!
//! Every part answers with a value (go, wait until then, refused and why, again after so long) and does nothing itself. Hot paths are a few
//! atomics; what takes a lock takes a small one, and only when something is wrong (a queue, an open breaker, an outlier), or one of many (rate
//! limits). Time and randomness are arguments.
//!
//! All numbers are on by default and stand in [`defaults`], each with its reason; `docs/limits.md` is made from that table.
//!
//! The rule that keeps them from fighting: *ejection* takes single endpoints out, the *budget* keeps retries from multiplying, and the *breaker*
//! opens only where an upstream as a whole is hardly answering; so half of the answers failing trips the first two and not the third.

mod backoff;
mod breaker;
mod budget;
mod bulkhead;
mod deadline;
pub mod defaults;
mod health;
mod outcome;
mod outlier;
mod rate;
mod retry;
mod shed;
mod window;

#[cfg(test)]
mod storm;

pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerConfig, BreakerState, Open, Pass, Transition};
pub use budget::{RetryBudget, RetryBudgetConfig};
pub use bulkhead::{Bulkhead, BulkheadConfig, Entry, Full, Ticket};
pub use deadline::{
    Deadline, TIMEOUT_HEADER, Timeouts, format_grpc_timeout, format_timeout_ms, parse_grpc_timeout, parse_timeout_ms,
};
pub use defaults::Defaults;
pub use health::{CheckConfig, HealthCheck};
pub use outcome::Outcome;
pub use outlier::{EjectedFor, OutlierChange, OutlierConfig, Outliers, Tally};
pub use rate::{RateDecision, RateLimit, RateTable};
pub use retry::{Failure, Idempotence, NoRetry, RetryPolicy, RetryVerdict, Tried};
pub use shed::{Shed, ShedConfig, Shedder};

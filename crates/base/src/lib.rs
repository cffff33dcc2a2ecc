//! Words that every room shares: ids, time, randomness, slots, limits, and Redis's small text rules.
//!
//! Knows nothing about commands, logs or sockets. Never reads a clock: an [`Instant`] is handed in by whoever has one.

mod glob;
mod histogram;
mod id;
mod limits;
mod number;
mod planted;
mod rng;
mod slot;
mod slot_set;
mod time;

pub use glob::{glob_matches, glob_selects};
pub use histogram::{Counts, Histogram};
pub use id::{ClusterId, GroupId, NodeId};
pub use limits::{Hits, Limit, Limits};
pub use number::{decimal_len, format_i64, parse_f64, parse_i64};
#[cfg(feature = "planted")]
pub use planted::plant;
pub use planted::{Bug, is_planted};
pub use rng::Rng;
pub use slot::{SLOT_COUNT, key_slot};
pub use slot_set::SlotSet;
pub use time::{Duration, Instant, Millis};

//! Which endpoint of an upstream gets a request.
//!
//! ```text
//!  registry, checks ──► [Member] ─► EndpointSet::build(previous, …) ──► Arc<EndpointSet> ─► pick(&Ask, &mut Rng)
//!                                        │ immutable                         │
//!                                        └─ Arc<Live> by endpoint id ◄───────┘ begin / finish: in flight, latency, failures
//! ```
//!
//! An [`EndpointSet`] never changes: when a member or its health changes a new one is built and swapped in, and what was learned about an
//! endpoint ([`Live`]) goes along by its id. A pick reads the set and a few atomics: it takes no lock, allocates nothing, and costs the same
//! for three endpoints as for a thousand (two draws, one step of a cursor or one look into a table); only when the first candidates may not
//! be used does it walk the members once.
//!
//! **Worked example.** Weights 5, 1, 1 under [`Policy::WeightedRoundRobin`] make the schedule `a a b a c a a`; a pick takes the next entry. `b`
//! fails its check: the next set's schedule is `a a a c a a`. `b` comes back: it takes its turn again, with slow start at first only every
//! tenth time.
//!
//! What may be picked ([`Health`]): *passing* members. Where none (or too few, [`PanicRule`]) is passing, and for a request that has tried all
//! that are, *suspect* ones as well: those that only our own probes or the outlier ejection speak against. A *draining* member serves the clients that stick to it. A member that is *off*
//! (critical in the registry, or taken out by hand) is never picked, panic or not.
//!
//! Knows nothing of sockets, requests or the registry; time and randomness are arguments. Each algorithm is a file of its own.

mod endpoint;
mod geographic;
mod hash;
mod live;
mod maglev;
mod peak_ewma;
mod random;
mod round_robin;
mod set;
mod slow_start;
mod sticky;
mod two_choices;
mod weighted;
mod zone;

#[cfg(test)]
mod tests;

pub use endpoint::{Country, Endpoint, EndpointId, Health, Member};
pub use geographic::{Coordinates, Place};
pub use hash::{HashKey, client_hash};
pub use live::{Attempt, Live};
pub use maglev::{TABLE_SIZE_DEFAULT, TABLE_SIZES};
pub use peak_ewma::DECAY as PEAK_EWMA_DECAY;
pub use set::{
    Ask, Balance, BalanceError, ENDPOINTS_MAX, EndpointSet, HashOn, Locality, NoEndpoint, PanicAction, PanicRule,
    Picked, Policy, WEIGHT_MAX,
};
pub use slow_start::SlowStart;
pub use zone::ZoneRule;

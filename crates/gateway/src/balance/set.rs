//! The set of an upstream's endpoints at one moment, ready to be picked from.

use super::endpoint::{Endpoint, EndpointId, Health, Member};
use super::geographic::{self, Direction, Place, SITES_MAX, Site};
use super::hash::HashKey;
use super::live::Live;
use super::maglev::{Maglev, TABLE_SIZE_DEFAULT, TABLE_SIZES};
use super::random::{self, Alias};
use super::slow_start::SlowStart;
use super::sticky::{self, Tokens};
use super::zone::{self, ZoneRule};
use super::{round_robin, two_choices, weighted};
use base::{Instant, Rng};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Most endpoints of one upstream; those beyond are not used (the set says how many: [`EndpointSet::left_out`]).
pub const ENDPOINTS_MAX: usize = 1024;

/// Largest weight; a larger one counts as this.
pub const WEIGHT_MAX: u32 = 1000;

/// What a client is recognised by under [`Policy::Hash`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// Its address.
    ClientIp,
    /// The value of this header.
    Header(Box<str>),
    /// The value of this cookie.
    Cookie(Box<str>),
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in its turn, weights aside.
    RoundRobin,
    /// Each in its turn, turns by weight (nginx's smooth weighted round robin). With equal weights that is round robin.
    #[default]
    WeightedRoundRobin,
    /// The one of two with fewer requests in flight for its weight.
    LeastConnections,
    /// The one of two with the lower cost: peak-sensitive latency times requests in flight.
    PeakEwma,
    /// By weight, at random.
    Random,
    /// The same client always to the same endpoint (Maglev). A client without what is hashed gets one by weight, at random.
    Hash(HashOn),
}

/// Whether it matters where an endpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Locality {
    /// It does not.
    #[default]
    None,
    /// The gateway's own zone first, see [`ZoneRule`].
    Zone(ZoneRule),
    /// The site nearest to the client first; the next one only where that has no endpoint left to try.
    Geographic,
}

/// What happens in panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// Suspect endpoints serve beside the passing ones: some answer is better than none, and the few that pass are not buried.
    Spread,
    /// Nobody serves: every request fails at once, which spares an upstream that is down as a whole.
    Fail,
}

/// When the passing endpoints are too few. Envoy calls this the panic threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanicRule {
    /// Panic holds where less than this percentage of the endpoints that are not off passes, and always where none does. Zero by default
    /// (Envoy's 50 would send requests to known-dead endpoints while living ones are there).
    pub below_percent: u8,
    /// What is done then.
    pub action: PanicAction,
}

/// How an upstream is balanced.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// Among which, by place.
    pub locality: Locality,
    /// How new endpoints are eased in; not at all by default.
    pub slow_start: Option<SlowStart>,
    /// The secret of the sticky cookie; no stickiness where there is none.
    pub sticky: Option<HashKey>,
    /// When too few pass.
    pub panic: PanicRule,
    /// Entries of Maglev's table: one of [`TABLE_SIZES`].
    pub maglev_table_size: u32,
}

impl Default for Balance {
    fn default() -> Balance {
        Balance {
            policy: Policy::default(),
            locality: Locality::None,
            slow_start: None,
            sticky: None,
            panic: PanicRule { below_percent: 0, action: PanicAction::Spread },
            maglev_table_size: TABLE_SIZE_DEFAULT,
        }
    }
}

/// Why a [`Balance`] makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceError {
    /// Hashing and locality contradict each other: the key already says which endpoint.
    HashWithLocality,
    /// Maglev's table has one of [`TABLE_SIZES`].
    TableSize(u32),
    /// A percentage above 100.
    Percent(u8),
    /// A slow start without a window.
    NoWindow,
}

impl fmt::Display for BalanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BalanceError::HashWithLocality => {
                f.write_str("a hash policy already says which endpoint: it cannot be zone-aware or geographic too")
            }
            BalanceError::TableSize(size) => {
                write!(f, "a Maglev table of {size} entries: its size is one of {TABLE_SIZES:?}")
            }
            BalanceError::Percent(percent) => write!(f, "{percent} %: a percentage is at most 100"),
            BalanceError::NoWindow => f.write_str("slow start needs a window longer than zero"),
        }
    }
}

impl std::error::Error for BalanceError {}

impl Balance {
    /// Whether it makes sense; to be asked before it applies.
    pub fn check(&self) -> Result<(), BalanceError> {
        if matches!(self.policy, Policy::Hash(_)) && self.locality != Locality::None {
            return Err(BalanceError::HashWithLocality);
        }
        if !TABLE_SIZES.contains(&self.maglev_table_size) {
            return Err(BalanceError::TableSize(self.maglev_table_size));
        }
        let percents = [Some(self.panic.below_percent), self.slow_start.map(|slow| slow.min_percent)];
        if let Some(percent) = percents.into_iter().flatten().find(|percent| *percent > 100) {
            return Err(BalanceError::Percent(percent));
        }
        if self.slow_start.is_some_and(|slow| slow.window.is_zero()) {
            return Err(BalanceError::NoWindow);
        }
        Ok(())
    }
}

/// What a request wants of the pick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The time.
    pub now: Instant,
    /// The hash of what [`Policy::Hash`] looks at, under a key of the caller's that all nodes share.
    pub hash: Option<u64>,
    /// The value of the sticky cookie, as the client sent it.
    pub cookie: Option<&'a [u8]>,
    /// Where the client is, for [`Locality::Geographic`].
    pub place: Place,
    /// Endpoints that this request has tried already: they are not picked again.
    pub tried: &'a [EndpointId],
}

/// The endpoint that a request goes to.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    /// Which.
    pub endpoint: &'a Endpoint,
    /// Its counters: [`Live::begin`] when the request is sent.
    pub live: &'a Arc<Live>,
    /// The client's cookie named it; else a new cookie is due where the upstream is sticky.
    pub stuck: bool,
    /// It is suspect and was picked because all others were tried. If it answers, it works: see `Outliers::pardon`.
    pub last_resort: bool,
}

/// Why there is nobody to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The upstream has no endpoints.
    Empty,
    /// It has, but none may be used.
    NoneUsable,
    /// This request has tried all that may be used.
    AllTried,
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoEndpoint::Empty => "the upstream has no endpoints",
            NoEndpoint::NoneUsable => "no endpoint of the upstream is healthy",
            NoEndpoint::AllTried => "every healthy endpoint of the upstream was tried",
        })
    }
}

#[derive(Debug)]
struct Slot {
    endpoint: Endpoint,
    health: Health,
    live: Arc<Live>,
    /// New requests may go there.
    usable: bool,
}

/// Members that are picked from together.
#[derive(Debug, Default)]
struct Pool {
    /// Indexes of slots that may be used.
    members: Box<[u16]>,
    /// Over `members`, by weight.
    alias: Alias,
    /// Under weighted round robin: whose turn it is, as indexes into `members`.
    schedule: Box<[u16]>,
    cursor: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Groups {
    None,
    /// By zone: which one, then who.
    Zones {
        zones: Alias,
        pools: Box<[Pool]>,
    },
    /// By site: the nearest, then who.
    Sites {
        sites: Box<[Site]>,
        pools: Box<[Pool]>,
    },
}

/// An upstream's endpoints, immutable. See the module's head.
#[derive(Debug)]
pub struct EndpointSet {
    balance: Balance,
    /// In order of ids.
    slots: Box<[Slot]>,
    whole: Pool,
    /// Suspect members, where they do not serve anyway and are not forbidden to.
    last_resort: Pool,
    groups: Groups,
    maglev: Option<Arc<Maglev>>,
    tokens: Tokens,
    panic: bool,
    /// Until then somebody is in slow start.
    ramp_until: Instant,
    left_out: usize,
}

impl EndpointSet {
    /// The set of these members. What `previous` learned is kept: counters by endpoint id, cursors, Maglev's table where the members are the
    /// same. A member that begins to pass (or is new where there were others before) begins its slow start at `now`; those that come where
    /// nobody was do not, since nobody else could take their load. A second member of the same id is left out.
    pub fn build(
        balance: Balance,
        mut members: Vec<Member>,
        previous: Option<&EndpointSet>,
        now: Instant,
        rng: &mut Rng,
    ) -> EndpointSet {
        debug_assert_eq!(balance.check(), Ok(()), "checked before it applies");
        let given = members.len();
        members.sort_by_key(|member| member.endpoint.id);
        members.dedup_by_key(|member| member.endpoint.id);
        members.truncate(ENDPOINTS_MAX);
        let left_out = given - members.len();
        members.iter_mut().for_each(|member| member.endpoint.weight = member.endpoint.weight.min(WEIGHT_MAX));
        let is_first = previous.is_none_or(|previous| previous.slots.is_empty());
        let (panic, suspects_serve) = in_panic(&balance.panic, &members);
        let slots: Box<[Slot]> = members
            .into_iter()
            .map(|Member { endpoint, health }| {
                let before = previous.and_then(|previous| previous.slot(endpoint.id));
                let live = before.map_or_else(Arc::default, |slot| Arc::clone(&slot.live));
                let passed = is_first || before.is_some_and(|slot| slot.health == Health::Passing);
                if health == Health::Passing && !passed {
                    live.set_passing_since(now);
                }
                let serves = match health {
                    Health::Passing => !panic || suspects_serve,
                    Health::Suspect => suspects_serve,
                    Health::Draining | Health::Off => false,
                };
                let usable = serves && endpoint.weight > 0;
                Slot { endpoint, health, live, usable }
            })
            .collect();
        let mut whole = Pool::new(&balance.policy, &slots, |at| slots[at].usable, rng);
        // Where the rule says that nobody serves in panic, nobody does; where it does not, they all serve in panic already.
        let spares = !panic && balance.panic.action == PanicAction::Spread;
        let spare = |at: usize| spares && slots[at].health == Health::Suspect && slots[at].endpoint.weight > 0;
        let last_resort = Pool::new(&balance.policy, &slots, spare, rng);
        if let Some(previous) = previous {
            whole.cursor = Arc::clone(&previous.whole.cursor);
        }
        let groups = match &balance.locality {
            Locality::Zone(rule) if !panic => by_zone(rule, &balance.policy, &slots, rng),
            Locality::Geographic => by_site(&balance.policy, &slots, rng),
            _ => Groups::None,
        };
        let maglev = matches!(balance.policy, Policy::Hash(_)).then(|| {
            let of: Vec<(EndpointId, u32)> =
                slots.iter().map(|slot| (slot.endpoint.id, slot.endpoint.weight)).collect();
            let room = |size: &u32| *size >= balance.maglev_table_size && of.len() < *size as usize;
            let size = TABLE_SIZES.into_iter().find(room).expect("the largest table has room for ENDPOINTS_MAX");
            let kept = previous.and_then(|previous| previous.maglev.clone()).filter(|table| table.is_of(&of, size));
            kept.unwrap_or_else(|| Arc::new(Maglev::new(&of, size)))
        });
        let tokens = balance.sticky.as_ref().map(|key| Tokens::new(key, slots.iter().map(|slot| slot.endpoint.id)));
        let since = |slot: &Slot| slot.live.passing_since();
        let newest = slots.iter().filter(|slot| slot.usable).map(since).max().unwrap_or_default();
        let ramp_until = match balance.slow_start {
            Some(slow) if newest > Instant(0) => newest + slow.window,
            _ => Instant(0),
        };
        EndpointSet {
            balance,
            slots,
            whole,
            last_resort,
            groups,
            maglev,
            tokens: tokens.unwrap_or_default(),
            panic,
            ramp_until,
            left_out,
        }
    }

    /// Picks an endpoint. `Err` says that there is nobody to go to, and why; a request that gets it is answered 503.
    pub fn pick(&self, ask: &Ask<'_>, rng: &mut Rng) -> Result<Picked<'_>, NoEndpoint> {
        if let Some(slot) = self.stuck(ask) {
            return Ok(Picked { endpoint: &slot.endpoint, live: &slot.live, stuck: true, last_resort: false });
        }
        if self.whole.members.is_empty() && self.last_resort.members.is_empty() {
            return Err(if self.slots.is_empty() { NoEndpoint::Empty } else { NoEndpoint::NoneUsable });
        }
        let ramping = ask.now < self.ramp_until;
        let slot = self.place(ask, ramping, rng).or_else(|| if ramping { self.place(ask, false, rng) } else { None });
        let slot = slot.or_else(|| self.pick_in(&self.last_resort, ask, false, rng));
        let slot = &self.slots[slot.ok_or(NoEndpoint::AllTried)?];
        debug_assert!(!ask.tried.contains(&slot.endpoint.id), "nobody twice");
        debug_assert!(slot.usable || slot.health == Health::Suspect, "nobody who must not serve");
        Ok(Picked { endpoint: &slot.endpoint, live: &slot.live, stuck: false, last_resort: !slot.usable })
    }

    /// The endpoint that the client's cookie names, if it may still serve that client.
    fn stuck(&self, ask: &Ask<'_>) -> Option<&Slot> {
        let slot = &self.slots[self.tokens.find(sticky::parse(ask.cookie?)?)?];
        let nobody = self.panic && self.balance.panic.action == PanicAction::Fail;
        let serves = slot.usable || matches!(slot.health, Health::Passing | Health::Draining) && !nobody;
        (serves && !ask.tried.contains(&slot.endpoint.id)).then_some(slot)
    }

    /// The value of the cookie that makes a client stick to this endpoint; nothing where the upstream is not sticky. Best sent with
    /// `Path=/; HttpOnly; SameSite=Lax`.
    pub fn cookie(&self, endpoint: EndpointId) -> Option<[u8; 16]> {
        self.balance.sticky.as_ref().map(|key| sticky::format(sticky::token(key, endpoint)))
    }

    fn place(&self, ask: &Ask<'_>, ramping: bool, rng: &mut Rng) -> Option<usize> {
        if let (Some(maglev), Some(hash)) = (&self.maglev, ask.hash) {
            return maglev
                .look_up(hash, |at| self.slots[at].usable && !ask.tried.contains(&self.slots[at].endpoint.id));
        }
        let grouped = match &self.groups {
            Groups::None => None,
            Groups::Zones { zones, pools } => {
                zones.draw(rng).and_then(|zone| self.pick_in(&pools[zone], ask, ramping, rng))
            }
            Groups::Sites { sites, pools } => {
                let mut tried = 0u64;
                let next = || {
                    let site = geographic::nearest(sites, &ask.place, tried)?;
                    tried |= 1 << site;
                    Some(site)
                };
                std::iter::from_fn(next).find_map(|site| self.pick_in(&pools[site], ask, ramping, rng))
            }
        };
        grouped.or_else(|| self.pick_in(&self.whole, ask, ramping, rng))
    }

    /// A member of the pool by the policy, as an index of a slot.
    fn pick_in(&self, pool: &Pool, ask: &Ask<'_>, ramping: bool, rng: &mut Rng) -> Option<usize> {
        let slot = |at: usize| &self.slots[usize::from(pool.members[at])];
        let len = pool.members.len();
        if len == 0 {
            return None;
        }
        let accept = |at: usize, rng: &mut Rng| {
            let slot = slot(at);
            let slow = self.balance.slow_start.filter(|_| ramping);
            !ask.tried.contains(&slot.endpoint.id)
                && slow.is_none_or(|slow| {
                    let since = slot.live.passing_since();
                    since == Instant(0) || slow.accepts(since, ask.now, rng)
                })
        };
        let in_turn = |at: usize, rng: &mut Rng| {
            // Whose turn it is may be unusable for this request. Its turn then goes to anybody by weight, not always to the one behind it.
            if accept(at, rng) { Some(at) } else { random::pick(&pool.alias, len, rng, accept) }
        };
        let at = match self.balance.policy {
            Policy::RoundRobin => in_turn(round_robin::turn(&pool.cursor, len), rng),
            Policy::WeightedRoundRobin => {
                in_turn(usize::from(pool.schedule[round_robin::turn(&pool.cursor, pool.schedule.len())]), rng)
            }
            Policy::LeastConnections => two_choices::pick(&pool.alias, len, rng, accept, |a, b| {
                let load = |at: usize| (slot(at).live.in_flight(), slot(at).endpoint.weight);
                if two_choices::less_loaded(load(a), load(b)) { a } else { b }
            }),
            Policy::PeakEwma => two_choices::pick(&pool.alias, len, rng, accept, |a, b| {
                let cost = |at: usize| slot(at).live.cost(ask.now);
                if cost(a) <= cost(b) { a } else { b }
            }),
            Policy::Random | Policy::Hash(_) => random::pick(&pool.alias, len, rng, accept),
        };
        at.map(|at| usize::from(pool.members[at]))
    }

    fn slot(&self, id: EndpointId) -> Option<&Slot> {
        self.slots.binary_search_by_key(&id, |slot| slot.endpoint.id).ok().map(|at| &self.slots[at])
    }

    /// The endpoint of this id with its health and counters.
    pub fn get(&self, id: EndpointId) -> Option<(&Endpoint, Health, &Arc<Live>)> {
        self.slot(id).map(|slot| (&slot.endpoint, slot.health, &slot.live))
    }

    /// All endpoints with their health and counters, in order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Endpoint, Health, &Arc<Live>)> {
        self.slots.iter().map(|slot| (&slot.endpoint, slot.health, &slot.live))
    }

    /// How it is balanced.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }

    /// Whether too few endpoints pass ([`PanicRule`]).
    pub fn in_panic(&self) -> bool {
        self.panic
    }

    /// How many endpoints take new requests.
    pub fn usable(&self) -> usize {
        self.whole.members.len()
    }

    /// Members that were given and not taken: those beyond [`ENDPOINTS_MAX`], and second ones of an id.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

/// Whether panic holds, and whether suspect members serve.
fn in_panic(rule: &PanicRule, members: &[Member]) -> (bool, bool) {
    let count = |health| members.iter().filter(|m| m.health == health && m.endpoint.weight > 0).count();
    let (passing, suspect) = (count(Health::Passing), count(Health::Suspect));
    let panic = passing == 0 || passing * 100 < usize::from(rule.below_percent) * (passing + suspect);
    (panic, panic && rule.action == PanicAction::Spread)
}

impl Pool {
    fn new(policy: &Policy, slots: &[Slot], belongs: impl Fn(usize) -> bool, rng: &mut Rng) -> Pool {
        let members: Box<[u16]> = (0..slots.len()).filter(|at| belongs(*at)).map(|at| at as u16).collect();
        let weight = |at: &u16| slots[usize::from(*at)].endpoint.weight;
        let by_weight: Vec<f64> = members.iter().map(|at| f64::from(weight(at))).collect();
        // Round robin does not look at weights: who steps in for somebody is not chosen by them either.
        let even = vec![1.0; members.len()];
        let alias = Alias::new(if *policy == Policy::RoundRobin { &even } else { &by_weight });
        let schedule = match policy {
            Policy::WeightedRoundRobin => weighted::schedule(&members.iter().map(weight).collect::<Vec<_>>()),
            _ => Box::default(),
        };
        // Nodes that start together must not all begin with the same member.
        let cursor = Arc::new(AtomicU64::new(rng.below(1 << 32)));
        Pool { members, alias, schedule, cursor }
    }

    fn capacity(&self, slots: &[Slot]) -> u64 {
        self.members.iter().map(|at| u64::from(slots[usize::from(*at)].endpoint.weight)).sum()
    }
}

fn by_zone(rule: &ZoneRule, policy: &Policy, slots: &[Slot], rng: &mut Rng) -> Groups {
    let mut zones: Vec<&str> = slots.iter().map(|slot| &*slot.endpoint.zone).collect();
    zones.push(&rule.local);
    zones.extend(rule.traffic.iter().map(|(zone, _)| &**zone));
    zones.sort_unstable();
    zones.dedup();
    let pools: Box<[Pool]> = zones
        .iter()
        .map(|zone| Pool::new(policy, slots, |at| slots[at].usable && *slots[at].endpoint.zone == **zone, rng))
        .collect();
    let capacity: Vec<u64> = pools.iter().map(|pool| pool.capacity(slots)).collect();
    let traffic: Vec<u64> = zones
        .iter()
        .map(|zone| {
            if rule.traffic.is_empty() {
                return 1;
            }
            rule.traffic.iter().filter(|(name, _)| **name == **zone).map(|(_, traffic)| u64::from(*traffic)).sum()
        })
        .collect();
    let local = zones.iter().position(|zone| **zone == *rule.local).expect("the local zone was pushed");
    Groups::Zones { zones: Alias::new(&zone::shares(local, &capacity, &traffic)), pools }
}

fn by_site(policy: &Policy, slots: &[Slot], rng: &mut Rng) -> Groups {
    let mut sites: Vec<Site> = Vec::new();
    // Endpoints at unknown places belong to no site: they serve only where no site can.
    let mut site_of: Vec<Option<usize>> = vec![None; slots.len()];
    for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.usable) {
        let Some(location) = slot.endpoint.location.filter(|location| location.is_valid()) else { continue };
        let direction = Direction::of(location);
        let nearness = |site: &Site| site.direction.nearness(&direction);
        let nearest = sites.iter().enumerate().max_by(|(_, a), (_, b)| nearness(a).total_cmp(&nearness(b)));
        // An angle of less than some hundred metres.
        let known =
            nearest.filter(|(_, site)| nearness(site) > 1.0 - 1e-10 || sites.len() == SITES_MAX).map(|(site, _)| site);
        site_of[at] = known.or_else(|| {
            sites.push(Site { direction, country: slot.endpoint.country });
            Some(sites.len() - 1)
        });
    }
    let pools = (0..sites.len()).map(|site| Pool::new(policy, slots, |at| site_of[at] == Some(site), rng)).collect();
    Groups::Sites { sites: sites.into(), pools }
}

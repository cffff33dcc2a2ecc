//! DNS: the registry's nodes and services under one zone, by Consul's names. A message in, a message out.
//!
//! ```text
//!   query ── wire::Query::read ──► lookup::parse ──► catalog (healthy instances, shuffled) ──► wire::Answer
//!     │ malformed: FORMERR          │ another zone: REFUSED        │ none: NXDOMAIN, other type: NODATA, both with SOA
//!     └ an answer, no header: silence
//! ```
//!
//! `web.service.consul` asked for A gives the addresses of web's instances, asked for SRV their hosts, ports and weights,
//! with the hosts' addresses beside them. Critical instances are never told; those that warn are, with their own weight.
//!
//! No recursion: the door knows its zone and says so (REFUSED, RA clear). One message never makes more than one, and by UDP
//! none beyond what the client said it takes, [`REMOTE_UDP_BYTES_MAX`] for clients on other machines; what does not fit is
//! cut and marked (TC), and clients ask again by TCP. So somebody who forges a sender's address gains little.
//!
//! As in Consul a service without a healthy instance, or without one of that tag, is NXDOMAIN. Unlike in Consul, names that
//! only lead to others (`service.consul`) are NODATA (RFC 8020), and a cut answer always says so.
//!
//! The messages are read and written by hand, without an allocation (see ARCHITECTURE.md); `hickory-proto` judges them in
//! the tests.

use std::net::IpAddr;

use base::Rng;
use discovery::Catalog;
use discovery::model::Node;
use discovery::query::Instance;
use smallvec::SmallVec;

mod lookup;
mod name;
#[cfg(test)]
mod tests;
mod wire;

use lookup::{Asked, Place};
use wire::{Answer, Bad, Code, Query, kind};

/// Bytes of the longest query that is looked at: a name, an OPT record, and room for options.
pub const QUERY_BYTES_MAX: usize = 1024;
/// Bytes of an answer by TCP, whose length is told in 16 bits.
pub const TCP_BYTES_MAX: usize = 65_535;
/// Bytes of an answer by UDP to another machine, however much it takes: what no network cuts into fragments (DNS flag day 2020).
pub const REMOTE_UDP_BYTES_MAX: usize = 1232;
/// Least of [`Zone::udp_bytes_max`]: what every client takes.
pub const UDP_BYTES_MIN: usize = wire::PLAIN_UDP_BYTES_MAX;
/// Nodes that are told of one address.
const REVERSE_MAX: usize = 16;
/// Bytes of a zone's name, and of a datacenter's: an address's name under both fits into a name.
const ZONE_BYTES_MAX: usize = 63;

/// What the door is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name: `consul`.
    pub domain: String,
    /// The datacenter's name: `dc1`.
    pub datacenter: String,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
    /// Seconds that it may be kept that there is none.
    pub negative_ttl: u32,
    /// Bytes of an answer by UDP to a client on this machine that takes as much.
    pub udp_bytes_max: usize,
    /// Where the name server is found, if that can be said.
    pub address: Option<IpAddr>,
}

impl Default for Zone {
    fn default() -> Zone {
        Zone {
            domain: "consul".into(),
            datacenter: "dc1".into(),
            ttl: 0,
            negative_ttl: 0,
            udp_bytes_max: 8192,
            address: None,
        }
    }
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// In a datagram.
    Udp {
        /// From this machine.
        is_local: bool,
    },
    /// On a connection.
    Tcp,
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing is to be sent.
    Nothing,
    /// An answer.
    Answer,
    /// An answer that says that it is not whole.
    Cut,
}

/// The door: a zone, ready to be asked.
#[derive(Clone, Debug)]
pub struct Door {
    zone: Zone,
    zone_labels: usize,
}

/// Whether a name can be a zone's or a datacenter's; the error says what is wanted.
pub fn check_name(text: &str) -> Result<(), String> {
    if name::is_host(text) && text.len() <= ZONE_BYTES_MAX && !text.ends_with('.') {
        return Ok(());
    }
    Err(format!("wants letters, digits, hyphens and dots between them, at most {} bytes", ZONE_BYTES_MAX))
}

impl Door {
    /// A door for a zone; an error where a name cannot be one.
    pub fn new(mut zone: Zone) -> Result<Door, String> {
        check_name(&zone.domain).map_err(|why| format!("the zone {:?}: {why}", zone.domain))?;
        check_name(&zone.datacenter).map_err(|why| format!("the datacenter {:?}: {why}", zone.datacenter))?;
        if zone.datacenter.contains('.') {
            return Err(format!("the datacenter {:?}: wants no dot", zone.datacenter));
        }
        zone.domain.make_ascii_lowercase();
        zone.datacenter.make_ascii_lowercase();
        zone.udp_bytes_max = zone.udp_bytes_max.clamp(UDP_BYTES_MIN, TCP_BYTES_MAX);
        let zone_labels = zone.domain.split('.').count();
        Ok(Door { zone, zone_labels })
    }

    /// Answers a message into `out`, of which nothing stays.
    pub fn answer(&self, catalog: &Catalog, message: &[u8], via: Via, rng: &mut Rng, out: &mut Vec<u8>) -> Said {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Bad::Silent) => return Said::Nothing,
            Err(Bad::Told { id, flags, code }) => {
                wire::header_only(out, id, flags, code);
                return Said::Answer;
            }
        };
        let answer = Answer::begin(out, &query, self.bytes_max(&query, via));
        let own_payload = self.zone.udp_bytes_max.min(usize::from(u16::MAX)) as u16;
        let mut reply = Reply { door: self, query: &query, catalog, rng, answer, is_cut: false };
        let code = reply.fill();
        let is_ours = !matches!(code, Code::Refused | Code::BadVers);
        let is_cut = reply.is_cut && via != Via::Tcp;
        let is_said = is_cut && !base::is_planted(base::Bug::DnsCutUnsaid);
        reply.answer.end(&query, code, is_ours, is_said, own_payload);
        if is_cut { Said::Cut } else { Said::Answer }
    }

    fn bytes_max(&self, query: &Query<'_>, via: Via) -> usize {
        let most = match via {
            Via::Tcp => return TCP_BYTES_MAX,
            Via::Udp { is_local: true } => self.zone.udp_bytes_max,
            Via::Udp { is_local: false } => self.zone.udp_bytes_max.min(REMOTE_UDP_BYTES_MAX),
        };
        let takes = query.edns.map_or(0, |edns| usize::from(edns.payload));
        takes.clamp(UDP_BYTES_MIN, most)
    }
}

/// One answer under way.
struct Reply<'r> {
    door: &'r Door,
    query: &'r Query<'r>,
    catalog: &'r Catalog,
    rng: &'r mut Rng,
    answer: Answer<'r>,
    /// Something did not fit.
    is_cut: bool,
}

impl<'r> Reply<'r> {
    fn fill(&mut self) -> Code {
        let (query, zone) = (self.query, &self.door.zone);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Code::BadVers;
        }
        if query.class != wire::IN || matches!(query.kind, kind::AXFR | kind::IXFR | kind::OPT) {
            return Code::Refused;
        }
        if !query.name.ends_with(&zone.domain, self.door.zone_labels) {
            return self.reverse();
        }
        let is_srv = query.kind == kind::SRV;
        let asked = lookup::parse(&query.name, self.door.zone_labels, &zone.datacenter, is_srv);
        let is_there = match asked {
            Asked::Apex => {
                self.apex();
                true
            }
            Asked::NameServer => {
                self.places(&mut zone.address.map(Place::Ip).into_iter().collect());
                true
            }
            Asked::Service { service, tag } => self.service(service, tag),
            Asked::Node(node) => self.node(node),
            Asked::Address(ip) => {
                self.places(&mut [Place::Ip(ip)].into_iter().collect());
                true
            }
            Asked::Branch => true,
            Asked::Nothing => false,
        };
        if self.answer.answers() == 0 && !self.is_cut {
            self.answer.soa(false, self.zone_offset(), self.serial(), zone.negative_ttl);
        }
        if is_there { Code::NoError } else { Code::NxDomain }
    }

    /// Where the zone's name stands within the question's.
    fn zone_offset(&self) -> usize {
        self.query.name.wire_offset(self.query.name.count() - self.door.zone_labels)
    }

    /// A number that grows with every change.
    fn serial(&self) -> u32 {
        self.catalog.index() as u32
    }

    fn apex(&mut self) {
        let zone = &self.door.zone;
        match self.query.kind {
            kind::SOA => {
                self.answer.soa(true, self.zone_offset(), self.serial(), zone.negative_ttl);
            }
            kind::NS => {
                let place = self.answer.ns(self.zone_offset(), zone.ttl);
                if let (Some(place), Some(ip)) = (place, zone.address) {
                    self.answer.extra_address(place, &["ns", &zone.domain], ip, zone.ttl);
                }
            }
            _ => {}
        }
    }

    /// Whether there is such a service, with a healthy instance.
    fn service(&mut self, service: &str, tag: Option<&str>) -> bool {
        let is_srv = self.query.kind == kind::SRV;
        let found = lookup::instances(self.catalog, service, tag, self.rng);
        if is_srv {
            self.srv(&found);
        } else {
            let mut places = found.iter().filter_map(|one| Place::read(one.address())).collect();
            self.places(&mut places);
        }
        !found.is_empty()
    }

    fn node(&mut self, node: &str) -> bool {
        let Some(node) = self.catalog.node(node) else { return false };
        self.places(&mut Place::read(&node.form.address).into_iter().collect());
        true
    }

    /// Address records of the kind that is asked for, each once; another name only where there is no address at all.
    fn places(&mut self, places: &mut SmallVec<[Place<'_>; 8]>) {
        let ttl = self.door.zone.ttl;
        if places.len() > 1 {
            places.sort_unstable();
            places.dedup();
            lookup::shuffle(places, self.rng);
        }
        let mut other_name = None;
        let mut has_address = false;
        for place in &*places {
            let ip = match *place {
                Place::Ip(ip) => ip,
                Place::Host(host) => {
                    other_name = Some(host);
                    continue;
                }
            };
            has_address = true;
            let is_wanted = match self.query.kind {
                kind::A => ip.is_ipv4(),
                kind::AAAA => ip.is_ipv6(),
                kind::ANY => true,
                _ => false,
            };
            if is_wanted && !self.answer.address(ip, ttl) {
                self.is_cut = true;
                break;
            }
        }
        if let Some(host) = other_name
            && !has_address
            && matches!(self.query.kind, kind::A | kind::AAAA | kind::ANY | kind::CNAME)
            && !self.answer.cname(host, ttl)
        {
            self.is_cut = true;
        }
    }

    /// SRV records, each once, and the addresses of their hosts as far as they fit.
    fn srv(&mut self, found: &[Instance<'r>]) {
        let zone = &self.door.zone;
        let mut told: SmallVec<[(Host<'_>, u16, u16); 8]> = found
            .iter()
            .filter_map(|one| {
                let weight = one.weight().min(u32::from(u16::MAX)) as u16;
                Some((self.host(one)?, one.service.form.port, weight))
            })
            .collect();
        if told.len() > 1 {
            // The same endpoint under several ids.
            told.sort_unstable();
            told.dedup_by_key(|(host, port, _)| (*host, *port));
            lookup::shuffle(&mut told, self.rng);
        }
        let mut digits = [0; 32];
        let mut written: SmallVec<[(Host<'_>, usize); 8]> = SmallVec::new();
        for (host, port, weight) in told {
            let Some(place) = self.answer.srv(weight, port, &host.name(zone, &mut digits), zone.ttl) else {
                self.is_cut = true;
                return;
            };
            written.push((host, place));
        }
        // Several ports of one host need its address once.
        written.sort_unstable();
        written.dedup_by_key(|(host, _)| *host);
        for (host, place) in written {
            if let Host::Node(_, ip) | Host::Address(ip) = host {
                // What does not fit can be asked for: nothing is marked as cut (RFC 2181, 9).
                self.answer.extra_address(place, &host.name(zone, &mut digits), ip, zone.ttl);
            }
        }
    }

    /// Under which name an instance's address is told.
    fn host(&self, one: &Instance<'r>) -> Option<Host<'r>> {
        let zone = &self.door.zone;
        match Place::read(one.address())? {
            Place::Host(host) => Some(Host::Other(host)),
            Place::Ip(ip) => {
                let node = one.node.form.name.as_str();
                let is_node = one.service.form.address.is_empty() && is_node_name(node, zone);
                Some(if is_node { Host::Node(node, ip) } else { Host::Address(ip) })
            }
        }
    }

    /// A registered node's name by its address; all other names are REFUSED: there is no recursion here.
    fn reverse(&mut self) -> Code {
        let zone = &self.door.zone;
        let Some(ip) = self.query.name.reverse().filter(|_| self.query.kind == kind::PTR) else {
            return Code::Refused;
        };
        let is_it = |node: &&Node| node.form.address.parse() == Ok(ip) && is_node_name(&node.form.name, zone);
        for node in self.catalog.nodes().filter(is_it).take(REVERSE_MAX) {
            if !self.answer.ptr(&[&node.form.name, "node", &zone.datacenter, &zone.domain], zone.ttl) {
                self.is_cut = true;
                break;
            }
        }
        if self.answer.answers() == 0 { Code::Refused } else { Code::NoError }
    }
}

/// Whether a node can be told of by its name: registered names may be more than a host's.
fn is_node_name(node: &str, zone: &Zone) -> bool {
    let bytes = node.len() + ".node.".len() + zone.datacenter.len() + ".".len() + zone.domain.len() + 2;
    name::is_host(node) && !node.ends_with('.') && bytes <= name::NAME_BYTES_MAX
}

/// The host of an SRV record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host<'a> {
    /// A node of the registry, at this address.
    Node(&'a str, IpAddr),
    /// An address, whose name spells it.
    Address(IpAddr),
    /// A name that somebody else resolves.
    Other(&'a str),
}

impl<'a> Host<'a> {
    /// Its name in parts; `digits` is room for an address.
    fn name<'n>(&self, zone: &'n Zone, digits: &'n mut [u8; 32]) -> SmallVec<[&'n str; 4]>
    where
        'a: 'n,
    {
        let (datacenter, domain) = (zone.datacenter.as_str(), zone.domain.as_str());
        match *self {
            Host::Node(node, _) => [node, "node", datacenter, domain].into_iter().collect(),
            Host::Address(ip) => [name::spell_address(ip, digits), "addr", datacenter, domain].into_iter().collect(),
            Host::Other(host) => [host].into_iter().collect(),
        }
    }
}

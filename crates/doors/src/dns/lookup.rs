//! From a name to what it asks of the registry, and from the registry to records. The forms of names are Consul's.

use std::net::IpAddr;

use base::Rng;
use discovery::Catalog;
use discovery::query::Instance;
use smallvec::SmallVec;

use super::name::{self, Name};

/// Instances of a service that one answer is made of; of more, a part that begins anywhere.
pub const GATHERED_MAX: usize = 2048;

/// What a name within the zone asks for. Texts are in lower case.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'q> {
    /// The zone itself.
    Apex,
    /// Its name server.
    NameServer,
    /// `<service>.service`, `<tag>.<service>.service`, `_<service>._<tag>.service`.
    Service {
        /// The service.
        service: &'q str,
        /// Only instances with this tag.
        tag: Option<&'q str>,
    },
    /// `<node>.node`.
    Node(&'q str),
    /// `<hexadecimal>.addr`.
    Address(IpAddr),
    /// A name under which there are others, and nothing of its own (RFC 8020: it is there).
    Branch,
    /// No name of ours.
    Nothing,
}

/// Reads a name of which the last `zone_labels` labels are the zone's.
pub fn parse<'q>(name: &'q Name, zone_labels: usize, datacenter: &str, is_srv: bool) -> Asked<'q> {
    let count = name.count() - zone_labels;
    let is_here = |from: usize| match count - from {
        0 => true,
        1 => name.label(from) == datacenter.as_bytes(),
        // Consul's longer form: `….dc1.dc.consul`.
        2 => name.label(from) == datacenter.as_bytes() && name.label(from + 1) == b"dc",
        _ => false,
    };
    if count == 0 {
        return Asked::Apex;
    }
    if count == 1 && name.label(0) == b"ns" {
        return Asked::NameServer;
    }
    let kinds: [&[u8]; 3] = [b"service", b"node", b"addr"];
    for at in (0..count).rev() {
        let label = name.label(at);
        if kinds.contains(&label) {
            return match at {
                _ if !is_here(at + 1) => Asked::Nothing,
                0 => Asked::Branch,
                _ if label == b"service" => service(name, at),
                _ if label == b"node" => name.joined_text(0, at).map_or(Asked::Nothing, Asked::Node),
                1 => name::hex_address(name.label(0)).map_or(Asked::Nothing, Asked::Address),
                _ => Asked::Nothing,
            };
        }
        if is_srv && label.starts_with(b"_") {
            // RFC 2782 by itself: `_web._tcp.consul`.
            return if is_here(at + 1) { service(name, at + 1) } else { Asked::Nothing };
        }
    }
    if is_here(0) || count == 1 && name.label(0) == b"dc" { Asked::Branch } else { Asked::Nothing }
}

/// The labels before `service`.
fn service(name: &Name, count: usize) -> Asked<'_> {
    let text = |from, to| name.joined_text(from, to);
    let underscored = |at: usize| text(at, at + 1).and_then(|label| label.strip_prefix('_'));
    if count == 2
        && let (Some(service), Some(tag)) = (underscored(0), underscored(1))
    {
        return Asked::Service { service, tag: (tag != "tcp").then_some(tag) };
    }
    match (count, text(count - 1, count)) {
        // A resolver that asks label by label comes by here on its way to `_web._tcp.service`.
        (1, Some(label)) if label.starts_with('_') => Asked::Branch,
        (1, Some(service)) => Asked::Service { service, tag: None },
        (_, Some(service)) => {
            text(0, count - 1).map_or(Asked::Nothing, |tag| Asked::Service { service, tag: Some(tag) })
        }
        (_, None) => Asked::Nothing,
    }
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place<'a> {
    /// An address.
    Ip(IpAddr),
    /// A name that somebody else resolves.
    Host(&'a str),
}

impl<'a> Place<'a> {
    /// Reads what was registered; `None` for what DNS cannot say.
    pub fn read(address: &'a str) -> Option<Place<'a>> {
        match address.parse() {
            Ok(ip) => Some(Place::Ip(ip)),
            Err(_) => name::is_name(address).then_some(Place::Host(address)),
        }
    }
}

/// The instances that may get traffic.
pub fn instances<'a>(
    catalog: &'a Catalog,
    service: &str,
    tag: Option<&str>,
    rng: &mut Rng,
) -> SmallVec<[Instance<'a>; 8]> {
    let mut found: SmallVec<[Instance<'a>; 8]> = catalog.healthy(service, tag).take(GATHERED_MAX + 1).collect();
    if found.len() > GATHERED_MAX {
        let from = rng.index(catalog.instance_count(service));
        found = catalog.healthy_from(service, tag, from).take(GATHERED_MAX).collect();
    }
    found
}

/// Every order is equally likely (Fisher and Yates).
pub fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.index(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, is_srv: bool) -> String {
        let mut bytes = Vec::new();
        name::put_labels(&mut bytes, text);
        bytes.push(0);
        let name = Name::read(&bytes).expect("a name").0;
        match parse(&name, 1, "dc1", is_srv) {
            Asked::Service { service, tag } => format!("{service} {}", tag.unwrap_or("-")),
            Asked::Node(node) => format!("node {node}"),
            Asked::Address(ip) => ip.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn forms_of_names() {
        for (text, wanted) in [
            ("consul", "Apex"),
            ("ns.consul", "NameServer"),
            ("service.consul", "Branch"),
            ("dc1.consul", "Branch"),
            ("dc.consul", "Branch"),
            ("dc1.dc.consul", "Branch"),
            ("node.dc1.consul", "Branch"),
            ("addr.consul", "Branch"),
            ("Web.Service.consul", "web -"),
            ("web.service.dc1.consul", "web -"),
            ("web.service.dc1.dc.consul", "web -"),
            ("web.service.dc2.consul", "Nothing"),
            ("web.service.dc1.ap.consul", "Nothing"),
            ("web.service.x.dc1.dc.consul", "Nothing"),
            ("v1.web.service.consul", "web v1"),
            ("v1.2.web.service.consul", "web v1.2"),
            ("_web._tcp.service.consul", "web -"),
            ("_web._v1.service.dc1.consul", "web v1"),
            ("_tcp.service.consul", "Branch"),
            ("service.service.consul", "service -"),
            ("one.node.consul", "node one"),
            ("one.rack.node.dc1.consul", "node one.rack"),
            ("0a000001.addr.dc1.consul", "10.0.0.1"),
            ("x.0a000001.addr.dc1.consul", "Nothing"),
            ("0a00000.addr.dc1.consul", "Nothing"),
            ("web.consul", "Nothing"),
            ("web.query.consul", "Nothing"),
            ("_web._tcp.consul", "Nothing"),
        ] {
            assert_eq!(asked(text, false), wanted, "{text}");
        }
        assert_eq!(asked("_web._tcp.consul", true), "web -");
        assert_eq!(asked("_web._v1.dc1.consul", true), "web v1");
        assert_eq!(asked("_web._tcp.dc2.consul", true), "Nothing");
    }

    #[test]
    fn places_are_addresses_or_names() {
        assert_eq!(Place::read("10.0.0.1"), Some(Place::Ip([10, 0, 0, 1].into())));
        assert_eq!(Place::read("::1"), "::1".parse().ok().map(Place::Ip));
        assert_eq!(Place::read("db.example.com."), Some(Place::Host("db.example.com.")));
        assert_eq!((Place::read(""), Place::read("a..b")), (None, None));
    }

    #[test]
    fn every_order_comes() {
        let mut rng = Rng::new(5);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [1, 2, 3];
            shuffle(&mut items, &mut rng);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}

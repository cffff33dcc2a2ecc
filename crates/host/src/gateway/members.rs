//! Which endpoints an upstream has: listed ones, or the instances of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::gateway::balance::{Coordinates, Endpoint, Health, Member};
use ::gateway::live::country_of;
use ::gateway::model::{ServiceSource, Upstream, UpstreamProtocol};
use discovery::Catalog;
use discovery::model::Status;

use super::trust::Auths;

/// Most names that are looked up; further ones have no address.
const NAMES_MAX: usize = 4096;
/// Addresses of one name that become endpoints.
const ADDRESSES_MAX: usize = 64;

/// Names of hosts, with what they were found to be.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<(String, u16), Vec<SocketAddr>>,
    new: bool,
}

impl Names {
    /// The addresses of a host, which may be one itself. A name is looked up from now on.
    fn addresses(&mut self, host: &str, port: u16) -> Vec<SocketAddr> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return vec![SocketAddr::new(ip, port)];
        }
        let key = (host.to_owned(), port);
        match self.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                if self.known.len() < NAMES_MAX {
                    self.known.insert(key, Vec::new());
                    self.new = true;
                }
                Vec::new()
            }
        }
    }

    /// Whether there are names since the last call that nobody has looked up.
    pub fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// What is to be looked up.
    pub fn wanted(&self) -> Vec<(String, u16)> {
        self.known.keys().cloned().collect()
    }

    /// A name was found to be these. True where that is news.
    pub fn found(&mut self, name: &str, port: u16, addresses: Vec<SocketAddr>) -> bool {
        let addresses: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        let addresses: Vec<SocketAddr> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        match self.known.get_mut(&(name.to_owned(), port)) {
            Some(known) if *known != addresses => {
                *known = addresses;
                true
            }
            _ => false,
        }
    }
}

/// The endpoints that a document lists.
pub fn listed(upstream: &Upstream, names: &mut Names) -> Vec<Member> {
    let mut members = Vec::new();
    for spec in &upstream.endpoints {
        let Some((host, port)) = spec.address.rsplit_once(':') else { continue };
        let Ok(port) = port.parse() else { continue };
        let addresses = names.addresses(host, port);
        let many = addresses.len() > 1;
        for address in addresses {
            let name = if many { format!("{} ({address})", spec.address) } else { spec.address.clone() };
            let mut endpoint = Endpoint::new(&name, address);
            endpoint.host = host.trim_matches(['[', ']']).into();
            endpoint.weight = spec.weight;
            endpoint.zone = spec.zone.as_str().into();
            endpoint.location = spec.location.map(|(latitude, longitude)| Coordinates { latitude, longitude });
            endpoint.country = country_of(&spec.country);
            // Weight zero drains: clients that stick to it stay.
            let health = if spec.weight == 0 { Health::Draining } else { Health::Passing };
            members.push(Member { endpoint, health });
        }
    }
    members
}

/// The instances of a service that may get requests.
pub fn of_service(catalog: &Catalog, source: &ServiceSource, names: &mut Names) -> Vec<Member> {
    let mut members = Vec::new();
    for instance in catalog.instances(&source.service) {
        if !source.tags.iter().all(|tag| instance.has_tag(tag)) {
            continue;
        }
        let health = match instance.status() {
            Status::Passing => Health::Passing,
            Status::Warning if !source.passing_only => Health::Passing,
            Status::Critical if base::is_planted(base::Bug::CriticalServed) => Health::Passing,
            Status::Warning | Status::Critical => Health::Off,
        };
        let form = &instance.service.form;
        for address in names.addresses(instance.address(), form.port) {
            // The address is part of who it is: an instance that moves is another one to everybody who counts.
            let mut endpoint = Endpoint::new(&format!("{} ({address})", form.id), address);
            let least = u32::from(base::is_planted(base::Bug::CriticalServed));
            endpoint.host = instance.address().trim_matches(['[', ']']).into();
            endpoint.weight = instance.weight().max(least);
            let meta = |key: &str| form.meta.get(key).map_or("", String::as_str);
            endpoint.zone = meta("zone").into();
            endpoint.location = coordinates(meta("location"));
            endpoint.country = country_of(meta("country"));
            let health = if endpoint.weight == 0 && health == Health::Passing { Health::Draining } else { health };
            members.push(Member { endpoint, health });
        }
    }
    members
}

/// Degrees north and east as `"52.5, 13.4"`; nothing where they are none.
fn coordinates(text: &str) -> Option<Coordinates> {
    let (north, east) = text.split_once(',')?;
    let at = Coordinates { latitude: north.trim().parse().ok()?, longitude: east.trim().parse().ok()? };
    at.is_valid().then_some(at)
}

/// The Host that is an endpoint's own: without the port that its scheme has anyway (RFC 9110 §4.2).
fn own_host(endpoint: &Endpoint, is_tls: bool) -> Box<str> {
    let (host, port) = (&*endpoint.host, endpoint.addr.port());
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let is_usual = port == if is_tls { 443 } else { 80 };
    if is_usual { host.into() } else { format!("{host}:{port}").into() }
}

/// How an endpoint is spoken to. One whose host no certificate could have gets no connection rather than an unprotected one.
pub fn handle(
    endpoint: &Endpoint,
    upstream: &Upstream,
    auths: &Auths,
    trouble: &mut dyn FnMut(&str, Option<String>),
) -> Arc<proxy::Endpoint> {
    let mut config = proxy::EndpointConfig::new(endpoint.addr);
    config.protocol = match upstream.protocol {
        UpstreamProtocol::Http1 => proxy::Protocol::Http1,
        UpstreamProtocol::Http2 => proxy::Protocol::Http2,
    };
    config.host = own_host(endpoint, upstream.tls.is_some());
    config.connect_timeout = upstream.connect_timeout.0;
    config.connections_max = upstream.connections_max as usize;
    config.idle_max = upstream.idle_connections_max as usize;
    config.idle_timeout = upstream.idle_timeout.0;
    config.head_bytes_max = upstream.head_bytes_max.0 as usize;
    if let Some(tls) = &upstream.tls {
        let about = format!("TLS to {}", endpoint.name);
        match auths.of(endpoint, tls) {
            Ok(tls) => {
                trouble(&about, None);
                config.tls = Some(Arc::new(tls));
            }
            Err(why) => {
                trouble(&about, Some(why));
                config.connections_max = 0;
            }
        }
    }
    proxy::Endpoint::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_s_own_host_is_what_it_was_named_by() {
        let host = |host: &str, addr: &str, is_tls| {
            let mut endpoint = Endpoint::new("e", addr.parse().expect("an address"));
            endpoint.host = host.into();
            own_host(&endpoint, is_tls)
        };
        assert_eq!(&*host("api.example", "10.0.0.1:443", true), "api.example");
        assert_eq!(&*host("api.example", "10.0.0.1:443", false), "api.example:443");
        assert_eq!(&*host("api.example", "10.0.0.1:80", false), "api.example");
        assert_eq!(&*host("::1", "[::1]:8080", false), "[::1]:8080");
        assert!(coordinates("52.5, 13.4").is_some() && coordinates("").is_none() && coordinates("91,0").is_none());
    }

    #[test]
    fn names_are_looked_up_and_addresses_are_taken_as_they_are() {
        let mut names = Names::default();
        assert_eq!(names.addresses("127.0.0.1", 80), ["127.0.0.1:80".parse().expect("an address")]);
        assert_eq!(names.addresses("[::1]", 80), ["[::1]:80".parse().expect("an address")]);
        assert!(!names.take_new());
        assert!(names.addresses("shop.example", 80).is_empty() && names.take_new() && !names.take_new());
        assert_eq!(names.wanted(), [("shop.example".to_owned(), 80)]);
        let two = vec!["10.0.0.2:80".parse().expect("an address"), "10.0.0.1:80".parse().expect("an address")];
        assert!(names.found("shop.example", 80, two.clone()));
        assert!(!names.found("shop.example", 80, two), "the same in another order is no news");
        assert_eq!(names.addresses("shop.example", 80).len(), 2);
        assert!(!names.found("other.example", 80, Vec::new()), "nobody asked for it");
    }
}

//! Which endpoints an upstream has: listed ones, or the instances of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::gateway::balance::{Coordinates, Endpoint, Health, Member};
use ::gateway::model::{ServiceSource, Upstream, UpstreamProtocol};
use discovery::Catalog;
use discovery::model::Status;

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
            endpoint.weight = spec.weight;
            endpoint.zone = spec.zone.as_str().into();
            endpoint.location = spec.location.map(|(latitude, longitude)| Coordinates { latitude, longitude });
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
            endpoint.weight = instance.weight().max(least);
            endpoint.zone = form.meta.get("zone").map_or("", String::as_str).into();
            let health = if endpoint.weight == 0 && health == Health::Passing { Health::Draining } else { health };
            members.push(Member { endpoint, health });
        }
    }
    members
}

/// How an endpoint is spoken to. Where its document cannot be followed (an unreadable authority), it gets no connection rather
/// than an unprotected one.
pub fn handle(
    endpoint: &Endpoint,
    upstream: &Upstream,
    trouble: &mut dyn FnMut(&str, Option<String>),
) -> Arc<proxy::Endpoint> {
    let mut config = proxy::EndpointConfig::new(endpoint.addr);
    config.protocol = match upstream.protocol {
        UpstreamProtocol::Http1 => proxy::Protocol::Http1,
        UpstreamProtocol::Http2 => proxy::Protocol::Http2,
    };
    config.connect_timeout = upstream.connect_timeout.0;
    config.connections_max = upstream.connections_max as usize;
    config.idle_max = upstream.idle_connections_max as usize;
    config.idle_timeout = upstream.idle_timeout.0;
    config.head_bytes_max = upstream.head_bytes_max.0 as usize;
    if let Some(tls) = &upstream.tls {
        let about = format!("TLS to {}", endpoint.name);
        match upstream_tls(endpoint, tls) {
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

/// Where distributions keep the authorities that the system believes.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

fn upstream_tls(endpoint: &Endpoint, tls: &::gateway::model::UpstreamTls) -> Result<proxy::UpstreamTls, String> {
    if tls.insecure || !tls.chain.is_empty() || !tls.key.is_empty() {
        return Err("tls.insecure, tls.chain and tls.key are not there yet: give the authorities file instead".into());
    }
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let roots = match tls.authorities.as_str() {
        "" => SYSTEM_AUTHORITIES
            .iter()
            .find_map(|path| read(path).ok())
            .ok_or("the system's authorities were not found: set tls.authorities to a PEM file")?,
        path => read(path)?,
    };
    let name = match tls.server_name.as_str() {
        "" => endpoint.name.rsplit_once(':').map_or(&*endpoint.name, |(host, _)| host).to_owned(),
        name => name.to_owned(),
    };
    proxy::UpstreamTls::new(&name, &roots).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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

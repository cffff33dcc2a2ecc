//! What an endpoint is, apart from how it is doing.

use super::geographic::Coordinates;
use super::hash::HashKey;
use std::fmt;
use std::net::SocketAddr;

/// Names an endpoint across rebuilds, nodes and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

impl EndpointId {
    /// The id of the endpoint that is called `name` (an instance's id in the registry, or its address): the same on every node.
    pub fn of(name: &str) -> EndpointId {
        EndpointId(HashKey::SHARED.hash(name.as_bytes()))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A country by its two letters (ISO 3166-1 alpha-2), upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(pub [u8; 2]);

/// One address that serves an upstream's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Who it is.
    pub id: EndpointId,
    /// What people call it, for logs and the console.
    pub name: Box<str>,
    /// Where it listens.
    pub addr: SocketAddr,
    /// The host that it was named by, without port and brackets: a name, or its address. What TLS asks for, and a Host that is the endpoint's own.
    pub host: Box<str>,
    /// Its share relative to the other endpoints', at most [`super::WEIGHT_MAX`]; zero takes no new requests.
    pub weight: u32,
    /// The failure domain it stands in; empty where there is none.
    pub zone: Box<str>,
    /// Where on Earth it stands, for [`super::Locality::Geographic`].
    pub location: Option<Coordinates>,
    /// The country it stands in, for clients of whom no more than the country is known.
    pub country: Option<Country>,
}

impl Endpoint {
    /// An endpoint of weight 1 called `name`, nowhere in particular.
    pub fn new(name: &str, addr: SocketAddr) -> Endpoint {
        Endpoint {
            id: EndpointId::of(name),
            name: name.into(),
            addr,
            host: addr.ip().to_string().into(),
            weight: 1,
            zone: "".into(),
            location: None,
            country: None,
        }
    }
}

/// Whether an endpoint may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Serves.
    Passing,
    /// Our own probe failed or it was ejected as an outlier: serves only in panic.
    Suspect,
    /// Serves the clients that stick to it and nobody else.
    Draining,
    /// Critical in the registry or taken out by hand: never serves.
    Off,
}

/// An endpoint with its health: what an [`super::EndpointSet`] is built from.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub endpoint: Endpoint,
    /// How it is.
    pub health: Health,
}

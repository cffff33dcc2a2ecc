//! Where clients are: a MaxMind file (GeoLite2, GeoIP2, DB-IP: City or Country), held in memory and read again when it changes.

use std::net::IpAddr;
use std::sync::Arc;

use ::gateway::balance::{Coordinates, Place};
use ::gateway::live::{PlaceOf, country_of};
use maxminddb::Reader;
use serde::Deserialize;

use super::files::{Stamp, read};

/// What is read of a record; all of it may be missing.
#[derive(Default, Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Option<Country<'a>>,
    #[serde(default)]
    location: Option<Location>,
}

#[derive(Default, Deserialize)]
struct Country<'a> {
    #[serde(borrow, default)]
    iso_code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct Location {
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
}

/// Reads a file of places; an error names it.
pub fn load(path: &str) -> Result<PlaceOf, String> {
    let reader = Reader::from_source(read(path)?).map_err(|error| format!("{path}: {error}"))?;
    Ok(Arc::new(move |client| find(&reader, client)))
}

fn find(reader: &Reader<Vec<u8>>, client: IpAddr) -> Place {
    let record =
        reader.lookup(client.to_canonical()).ok().and_then(|found| found.decode::<Record<'_>>().ok().flatten());
    let Some(record) = record else { return Place::default() };
    let at = record.location.and_then(|at| Some(Coordinates { latitude: at.latitude?, longitude: at.longitude? }));
    let country = record.country.and_then(|country| country_of(country.iso_code?));
    Place { coordinates: at.filter(Coordinates::is_valid), country }
}

/// Says when the file is to be read again.
#[derive(Debug)]
pub struct Watched {
    path: String,
    used: Stamp,
    /// What it looked like at the last look: a file that is being written looks different each time.
    last: Stamp,
}

impl Watched {
    /// A file that was read when it looked like this.
    pub fn new(path: &str, used: Stamp) -> Watched {
        Watched { path: path.to_owned(), last: used.clone(), used }
    }

    /// The file, where it has changed since it was used and not since the last look. Said once for each change.
    pub fn due(&mut self) -> Option<&str> {
        let now = Stamp::of([self.path.as_str()]);
        let steady = now == self.last;
        self.last = now;
        if !steady || self.last == self.used {
            return None;
        }
        self.used = self.last.clone();
        Some(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database by the format's own description (MaxMind DB 2.0): one node for each bit of 203.0.113.0/24, whose record is the city; all
    /// else is empty.
    fn database(record: &[u8]) -> Vec<u8> {
        let network = 0xCB00_7100u32;
        let nodes = 24u32;
        let mut tree = Vec::new();
        for bit in 0..nodes {
            // 24-bit records; `nodes` itself means that there is nothing.
            let next = if bit + 1 == nodes { nodes + 16 } else { bit + 1 };
            let is_one = network >> (31 - bit) & 1 == 1;
            for side in [false, true] {
                let record = if side == is_one { next } else { nodes };
                tree.extend(&record.to_be_bytes()[1..]);
            }
        }
        tree.extend([0; 16]);
        tree.extend(record);
        tree.extend(b"\xab\xcd\xefMaxMind.com");
        let metadata: [(&str, Vec<u8>); 9] = [
            ("binary_format_major_version", vec![0xa1, 2]),
            ("binary_format_minor_version", vec![0xa0]),
            ("build_epoch", vec![0x04, 2, 0x65, 0, 0, 0]),
            ("database_type", text("Test-City")),
            ("description", map(&[])),
            ("ip_version", vec![0xa1, 4]),
            ("languages", vec![0, 4]),
            ("node_count", vec![0xc1, nodes as u8]),
            ("record_size", vec![0xa1, 24]),
        ];
        tree.extend(map(&metadata));
        tree
    }

    fn text(text: &str) -> Vec<u8> {
        [&[0x40 | text.len() as u8][..], text.as_bytes()].concat()
    }

    fn double(value: f64) -> Vec<u8> {
        [&[0x68][..], &value.to_be_bytes()].concat()
    }

    fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0xe0 | pairs.len() as u8];
        pairs.iter().for_each(|(key, value)| bytes.extend([text(key), value.clone()].concat()));
        bytes
    }

    fn city() -> Vec<u8> {
        let location = map(&[("latitude", double(52.5)), ("longitude", double(13.4))]);
        map(&[("country", map(&[("iso_code", text("DE"))])), ("location", location)])
    }

    #[test]
    fn a_client_is_where_the_file_says_and_others_are_nowhere() {
        let reader = Reader::from_source(database(&city())).expect("a database");
        let place = |client: &str| find(&reader, client.parse().expect("an address"));
        let berlin = Coordinates { latitude: 52.5, longitude: 13.4 };
        assert_eq!(place("203.0.113.9"), Place { coordinates: Some(berlin), country: country_of("DE") });
        assert_eq!(place("::ffff:203.0.113.9"), place("203.0.113.9"));
        assert_eq!(place("203.0.114.9"), Place::default());
        assert_eq!(place("2001:db8::1"), Place::default(), "a file of IPv4 knows no IPv6");
        let only = Reader::from_source(database(&map(&[("country", map(&[("iso_code", text("FR"))]))]))).expect("one");
        let place = find(&only, "203.0.113.1".parse().expect("an address"));
        assert_eq!(place, Place { coordinates: None, country: country_of("FR") });
    }

    #[test]
    fn a_file_that_is_none_or_damaged_is_refused_or_says_nothing_and_never_panics() {
        assert!(Reader::from_source(b"no database".to_vec()).is_err());
        let good = database(&city());
        for at in 0..good.len() {
            for cut in [true, false] {
                let mut bytes = good.clone();
                if cut {
                    bytes.truncate(at)
                } else {
                    bytes[at] ^= 0xff
                }
                if let Ok(reader) = Reader::from_source(bytes) {
                    let _ = find(&reader, "203.0.113.9".parse().expect("an address"));
                }
            }
        }
    }
}

//! The nearest site serves. Endpoints that stand at the same place are one *site*; the client's place comes from whoever looked its address
//! up (a MaxMind file, read elsewhere).
//!
//! Nearest is by the great circle. Each site is kept as a unit vector, so that comparing costs three multiplications a site: of two sites the
//! one with the larger dot product is nearer.

use super::endpoint::Country;

/// Degrees: latitude north, longitude east.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinates {
    /// −90 to 90.
    pub latitude: f64,
    /// −180 to 180.
    pub longitude: f64,
}

impl Coordinates {
    /// Whether these are coordinates at all.
    pub fn is_valid(&self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }
}

/// What is known about where a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Its coordinates, the best knowledge.
    pub coordinates: Option<Coordinates>,
    /// Its country, used where the coordinates are unknown.
    pub country: Option<Country>,
}

/// Most sites that are told apart; an endpoint at a further place counts for the nearest of these.
pub(super) const SITES_MAX: usize = 64;

/// A place on the unit sphere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direction([f64; 3]);

impl Direction {
    pub(super) fn of(at: Coordinates) -> Direction {
        let (latitude, longitude) = (at.latitude.to_radians(), at.longitude.to_radians());
        Direction([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])
    }

    /// The cosine of the angle between the two: the larger the nearer.
    pub(super) fn nearness(&self, other: &Direction) -> f64 {
        self.0.iter().zip(other.0).map(|(a, b)| a * b).sum()
    }
}

/// Where endpoints stand together.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) direction: Direction,
    pub(super) country: Option<Country>,
}

/// The best site for `place` among those whose bit in `tried` is not set: the nearest; where only the country is known the first one in it;
/// nothing where neither is known or helps.
pub(super) fn nearest(sites: &[Site], place: &Place, tried: u64) -> Option<usize> {
    assert!(sites.len() <= SITES_MAX, "a bit each");
    let open = sites.iter().enumerate().filter(|(at, _)| tried >> at & 1 == 0);
    if let Some(here) = place.coordinates.filter(Coordinates::is_valid).map(Direction::of) {
        let near = |site: &Site| site.direction.nearness(&here);
        return open.max_by(|(_, a), (_, b)| near(a).total_cmp(&near(b))).map(|(at, _)| at);
    }
    let country = place.country?;
    open.filter(|(_, site)| site.country == Some(country)).map(|(at, _)| at).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CITIES: [(f64, f64, &[u8; 2]); 4] =
        [(50.11, 8.68, b"DE"), (40.71, -74.0, b"US"), (35.68, 139.69, b"JP"), (-33.87, 151.2, b"AU")];

    fn sites() -> Vec<Site> {
        CITIES
            .iter()
            .map(|(latitude, longitude, country)| Site {
                direction: Direction::of(Coordinates { latitude: *latitude, longitude: *longitude }),
                country: Some(Country(**country)),
            })
            .collect()
    }

    fn at(latitude: f64, longitude: f64) -> Place {
        Place { coordinates: Some(Coordinates { latitude, longitude }), country: None }
    }

    #[test]
    fn the_nearest_site_serves_and_the_next_one_where_it_cannot() {
        let sites = sites();
        let paris = at(48.86, 2.35);
        assert_eq!(nearest(&sites, &paris, 0), Some(0));
        assert_eq!(nearest(&sites, &paris, 0b0001), Some(1));
        assert_eq!(nearest(&sites, &paris, 0b0011), Some(2));
        assert_eq!(nearest(&sites, &paris, 0b1111), None);
        assert_eq!(nearest(&sites, &at(-41.29, 174.78), 0), Some(3), "Wellington");
        assert_eq!(nearest(&sites, &at(64.2, -179.9), 0), Some(2), "across the date line");
    }

    #[test]
    fn a_country_helps_where_coordinates_are_unknown() {
        let place = |country| Place { coordinates: None, country: Some(Country(country)) };
        assert_eq!(nearest(&sites(), &place(*b"JP"), 0), Some(2));
        assert_eq!(nearest(&sites(), &place(*b"FR"), 0), None);
        assert_eq!(nearest(&sites(), &Place::default(), 0), None);
        let wrong = Coordinates { latitude: f64::NAN, longitude: 0.0 };
        assert_eq!(nearest(&sites(), &Place { coordinates: Some(wrong), country: Some(Country(*b"US")) }, 0), Some(1));
    }

    proptest! {
        #[test]
        fn nearest_is_by_the_haversine(latitude in -90.0f64..90.0, longitude in -180.0f64..180.0) {
            let haversine = |(lat, lon, _): &(f64, f64, &[u8; 2])| {
                let (a, b) = (latitude.to_radians(), lat.to_radians());
                let (dlat, dlon) = (b - a, (lon - longitude).to_radians());
                (dlat / 2.0).sin().powi(2) + a.cos() * b.cos() * (dlon / 2.0).sin().powi(2)
            };
            let picked = nearest(&sites(), &at(latitude, longitude), 0).expect("a site");
            let best = CITIES.iter().map(haversine).fold(f64::MAX, f64::min);
            prop_assert!(haversine(&CITIES[picked]) - best < 1e-9);
        }
    }
}

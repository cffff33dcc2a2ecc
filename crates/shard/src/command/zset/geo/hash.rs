//! Geohashes of 52 bits, as Redis keeps positions in the scores of sorted sets: longitude and latitude interleaved, over the
//! part of the globe that the web's Mercator projection shows (EPSG:3857), and distances on a sphere.
//!
//! `sin` and its kin come from the `libm` crate instead of the system's library: GEOSEARCHSTORE decides by them what is
//! stored, and replicas must agree to the last bit whatever they run on.

use std::f64::consts::PI;

/// Bits of each coordinate in a score.
const STEP_MAX: u32 = 26;
const LONGITUDE: (f64, f64) = (-180.0, 180.0);
const LATITUDE: (f64, f64) = (-85.051_128_78, 85.051_128_78);
/// Mean radius of WGS 84, metres, as Redis has it.
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// Half the width of the projected world, metres.
const MERCATOR_MAX: f64 = 20_037_726.37;
const STANDARD_ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

/// A position in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub longitude: f64,
    pub latitude: f64,
}

/// What is searched, metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
}

/// A square of the grid with `2^step` squares a side: its bits interleaved, longitude's the higher of each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    bits: u64,
    step: u32,
}

/// What a cell covers: from, to.
struct Area {
    longitude: (f64, f64),
    latitude: (f64, f64),
}

fn spread(value: u32) -> u64 {
    let mut bits = u64::from(value);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

fn gather(bits: u64) -> u32 {
    let mut bits = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0F0F_0F0F_0F0F_0F0F),
        (4, 0x00FF_00FF_00FF_00FF),
        (8, 0x0000_FFFF_0000_FFFF),
        (16, 0x0000_0000_FFFF_FFFF),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

fn encode(point: Point, latitude: (f64, f64), step: u32) -> Cell {
    let cells = (1u64 << step) as f64;
    let place = |value: f64, (low, high): (f64, f64)| ((value - low) / (high - low) * cells) as u32;
    Cell { bits: spread(place(point.latitude, latitude)) | spread(place(point.longitude, LONGITUDE)) << 1, step }
}

impl Cell {
    fn area(self) -> Area {
        let cells = (1u64 << self.step) as f64;
        let range = |place: u32, (low, high): (f64, f64)| {
            let edge = |place: f64| low + place / cells * (high - low);
            (edge(f64::from(place)), edge(f64::from(place.wrapping_add(1))))
        };
        Area { longitude: range(gather(self.bits >> 1), LONGITUDE), latitude: range(gather(self.bits), LATITUDE) }
    }

    /// The cell so many to the east and to the north, round the edges of the map.
    fn neighbour(self, east: i64, north: i64) -> Cell {
        let mask = (1u64 << self.step) - 1;
        // A point on the map's very edge lies in a cell beyond the last one; Redis leaves it there along the edge.
        let moved = |place: u32, by: i64| match by {
            0 => place,
            by => (u64::from(place).wrapping_add_signed(by) & mask) as u32,
        };
        let longitude = moved(gather(self.bits >> 1), east);
        Cell { bits: spread(moved(gather(self.bits), north)) | spread(longitude) << 1, step: self.step }
    }

    /// The scores in it: from the first to before the second.
    fn scores(self) -> (f64, f64) {
        let shift = 2 * (STEP_MAX - self.step);
        ((self.bits << shift) as f64, ((self.bits + 1) << shift) as f64)
    }
}

impl Point {
    /// Whether the map shows it.
    pub fn is_on_map(self) -> bool {
        let within = |value: f64, (low, high): (f64, f64)| (low..=high).contains(&value);
        within(self.longitude, LONGITUDE) && within(self.latitude, LATITUDE)
    }

    /// The score of a member there. The point must be on the map.
    pub fn score(self) -> f64 {
        encode(self, LATITUDE, STEP_MAX).bits as f64
    }

    /// Where a member of this score is: the middle of its cell. Any score is somewhere.
    pub fn of_score(score: f64) -> Point {
        let Area { longitude, latitude } = Cell { bits: bits_of(score), step: STEP_MAX }.area();
        let middle = |(low, high): (f64, f64), bounds: (f64, f64)| ((low + high) / 2.0).min(bounds.1).max(bounds.0);
        Point { longitude: middle(longitude, LONGITUDE), latitude: middle(latitude, LATITUDE) }
    }

    /// The standard geohash (latitudes to the poles), 11 characters, the last of which always is zero.
    pub fn standard_text(self) -> [u8; 11] {
        let bits = encode(self, (-90.0, 90.0), STEP_MAX).bits;
        let mut text = [b'0'; 11];
        for (at, byte) in text[..10].iter_mut().enumerate() {
            *byte = STANDARD_ALPHABET[(bits >> (52 - (at + 1) * 5) & 0x1F) as usize];
        }
        text
    }

    /// Metres between two points by the haversine formula.
    pub fn distance(self, other: Point) -> f64 {
        let half_longitudes = libm::sin((radians(other.longitude) - radians(self.longitude)) / 2.0);
        if half_longitudes == 0.0 {
            return self.distance_by_latitude(other);
        }
        let (from, to) = (radians(self.latitude), radians(other.latitude));
        let half_latitudes = libm::sin((to - from) / 2.0);
        let sum = half_latitudes * half_latitudes + libm::cos(from) * libm::cos(to) * half_longitudes * half_longitudes;
        // Rounding may take antipodes beyond 1, where no arc is.
        2.0 * EARTH_RADIUS * libm::asin(sum.sqrt().min(1.0))
    }

    fn distance_by_latitude(self, other: Point) -> f64 {
        EARTH_RADIUS * (radians(other.latitude) - radians(self.latitude)).abs()
    }
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

/// A score as an integer, where it was not made by GEOADD as x86's conversion has it: Redis uses what the machine gives.
fn bits_of(score: f64) -> u64 {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    match score {
        score if score >= 2.0 * TWO_63 => 0,
        score if score >= TWO_63 => score as u64,
        score => score as i64 as u64,
    }
}

impl Shape {
    /// The distance from the centre of a point that lies within.
    pub fn distance_within(self, centre: Point, point: Point) -> Option<f64> {
        match self {
            Shape::Circle { radius } => Some(centre.distance(point)).filter(|distance| *distance <= radius),
            Shape::Box { width, height } => {
                if centre.distance_by_latitude(point) > height / 2.0 {
                    return None;
                }
                let beside = Point { longitude: centre.longitude, latitude: point.latitude };
                (point.distance(beside) <= width / 2.0).then(|| centre.distance(point))
            }
        }
    }

    /// From and to which longitude and latitude it reaches.
    fn bounds(self, centre: Point) -> Area {
        let (width, height) = match self {
            Shape::Circle { radius } => (radius, radius),
            Shape::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let latitude = degrees(height / EARTH_RADIUS);
        // The edge towards the pole is the one that spans more degrees.
        let edge = if centre.latitude < 0.0 { centre.latitude - latitude } else { centre.latitude + latitude };
        let longitude = degrees(width / EARTH_RADIUS / libm::cos(radians(edge)));
        Area {
            longitude: (centre.longitude - longitude, centre.longitude + longitude),
            latitude: (centre.latitude - latitude, centre.latitude + latitude),
        }
    }

    /// How fine a grid may be so that nine cells cover it.
    fn step(self, centre: Point) -> u32 {
        let mut reach = match self {
            Shape::Circle { radius } => radius,
            Shape::Box { width, height } => ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt(),
        };
        if reach == 0.0 {
            return STEP_MAX;
        }
        let mut step = 1;
        while reach < MERCATOR_MAX {
            reach *= 2.0;
            step += 1;
        }
        step -= 2;
        let polar = centre.latitude.abs();
        step -= i32::from(polar > 66.0) + i32::from(polar > 80.0);
        step.clamp(1, STEP_MAX as i32) as u32
    }

    /// The ranges of scores (from, to before) in which everything lies that it holds, the centre's first, in Redis's order.
    pub fn score_ranges(self, centre: Point) -> Vec<(f64, f64)> {
        let bounds = self.bounds(centre);
        let mut step = self.step(centre);
        let mut cell = encode(centre, LATITUDE, step);
        let falls_short = cell.neighbour(0, 1).area().latitude.1 < bounds.latitude.1
            || cell.neighbour(0, -1).area().latitude.0 > bounds.latitude.0
            || cell.neighbour(1, 0).area().longitude.1 < bounds.longitude.1
            || cell.neighbour(-1, 0).area().longitude.0 > bounds.longitude.0;
        if falls_short && step > 1 {
            step -= 1;
            cell = encode(centre, LATITUDE, step);
        }
        let area = cell.area();
        // What the middle cell covers needs no cell beside it; with four cells in all, sides cannot be told apart.
        let useless = |east: i64, north: i64| {
            step >= 2
                && (north < 0 && area.latitude.0 < bounds.latitude.0
                    || north > 0 && area.latitude.1 > bounds.latitude.1
                    || east < 0 && area.longitude.0 < bounds.longitude.0
                    || east > 0 && area.longitude.1 > bounds.longitude.1)
        };
        let sides = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut ranges = Vec::with_capacity(sides.len());
        let mut last: Option<Cell> = None;
        for (at, (east, north)) in sides.into_iter().enumerate() {
            let beside = cell.neighbour(east, north);
            // Redis does not compare with the middle cell: a cell that is met twice brings its members twice.
            if useless(east, north) || last == Some(beside) {
                continue;
            }
            ranges.push(beside.scores());
            last = (at > 0).then_some(beside);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::{Point, Shape, gather, spread};

    #[test]
    fn bits_interleave_and_come_apart_again() {
        for value in [0, 1, 0x8000_0001, 0xDEAD_BEEF, u32::MAX] {
            assert_eq!(gather(spread(value)), value);
        }
    }

    #[test]
    fn a_point_is_found_again_within_a_metre() {
        for (longitude, latitude) in [(13.361389, 38.115556), (-179.999, -85.0), (0.0, 0.0), (179.999, 84.9)] {
            let point = Point { longitude, latitude };
            assert!(Point::of_score(point.score()).distance(point) < 1.0, "{point:?}");
        }
    }

    #[test]
    fn a_search_covers_what_lies_within() {
        let mut rng = base::Rng::new(11);
        let mut found = 0;
        for _ in 0..20_000 {
            let mut coordinate = |limit: usize| rng.index(2 * limit * 1000) as f64 / 1000.0 - limit as f64;
            let centre = Point { longitude: coordinate(160), latitude: coordinate(60) };
            let near = Point {
                longitude: centre.longitude + coordinate(20) / 10.0,
                latitude: centre.latitude + coordinate(20) / 10.0,
            };
            let size = 1000.0 + coordinate(300).abs() * 1000.0;
            for shape in [Shape::Circle { radius: size }, Shape::Box { width: size, height: size / 2.0 }] {
                let score = near.score();
                if shape.distance_within(centre, Point::of_score(score)).is_some() {
                    found += 1;
                    let covered = shape.score_ranges(centre).iter().any(|(from, to)| (*from..*to).contains(&score));
                    assert!(covered, "{shape:?} around {centre:?} misses {near:?}");
                }
            }
        }
        assert!(found > 5000, "{found}");
    }
}

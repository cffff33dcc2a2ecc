//! Positions on the globe: sorted sets whose scores are geohashes ([`hash`]).

mod hash;

use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use store::value::Zset;

use super::super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, float, integer, is};
use super::range::store;
use super::{AddOptions, add_pairs};
use crate::error::{CommandError, SYNTAX, shown};
use crate::reply::Reply;
use hash::{Point, Shape};

family!("geo");

const KEY: Keys = Keys::Range(1, 1, 1);

#[rustfmt::skip]
pub(in super::super) const SPECS: &[Spec] = &[
    spec("geoadd", -5, Flags::GROWS, KEY, Run::Write(geoadd), "3.2.0", "Adds one or more members to a geospatial index. The key is created if it doesn't exist."),
    spec("geodist", -4, Flags::NONE, KEY, Run::Read(geodist), "3.2.0", "Returns the distance between two members of a geospatial index."),
    spec("geohash", -2, Flags::NONE, KEY, Run::Read(geohash), "3.2.0", "Returns members from a geospatial index as geohash strings."),
    spec("geopos", -2, Flags::NONE, KEY, Run::Read(geopos), "3.2.0", "Returns the longitude and latitude of members from a geospatial index."),
    spec("georadius", -6, Flags::GROWS, Keys::Find(radius_keys), Run::Write(georadius), "3.2.0", "Queries a geospatial index for members within a distance from a coordinate, optionally stores the result."),
    spec("georadius_ro", -6, Flags::NONE, KEY, Run::Read(georadius_ro), "3.2.10", "Returns members from a geospatial index that are within a distance from a coordinate."),
    spec("georadiusbymember", -5, Flags::GROWS, Keys::Find(radius_keys), Run::Write(georadiusbymember), "3.2.0", "Queries a geospatial index for members within a distance from a member, optionally stores the result."),
    spec("georadiusbymember_ro", -5, Flags::NONE, KEY, Run::Read(georadiusbymember_ro), "3.2.10", "Returns members from a geospatial index that are within a distance from a member."),
    spec("geosearch", -7, Flags::NONE, KEY, Run::Read(geosearch), "6.2.0", "Queries a geospatial index for members inside an area of a box or a circle."),
    spec("geosearchstore", -8, Flags::GROWS, Keys::Range(1, 2, 1), Run::Write(geosearchstore), "6.2.0", "Queries a geospatial index for members inside an area of a box or a circle, optionally stores the result."),
];

const NO_MEMBER: CommandError = CommandError::new("ERR could not decode requested zset member");

fn zset<'a>(reading: &'a Reading<'_>, key: &[u8]) -> Result<Option<&'a Zset>, CommandError> {
    Ok(reading.tables.get::<Zset>(reading.db, key, reading.now)?)
}

fn point(longitude: &[u8], latitude: &[u8]) -> Result<Point, CommandError> {
    let point = Point { longitude: float(longitude)?, latitude: float(latitude)? };
    if !point.is_on_map() {
        let Point { longitude, latitude } = point;
        return Err(format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}").into());
    }
    Ok(point)
}

/// Metres in a unit.
fn unit(word: &[u8]) -> Result<f64, CommandError> {
    match super::super::upper(word).as_slice() {
        b"M" => Ok(1.0),
        b"KM" => Ok(1000.0),
        b"FT" => Ok(0.3048),
        b"MI" => Ok(1609.34),
        _ => Err(CommandError::new("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn length(word: &[u8], otherwise: &'static str) -> Result<f64, CommandError> {
    base::parse_f64(word).ok_or(CommandError::new(otherwise))
}

fn geoadd(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let mut options = AddOptions::default();
    let mut first = 2;
    for word in &args[2..] {
        match &*super::super::upper(word) {
            b"NX" => options.absent_only = true,
            b"XX" => options.present_only = true,
            b"CH" => options.count_changed = true,
            _ => break,
        }
        first += 1;
    }
    let triples = args[first..].chunks_exact(3);
    if !triples.remainder().is_empty() || triples.len() == 0 || options.absent_only && options.present_only {
        return Err(SYNTAX);
    }
    let pairs = triples.map(|triple| Ok((point(triple[0], triple[1])?.score(), triple[2])));
    let pairs = pairs.collect::<Result<Vec<(f64, &[u8])>, CommandError>>()?;
    let added = writing.tables.upsert(writing.db, args[1], writing.now, |zset: &mut Zset| {
        let added = add_pairs(zset, &pairs, options);
        (added.as_ref().is_ok_and(|added| added.added + added.updated > 0), added)
    })??;
    reply.int(if options.count_changed { added.added + added.updated } else { added.added });
    Ok(())
}

fn geodist(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let unit = match args {
        [_, _, _, _] => 1.0,
        [_, _, _, _, word] => unit(word)?,
        _ => return Err(SYNTAX),
    };
    let zset = zset(reading, args[1])?;
    let place = |member: &[u8]| zset.and_then(|zset| zset.score(member)).map(Point::of_score);
    match (place(args[2]), place(args[3])) {
        (Some(from), Some(to)) => reply_distance(reply, from.distance(to) / unit),
        _ => reply.null(),
    }
    Ok(())
}

fn reply_distance(reply: &mut Reply, distance: f64) {
    reply.bulk(format!("{distance:.4}").as_bytes());
}

/// Both coordinates with the 17 decimals that Redis shows.
fn reply_point(reply: &mut Reply, point: Point) {
    reply.array(2);
    for coordinate in [point.longitude, point.latitude] {
        let text = format!("{coordinate:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        reply.double_text(if text == "-0" { "0" } else { text });
    }
}

fn geohash(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let zset = zset(reading, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => reply.bulk(&Point::of_score(score).standard_text()),
            None => reply.null(),
        }
    }
    Ok(())
}

fn geopos(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let zset = zset(reading, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => reply_point(reply, Point::of_score(score)),
            None => reply.null_array(),
        }
    }
    Ok(())
}

/// What GEORADIUS reads and, if asked to, writes.
fn radius_keys(args: Args<'_>) -> SmallVec<[usize; 8]> {
    let mut keys = smallvec![1];
    let mut at = 5;
    let mut target = None;
    while at + 1 < args.len() {
        if is(args[at], "STORE") || is(args[at], "STOREDIST") {
            target = Some(at + 1);
            at += 1;
        }
        at += 1;
    }
    keys.extend(target);
    keys
}

/// Which of the six commands was called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// GEORADIUS, with whether it may store.
    Radius(bool),
    /// GEORADIUSBYMEMBER, with whether it may store.
    RadiusByMember(bool),
    Search,
    SearchStore,
}

/// Everything but the data.
struct Query<'a> {
    /// `None` where there is no set whose member could be the centre.
    centre: Option<Point>,
    shape: Option<Shape>,
    /// Metres in the unit of the answer's distances.
    unit: f64,
    with_distance: bool,
    with_hash: bool,
    with_point: bool,
    /// Nearest first, or farthest.
    order: Option<Order>,
    /// 0 is all.
    count: usize,
    /// Whether any will do.
    any: bool,
    target: Option<&'a [u8]>,
    store_distance: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Nearest,
    Farthest,
}

/// A member that was found.
struct Found<'a> {
    member: &'a [u8],
    score: f64,
    point: Point,
    /// Metres.
    distance: f64,
}

fn circle(words: Args<'_>) -> Result<(Shape, f64), CommandError> {
    let radius = length(words[0], "ERR need numeric radius")?;
    if radius < 0.0 {
        return Err(CommandError::new("ERR radius cannot be negative"));
    }
    let unit = unit(words[1])?;
    Ok((Shape::Circle { radius: radius * unit }, unit))
}

fn rectangle(words: Args<'_>) -> Result<(Shape, f64), CommandError> {
    let width = length(words[0], "ERR need numeric width")?;
    let height = length(words[1], "ERR need numeric height")?;
    if width < 0.0 || height < 0.0 {
        return Err(CommandError::new("ERR height or width cannot be negative"));
    }
    let unit = unit(words[2])?;
    Ok((Shape::Box { width: width * unit, height: height * unit }, unit))
}

impl<'a> Query<'a> {
    fn parse(zset: Option<&Zset>, args: Args<'a>, form: Form) -> Result<Query<'a>, CommandError> {
        let mut query = Query {
            centre: None,
            shape: None,
            unit: 1.0,
            with_distance: false,
            with_hash: false,
            with_point: false,
            order: None,
            count: 0,
            any: false,
            target: None,
            store_distance: false,
        };
        let member = |name: &[u8]| match zset {
            Some(zset) => zset.score(name).map(|score| Some(Point::of_score(score))).ok_or(NO_MEMBER),
            None => Ok(None),
        };
        let mut words = match form {
            Form::Radius(_) => {
                query.centre = Some(point(args[2], args[3])?);
                let (shape, unit) = circle(&args[4..])?;
                (query.shape, query.unit) = (Some(shape), unit);
                &args[6..]
            }
            Form::RadiusByMember(_) => {
                query.centre = member(args[2])?;
                // Without a set Redis does not look at these.
                if zset.is_some() {
                    let (shape, unit) = circle(&args[3..])?;
                    (query.shape, query.unit) = (Some(shape), unit);
                }
                &args[5..]
            }
            Form::Search => &args[2..],
            Form::SearchStore => {
                query.target = Some(args[1]);
                &args[3..]
            }
        };
        let is_search = matches!(form, Form::Search | Form::SearchStore);
        let may_store = matches!(form, Form::Radius(true) | Form::RadiusByMember(true));
        let (mut by_member, mut by_point, mut by_radius, mut by_box) = (false, false, false, false);
        while let [word, rest @ ..] = words {
            words = rest;
            let mut skip = 0;
            match super::super::upper(word).as_slice() {
                b"WITHDIST" => query.with_distance = true,
                b"WITHHASH" => query.with_hash = true,
                b"WITHCOORD" => query.with_point = true,
                b"ANY" => query.any = true,
                b"ASC" => query.order = Some(Order::Nearest),
                b"DESC" => query.order = Some(Order::Farthest),
                b"COUNT" if !rest.is_empty() => {
                    let count = usize::try_from(integer(rest[0])?).ok().filter(|count| *count > 0);
                    query.count = count.ok_or(CommandError::new("ERR COUNT must be > 0"))?;
                    skip = 1;
                }
                b"STORE" if may_store && !rest.is_empty() => {
                    (query.target, query.store_distance) = (Some(rest[0]), false);
                    skip = 1;
                }
                b"STOREDIST" if may_store && !rest.is_empty() => {
                    (query.target, query.store_distance) = (Some(rest[0]), true);
                    skip = 1;
                }
                b"STOREDIST" if form == Form::SearchStore => query.store_distance = true,
                b"FROMMEMBER" if is_search && !rest.is_empty() && !by_point => {
                    query.centre = member(rest[0])?;
                    (by_member, skip) = (true, 1);
                }
                b"FROMLONLAT" if is_search && rest.len() >= 2 && !by_member => {
                    query.centre = Some(point(rest[0], rest[1])?);
                    (by_point, skip) = (true, 2);
                }
                b"BYRADIUS" if is_search && rest.len() >= 2 && !by_box => {
                    let (shape, unit) = circle(rest)?;
                    (query.shape, query.unit) = (Some(shape), unit);
                    (by_radius, skip) = (true, 2);
                }
                b"BYBOX" if is_search && rest.len() >= 3 && !by_radius => {
                    let (shape, unit) = rectangle(rest)?;
                    (query.shape, query.unit) = (Some(shape), unit);
                    (by_box, skip) = (true, 3);
                }
                _ => return Err(SYNTAX),
            }
            words = &words[skip..];
        }
        if query.target.is_some() && (query.with_distance || query.with_hash || query.with_point) {
            let who = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            return Err(format!("ERR {who} is not compatible with WITHDIST, WITHHASH and WITHCOORD options").into());
        }
        let one_of = |what: &str| -> CommandError {
            format!("ERR exactly one of {what} can be specified for {}", shown(args[0])).into()
        };
        if is_search && !by_member && !by_point {
            return Err(one_of("FROMMEMBER or FROMLONLAT"));
        }
        if is_search && !by_radius && !by_box {
            return Err(one_of("BYRADIUS and BYBOX"));
        }
        if query.any && query.count == 0 {
            return Err(CommandError::new("ERR the ANY argument requires COUNT argument"));
        }
        Ok(query)
    }

    fn run<'z>(&self, zset: Option<&'z Zset>) -> Vec<Found<'z>> {
        let (Some(zset), Some(centre), Some(shape)) = (zset, self.centre, self.shape) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        'ranges: for (from, to) in shape.score_ranges(centre) {
            let first = zset.partition_point(|_, score| score < from);
            for (member, score) in zset.range(first..zset.len()).take_while(|(_, score)| *score < to) {
                let point = Point::of_score(score);
                if let Some(distance) = shape.distance_within(centre, point) {
                    found.push(Found { member, score, point, distance });
                    if self.any && found.len() >= self.count {
                        break 'ranges;
                    }
                }
            }
        }
        let order = match self.order {
            // The first few of no order would be any.
            None if self.count > 0 && !self.any => Some(Order::Nearest),
            order => order,
        };
        match order {
            Some(Order::Nearest) => found.sort_by(|one, other| one.distance.total_cmp(&other.distance)),
            Some(Order::Farthest) => found.sort_by(|one, other| other.distance.total_cmp(&one.distance)),
            None => {}
        }
        if self.count > 0 {
            found.truncate(self.count);
        }
        found
    }

    fn answer(&self, found: &[Found<'_>], reply: &mut Reply) {
        let extras = usize::from(self.with_distance) + usize::from(self.with_hash) + usize::from(self.with_point);
        reply.array(found.len());
        for one in found {
            if extras > 0 {
                reply.array(1 + extras);
            }
            reply.bulk(one.member);
            if self.with_distance {
                reply_distance(reply, one.distance / self.unit);
            }
            if self.with_hash {
                reply.int(one.score as i64);
            }
            if self.with_point {
                reply_point(reply, one.point);
            }
        }
    }
}

fn read(reading: &Reading<'_>, args: Args<'_>, form: Form, reply: &mut Reply) -> Outcome {
    let zset = zset(reading, args[1])?;
    let query = Query::parse(zset, args, form)?;
    query.answer(&query.run(zset), reply);
    Ok(())
}

fn write(writing: &mut Writing<'_>, args: Args<'_>, form: Form, reply: &mut Reply) -> Outcome {
    let source = if form == Form::SearchStore { args[2] } else { args[1] };
    let zset = writing.tables.get::<Zset>(writing.db, source, writing.now)?;
    let query = Query::parse(zset, args, form)?;
    let found = query.run(zset);
    let Some(target) = query.target else {
        query.answer(&found, reply);
        return Ok(());
    };
    let mut result = Zset::new();
    let mut pairs: Vec<(Arc<[u8]>, f64)> = found
        .iter()
        .map(|one| (one.member.into(), if query.store_distance { one.distance / query.unit } else { one.score }))
        .collect();
    // In order, so that the set grows at its end alone.
    pairs.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
    pairs.iter().for_each(|(member, score)| _ = result.insert(member, *score));
    store(writing, target, result, reply);
    Ok(())
}

fn georadius(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    write(writing, args, Form::Radius(true), reply)
}

fn georadius_ro(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    read(reading, args, Form::Radius(false), reply)
}

fn georadiusbymember(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    write(writing, args, Form::RadiusByMember(true), reply)
}

fn georadiusbymember_ro(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    read(reading, args, Form::RadiusByMember(false), reply)
}

fn geosearch(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    read(reading, args, Form::Search, reply)
}

fn geosearchstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    write(writing, args, Form::SearchStore, reply)
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::super::testing::golden(include_str!("tests.golden"));
    }
}

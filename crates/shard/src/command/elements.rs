//! What the commands on collections share: counts and ranges among the words, HSCAN and its kin, random picks.

use base::{Rng, glob_selects};

use super::{Args, integer, is};
use crate::error::{CommandError, NOT_INTEGER, SYNTAX};
use crate::reply::{Reply, TOO_LONG};

/// Most elements that one SRANDMEMBER or HRANDFIELD with a negative count answers; Redis's own bound is its memory.
pub(super) const PICKS_MAX: u64 = 10_000_000;

/// A count that must not be negative; the text that Redis has for one that is.
pub(super) fn count(word: &[u8]) -> Result<usize, CommandError> {
    at_least(word, 0, "ERR value is out of range, must be positive")
}

/// A count from `least` on, or an error of this text.
pub(super) fn at_least(word: &[u8], least: i64, otherwise: &'static str) -> Result<usize, CommandError> {
    base::parse_i64(word)
        .filter(|value| *value >= least)
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(CommandError::new(otherwise))
}

/// An integer that may be negative, the least of all excepted.
pub(super) fn signed(word: &[u8]) -> Result<i64, CommandError> {
    match integer(word)? {
        i64::MIN => Err(CommandError::new(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        )),
        value => Ok(value),
    }
}

/// The places that `start..=stop` means in something of this length, negative ones counted from the end.
pub(super) fn places(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let from = if start < 0 { (start + len).max(0) } else { start };
    let to = if stop < 0 { stop + len } else { stop.min(len - 1) };
    if from > to || from >= len { 0..0 } else { from as usize..to as usize + 1 }
}

/// The words `numkeys key [key …]`. Returns the keys and what follows them; `None` where there are too few words.
pub(super) fn counted_keys<'a>(words: Args<'a>) -> Result<Option<(Args<'a>, Args<'a>)>, CommandError> {
    let (first, rest) = words.split_first().ok_or(SYNTAX)?;
    let keys = at_least(first, 1, "ERR numkeys should be greater than 0")?;
    Ok(rest.split_at_checked(keys))
}

/// What HSCAN, SSCAN and ZSCAN were asked for.
pub(super) struct Wanted<'a> {
    pattern: Option<&'a [u8]>,
    /// How many elements a step should visit.
    pub count: usize,
}

impl<'a> Wanted<'a> {
    /// Reads the words after the cursor.
    pub(super) fn read(words: Args<'a>) -> Result<Wanted<'a>, CommandError> {
        let mut wanted = Wanted { pattern: None, count: 10 };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or(SYNTAX)?;
            if is(word, "COUNT") {
                let count = base::parse_i64(value).ok_or(NOT_INTEGER)?;
                wanted.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            } else if is(word, "MATCH") {
                wanted.pattern = Some(value);
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(wanted)
    }

    /// Whether an element of this name was asked for.
    pub(super) fn includes(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob_selects(pattern, name))
    }
}

/// The cursor of HSCAN and its kin.
pub(super) fn cursor(word: &[u8]) -> Result<u64, CommandError> {
    super::scan::cursor(word).ok_or(CommandError::new("ERR invalid cursor"))
}

/// Answers one step of a scan: `step` visits elements, writes them and returns the next cursor and how many it wrote.
pub(super) fn scan_step(reply: &mut Reply, step: impl FnOnce(&mut Reply) -> (u64, usize)) {
    // Written aside because the cursor, known last, comes before the elements.
    let mut found = reply.aside();
    let (next, written) = step(&mut found);
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(written);
    reply.append(&found);
}

/// Refuses a number of picks whose answer could not be held.
pub(super) fn check_picks(picks: u64) -> Result<(), CommandError> {
    if picks > PICKS_MAX { Err(CommandError::new("ERR value is out of range")) } else { Ok(()) }
}

/// Refuses to go on with an answer that has grown too large.
pub(super) fn check_picked(reply: &Reply) -> Result<(), CommandError> {
    if reply.is_full() { Err(TOO_LONG) } else { Ok(()) }
}

/// `picks` different places below `len`, ascending, each choice as likely as any other (Knuth's algorithm S; Floyd's
/// where few of many are taken). `picks` must not exceed `len`.
pub(super) fn sample(rng: &mut Rng, len: usize, picks: usize) -> Vec<usize> {
    assert!(picks <= len, "only what is there can be picked");
    let mut places = Vec::with_capacity(picks);
    if picks < len / 16 {
        let mut taken = std::collections::BTreeSet::new();
        for last in len - picks..len {
            let place = rng.index(last + 1);
            if !taken.insert(place) {
                taken.insert(last);
            }
        }
        places.extend(taken);
        return places;
    }
    for place in 0..len {
        let (left, wanted) = (len - place, picks - places.len());
        if rng.index(left) < wanted {
            places.push(place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use base::Rng;

    use super::{places, sample};

    #[test]
    fn ranges_are_read_as_redis_reads_them() {
        for (start, stop, len, range) in [
            (0, -1, 3, 0..3),
            (-2, -1, 3, 1..3),
            (-100, 100, 3, 0..3),
            (2, 1, 3, 0..0),
            (3, 5, 3, 0..0),
            (0, -4, 3, 0..0),
            (0, 0, 0, 0..0),
            (i64::MIN, i64::MAX, 3, 0..3),
            (i64::MAX, i64::MIN, 3, 0..0),
        ] {
            assert_eq!(places(start, stop, len), range, "{start} {stop} of {len}");
        }
    }

    #[test]
    fn a_sample_is_of_different_places_and_misses_none_for_ever() {
        let mut rng = Rng::new(3);
        for (len, picks) in [(5, 5), (5, 0), (100, 30), (1000, 20), (40, 1)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..2000 {
                let places = sample(&mut rng, len, picks);
                assert_eq!(places.len(), picks);
                assert!(places.windows(2).all(|pair| pair[0] < pair[1]) && places.iter().all(|place| *place < len));
                seen.extend(places);
            }
            assert_eq!(seen.len(), if picks == 0 { 0 } else { len });
        }
    }
}

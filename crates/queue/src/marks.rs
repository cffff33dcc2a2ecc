//! Records that a group of the Redis door is not given in the order of their offsets: delayed ones, and those with a priority.
//!
//! The log knows nothing of it: consumers of Kafka's protocol see every record where it stands, at once. A group's reader sees it
//! when it is due, and higher priorities first. Apply does not open records, so whoever proposes a produce to a topic whose
//! settings ask for it reads their headers, and says beside the batches which records are *marked* ([`read`]).

use base::Millis;
use store::codec::{Corrupt, Input, put_varint};

use crate::limits::{DELAY_MS_MAX, MARKS_MAX, PRIORITIES_MAX};
use crate::partition::Partition;
use crate::records::{self, Record};
use crate::topics::Settings;
use crate::words::uint32;

/// Header: milliseconds from the append until group readers may see the record.
pub const DELAY: &[u8] = b"quorate-delay-ms";
/// Header: the moment (Unix milliseconds) from which group readers may see it.
pub const DELIVER_AT: &[u8] = b"quorate-deliver-at";
/// Header: its priority, from 0, the lowest.
pub const PRIORITY: &[u8] = b"quorate-priority";

/// When group readers may see a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So many milliseconds after its append.
    After(u64),
    /// At this moment, Unix milliseconds.
    At(Millis),
}

/// What is told beside the batches of one of their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which: its offset from the first one of the batches.
    pub delta: u32,
    /// When it may be seen.
    pub when: When,
    /// Its priority.
    pub priority: u8,
}

/// What a partition keeps of a marked record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// When it is due, shard time.
    pub due: Millis,
    /// Its priority.
    pub priority: u8,
}

fn number(word: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}

/// The marks of batches that are about to be written to a topic with these settings.
///
/// # Errors
/// What is wrong with a header, or with the batches.
pub fn read(batches: &[u8], settings: &Settings, now: Millis) -> Result<Vec<Mark>, String> {
    let mut marks = Vec::new();
    if !settings.marks() {
        return Ok(marks);
    }
    let (mut delta, mut wrong) = (0u32, None);
    let visited = records::visit(batches, &[], |record| {
        match mark(record, settings, now) {
            Ok((when, priority)) if priority > 0 || when != When::After(0) => {
                marks.push(Mark { delta, when, priority })
            }
            Ok(_) => {}
            Err(why) => wrong = wrong.take().or(Some(why)),
        }
        delta += 1;
    });
    visited.map_err(|unreadable| unreadable.0.to_owned())?;
    wrong.map_or(Ok(marks), Err)
}

fn mark(record: &Record<'_>, settings: &Settings, now: Millis) -> Result<(When, u8), String> {
    let (mut when, mut priority) = (When::After(settings.delay_ms()), 0);
    let levels = settings.priorities();
    for (name, value) in &record.headers {
        let name = *name;
        if settings.delays() && name == DELAY {
            let delay = number(*value).filter(|delay| *delay <= DELAY_MS_MAX);
            let delay =
                delay.ok_or_else(|| format!("quorate-delay-ms is a number of milliseconds up to {DELAY_MS_MAX}"))?;
            when = When::After(delay);
        } else if settings.delays() && name == DELIVER_AT {
            let at = number(*value).filter(|at| at.saturating_sub(now) <= DELAY_MS_MAX);
            let at = at.ok_or_else(|| {
                format!("quorate-deliver-at is a Unix time in milliseconds, at most {DELAY_MS_MAX} ahead")
            })?;
            when = if at > now { When::At(at) } else { When::After(0) };
        } else if levels > 0 && name == PRIORITY {
            let own = number(*value).and_then(|own| u8::try_from(own).ok()).filter(|own| *own < levels);
            priority = own.ok_or_else(|| format!("quorate-priority is a number from 0 to {}", levels - 1))?;
        }
    }
    let delay = match when {
        When::After(delay) => delay,
        When::At(at) => at.saturating_sub(now),
    };
    match settings.retention_ms() {
        Some(kept) if settings.deletes() && delay >= kept => {
            Err(format!("a delay of {delay} ms is longer than the topic keeps its records (retention.ms {kept})"))
        }
        _ => Ok((when, priority)),
    }
}

pub(crate) fn put(out: &mut Vec<u8>, marks: &[Mark]) {
    put_varint(out, marks.len() as u64);
    for mark in marks {
        put_varint(out, u64::from(mark.delta));
        let (kind, number) = match mark.when {
            When::After(delay) => (0, delay),
            When::At(at) => (1, at),
        };
        out.push(kind << 4 | mark.priority);
        put_varint(out, number);
    }
}

pub(crate) fn take(input: &mut Input<'_>) -> Result<Mark, Corrupt> {
    let delta = uint32(input)?;
    let byte = input.u8()?;
    let number = input.varint()?;
    let when = match byte >> 4 {
        0 => When::After(number),
        1 => When::At(number),
        _ => return Err(Corrupt("unknown moment of a mark")),
    };
    if byte & 15 >= PRIORITIES_MAX {
        return Err(Corrupt("a priority above the highest"));
    }
    Ok(Mark { delta, when, priority: byte & 15 })
}

impl Partition {
    /// Its marked records from this offset on.
    pub fn marked(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, Marked)> {
        let range = range.start..range.end.max(range.start);
        self.marked.range(range).map(|(offset, marked)| (*offset, *marked))
    }

    /// Whether it has any.
    pub fn has_marked(&self) -> bool {
        !self.marked.is_empty()
    }

    /// Makes room for the marks of a produce. False where there is none: as many records as may be are not due yet.
    pub(crate) fn admits_marks(&mut self, count: usize, now: Millis) -> bool {
        if self.marked.len() + count <= MARKS_MAX {
            return true;
        }
        // What is due and has no priority is a record like any other for whoever has not met it yet.
        self.marked.retain(|_, marked| marked.due > now || marked.priority > 0);
        // Then the oldest priorities go, a sixteenth at once, so that this is seldom done.
        let most = MARKS_MAX - MARKS_MAX / 16;
        if self.marked.len() + count > most {
            let surplus = self.marked.len() + count - most;
            let gone: Vec<u64> = self
                .marked
                .iter()
                .filter(|(_, marked)| marked.due <= now)
                .map(|(offset, _)| *offset)
                .take(surplus)
                .collect();
            gone.iter().for_each(|offset| {
                self.marked.remove(offset);
            });
        }
        self.marked.len() + count <= MARKS_MAX
    }

    pub(crate) fn mark_records(&mut self, base: u64, marks: &[Mark], now: Millis) {
        for mark in marks {
            let due = match mark.when {
                When::After(delay) => now.saturating_add(delay),
                When::At(at) => at,
            };
            self.marked.insert(base + u64::from(mark.delta), Marked { due, priority: mark.priority });
        }
    }

    pub(crate) fn forget_marked(&mut self) {
        if self.marked.first_key_value().is_some_and(|(first, _)| *first < self.start) {
            self.marked = self.marked.split_off(&self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::batch_of;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        pairs.iter().for_each(|(key, value)| settings.set(key, value).expect("a setting that is known"));
        settings
    }

    fn batch(headers: &[(&str, &str)]) -> Vec<u8> {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))).collect();
        batch_of(&Record { value: Some(b"v"), headers, ..Record::default() })
    }

    #[test]
    fn headers_are_obeyed_where_the_topic_says_so() {
        let batches = [batch(&[("quorate-delay-ms", "50")]), batch(&[]), batch(&[("quorate-priority", "3")])].concat();
        assert_eq!(read(&batches, &settings(&[]), 9), Ok(Vec::new()), "headers like any other");
        let both = settings(&[("quorate.delays", "true"), ("quorate.priorities", "4")]);
        let delayed = Mark { delta: 0, when: When::After(50), priority: 0 };
        let urgent = Mark { delta: 2, when: When::After(0), priority: 3 };
        assert_eq!(read(&batches, &both, 9), Ok(vec![delayed, urgent]));
        let all = settings(&[("quorate.delay.ms", "7")]);
        assert_eq!(read(&batches, &all, 9).map(|marks| marks.len()), Ok(3), "each is delayed");
        let at = |text: &str| read(&batch(&[("quorate-deliver-at", text)]), &both, 1000);
        assert_eq!(at("1500"), Ok(vec![Mark { delta: 0, when: When::At(1500), priority: 0 }]));
        assert_eq!(at("900"), Ok(Vec::new()), "the past is now");
    }

    #[test]
    fn headers_that_cannot_be_are_told() {
        let both = settings(&[("quorate.delays", "true"), ("quorate.priorities", "4")]);
        for header in [("quorate-delay-ms", "soon"), ("quorate-priority", "4"), ("quorate-deliver-at", "-1")] {
            assert!(read(&batch(&[header]), &both, 0).is_err(), "{header:?}");
        }
        let short = settings(&[("quorate.delays", "true"), ("retention.ms", "1000")]);
        assert!(read(&batch(&[("quorate-delay-ms", "1000")]), &short, 0).is_err(), "it would be gone before it is due");
        assert!(read(&batch(&[("quorate-delay-ms", "999")]), &short, 0).is_ok());
    }

    #[test]
    fn marks_read_back() {
        let marks = [
            Mark { delta: 0, when: When::After(1 << 40), priority: 0 },
            Mark { delta: 700, when: When::At(1 << 50), priority: 9 },
        ];
        let mut out = Vec::new();
        put(&mut out, &marks);
        let mut input = Input::new(&out);
        let read = crate::words::list(&mut input, take).expect("they were just written");
        assert_eq!((&read[..], input.is_empty()), (&marks[..], true));
    }

    #[test]
    fn only_what_is_not_due_yet_fills_a_partition() {
        let mut own = Partition::new("t");
        let many = |when: When, priority: u8, count: u32| -> Vec<Mark> {
            (0..count).map(|delta| Mark { delta, when, priority }).collect()
        };
        let half = (MARKS_MAX / 2) as u32;
        own.mark_records(0, &many(When::At(100), 0, half), 0);
        own.mark_records(u64::from(half), &many(When::After(0), 1, half), 0);
        assert!(own.admits_marks(10, 50), "the oldest priorities go");
        assert!(own.marked(0..u64::from(half)).count() == half as usize, "what is not due stays");
        let rest = (MARKS_MAX - own.marked.len()) as u32;
        own.mark_records(1 << 32, &many(When::At(100), 0, rest), 50);
        assert!(own.admits_marks(1, 100), "all is due");
        assert!(own.marked.is_empty() || own.marked.len() < MARKS_MAX);
        let mut full = Partition::new("t");
        full.mark_records(0, &many(When::At(100), 0, MARKS_MAX as u32), 0);
        assert!(!full.admits_marks(1, 50), "nothing of it may go");
    }
}

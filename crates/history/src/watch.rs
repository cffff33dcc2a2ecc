//! What watchers of keys with revisions were told, and whether it is what happened.
//!
//! The promises are those that etcd gives and its robustness tests check: events come in the order of revisions (*ordered*), none
//! comes twice (*unique*), those of one revision come together (*atomic*), none is left out (*reliable*), whoever comes back with
//! the next revision goes on without a gap (*resumable*), and who is told of progress is not told of anything older later
//! (*bookmarkable*). A watcher that asks for what has been forgotten is told so, and only then (*honest*).
//!
//! What happened is what a replica that applied every entry saw. So the writers' acknowledgements are held against it too.

use std::collections::BTreeMap;

/// A revision.
pub type Revision = i64;

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// In which revision.
    pub revision: Revision,
    /// Which key.
    pub key: Vec<u8>,
    /// What it became; `None` where it was deleted.
    pub value: Option<Vec<u8>>,
}

/// What a watcher was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It asks from this revision on: for the first time, or again, perhaps elsewhere.
    Asked(Revision),
    /// Events. Whether more of the last revision come in the next message.
    Events(Vec<Event>, bool),
    /// There is nothing older than this that it was not told of.
    Progress(Revision),
    /// What it asked for is gone; it could have had from this revision on.
    Compacted(Revision),
}

/// All that was told, and what happened.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    happened: BTreeMap<Revision, Vec<Event>>,
    /// The highest revision below which all was ever forgotten.
    compacted: Revision,
    watchers: BTreeMap<u64, (Vec<u8>, Vec<Told>)>,
    acknowledged: Vec<Event>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which: one of the words in the head of this module, or `lost write`, `two histories`.
    pub promise: &'static str,
    /// Whose, and what was told.
    pub what: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.promise, self.what)
    }
}

impl std::error::Error for Broken {}

/// What a history held, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Revisions that happened.
    pub revisions: usize,
    /// Events that were told.
    pub told: u64,
    /// Times that a watcher asked again.
    pub resumed: u64,
    /// Words of progress.
    pub progress: u64,
    /// Times that a watcher was told that its revision is gone.
    pub compacted: u64,
}

fn broken<T>(promise: &'static str, what: String) -> Result<T, Broken> {
    Err(Broken { promise, what })
}

impl Watches {
    /// A replica applied this revision. Every replica may say so.
    ///
    /// # Errors
    /// Another one saw something else.
    pub fn happened(&mut self, revision: Revision, events: Vec<Event>) -> Result<(), Broken> {
        match self.happened.get(&revision) {
            None => {
                self.happened.insert(revision, events);
                Ok(())
            }
            Some(known) if *known == events => Ok(()),
            Some(known) => {
                broken("two histories", format!("revision {revision} is {known:?} here and {events:?} there"))
            }
        }
    }

    /// All that happened, in order.
    pub fn all(&self) -> impl Iterator<Item = &Event> {
        self.happened.values().flatten()
    }

    /// What a key was before a revision.
    pub fn before(&self, revision: Revision, key: &[u8]) -> Option<Vec<u8>> {
        let mut earlier = self.happened.range(..revision).rev().flat_map(|(_, events)| events.iter().rev());
        earlier.find(|event| event.key == key)?.value.clone()
    }

    /// All below this revision was forgotten somewhere.
    pub fn compacted(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, event: Event) {
        self.acknowledged.push(event);
    }

    /// A watcher was told something. It watches the keys that begin so.
    pub fn told(&mut self, watcher: u64, prefix: &[u8], told: Told) {
        let (_, all) = self.watchers.entry(watcher).or_insert_with(|| (prefix.to_vec(), Vec::new()));
        all.push(told);
    }

    /// Judges all of it.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn check(&self) -> Result<Figures, Broken> {
        let mut figures = Figures { revisions: self.happened.len(), ..Figures::default() };
        for event in &self.acknowledged {
            if !self.happened.get(&event.revision).is_some_and(|events| events.contains(event)) {
                return broken("lost write", format!("{event:?} was acknowledged and did not happen"));
            }
        }
        for (number, (prefix, told)) in &self.watchers {
            self.watcher(*number, prefix, told, &mut figures)?;
        }
        Ok(figures)
    }

    fn watcher(&self, number: u64, prefix: &[u8], all: &[Told], figures: &mut Figures) -> Result<(), Broken> {
        // Everything of its own below `next` has been told; of `next` itself the first `part`, where its message is not over.
        let (mut next, mut part, mut marked) = (0, 0, 0);
        for told in all {
            match told {
                Told::Asked(from) => {
                    // Who comes back knows the last revision that was told whole, or a bookmark.
                    figures.resumed += u64::from(next > 0);
                    (next, part, marked) = (*from, 0, 0);
                }
                Told::Events(events, is_part) => {
                    figures.told += events.len() as u64;
                    for event in events {
                        if event.revision < marked {
                            return broken(
                                "bookmarkable",
                                format!(
                                    "watcher {number} was told of {event:?} after it was told of progress to {marked}"
                                ),
                            );
                        }
                        self.event(number, prefix, event, &mut next, &mut part)?;
                    }
                    let whole = self.own(next, prefix).count();
                    if !is_part && part > 0 && part < whole {
                        return broken(
                            "atomic",
                            format!("watcher {number} was told {part} of {whole} events of revision {next}"),
                        );
                    }
                    if !is_part && part > 0 {
                        (next, part) = (next + 1, 0);
                    }
                }
                Told::Progress(revision) => {
                    figures.progress += 1;
                    if part > 0 {
                        return broken(
                            "atomic",
                            format!("watcher {number} was told of progress within revision {next}"),
                        );
                    }
                    if let Some(missed) = self.between(next, *revision, prefix) {
                        return broken(
                            "reliable",
                            format!("watcher {number} was told of progress to {revision}, but not of {missed:?}"),
                        );
                    }
                    marked = marked.max(*revision + 1);
                    next = next.max(*revision + 1);
                }
                Told::Compacted(revision) => {
                    figures.compacted += 1;
                    if *revision > self.compacted || *revision <= next {
                        return broken(
                            "honest",
                            format!(
                                "watcher {number}, which asked for {next}, was told that all below {revision} is gone; it was below {}",
                                self.compacted
                            ),
                        );
                    }
                    (next, part, marked) = (*revision, 0, 0);
                }
            }
        }
        Ok(())
    }

    fn event(
        &self,
        number: u64,
        prefix: &[u8],
        event: &Event,
        next: &mut Revision,
        part: &mut usize,
    ) -> Result<(), Broken> {
        if event.revision < *next {
            let known = self.happened.get(&event.revision).is_some_and(|events| events.contains(event));
            let promise = if known { "unique" } else { "ordered" };
            return broken(promise, format!("watcher {number} was told of {event:?} again, or late: it is at {next}"));
        }
        if event.revision > *next {
            if *part > 0 && *part < self.own(*next, prefix).count() {
                return broken(
                    "atomic",
                    format!("watcher {number} was told {part} events of revision {next}, then of {event:?}"),
                );
            }
            let from = if *part > 0 { *next + 1 } else { *next };
            if let Some(missed) = self.between(from, event.revision - 1, prefix) {
                return broken("reliable", format!("watcher {number} was told of {event:?}, but not of {missed:?}"));
            }
            (*next, *part) = (event.revision, 0);
        }
        let own: Vec<&Event> = self.own(event.revision, prefix).collect();
        match own.get(*part) {
            Some(happened) if *happened == event => {
                *part += 1;
                Ok(())
            }
            _ if own[..(*part).min(own.len())].contains(&event) => {
                broken("unique", format!("watcher {number} was told of {event:?} twice"))
            }
            _ if own.contains(&event) => {
                broken("ordered", format!("watcher {number} was told of {event:?} out of turn"))
            }
            _ => broken("ordered", format!("watcher {number} was told of {event:?}, which did not happen so: {own:?}")),
        }
    }

    fn own<'a>(&'a self, revision: Revision, prefix: &'a [u8]) -> impl Iterator<Item = &'a Event> {
        self.happened.get(&revision).into_iter().flatten().filter(move |event| event.key.starts_with(prefix))
    }

    /// An event of its own from one revision to another.
    fn between(&self, from: Revision, to: Revision, prefix: &[u8]) -> Option<&Event> {
        if from > to {
            return None;
        }
        self.happened.range(from..=to).flat_map(|(_, events)| events).find(|event| event.key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: Revision, key: &str, value: &str) -> Event {
        let value = (!value.is_empty()).then(|| value.as_bytes().to_vec());
        Event { revision, key: key.into(), value }
    }

    fn world() -> Watches {
        let mut watches = Watches::default();
        for revision in [
            vec![event(2, "a", "1")],
            vec![event(3, "a", "2"), event(3, "b", "1")],
            vec![event(4, "c", "1")],
            vec![event(5, "a", ""), event(5, "c", "2")],
        ] {
            watches.happened(revision[0].revision, revision).expect("one history");
        }
        watches.compacted(3);
        watches
    }

    fn judged(prefix: &str, told: &[Told]) -> Result<Figures, &'static str> {
        let mut watches = world();
        told.iter().for_each(|told| watches.told(1, prefix.as_bytes(), told.clone()));
        watches.check().map_err(|broken| broken.promise)
    }

    #[test]
    fn what_happened_is_explained() {
        use Told::*;
        let all = [
            Asked(2),
            Events(vec![event(2, "a", "1"), event(3, "a", "2")], true),
            Events(vec![event(3, "b", "1")], false),
            Progress(4 - 1),
            Asked(4),
            Events(vec![event(4, "c", "1"), event(5, "a", ""), event(5, "c", "2")], false),
            Progress(9),
        ];
        let figures = judged("", &all).expect("as it happened");
        assert_eq!((figures.told, figures.resumed, figures.progress), (6, 1, 2));
        assert!(
            judged("c", &[Asked(2), Events(vec![event(4, "c", "1")], false), Events(vec![event(5, "c", "2")], false)])
                .is_ok()
        );
        assert!(
            judged("", &[Asked(2), Compacted(3), Events(vec![event(3, "a", "2"), event(3, "b", "1")], false)]).is_ok()
        );
    }

    #[test]
    fn every_broken_promise_has_its_name() {
        use Told::*;
        let one = || Events(vec![event(2, "a", "1")], false);
        let three = || Events(vec![event(3, "a", "2"), event(3, "b", "1")], false);
        for (promise, told) in [
            ("reliable", vec![Asked(2), Events(vec![event(3, "b", "1"), event(3, "a", "2")], false)]),
            ("ordered", vec![Asked(3), Events(vec![event(3, "b", "1"), event(3, "a", "2")], false)]),
            ("ordered", vec![Asked(2), Events(vec![event(2, "a", "9")], false)]),
            ("unique", vec![Asked(2), one(), one()]),
            ("unique", vec![Asked(3), Events(vec![event(3, "a", "2"), event(3, "a", "2")], false)]),
            ("atomic", vec![Asked(3), Events(vec![event(3, "a", "2")], false)]),
            ("atomic", vec![Asked(3), Events(vec![event(3, "a", "2")], true), Progress(3)]),
            ("reliable", vec![Asked(2), three()]),
            ("reliable", vec![Asked(2), one(), Progress(3)]),
            (
                "reliable",
                vec![Asked(5), Events(vec![event(5, "a", ""), event(5, "c", "2")], false), Asked(3), Progress(3)],
            ),
            ("bookmarkable", vec![Asked(2), one(), three(), Progress(3), three()]),
            ("honest", vec![Asked(2), Compacted(4)]),
            ("honest", vec![Asked(3), Compacted(3)]),
        ] {
            assert_eq!(judged("", &told), Err(promise), "{told:?}");
        }
        let mut watches = world();
        assert!(watches.happened(2, vec![event(2, "a", "2")]).is_err());
        watches.acknowledged(event(9, "a", "1"));
        assert_eq!(watches.check().map_err(|broken| broken.promise), Err("lost write"));
    }
}

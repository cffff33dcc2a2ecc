//! Whether one order explains what clients saw of any object at all.
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 1993) with Lowe's memory of what was tried
//! ("Testing for Linearizability", CCPE 2017): in the worst case exponential, where [`crate::List`] takes n log n steps for the one
//! object that it knows. It is the judge of that judge: both must say the same of small histories of lists, and it alone reads
//! registers, of which there are published histories with known verdicts.

use std::collections::BTreeSet;

use crate::Moment;

/// An operation that a client saw.
#[derive(Clone, Debug)]
pub struct Operation<T> {
    /// What was asked and answered.
    pub what: T,
    /// When it was asked.
    pub begun: Moment,
    /// When it was answered; [`Moment::MAX`] if it never was: then it may take effect at any time, or never.
    pub ended: Moment,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Explained,
    /// There is none.
    Contradicted,
    /// So many steps found neither.
    TooMuch,
}

/// Looks for an order of these operations on one object, in which none stands before another one that had ended when it began.
/// `step` is the object: what state an operation leaves, or `None` if it cannot have been answered like that in this state. An
/// operation of unknown outcome must be possible in any state.
pub fn check<S: Clone + Ord, T>(
    start: S,
    step: impl Fn(&S, &T) -> Option<S>,
    operations: &[Operation<T>],
    steps_max: u64,
) -> Verdict {
    let mut line = Line::new(operations);
    let mut open = operations.iter().filter(|operation| operation.ended != Moment::MAX).count();
    let mut placed = vec![0u64; operations.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, S)> = BTreeSet::new();
    let mut taken: Vec<(usize, S)> = Vec::new();
    let (mut state, mut at) = (start, line.first());
    for _ in 0..steps_max {
        // Whatever was never answered may as well never have happened.
        if open == 0 {
            return Verdict::Explained;
        }
        if let Some(operation) = line.begins(at) {
            let what = &operations[operation];
            if let Some(after) = step(&state, &what.what) {
                placed[operation / 64] |= 1 << (operation % 64);
                if seen.insert((placed.clone(), after.clone())) {
                    taken.push((operation, std::mem::replace(&mut state, after)));
                    line.lift(operation);
                    open -= usize::from(what.ended != Moment::MAX);
                    at = line.first();
                    continue;
                }
                placed[operation / 64] &= !(1 << (operation % 64));
            }
            at = line.after(at);
        } else {
            // An end: one of those before it has to stand here, and none can.
            let Some((operation, before)) = taken.pop() else { return Verdict::Contradicted };
            state = before;
            placed[operation / 64] &= !(1 << (operation % 64));
            line.put_back(operation);
            open += usize::from(operations[operation].ended != Moment::MAX);
            at = line.after(line.begin_of[operation]);
        }
    }
    Verdict::TooMuch
}

/// Begins and ends by time, as a list from which operations are taken and put back in reverse order.
struct Line {
    /// Of each place: which operation begins, or `None` for an end. Place 0 stands before the first and behind the last.
    events: Vec<Option<usize>>,
    next: Vec<usize>,
    before: Vec<usize>,
    begin_of: Vec<usize>,
    /// 0 for one that never ended.
    end_of: Vec<usize>,
}

impl Line {
    fn new<T>(operations: &[Operation<T>]) -> Line {
        let mut events: Vec<(Moment, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            events.push((operation.begun, false, number));
            if operation.ended != Moment::MAX {
                events.push((operation.ended, true, number));
            }
        }
        // What begins at the moment at which something ends is beside it, not behind it.
        events.sort_unstable();
        let places = events.len() + 1;
        let (mut begin_of, mut end_of) = (vec![0; operations.len()], vec![0; operations.len()]);
        for (at, (_, is_end, number)) in events.iter().enumerate() {
            let of = if *is_end { &mut end_of } else { &mut begin_of };
            of[*number] = at + 1;
        }
        Line {
            events: std::iter::once(None).chain(events.iter().map(|event| (!event.1).then_some(event.2))).collect(),
            next: (0..places).map(|at| (at + 1) % places).collect(),
            before: (0..places).map(|at| (at + places - 1) % places).collect(),
            begin_of,
            end_of,
        }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    fn begins(&self, at: usize) -> Option<usize> {
        self.events[at]
    }

    fn places(&self, operation: usize) -> [usize; 2] {
        [self.begin_of[operation], self.end_of[operation]]
    }

    fn lift(&mut self, operation: usize) {
        for at in self.places(operation).into_iter().filter(|at| *at != 0) {
            let (before, next) = (self.before[at], self.next[at]);
            (self.next[before], self.before[next]) = (next, before);
        }
    }

    fn put_back(&mut self, operation: usize) {
        for at in self.places(operation).into_iter().rev().filter(|at| *at != 0) {
            let (before, next) = (self.before[at], self.next[at]);
            (self.next[before], self.before[next]) = (at, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Operation, Verdict, check};
    use crate::{List, Moment, Outcome};

    /// Of a list that only grows.
    #[derive(Clone, Debug)]
    enum Seen {
        /// With the length that was answered.
        Append(u64, Option<u64>),
        Read(Vec<u64>),
    }

    fn list(state: &Vec<u64>, seen: &Seen) -> Option<Vec<u64>> {
        match seen {
            Seen::Append(value, length) => {
                let mut after = state.clone();
                after.push(*value);
                length.is_none_or(|length| length == after.len() as u64).then_some(after)
            }
            Seen::Read(values) => (values == state).then(|| state.clone()),
        }
    }

    fn verdicts(history: &[Operation<Seen>]) -> (Verdict, Result<(), String>) {
        let mut own = List::default();
        for Operation { what, begun, ended } in history {
            match what {
                Seen::Append(value, length) => {
                    let append = own.begin(*value, *begun);
                    own.end(
                        append,
                        match (*ended, length) {
                            (Moment::MAX, _) => Outcome::Unknown,
                            (ended, Some(length)) => Outcome::Done(ended, *length),
                            (ended, None) => Outcome::Stored(ended),
                        },
                    );
                }
                Seen::Read(values) => own.read(values.clone(), *begun, *ended),
            }
        }
        (check(Vec::new(), list, history, 1 << 20), own.check())
    }

    /// Some operations at random moments, each taking effect at one between; then, often, something is spoiled.
    fn draw(seed: u64) -> Vec<Operation<Seen>> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % bound
        };
        let has_lengths = below(2) == 0;
        let mut effects: Vec<(Moment, usize)> = Vec::new();
        let mut history: Vec<Operation<Seen>> = Vec::new();
        for number in 0..2 + below(8) as usize {
            let begun = 1 + below(40);
            let effect = begun + below(10);
            let is_append = below(2) == 0;
            let what = if is_append { Seen::Append(number as u64, None) } else { Seen::Read(Vec::new()) };
            let is_lost = is_append && below(4) == 0;
            let ended = if is_lost { Moment::MAX } else { effect + below(10) };
            history.push(Operation { what, begun, ended });
            if !is_lost || below(2) == 0 {
                effects.push((effect, number));
            }
        }
        // What all of it came to is read in the end, as every run does: an append that was answered with its length is there.
        history.push(Operation { what: Seen::Read(Vec::new()), begun: 100, ended: 101 });
        effects.push((100, history.len() - 1));
        effects.sort_unstable();
        let mut values = Vec::new();
        for (_, number) in effects {
            match &mut history[number] {
                Operation { what: Seen::Append(value, length), ended, .. } => {
                    values.push(*value);
                    *length = (has_lengths && *ended != Moment::MAX).then_some(values.len() as u64);
                }
                Operation { what: Seen::Read(seen), .. } => seen.clone_from(&values),
            }
        }
        let spoiled = below(history.len() as u64) as usize;
        let by = 1 + below(8);
        match (&mut history[spoiled], below(4)) {
            (Operation { what: Seen::Read(seen), .. }, 0) => drop(seen.pop()),
            (Operation { what: Seen::Read(seen), .. }, 1) if seen.len() > 1 => seen.swap(0, 1),
            (Operation { begun, ended, .. }, 2) if *ended != Moment::MAX => {
                (*begun, *ended) = (*begun + by, *ended + by)
            }
            (Operation { begun, ended, .. }, 3) if *ended != Moment::MAX && *begun > by => {
                (*begun, *ended) = (*begun - by, *ended - by);
            }
            _ => {}
        }
        history
    }

    #[test]
    fn both_judges_say_the_same_of_lists() {
        let mut counts = [0; 2];
        for seed in 0..20_000 {
            let history = draw(seed);
            let (verdict, own) = verdicts(&history);
            assert_eq!(verdict == Verdict::Explained, own.is_ok(), "seed {seed}: {verdict:?}, {own:?}: {history:#?}");
            assert_ne!(verdict, Verdict::TooMuch);
            counts[usize::from(own.is_ok())] += 1;
        }
        assert!(counts.iter().all(|count| *count > 2_000), "both verdicts occur: {counts:?}");
    }

    #[test]
    fn a_search_is_bounded() {
        let at_once = |number| Operation { what: Seen::Append(number, None), begun: 1, ended: 9 };
        let mut history: Vec<Operation<Seen>> = (0..40).map(at_once).collect();
        history.push(Operation { what: Seen::Read(vec![99]), begun: 10, ended: 11 });
        assert_eq!(check(Vec::new(), list, &history, 10_000), Verdict::TooMuch);
    }
}

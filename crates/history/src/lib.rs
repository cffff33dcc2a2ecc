//! What clients saw of lists that only grow, and whether one order of all operations explains it (linearizability).
//!
//! Every appended value is new, so the longest list read is the order of the appends, and all that remains is to ask whether
//! that order contradicts anything: a read that is no prefix of it, an acknowledged append that is not in it, a value that
//! nobody appended, or two operations of which one ended before the other began but that stand the other way round. For such
//! histories this is complete, and takes n log n steps (Kingsbury and Alvaro, "Elle", VLDB 2020, on traceable lists).

pub mod linear;
pub mod stream;
pub mod transactions;
pub mod watch;

use std::collections::BTreeMap;

/// A moment, nanoseconds.
pub type Moment = u64;

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged at this moment, with the list's length behind it.
    Done(Moment, u64),
    /// Acknowledged at this moment, and that is all.
    Stored(Moment),
    /// It surely did not happen.
    Refused,
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Append {
    value: u64,
    begun: Moment,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
struct Read {
    list: Vec<u64>,
    begun: Moment,
    ended: Moment,
}

/// All operations on one list.
#[derive(Clone, Debug, Default)]
pub struct List {
    appends: Vec<Append>,
    reads: Vec<Read>,
}

impl List {
    /// An append begins. Its number, for [`List::end`].
    pub fn begin(&mut self, value: u64, now: Moment) -> usize {
        self.appends.push(Append { value, begun: now, outcome: Outcome::Unknown });
        self.appends.len() - 1
    }

    /// An append ended like this.
    pub fn end(&mut self, append: usize, outcome: Outcome) {
        self.appends[append].outcome = outcome;
    }

    /// The value of the append with this number.
    pub fn value(&self, append: usize) -> u64 {
        self.appends[append].value
    }

    /// A read was answered.
    pub fn read(&mut self, list: Vec<u64>, begun: Moment, ended: Moment) {
        self.reads.push(Read { list, begun, ended });
    }

    /// Operations so far.
    pub fn len(&self) -> usize {
        self.appends.len() + self.reads.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one order explains everything.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        let none = Vec::new();
        let order = self.reads.iter().map(|read| &read.list).max_by_key(|list| list.len()).unwrap_or(&none);
        let mut places = BTreeMap::new();
        for (place, value) in order.iter().enumerate() {
            if places.insert(*value, place as u64).is_some() {
                return Err(format!("value {value} is there twice: {order:?}"));
            }
        }
        // (begun, ended, slot): append i stands at 2i + 1, a read of n values at 2n.
        let mut operations = Vec::new();
        let mut found = 0;
        for Append { value, begun, outcome } in &self.appends {
            let place = places.get(value);
            found += usize::from(place.is_some());
            match (outcome, place) {
                (Outcome::Done(ended, length), Some(place)) => {
                    if *length != place + 1 {
                        return Err(format!("append of {value} was answered {length}, but it is value {}", place + 1));
                    }
                    operations.push((*begun, *ended, 2 * place + 1, *value));
                }
                (Outcome::Done(ended, _), None) => {
                    return Err(format!("append of {value}, acknowledged at {ended}, is lost: {order:?}"));
                }
                (Outcome::Stored(ended), Some(place)) => operations.push((*begun, *ended, 2 * place + 1, *value)),
                // Nobody has read it yet: somewhere behind all that was read.
                (Outcome::Stored(ended), None) => operations.push((*begun, *ended, 2 * order.len() as u64 + 1, *value)),
                (Outcome::Refused, Some(_)) => return Err(format!("append of {value} was refused and happened")),
                (Outcome::Unknown, Some(place)) => operations.push((*begun, Moment::MAX, 2 * place + 1, *value)),
                (Outcome::Refused | Outcome::Unknown, None) => {}
            }
        }
        if found < order.len() {
            return Err(format!("a value that nobody appended: {order:?}"));
        }
        for Read { list, begun, ended } in &self.reads {
            if order[..list.len()] != list[..] {
                return Err(format!("a read of {list:?} is no prefix of {order:?}"));
            }
            operations.push((*begun, *ended, 2 * list.len() as u64, 0));
        }
        real_time(&operations)
    }
}

/// Nothing that ended before something else began stands behind it.
fn real_time(operations: &[(Moment, Moment, u64, u64)]) -> Result<(), String> {
    let mut by_begin: Vec<_> = operations.iter().collect();
    by_begin.sort_unstable();
    let mut by_end: Vec<_> = operations.iter().collect();
    by_end.sort_unstable_by_key(|operation| operation.1);
    let mut ended = by_end.into_iter().peekable();
    let mut last = &(0, 0, 0, 0);
    for operation in by_begin {
        while let Some(before) = ended.next_if(|before| before.1 < operation.0) {
            if before.2 > last.2 {
                last = before;
            }
        }
        if last.2 > operation.2 {
            let name = |o: &(Moment, Moment, u64, u64)| match o.2 % 2 {
                1 => format!("the append of {} (place {}, {}..{})", o.3, o.2 / 2 + 1, o.0, o.1),
                _ => format!("a read of {} values ({}..{})", o.2 / 2, o.0, o.1),
            };
            return Err(format!("{} ended before {} began, but stands behind it", name(last), name(operation)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{List, Outcome};

    fn list(appends: &[(u64, u64, Outcome)], reads: &[(&[u64], u64, u64)]) -> Result<(), String> {
        let mut list = List::default();
        for (value, begun, outcome) in appends {
            let append = list.begin(*value, *begun);
            list.end(append, *outcome);
        }
        for (values, begun, ended) in reads {
            list.read(values.to_vec(), *begun, *ended);
        }
        list.check()
    }

    #[test]
    fn what_one_order_explains_passes() {
        use Outcome::{Done, Refused, Unknown};
        assert_eq!(list(&[], &[(&[], 1, 2)]), Ok(()));
        assert_eq!(
            list(&[(7, 1, Done(5, 1)), (8, 2, Done(4, 2))], &[(&[7, 8], 6, 7)]),
            Ok(()),
            "concurrent: either first"
        );
        assert_eq!(list(&[(7, 1, Unknown), (8, 2, Unknown), (9, 2, Refused)], &[(&[8], 3, 4), (&[8], 9, 10)]), Ok(()));
        assert_eq!(list(&[(7, 1, Unknown)], &[(&[], 50, 60), (&[7], 61, 62)]), Ok(()), "it may happen late");
    }

    #[test]
    fn what_none_explains_is_named() {
        use Outcome::{Done, Refused, Unknown};
        let wrong = |appends: &[_], reads: &[_]| list(appends, reads).unwrap_err();
        assert!(wrong(&[(7, 1, Done(2, 1))], &[(&[], 3, 4)]).contains("lost"));
        assert!(wrong(&[(7, 1, Done(2, 1))], &[(&[], 3, 4), (&[7], 5, 6)]).contains("ended before"), "a stale read");
        assert!(wrong(&[(7, 1, Done(2, 1)), (8, 3, Done(4, 1))], &[(&[8, 7], 5, 6)]).contains("answered"));
        assert!(wrong(&[(7, 1, Done(2, 2)), (8, 3, Done(4, 1))], &[(&[8, 7], 5, 6)]).contains("ended before"));
        assert!(wrong(&[(7, 1, Unknown)], &[(&[7], 3, 4), (&[], 5, 6)]).contains("ended before"), "a read goes back");
        assert!(wrong(&[(7, 5, Unknown)], &[(&[7], 3, 4)]).contains("ended before"), "read before it was begun");
        assert!(wrong(&[(7, 1, Refused)], &[(&[7], 3, 4)]).contains("refused"));
        assert!(wrong(&[], &[(&[9], 3, 4)]).contains("nobody"));
        assert!(wrong(&[(7, 1, Unknown)], &[(&[7, 7], 3, 4)]).contains("twice"));
        let both = [(7, 1, Unknown), (8, 1, Unknown)];
        assert!(wrong(&both, &[(&[7, 8], 3, 4), (&[8], 3, 4)]).contains("prefix"));
    }
}

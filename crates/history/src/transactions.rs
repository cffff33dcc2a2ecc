//! What clients saw of transactions over lists that only grow, and whether one order of all transactions explains it that agrees
//! with the clock (strict serializability).
//!
//! Every appended value is new, so the longest read of a list is the order of its appends, and every dependency can be read off: who
//! wrote what another one read, who wrote behind another one, who read before another one wrote, and who ended before another
//! one began. The history is strictly serializable if and only if these form no cycle (Adya, "Weak Consistency", 1999; Kingsbury and
//! Alvaro, "Elle", VLDB 2020), given that all that happened is read in the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::Moment;

/// A list's name.
pub type ListId = u64;

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A value is appended; the list's length behind it, where that was answered.
    Append(ListId, u64, Option<u64>),
    /// A list is read; what was in it, where that was answered.
    Read(ListId, Option<Vec<u64>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    At(Moment),
    Refused,
    Unknown,
}

#[derive(Clone, Debug)]
struct Transaction {
    steps: Vec<Step>,
    begun: Moment,
    ended: Ended,
}

/// All transactions.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    all: Vec<Transaction>,
}

/// Why one comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Wrote(ListId),
    WroteWhatWasRead(ListId),
    ReadBefore(ListId),
    Time,
}

impl Transactions {
    /// A transaction begins; its number.
    pub fn begin(&mut self, steps: Vec<Step>, now: Moment) -> usize {
        self.all.push(Transaction { steps, begun: now, ended: Ended::Unknown });
        self.all.len() - 1
    }

    /// Its steps, as they were asked for.
    pub fn steps(&self, number: usize) -> &[Step] {
        &self.all[number].steps
    }

    /// It was done, and this was answered: the steps with their lengths and lists, as far as they are known.
    pub fn done(&mut self, number: usize, steps: Vec<Step>, now: Moment) {
        let own = &mut self.all[number];
        (own.steps, own.ended) = (steps, Ended::At(now));
    }

    /// It surely did not happen.
    pub fn refused(&mut self, number: usize) {
        self.all[number].ended = Ended::Refused;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one order explains everything.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        let orders = self.orders()?;
        let happened = self.happened(&orders)?;
        let mut edges: Vec<Vec<(usize, Why)>> = vec![Vec::new(); self.all.len()];
        let writers = |list: ListId| orders.get(&list).map(|order| order.writers.as_slice()).unwrap_or_default();
        let mut edge = |from: usize, to: usize, why| {
            if from != to {
                edges[from].push((to, why));
            }
        };
        for (list, order) in &orders {
            for pair in order.writers.windows(2) {
                edge(pair[0], pair[1], Why::Wrote(*list));
            }
        }
        for (number, own) in self.all.iter().enumerate().filter(|(number, _)| happened.contains(number)) {
            for step in &own.steps {
                let Step::Read(list, Some(values)) = step else { continue };
                let writers = writers(*list);
                if let Some(last) = values.len().checked_sub(1) {
                    edge(writers[last], number, Why::WroteWhatWasRead(*list));
                }
                if let Some(next) = writers.get(values.len()) {
                    edge(number, *next, Why::ReadBefore(*list));
                }
            }
        }
        self.no_cycle(edges, &happened)
    }

    /// The order of each list's values, and whose they are.
    fn orders(&self) -> Result<BTreeMap<ListId, Order>, String> {
        let mut longest: BTreeMap<ListId, &[u64]> = BTreeMap::new();
        let mut appended: BTreeMap<(ListId, u64), usize> = BTreeMap::new();
        for (number, own) in self.all.iter().enumerate() {
            for step in &own.steps {
                match step {
                    Step::Append(list, value, _) => {
                        if appended.insert((*list, *value), number).is_some() {
                            return Err(format!(
                                "value {value} of list {list} is appended twice: the harness is wrong"
                            ));
                        }
                        longest.entry(*list).or_default();
                    }
                    Step::Read(list, Some(values)) => {
                        let known = longest.entry(*list).or_default();
                        if values.len() > known.len() {
                            *known = values;
                        }
                    }
                    Step::Read(_, None) => {}
                }
            }
        }
        let mut orders = BTreeMap::new();
        for (list, values) in longest {
            let mut seen = BTreeSet::new();
            let mut writers = Vec::new();
            for value in values {
                if !seen.insert(*value) {
                    return Err(format!("value {value} is there twice in list {list}: {values:?}"));
                }
                let writer = appended.get(&(list, *value));
                writers.push(*writer.ok_or_else(|| format!("list {list} holds {value}, which nobody appended"))?);
            }
            let places = values.iter().enumerate().map(|(place, value)| (*value, place)).collect();
            orders.insert(list, Order { values: values.to_vec(), places, writers });
        }
        Ok(orders)
    }

    /// Those that happened; each as a whole.
    fn happened(&self, orders: &BTreeMap<ListId, Order>) -> Result<BTreeSet<usize>, String> {
        let mut happened = BTreeSet::new();
        for (number, own) in self.all.iter().enumerate() {
            let (mut there, mut missing) = (None, None);
            // Where the transaction stands in each list it has touched so far.
            let mut own_places: BTreeMap<ListId, usize> = BTreeMap::new();
            for step in &own.steps {
                match step {
                    Step::Append(list, value, length) => {
                        let place = orders.get(list).and_then(|order| order.places.get(value)).copied();
                        match place {
                            None => missing = Some((*list, *value)),
                            Some(place) => {
                                there = Some((*list, *value));
                                if length.is_some_and(|length| length != place as u64 + 1) {
                                    return Err(format!(
                                        "append of {value} to list {list} was answered {length:?}, but it is value {}",
                                        place + 1
                                    ));
                                }
                                if own_places.insert(*list, place + 1).is_some_and(|before| before > place) {
                                    return Err(format!("{own:?} appended in another order than it asked for"));
                                }
                            }
                        }
                    }
                    Step::Read(list, Some(values)) => {
                        let order = orders.get(list).map(|order| order.values.as_slice()).unwrap_or_default();
                        if order[..values.len()] != values[..] {
                            return Err(format!("a read of {values:?} is no prefix of list {list}, {order:?}"));
                        }
                        if own_places.get(list).is_some_and(|before| *before > values.len()) {
                            return Err(format!("{own:?} does not see what it did itself"));
                        }
                    }
                    Step::Read(_, None) => {}
                }
            }
            match (own.ended, there, missing) {
                (_, Some((list, value)), Some((other, gone))) => {
                    return Err(format!(
                        "a transaction of two parts: {value} is in list {list}, and {gone} is not in list {other}: {own:?}"
                    ));
                }
                (Ended::Refused, Some((list, value)), _) => {
                    return Err(format!("the append of {value} to list {list} was refused and happened"));
                }
                (Ended::At(at), _, Some((list, value))) => {
                    return Err(format!("append of {value} to list {list}, acknowledged at {at}, is lost"));
                }
                (Ended::At(_), ..) | (Ended::Unknown, Some(_), _) => drop(happened.insert(number)),
                _ => {}
            }
        }
        Ok(happened)
    }

    fn no_cycle(&self, mut edges: Vec<Vec<(usize, Why)>>, happened: &BTreeSet<usize>) -> Result<(), String> {
        // A line of moments: who ended stands before it, and who begins behind it.
        let mut moments: Vec<(Moment, bool, usize)> = Vec::new();
        for number in happened {
            let own = &self.all[*number];
            moments.push((own.begun, false, *number));
            if let Ended::At(at) = own.ended {
                moments.push((at, true, *number));
            }
        }
        moments.sort_unstable();
        let mut line: Option<usize> = None;
        for (_, ends, number) in moments {
            if ends {
                edges.push(Vec::new());
                let next = edges.len() - 1;
                edges[number].push((next, Why::Time));
                if let Some(before) = line.replace(next) {
                    edges[before].push((next, Why::Time));
                }
            } else if let Some(line) = line {
                edges[line].push((number, Why::Time));
            }
        }
        let mut before = vec![0_usize; edges.len()];
        edges.iter().flatten().for_each(|(to, _)| before[*to] += 1);
        let mut free: Vec<usize> = (0..edges.len()).filter(|node| before[*node] == 0).collect();
        let mut done = vec![false; edges.len()];
        while let Some(node) = free.pop() {
            done[node] = true;
            for (to, _) in &edges[node] {
                before[*to] -= 1;
                if before[*to] == 0 {
                    free.push(*to);
                }
            }
        }
        match done.iter().position(|done| !done) {
            None => Ok(()),
            Some(_) => Err(self.cycle(&edges, &done)),
        }
    }

    /// A cycle among those that are left, in words; a short one.
    fn cycle(&self, edges: &[Vec<(usize, Why)>], done: &[bool]) -> String {
        let mut shortest: Option<Vec<(usize, Why)>> = None;
        for start in (0..self.all.len()).filter(|node| !done[*node]).take(200) {
            let mut from: BTreeMap<usize, (usize, Why)> = BTreeMap::new();
            let mut next = std::collections::VecDeque::from([start]);
            while let Some(node) = next.pop_front() {
                for (to, why) in edges[node].iter().filter(|(to, _)| !done[*to]) {
                    if from.contains_key(to) {
                        continue;
                    }
                    from.insert(*to, (node, *why));
                    next.push_back(*to);
                }
                if from.contains_key(&start) {
                    break;
                }
            }
            let mut path = Vec::new();
            let mut at = start;
            while let Some((before, why)) = from.get(&at) {
                path.push((*before, *why));
                at = *before;
                if at == start {
                    break;
                }
            }
            if at == start && !path.is_empty() && shortest.as_ref().is_none_or(|known| path.len() < known.len()) {
                path.reverse();
                shortest = Some(path);
            }
        }
        let path = shortest.unwrap_or_default();
        let words: Vec<String> = path
            .iter()
            .filter(|(node, _)| *node < self.all.len())
            .map(|(node, why)| {
                let Transaction { steps, begun, ended } = &self.all[*node];
                let why = match why {
                    Why::Wrote(list) => format!("appends before it to list {list}"),
                    Why::WroteWhatWasRead(list) => format!("appends what it reads of list {list}"),
                    Why::ReadBefore(list) => format!("reads list {list} before it appends"),
                    Why::Time => "ends before it begins".to_owned(),
                };
                format!("T{node} {steps:?} ({begun}..{ended:?}) {why}")
            })
            .collect();
        format!("no order explains these transactions, each of which comes before the next: {}", words.join("; "))
    }
}

#[derive(Debug)]
struct Order {
    values: Vec<u64>,
    places: BTreeMap<u64, usize>,
    writers: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::Step::{Append, Read};
    use super::{Step, Transactions};

    fn history(all: &[(Vec<Step>, u64, Option<u64>)]) -> Result<(), String> {
        let mut own = Transactions::default();
        for (steps, begun, ended) in all {
            let number = own.begin(steps.clone(), *begun);
            if let Some(ended) = ended {
                own.done(number, steps.clone(), *ended);
            }
        }
        own.check()
    }

    fn append(list: u64, value: u64) -> Step {
        Append(list, value, None)
    }

    fn read(list: u64, values: &[u64]) -> Step {
        Read(list, Some(values.to_vec()))
    }

    #[test]
    fn what_one_order_explains_passes() {
        assert_eq!(history(&[]), Ok(()));
        let both = vec![append(1, 10), append(2, 20)];
        assert_eq!(history(&[(both.clone(), 1, Some(5)), (vec![read(1, &[10]), read(2, &[20])], 2, Some(3))]), Ok(()));
        assert_eq!(history(&[(both.clone(), 1, None), (vec![read(1, &[]), read(2, &[])], 9, Some(10))]), Ok(()));
        let own = vec![read(1, &[]), append(1, 10), read(1, &[10]), Append(1, 11, Some(2))];
        assert_eq!(history(&[(own, 1, Some(2)), (vec![read(1, &[10, 11])], 3, Some(4))]), Ok(()));
    }

    #[test]
    fn what_none_explains_is_named() {
        let wrong = |all: &[(Vec<Step>, u64, Option<u64>)]| history(all).unwrap_err();
        let both = vec![append(1, 10), append(2, 20)];
        let last = (vec![read(1, &[10]), read(2, &[20])], 90, Some(91));
        // A read between two shards' parts.
        let torn = vec![read(1, &[10]), read(2, &[])];
        assert!(wrong(&[(both.clone(), 1, Some(5)), (torn, 2, Some(3)), last.clone()]).contains("no order"));
        let half = vec![read(1, &[10]), read(2, &[])];
        assert!(wrong(&[(both.clone(), 1, None), (half, 9, Some(10))]).contains("two parts"));
        assert!(
            wrong(&[(both.clone(), 1, Some(2)), (vec![read(1, &[])], 3, Some(4)), last.clone()]).contains("no order")
        );
        assert!(wrong(&[(both, 1, Some(2)), (vec![read(1, &[]), read(2, &[])], 3, Some(4))]).contains("lost"));
        // Write skew: each reads what the other one has not written yet.
        let skew = [
            (vec![read(1, &[]), append(2, 20)], 1, Some(5)),
            (vec![read(2, &[]), append(1, 10)], 1, Some(5)),
            (vec![read(1, &[10]), read(2, &[20])], 9, Some(10)),
        ];
        assert!(wrong(&skew).contains("no order"));
        let mut own = Transactions::default();
        let number = own.begin(vec![append(1, 10)], 1);
        own.refused(number);
        let number = own.begin(vec![Read(1, None)], 2);
        own.done(number, vec![read(1, &[10])], 3);
        assert!(own.check().unwrap_err().contains("refused"));
        let twice = [(vec![append(1, 10)], 1, Some(2)), (vec![read(1, &[10, 10])], 3, Some(4))];
        assert!(wrong(&twice).contains("twice"));
        assert!(wrong(&[(vec![read(1, &[3])], 3, Some(4))]).contains("nobody"));
        assert!(
            wrong(&[(vec![Append(1, 10, Some(2))], 1, Some(2)), (vec![read(1, &[10])], 3, Some(4))])
                .contains("answered")
        );
    }

    #[test]
    fn histories_of_one_order_pass_and_one_step_moved_does_not() {
        // A machine that does one transaction after the other, each somewhere between its begin and its end.
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut lists = vec![Vec::new(); 3];
        let mut all = Vec::new();
        for at in 1..200_u64 {
            let mut steps = Vec::new();
            for step in 0..1 + draw(3) {
                let list = draw(3);
                if draw(2) == 0 {
                    lists[list as usize].push(at * 10 + step);
                    steps.push(Append(list, at * 10 + step, Some(lists[list as usize].len() as u64)));
                } else {
                    steps.push(read(list, &lists[list as usize]));
                }
            }
            all.push((steps, at * 100 - draw(300).min(at * 100), Some(at * 100 + draw(300))));
        }
        let whole: Vec<Step> = (0..3).map(|list| read(list, &lists[list as usize])).collect();
        all.push((whole, 1_000_000, Some(1_000_001)));
        assert_eq!(history(&all), Ok(()));
        let mut caught = 0;
        for at in 0..all.len() {
            let mut other = all.clone();
            let stale = other[at].0.iter_mut().find_map(|step| match step {
                Read(_, Some(values)) if values.len() > 8 => Some(values),
                _ => None,
            });
            if let Some(values) = stale {
                values.truncate(values.len() - 8);
                caught += 1;
                assert!(history(&other).is_err(), "a read at {at} that is eight appends old");
            }
        }
        assert!(caught > 50);
    }
}

//! The registry for people: how many services and instances there are, how they are, and the services that deserve a look.

use std::cmp::Reverse;
use std::collections::VecDeque;

use discovery::Catalog;
use discovery::model::Status;
use discovery::watch::Watch;
use serde::Serialize;

/// Services that are listed; the others are counted.
pub const LISTED_MAX: usize = 40;
/// Moments that [`Times`] remembers.
const MOMENTS_MAX: usize = 1024;

/// What is registered. Times are milliseconds since the Unix epoch; 0 is before this start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Registry {
    /// Nodes.
    pub nodes: u64,
    /// Services by name.
    pub services: u64,
    /// Instances, by the worst of their checks and their node's.
    pub instances: Health,
    /// Checks.
    pub checks: u64,
    /// Keys of the key-value tree.
    pub keys: u64,
    /// The index of the last change of anything, as `X-Consul-Index` tells it.
    pub index: u64,
    /// When that was.
    pub changed_ms: u64,
    /// Queries of the Consul door that wait for a change.
    pub waiting: u64,
    /// Some services, those in trouble first, then those that changed last.
    pub listed: Vec<Service>,
}

/// Instances by how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// All checks pass.
    pub passing: u64,
    /// One warns, none is critical.
    pub warning: u64,
    /// One is critical: no traffic.
    pub critical: u64,
}

impl Health {
    fn count(&mut self, status: Status) {
        *match status {
            Status::Passing => &mut self.passing,
            Status::Warning => &mut self.warning,
            Status::Critical => &mut self.critical,
        } += 1;
    }

    fn add(&mut self, other: Health) {
        self.passing += other.passing;
        self.warning += other.warning;
        self.critical += other.critical;
    }
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its instances.
    pub instances: Health,
    /// The index of its last change.
    pub index: u64,
    /// When that was.
    pub changed_ms: u64,
}

/// Looks at the registry. Costs a walk over all instances.
pub fn look(catalog: &Catalog, times: &Times) -> Registry {
    let counts = catalog.counts();
    let mut all = Health::default();
    let mut services = Vec::with_capacity(counts.services);
    for (name, instances) in catalog.services() {
        let mut health = Health::default();
        instances.for_each(|one| health.count(one.status()));
        all.add(health);
        services.push((health, catalog.last_change(&Watch::Service(name.to_owned())).0, name));
    }
    fn order<'a>((health, index, name): &(Health, u64, &'a str)) -> (Reverse<u8>, Reverse<u64>, &'a str) {
        let is_down = health.passing + health.warning == 0;
        let trouble = if is_down {
            3
        } else if health.critical > 0 {
            2
        } else {
            u8::from(health.warning > 0)
        };
        (Reverse(trouble), Reverse(*index), name)
    }
    services.sort_unstable_by(|one, other| order(one).cmp(&order(other)));
    services.truncate(LISTED_MAX);
    let listed = services.into_iter().map(|(instances, index, name)| Service {
        name: name.to_owned(),
        instances,
        index,
        changed_ms: times.of(index),
    });
    Registry {
        nodes: counts.nodes as u64,
        services: counts.services as u64,
        instances: all,
        checks: counts.checks as u64,
        keys: counts.keys as u64,
        index: catalog.index(),
        changed_ms: times.of(catalog.index()),
        waiting: 0,
        listed: listed.collect(),
    }
}

/// When the registry reached which index. Of long ago it knows fewer and fewer moments, so an old change seems younger than
/// it is by at most a small part of its age.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Index and milliseconds, both rising.
    moments: VecDeque<(u64, u64)>,
}

impl Times {
    /// The registry has this index now. What the first one covers was before the start.
    pub fn note(&mut self, index: u64, now_ms: u64) {
        // Wall clocks may go back; times here do not.
        let now_ms = self.moments.back().map_or(now_ms, |(_, last)| now_ms.max(*last));
        if self.moments.back().is_some_and(|(last, _)| *last >= index) {
            return;
        }
        self.moments.push_back((index, now_ms));
        if self.moments.len() > MOMENTS_MAX {
            // What is missed least: the shortest gap that its loss leaves, by how long ago that is.
            let gap = |at: usize| {
                let (before, after) = (self.moments[at - 1].1, self.moments[at + 1].1);
                (after - before) as f64 / (now_ms - before + 1) as f64
            };
            let least = (1..MOMENTS_MAX).min_by(|one, other| gap(*one).total_cmp(&gap(*other)));
            self.moments.remove(least.expect("there are moments"));
        }
    }

    /// When this index was reached; 0 where that was before the start.
    pub fn of(&self, index: u64) -> u64 {
        let place = self.moments.partition_point(|(known, _)| *known < index);
        match self.moments.get(place) {
            Some((_, at)) if place > 0 => *at,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use discovery::change::Change;
    use discovery::model::{CheckForm, NodeForm, ServiceForm};

    use super::*;

    fn register(catalog: &mut Catalog, index: u64, name: &str, statuses: &[Status]) {
        let service = ServiceForm { id: format!("{name}-{index}"), name: name.into(), ..ServiceForm::default() };
        let check = |(number, status): (usize, &Status)| CheckForm {
            id: format!("{name}-{index}-{number}"),
            name: "c".into(),
            service_id: service.id.clone(),
            status: *status,
            ..CheckForm::default()
        };
        let change = Change::Register {
            node: NodeForm { name: "n".into(), ..NodeForm::default() },
            keep_node: true,
            checks: statuses.iter().enumerate().map(check).collect(),
            service: Some(service),
            replace_checks: false,
        };
        catalog.apply(&change, index);
    }

    #[test]
    fn trouble_is_listed_first_then_what_changed_last() {
        use Status::{Critical, Passing, Warning};
        let mut catalog = Catalog::default();
        let mut times = Times::default();
        for (index, name, statuses) in [
            (1, "old", &[Passing][..]),
            (2, "down", &[Critical, Passing]),
            (3, "half", &[Critical]),
            (4, "half", &[]),
            (5, "warns", &[Warning, Passing]),
            (6, "new", &[]),
        ] {
            register(&mut catalog, index, name, statuses);
            times.note(index, index * 1000);
        }
        let seen = look(&catalog, &times);
        let listed: Vec<_> = seen.listed.iter().map(|one| (one.name.as_str(), one.changed_ms)).collect();
        assert_eq!(listed, [("down", 2000), ("half", 4000), ("warns", 5000), ("new", 6000), ("old", 0)]);
        assert_eq!(seen.instances, Health { passing: 3, warning: 1, critical: 2 });
        assert_eq!((seen.services, seen.index, seen.changed_ms), (5, 6, 6000));
        for index in 7..2000 {
            register(&mut catalog, index, &format!("s{index}"), &[]);
        }
        let seen = look(&catalog, &times);
        assert_eq!((seen.services, seen.listed.len()), (1998, LISTED_MAX));
        assert_eq!(seen.listed[3].name, "s1999");
    }

    #[test]
    fn times_are_bounded_and_the_older_the_rougher() {
        let mut times = Times::default();
        for index in 1..20_000u64 {
            times.note(index, index);
            times.note(index, index + 7);
        }
        assert!(times.moments.len() <= MOMENTS_MAX);
        assert_eq!((times.of(0), times.of(1)), (0, 0));
        assert_eq!(times.of(19_999), 19_999);
        for index in [2, 100, 5_000, 10_000, 15_000, 19_000, 19_900] {
            let (told, age) = (times.of(index), 20_000 - index);
            assert!(told >= index && told - index <= age / 50, "{index} is told as {told}");
        }
        assert_eq!(times.of(1_000_000), 0, "what was not seen yet");
    }
}

//! Health checks of one node: when each runs, what its results mean, and which of them are worth an entry.
//!
//! ```text
//!   sync(catalog) ─► tasks ─► next(now) ─► Probe ─(host: HTTP, TCP)─► finished ─┐
//!                                 │   ttl(pass|warn|fail) ──────────────────────┤
//!                                 └◄─ Propose(Change) ◄── status differs ◄──────┘
//! ```
//!
//! A renewal of a TTL check and a result that confirms the status cost no entry: they stay on the node. What differs from
//! the catalog is proposed until the catalog says the same, so a proposal that was refused or lost is made again.
//!
//! **Invariant:** changes nothing by itself; the catalog's word is the truth, this only compares with it.

use std::collections::{BTreeMap, BTreeSet};

use base::{Duration, Instant, Rng};

use crate::catalog::{Catalog, cut, lower};
use crate::change::Change;
use crate::limits::OUTPUT_BYTES_MAX;
use crate::model::{Check, Definition, Probe, Status};
use crate::watch::Watch;
use flaps::Flaps;

/// The shortest span between two checks (Consul's own bound).
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How long a check may take where it does not say.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest span after which a critical instance is deregistered (Consul's own bound).
pub const DEREGISTER_AFTER_MIN: Duration = Duration::from_secs(60);
/// How long a change of output alone waits before it becomes an entry (Consul's `check_update_interval`).
pub const OUTPUT_EVERY: Duration = Duration::from_secs(300);
/// When a proposal of which nothing is heard is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(5);
/// Checks that run at the same time: so many that some hundred backends which hang do not keep the others' checks waiting.
pub const RUNNING_MAX: usize = 512;

/// What the host has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this check, then say [`Runner::finished`].
    Run {
        /// The check's id.
        check: String,
        /// To be given back.
        run: u64,
        /// How.
        probe: Probe,
        /// How long it may take.
        timeout: Duration,
        /// Bytes of output worth keeping.
        output_bytes_max: usize,
    },
    /// Propose this change. Its outcome shows in the catalog.
    Propose(Change),
}

/// Why a TTL check cannot be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TtlError {
    /// No check of this id here.
    Unknown,
    /// It is not a TTL check.
    NotTtl,
}

/// Consecutive results, and what they make of the status.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    successes: u32,
    failures: u32,
}

impl Streak {
    /// The new status, if the result changes it.
    fn take(&mut self, result: Status, definition: &Definition) -> Option<Status> {
        if result == Status::Critical {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            let warning = match definition.failures_before_warning {
                0 => definition.failures_before_critical,
                count => count,
            };
            if self.failures >= definition.failures_before_critical {
                return Some(Status::Critical);
            }
            return (self.failures >= warning).then_some(Status::Warning);
        }
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        (self.successes >= definition.successes_before_passing).then_some(result)
    }
}

#[derive(Clone, Debug)]
struct Task {
    definition: Definition,
    has_service: bool,
    /// What the catalog says.
    told: (Status, String),
    since: u64,
    /// What it should say.
    status: Status,
    output: String,
    /// Since when the output alone differs.
    output_differs: Option<Instant>,
    /// Since when it is critical, as far as this node saw.
    critical: Option<Instant>,
    streak: Streak,
    flaps: Flaps,
    /// The run under way.
    run: Option<u64>,
    /// Since when its run waits for a place.
    late: Option<Instant>,
    /// The next run; with a TTL its end.
    next: Instant,
    proposed: Option<Proposed>,
    /// When the task is looked at, as it stands in `due`.
    due: Instant,
}

/// What was proposed last and is not heard of yet.
#[derive(Clone, Debug)]
struct Proposed {
    at: Instant,
    status: Status,
    output: String,
}

/// The checks of one node.
#[derive(Debug)]
pub struct Runner {
    node: String,
    tasks: BTreeMap<String, Task>,
    due: BTreeSet<(Instant, String)>,
    /// Whose runs wait for a place, longest first.
    late: BTreeSet<(Instant, String)>,
    rng: Rng,
    runs: u64,
    running: usize,
    /// The index up to which the catalog was heard.
    synced: u64,
    /// Those that stand for another node or instance.
    aliases: BTreeSet<String>,
    /// The catalog's index when they were judged last.
    judged: u64,
    /// When [`Runner::next`] was asked last.
    looked: Instant,
}

impl Runner {
    /// Makes the checks of this node.
    pub fn new(node: &str, seed: u64) -> Runner {
        Runner {
            node: lower(node).into_owned(),
            tasks: BTreeMap::new(),
            due: BTreeSet::new(),
            late: BTreeSet::new(),
            rng: Rng::new(seed),
            runs: 0,
            running: 0,
            synced: 0,
            aliases: BTreeSet::new(),
            judged: 0,
            looked: Instant::default(),
        }
    }

    /// How many checks this node makes, and how many run now.
    pub fn counts(&self) -> (usize, usize) {
        (self.tasks.len(), self.running)
    }

    /// Takes over what the catalog says. Call after each change of it.
    pub fn sync(&mut self, catalog: &Catalog, now: Instant) {
        let index = catalog.index_of(&Watch::Node(self.node.clone()));
        if index != self.synced {
            self.hear(catalog, now);
            self.synced = index;
        }
        if !self.aliases.is_empty() && catalog.index() != self.judged {
            self.judged = catalog.index();
            self.judge(catalog, now);
        }
    }

    /// Hears of this node's checks that have changed: of thousands it is mostly one.
    fn hear(&mut self, catalog: &Catalog, now: Instant) {
        let mut count = 0;
        for check in catalog.checks_on(&self.node).filter(|check| check.form.is_made_here()) {
            count += 1;
            if check.ages.modified < self.synced {
                continue;
            }
            match self.tasks.get_mut(&check.form.id) {
                Some(task) if task.definition == check.form.definition => task.hear(check, now),
                _ => self.begin(check, now),
            }
            self.plan(&check.form.id, now);
        }
        if count == self.tasks.len() {
            return;
        }
        let is_there = |id: &String| catalog.check_on(&self.node, id).is_some_and(|check| check.form.is_made_here());
        let gone: Vec<String> = self.tasks.keys().filter(|id| !is_there(id)).cloned().collect();
        for id in gone {
            self.end(&id);
        }
    }

    /// Aliases are as what they stand for is now.
    fn judge(&mut self, catalog: &Catalog, now: Instant) {
        for id in self.aliases.clone() {
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            let Probe::Alias { node, service } = &task.definition.probe else {
                continue;
            };
            let node = if node.is_empty() { self.node.as_str() } else { node.as_str() };
            let (status, output) = alias(catalog, node, service, (&self.node, &id));
            task.result(status, output, now);
            self.plan(&id, now);
        }
    }

    fn begin(&mut self, check: &Check, now: Instant) {
        self.end(&check.form.id);
        let definition = check.form.definition.clone();
        let interval = Duration::from_millis(definition.interval_ms);
        let next = match definition.probe {
            // Who was fine before this node started has its whole time to say so again.
            Probe::Ttl => now + interval,
            // As what it stands for, whenever that changes.
            Probe::Alias { .. } => Instant(u64::MAX),
            // Spread, so that many checks that come together do not run together ever after.
            _ => now + Duration::from_nanos(self.rng.below((interval.as_nanos() as u64).max(1))),
        };
        let (status, output) = (check.form.status, check.form.output.clone());
        let task = Task {
            has_service: !check.form.service_id.is_empty(),
            told: (status, output.clone()),
            since: check.since,
            status,
            output,
            output_differs: None,
            critical: (status == Status::Critical).then_some(now),
            streak: Streak::default(),
            flaps: Flaps::default(),
            run: None,
            late: None,
            next,
            proposed: None,
            due: Instant(u64::MAX),
            definition,
        };
        if matches!(task.definition.probe, Probe::Alias { .. }) {
            self.aliases.insert(check.form.id.clone());
            self.judged = 0;
        }
        self.tasks.insert(check.form.id.clone(), task);
    }

    fn end(&mut self, id: &str) {
        if let Some(task) = self.tasks.remove(id) {
            self.due.remove(&(task.due, id.to_owned()));
            if let Some(since) = task.late {
                self.late.remove(&(since, id.to_owned()));
            }
            self.running -= usize::from(task.run.is_some());
            self.aliases.remove(id);
        }
    }

    /// Writes down when a task is to be looked at.
    fn plan(&mut self, id: &str, now: Instant) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let due = task.when(now);
        if due != task.due {
            self.due.remove(&(task.due, id.to_owned()));
            self.due.insert((due, id.to_owned()));
            task.due = due;
        }
    }

    /// When [`Runner::next`] has something to do at the latest. While every place is taken, a run that ends is news too.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.late.is_empty() && self.running < RUNNING_MAX {
            return Some(self.looked);
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.looked = now;
        // Who has waited longest for a place gets the first: no check is passed over for ever.
        while self.running < RUNNING_MAX
            && let Some((_, id)) = self.late.pop_first()
        {
            self.tasks.get_mut(&id).expect("who waits is a task").late = None;
            actions.push(self.start(&id, now));
            self.plan(&id, now);
        }
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            let (due, id) = self.due.pop_first().expect("there is a first");
            let task = self.tasks.get_mut(&id).expect("what is due is a task");
            task.due = Instant(u64::MAX);
            let is_due = task.next <= now && task.run.is_none() && task.late.is_none();
            if is_due && task.definition.probe == Probe::Ttl {
                task.next = now + Duration::from_millis(task.definition.interval_ms);
                if task.status != Status::Critical {
                    let output = match task.output.as_str() {
                        "" => "TTL expired".to_owned(),
                        last => format!("TTL expired (last output before timeout follows): {last}"),
                    };
                    task.result(Status::Critical, output, now);
                }
            } else if is_due && self.running >= RUNNING_MAX {
                task.late = Some(due);
                self.late.insert((due, id.clone()));
            } else if is_due {
                actions.push(self.start(&id, now));
            }
            let task = self.tasks.get_mut(&id).expect("it was there a moment ago");
            actions.extend(task.propose(&self.node, &id, now).map(Action::Propose));
            self.plan(&id, now);
        }
        actions
    }

    fn start(&mut self, id: &str, now: Instant) -> Action {
        let task = self.tasks.get_mut(id).expect("only a task is started");
        self.runs += 1;
        self.running += 1;
        task.run = Some(self.runs);
        let interval = Duration::from_millis(task.definition.interval_ms);
        // A sixteenth of jitter keeps checks apart that have come together.
        let jitter = self.rng.below((interval.as_nanos() as u64 / 16).max(1));
        task.next = now + interval - Duration::from_nanos(jitter);
        Action::Run {
            check: id.to_owned(),
            run: self.runs,
            probe: task.definition.probe.clone(),
            timeout: Duration::from_millis(task.definition.timeout_ms),
            output_bytes_max: task.definition.output_bytes_max as usize,
        }
    }

    /// A run has ended. One that was overtaken by a change of its check is not heard.
    pub fn finished(&mut self, check: &str, run: u64, status: Status, output: String, now: Instant) {
        let Some(task) = self.tasks.get_mut(check).filter(|task| task.run == Some(run)) else {
            return;
        };
        task.run = None;
        self.running -= 1;
        let definition = task.definition.clone();
        let wanted = task.streak.take(status, &definition).unwrap_or(task.status);
        match task.flaps.damp(task.status, wanted, now) {
            None => task.result(wanted, output, now),
            Some(left) => {
                let held = format!("flapping: held critical for about {} s more; {output}", left.as_secs().max(1));
                task.result(Status::Critical, held, now);
            }
        }
        self.plan(check, now);
    }

    /// The service has spoken for its TTL check. Gives the change to propose where the status moves; nothing where it
    /// stays, for then only the deadline does.
    ///
    /// # Errors
    /// No such check, or one of another kind.
    pub fn ttl(
        &mut self,
        check: &str,
        status: Status,
        output: String,
        now: Instant,
    ) -> Result<Option<Change>, TtlError> {
        let task = self.tasks.get_mut(check).ok_or(TtlError::Unknown)?;
        if task.definition.probe != Probe::Ttl {
            return Err(TtlError::NotTtl);
        }
        task.next = now + Duration::from_millis(task.definition.interval_ms);
        task.result(status, output, now);
        let change = if task.status == task.told.0 { None } else { task.propose(&self.node, check, now) };
        self.plan(check, now);
        Ok(change)
    }

    /// What a check said last, which the catalog may learn later.
    pub fn output(&self, check: &str) -> Option<(Status, &str)> {
        self.tasks.get(check).map(|task| (task.status, task.output.as_str()))
    }
}

/// How a node or an instance is, by the worst of its checks without the one that asks.
fn alias(catalog: &Catalog, node: &str, service: &str, own: (&str, &str)) -> (Status, String) {
    if catalog.node(node).is_none() {
        return (Status::Critical, format!("Node {node} could not be found"));
    }
    let is_there = service.is_empty() || catalog.service_on(node, service).is_some();
    if !is_there {
        return (Status::Critical, format!("Service {service} could not be found on node {node}"));
    }
    let is_own = |check: &Check| lower(&check.node) == own.0 && check.form.id == own.1;
    let counts =
        |check: &&Check| (check.form.service_id.is_empty() || check.form.service_id == service) && !is_own(check);
    let worst = catalog.checks_on(node).filter(counts).max_by_key(|check| check.form.status);
    match worst {
        None => (Status::Passing, "No checks found.".into()),
        Some(check) if check.form.status == Status::Passing => (Status::Passing, "All checks passing.".into()),
        Some(check) => {
            let output = format!("Aliased check {:?} failing: {}", check.form.name, check.form.output);
            (check.form.status, output)
        }
    }
}

impl Task {
    /// The catalog's word.
    fn hear(&mut self, check: &Check, now: Instant) {
        let told = (check.form.status, &check.form.output);
        if (self.told.0, &self.told.1) != told {
            // Somebody else has changed it (an operator, a new registration): that holds until the next result.
            let ours = (self.status, &self.output) == told;
            if !ours && self.proposed.is_none() {
                self.status = told.0;
                self.output.clone_from(told.1);
                self.critical = (self.status == Status::Critical).then(|| self.critical.unwrap_or(now));
            }
            self.told = (told.0, told.1.clone());
        }
        self.since = check.since;
        self.has_service = !check.form.service_id.is_empty();
        if self.proposed.as_ref().is_some_and(|own| own.status == self.told.0 && own.output == self.told.1) {
            self.proposed = None;
        }
        self.output_differs = (self.told.1 != self.output).then(|| self.output_differs.unwrap_or(now));
    }

    fn result(&mut self, status: Status, mut output: String, now: Instant) {
        cut(&mut output, OUTPUT_BYTES_MAX.min(self.definition.output_bytes_max as usize));
        self.status = status;
        self.output = output;
        self.critical = (status == Status::Critical).then(|| self.critical.unwrap_or(now));
        self.output_differs = (self.told.1 != self.output).then(|| self.output_differs.unwrap_or(now));
    }

    fn reap_at(&self) -> Option<Instant> {
        let is_told = self.told.0 == Status::Critical;
        let after = Duration::from_millis(self.definition.deregister_after_ms);
        let wanted = self.has_service && is_told && !after.is_zero();
        wanted.then_some(self.critical? + after)
    }

    fn output_at(&self) -> Option<Instant> {
        Some(self.output_differs? + OUTPUT_EVERY)
    }

    /// When something is to be done.
    fn when(&self, now: Instant) -> Instant {
        let is_idle = self.run.is_none() && self.late.is_none();
        let mut when = if is_idle { self.next } else { Instant(u64::MAX) };
        let wanted = if self.status != self.told.0 { Some(now) } else { None };
        let wanted = [wanted, self.reap_at(), self.output_at()].into_iter().flatten().min();
        if let Some(wanted) = wanted {
            when = when.min(self.silent_until().map_or(wanted, |until| wanted.max(until)));
        }
        when
    }

    /// While the same has been proposed a moment ago, nothing is proposed.
    fn silent_until(&self) -> Option<Instant> {
        let proposed = self.proposed.as_ref().filter(|proposed| proposed.status == self.status)?;
        Some(proposed.at + PROPOSE_AGAIN)
    }

    fn propose(&mut self, node: &str, id: &str, now: Instant) -> Option<Change> {
        if self.silent_until().is_some_and(|until| now < until) {
            return None;
        }
        let (node, check) = (node.to_owned(), id.to_owned());
        let change = if self.status == self.told.0 && self.reap_at().is_some_and(|at| at <= now) {
            Change::Reap { node, check, since: self.since }
        } else if self.status != self.told.0 || self.output_at().is_some_and(|at| at <= now) {
            Change::CheckStatus { node, check, status: self.status, output: self.output.clone() }
        } else {
            return None;
        };
        self.proposed = Some(Proposed { at: now, status: self.status, output: self.output.clone() });
        Some(change)
    }
}

mod flaps;

#[cfg(test)]
mod tests;

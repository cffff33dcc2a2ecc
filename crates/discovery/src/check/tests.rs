use super::*;
use crate::model::{CheckForm, HttpRequest, NodeForm, ServiceForm};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant(1_000_000_000_000) + SECOND * seconds as u32
}

struct World {
    catalog: Catalog,
    runner: Runner,
    index: u64,
}

impl World {
    fn new(definition: Definition) -> World {
        let mut world = World { catalog: Catalog::default(), runner: Runner::new("N", 1), index: 0 };
        let check = CheckForm {
            id: "c".into(),
            name: "c".into(),
            service_id: "s1".into(),
            definition: Definition { output_bytes_max: 4096, timeout_ms: 1000, ..definition },
            ..CheckForm::default()
        };
        world.apply(&Change::Register {
            node: NodeForm { name: "N".into(), ..NodeForm::default() },
            keep_node: true,
            service: Some(ServiceForm { id: "s1".into(), name: "s".into(), ..ServiceForm::default() }),
            checks: vec![check],
            replace_checks: false,
        });
        world.runner.sync(&world.catalog, at(0));
        world
    }

    fn apply(&mut self, change: &Change) {
        self.index += 1;
        self.catalog.apply(change, self.index);
    }

    /// Runs what is due, with this result for every run; applies what is proposed. Gives the words of the proposals.
    fn turn(&mut self, now: Instant, result: Status) -> Vec<&'static str> {
        let mut words = Vec::new();
        for _ in 0..4 {
            for action in self.runner.next(now) {
                match action {
                    Action::Run { check, run, .. } => self.runner.finished(&check, run, result, "out".into(), now),
                    Action::Propose(change) => {
                        words.push(change.word());
                        self.apply(&change);
                    }
                }
            }
            self.runner.sync(&self.catalog, now);
        }
        words
    }

    fn status(&self) -> Option<Status> {
        self.catalog.check_on("n", "c").map(|check| check.form.status)
    }
}

fn http(interval: u64) -> Definition {
    let probe = Probe::Http(HttpRequest { url: "http://x".into(), ..HttpRequest::default() });
    Definition { probe, interval_ms: interval * 1000, ..Definition::default() }
}

#[test]
fn results_that_confirm_the_status_cost_no_entry() {
    let mut world = World::new(http(10));
    let mut proposed = Vec::new();
    for second in 0..1000 {
        proposed.extend(world.turn(at(second), Status::Passing));
    }
    assert_eq!(proposed, ["check"], "the first result passes, the others say the same");
    assert_eq!(world.status(), Some(Status::Passing));
}

#[test]
fn thresholds_count_results_in_a_row() {
    let definition = Definition { failures_before_critical: 3, failures_before_warning: 2, ..http(10) };
    let mut world = World::new(definition);
    let mut second = 0;
    let mut ten = |world: &mut World, status| {
        let mut words = Vec::new();
        for _ in 0..10 {
            words.extend(world.turn(at(second), status));
            second += 1;
        }
        (words.len(), world.status())
    };
    assert_eq!(ten(&mut world, Status::Passing), (1, Some(Status::Passing)));
    assert_eq!(ten(&mut world, Status::Critical), (0, Some(Status::Passing)));
    assert_eq!(ten(&mut world, Status::Passing), (0, Some(Status::Passing)), "one failure is forgiven");
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(ten(&mut world, Status::Critical).1);
    }
    seen.dedup();
    assert_eq!(seen, [Some(Status::Passing), Some(Status::Warning), Some(Status::Critical)]);
}

#[test]
fn an_alias_is_as_the_worst_check_of_what_it_stands_for() {
    let probe = Probe::Alias { node: String::new(), service: "s2".into() };
    let mut world = World::new(Definition { probe, ..Definition::default() });
    let turn = |world: &mut World| {
        let words = world.turn(at(1), Status::Critical);
        let said = world.catalog.check_on("n", "c").expect("there").form.output.clone();
        (words.len(), world.status(), said)
    };
    assert_eq!(turn(&mut world), (0, Some(Status::Critical), String::new()), "there is no such service");
    let node = NodeForm { name: "N".into(), ..NodeForm::default() };
    let check = |id: &str, status| CheckForm {
        id: id.into(),
        name: id.into(),
        service_id: "s2".into(),
        output: "hot".into(),
        status,
        ..CheckForm::default()
    };
    let register = |checks: Vec<CheckForm>| Change::Register {
        node: node.clone(),
        keep_node: true,
        service: Some(ServiceForm { id: "s2".into(), name: "t".into(), ..ServiceForm::default() }),
        checks,
        replace_checks: true,
    };
    world.apply(&register(Vec::new()));
    world.runner.sync(&world.catalog, at(1));
    assert_eq!(turn(&mut world), (1, Some(Status::Passing), "No checks found.".into()));
    world.apply(&register(vec![check("a", Status::Passing), check("b", Status::Warning)]));
    world.runner.sync(&world.catalog, at(1));
    assert_eq!(turn(&mut world), (1, Some(Status::Warning), "Aliased check \"b\" failing: hot".into()));
    world.apply(&register(vec![check("a", Status::Passing)]));
    world.runner.sync(&world.catalog, at(1));
    assert_eq!(turn(&mut world), (1, Some(Status::Passing), "All checks passing.".into()));
    assert_eq!(turn(&mut world).0, 0, "it says so once");
    world.apply(&Change::Deregister { node: "N".into(), what: crate::change::Registered::Service("s2".into()) });
    world.runner.sync(&world.catalog, at(1));
    assert_eq!(turn(&mut world).1, Some(Status::Critical));
}

#[test]
fn what_went_away_is_made_no_more_and_what_did_not_change_is_left_alone() {
    let mut world = World::new(http(10));
    assert_eq!(world.runner.counts(), (1, 0));
    let node = NodeForm { name: "N".into(), ..NodeForm::default() };
    let other = |id: &str| Change::Register {
        node: node.clone(),
        keep_node: true,
        service: None,
        checks: vec![CheckForm { id: id.into(), name: id.into(), definition: http(5), ..CheckForm::default() }],
        replace_checks: false,
    };
    world.apply(&other("d"));
    world.runner.sync(&world.catalog, at(0));
    assert_eq!(world.runner.counts(), (2, 0));
    // One goes and one comes between two looks: as many as before.
    world.apply(&Change::Deregister { node: "N".into(), what: crate::change::Registered::Check("d".into()) });
    world.apply(&other("e"));
    world.runner.sync(&world.catalog, at(0));
    assert_eq!(world.runner.counts(), (2, 0));
    assert_eq!(world.runner.output("d"), None);
    assert!(world.runner.output("e").is_some());
}

#[test]
fn a_renewal_costs_no_entry_and_a_missed_one_does() {
    let mut world = World::new(Definition { probe: Probe::Ttl, interval_ms: 10_000, ..Definition::default() });
    let change = world.runner.ttl("c", Status::Passing, "fine".into(), at(1)).expect("a TTL check");
    world.apply(&change.expect("critical to passing is a change"));
    world.runner.sync(&world.catalog, at(1));
    for second in 2..60 {
        let change = world.runner.ttl("c", Status::Passing, "fine".into(), at(second));
        assert_eq!(change, Ok(None));
        assert_eq!(world.turn(at(second), Status::Critical), [""; 0]);
    }
    assert_eq!(world.runner.deadline(), Some(at(69)));
    assert_eq!(world.turn(at(68), Status::Critical), [""; 0]);
    assert_eq!(world.turn(at(69), Status::Critical), ["check"]);
    assert_eq!(world.status(), Some(Status::Critical));
    let said = &world.catalog.check_on("n", "c").expect("there").form.output;
    assert_eq!(said, "TTL expired (last output before timeout follows): fine");
    assert_eq!(world.runner.ttl("other", Status::Passing, String::new(), at(70)), Err(TtlError::Unknown));
}

#[test]
fn a_lost_proposal_is_made_again_and_never_twice_at_once() {
    let mut world = World::new(Definition { probe: Probe::Ttl, interval_ms: 3_600_000, ..Definition::default() });
    assert!(world.runner.ttl("c", Status::Warning, "w".into(), at(0)).is_ok_and(|change| change.is_some()));
    // It was lost.
    assert_eq!(world.runner.next(at(4)), []);
    assert_eq!(world.turn(at(5), Status::Critical), ["check"]);
    assert_eq!(world.status(), Some(Status::Warning));
    // A status that moved on does not wait.
    assert!(world.runner.ttl("c", Status::Critical, "c".into(), at(6)).is_ok_and(|change| change.is_some()));
    assert!(world.runner.ttl("c", Status::Passing, "p".into(), at(6)).is_ok_and(|change| change.is_some()));
}

#[test]
fn output_alone_is_told_rarely() {
    let mut world = World::new(Definition { probe: Probe::Ttl, interval_ms: 3_600_000, ..Definition::default() });
    let change = world.runner.ttl("c", Status::Passing, "0".into(), at(0)).expect("ttl").expect("a change");
    world.apply(&change);
    world.runner.sync(&world.catalog, at(0));
    let mut entries = 0;
    for second in 1..900 {
        assert_eq!(world.runner.ttl("c", Status::Passing, second.to_string(), at(second)), Ok(None));
        entries += world.turn(at(second), Status::Critical).len();
        assert_eq!(world.runner.output("c"), Some((Status::Passing, second.to_string().as_str())));
    }
    assert_eq!(entries, 2, "one in five minutes");
}

#[test]
fn who_stays_critical_is_taken_away_and_who_recovers_is_not() {
    let definition = Definition { deregister_after_ms: 60_000, ..http(5) };
    let mut world = World::new(definition);
    for second in 0..50 {
        world.turn(at(second), Status::Critical);
    }
    for second in 50..60 {
        world.turn(at(second), Status::Passing);
    }
    assert_eq!(world.status(), Some(Status::Passing));
    let mut gone_at = None;
    for second in 60..200 {
        world.turn(at(second), Status::Critical);
        gone_at = gone_at.or(world.status().is_none().then_some(second));
    }
    let gone_at = gone_at.expect("it was critical for over a minute");
    assert!((120..=126).contains(&gone_at), "{gone_at}");
    assert!(world.catalog.healthy("s", None).next().is_none() && !world.catalog.has_service("s"));
    assert_eq!(world.runner.counts(), (0, 0));
    assert_eq!(world.runner.deadline(), None);
}

#[test]
fn an_operators_word_holds_until_the_next_result() {
    let mut world = World::new(http(10));
    for second in 0..20 {
        world.turn(at(second), Status::Passing);
    }
    let word =
        Change::CheckStatus { node: "n".into(), check: "c".into(), status: Status::Critical, output: "me".into() };
    world.apply(&word);
    world.runner.sync(&world.catalog, at(20));
    assert_eq!(world.status(), Some(Status::Critical));
    for second in 20..40 {
        world.turn(at(second), Status::Passing);
    }
    assert_eq!(world.status(), Some(Status::Passing));
}

#[test]
fn so_many_run_at_once_and_nobody_is_forgotten() {
    let mut world = World::new(http(1));
    let checks = |owner: u64| {
        let one = |number: u64| CheckForm {
            id: format!("c{owner}-{number}"),
            name: "c".into(),
            service_id: format!("s{owner}"),
            definition: Definition { output_bytes_max: 10, timeout_ms: 1000, ..http(1) },
            ..CheckForm::default()
        };
        (0..30).map(one).collect()
    };
    for owner in 0..10 {
        world.apply(&Change::Register {
            node: NodeForm { name: "N".into(), ..NodeForm::default() },
            keep_node: true,
            service: Some(ServiceForm { id: format!("s{owner}"), name: "s".into(), ..ServiceForm::default() }),
            checks: checks(owner),
            replace_checks: false,
        });
    }
    world.runner.sync(&world.catalog, at(0));
    let mut ran = BTreeSet::new();
    let mut now = at(2);
    while ran.len() < 301 {
        let actions = world.runner.next(now);
        assert!(world.runner.counts().1 <= RUNNING_MAX);
        for action in actions {
            if let Action::Run { check, run, .. } = action {
                world.runner.finished(&check, run, Status::Passing, String::new(), now);
                ran.insert(check);
            }
        }
        now = world.runner.deadline().expect("more is due").max(now);
        assert!(now < at(60), "{} ran", ran.len());
    }
}

#[test]
fn where_all_places_are_taken_the_checks_take_turns() {
    let mut world = World::new(http(10));
    let count = 3 * RUNNING_MAX;
    let node = NodeForm { name: "N".into(), ..NodeForm::default() };
    for number in 0..count {
        let id = format!("c{number}");
        let check = CheckForm { id: id.clone(), name: id, definition: http(10), ..CheckForm::default() };
        let owner = ServiceForm { id: number.to_string(), name: "s".into(), ..ServiceForm::default() };
        world.apply(&Change::Register {
            node: node.clone(),
            keep_node: true,
            checks: vec![CheckForm { service_id: owner.id.clone(), ..check }],
            service: Some(owner),
            replace_checks: false,
        });
    }
    world.runner.sync(&world.catalog, at(0));
    // Every backend hangs for ten seconds, so a round of all takes thirty.
    let mut under_way: Vec<(String, u64, u64)> = Vec::new();
    let mut ran = BTreeMap::<String, u32>::new();
    for second in 1..=300 {
        under_way.retain(|(check, run, until)| {
            let is_over = *until <= second;
            if is_over {
                world.runner.finished(check, *run, Status::Critical, String::new(), at(second));
            }
            !is_over
        });
        for action in world.runner.next(at(second)) {
            if let Action::Run { check, run, .. } = action {
                *ran.entry(check.clone()).or_default() += 1;
                under_way.push((check, run, second + 10));
            }
        }
        assert!(world.runner.counts().1 <= RUNNING_MAX);
    }
    let (least, most) = (ran.values().min(), ran.values().max());
    assert_eq!(ran.len(), count + 1);
    assert!(least >= Some(&8) && most <= Some(&11), "{least:?} to {most:?} runs in 300 s");
    // Those that go meanwhile leave no place taken.
    world.apply(&Change::Deregister { node: "N".into(), what: crate::change::Registered::Node });
    world.runner.sync(&world.catalog, at(301));
    assert_eq!((world.runner.counts(), world.runner.deadline()), ((0, 0), None));
}

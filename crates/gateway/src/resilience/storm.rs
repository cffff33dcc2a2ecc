//! Retry storms, simulated: the whole chain (pick, breaker, budget, backoff, ejection) in front of four endpoints in virtual time. The same
//! seed gives the same run.

use super::*;
use crate::balance::{Ask, Attempt, Balance, Endpoint, EndpointId, EndpointSet, Health, Member, Policy};
use base::{Duration, Instant, Rng};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const ENDPOINTS: usize = 4;
const MS: u64 = 1_000_000;

/// What an endpoint does at a moment (milliseconds).
type Weather = fn(u64, usize) -> Sky;

#[derive(Clone, Copy)]
struct Sky {
    /// Milliseconds of work for a request.
    work: f64,
    /// The share of answers that are 503.
    failing: f64,
    /// It refuses connections.
    refuses: bool,
}

const FAIR: Sky = Sky { work: 0.01, failing: 0.0, refuses: false };

struct Scenario {
    /// Requests a second.
    rate: u64,
    secs: u64,
    budget: RetryBudgetConfig,
    breaker: BreakerConfig,
    answer_timeout: Duration,
    weather: Weather,
}

const NO_BUDGET: RetryBudgetConfig = RetryBudgetConfig { percent: 100_000, floor: u32::MAX };

fn no_breaker() -> BreakerConfig {
    BreakerConfig { volume_min: u32::MAX, ..BreakerConfig::default() }
}

struct Request {
    tried: Vec<EndpointId>,
    last_resort: bool,
    deadline: Deadline,
}

enum Event {
    Arrive,
    Send(Request),
    /// The attempt's end: 200, or a failure.
    End(Request, Attempt, Pass, Option<Failure>, EndpointId),
}

#[derive(Debug, Default, PartialEq)]
struct Report {
    requests: u64,
    attempts: u64,
    good: u64,
    /// Good answers of each hundred requests, by the second in which they came.
    good_by_second: Vec<u64>,
    ejections: u64,
    openings: u64,
    most_ejected: usize,
}

struct World {
    scenario: Scenario,
    rng: Rng,
    set: EndpointSet,
    outliers: Outliers,
    breaker: Breaker,
    budget: RetryBudget,
    policy: RetryPolicy,
    busy_until: Vec<u64>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    report: Report,
}

fn members(outliers: Option<&Outliers>) -> Vec<Member> {
    (0..ENDPOINTS)
        .map(|at| {
            let endpoint = Endpoint::new(&format!("e{at}"), SocketAddr::from(([10, 0, 0, at as u8], 80)));
            let ejected = outliers.is_some_and(|outliers| outliers.is_ejected(endpoint.id));
            Member { endpoint, health: if ejected { Health::Suspect } else { Health::Passing } }
        })
        .collect()
}

impl World {
    fn new(scenario: Scenario, seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let balance = Balance { policy: Policy::LeastConnections, ..Balance::default() };
        let set = EndpointSet::build(balance, members(None), None, Instant(0), &mut rng);
        let mut outliers = Outliers::new(OutlierConfig::default(), Instant(0));
        outliers.set_members(set.iter().map(|(endpoint, _, live)| (endpoint.id, live, true)));
        World {
            breaker: Breaker::new(scenario.breaker),
            budget: RetryBudget::new(scenario.budget),
            policy: RetryPolicy { on_timeout: true, ..RetryPolicy::default() },
            busy_until: vec![0; ENDPOINTS],
            events: BTreeMap::new(),
            scheduled: 0,
            report: Report { good_by_second: vec![0; scenario.secs as usize + 1], ..Report::default() },
            scenario,
            rng,
            set,
            outliers,
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    fn run(mut self) -> Report {
        let gap = 1_000_000_000 / self.scenario.rate;
        (0..self.scenario.rate * self.scenario.secs).for_each(|at| self.schedule(at * gap, Event::Arrive));
        while let Some(((at, _), event)) = self.events.pop_first() {
            let now = Instant(at);
            if now >= self.outliers.deadline() {
                let changes = self.outliers.sweep(now);
                self.apply(&changes, now);
            }
            match event {
                Event::Arrive => {
                    self.report.requests += 1;
                    self.budget.deposit(now);
                    let deadline = Deadline::new(now, &Timeouts::default(), None);
                    self.send(Request { tried: Vec::new(), last_resort: false, deadline }, now);
                }
                Event::Send(request) => self.send(request, now),
                Event::End(request, attempt, pass, failure, endpoint) => {
                    self.end(request, attempt, pass, failure, endpoint, now)
                }
            }
        }
        self.report
    }

    fn send(&mut self, mut request: Request, now: Instant) {
        let (pass, change) = self.breaker.admit(now);
        self.report.openings += u64::from(change.is_some_and(|change| change.to == BreakerState::Open));
        let Ok(pass) = pass else { return };
        let ask = Ask { now, tried: &request.tried, ..Ask::default() };
        // Where all were tried any of them may be tried again.
        let again = Ask { now, ..Ask::default() };
        let Ok(picked) = self.set.pick(&ask, &mut self.rng).or_else(|_| self.set.pick(&again, &mut self.rng)) else {
            self.breaker.report(pass, now, Outcome::Cancelled);
            return;
        };
        let (id, attempt) = (picked.endpoint.id, picked.live.begin(now));
        request.last_resort = picked.last_resort;
        request.tried.push(id);
        self.report.attempts += 1;
        let at = (0..ENDPOINTS).find(|at| EndpointId::of(&format!("e{at}")) == id).expect("one of them");
        let sky = (self.scenario.weather)(now.0 / MS, at);
        let done = self.busy_until[at].max(now.0) + (if sky.refuses { 0.0 } else { sky.work } * MS as f64) as u64;
        // Nobody tells the endpoint that its answer is not waited for any more: it does the work all the same.
        self.busy_until[at] = done;
        let timeout = now.0 + self.scenario.answer_timeout.as_nanos() as u64;
        let failed = self.rng.unit() < sky.failing;
        let (end, failure) = match sky {
            Sky { refuses: true, .. } => (now.0, Some(Failure::Connect)),
            _ if done > timeout => (timeout, Some(Failure::Timeout)),
            _ => (done, failed.then_some(Failure::Status(503))),
        };
        self.schedule(end.max(now.0 + 1), Event::End(request, attempt, pass, failure, id));
    }

    fn end(
        &mut self,
        request: Request,
        attempt: Attempt,
        pass: Pass,
        failure: Option<Failure>,
        endpoint: EndpointId,
        now: Instant,
    ) {
        let outcome = match failure {
            None => Outcome::Answered,
            Some(Failure::Connect) => Outcome::Unreachable,
            Some(_) => Outcome::GatewayFailure,
        };
        attempt.finish(now, outcome);
        let change = self.breaker.report(pass, now, outcome);
        self.report.openings += u64::from(change.is_some_and(|change| change.to == BreakerState::Open));
        let Some(failure) = failure else {
            if request.last_resort {
                let change = self.outliers.pardon(endpoint);
                self.apply(change.as_slice(), now);
            }
            self.report.good += 1;
            let second = (now.0 / 1_000_000_000).min(self.scenario.secs) as usize;
            self.report.good_by_second[second] += 1;
            return;
        };
        if attempt.live().tally.is_suspicious(self.outliers.config()) {
            let change = self.outliers.consider(endpoint, now);
            self.apply(change.as_slice(), now);
        }
        drop(attempt);
        let tried = Tried {
            failure,
            idempotence: Idempotence::Safe,
            has_idempotency_key: false,
            sent: failure != Failure::Connect,
            replayable: true,
            answer_begun: false,
            attempts: request.tried.len() as u32,
            retry_after: None,
            deadline: request.deadline,
        };
        if let RetryVerdict::After(pause) = self.policy.decide(&tried, &self.budget, now, &mut self.rng) {
            self.schedule((now + pause).0, Event::Send(request));
        }
    }

    fn apply(&mut self, changes: &[OutlierChange], now: Instant) {
        if changes.is_empty() {
            return;
        }
        self.report.ejections +=
            changes.iter().filter(|change| matches!(change, OutlierChange::Ejected { .. })).count() as u64;
        self.report.most_ejected = self.report.most_ejected.max(self.outliers.ejected());
        let members = members(Some(&self.outliers));
        self.set = EndpointSet::build(self.set.balance().clone(), members, Some(&self.set), now, &mut self.rng);
    }
}

/// Half of all answers are 503.
fn half_failing(budget: RetryBudgetConfig, rate: u64) -> Scenario {
    Scenario {
        rate,
        secs: 60,
        budget,
        breaker: BreakerConfig::default(),
        answer_timeout: Duration::from_secs(15),
        weather: |_, _| Sky { failing: 0.5, ..FAIR },
    }
}

#[test]
fn with_half_of_the_answers_failing_traffic_grows_by_at_most_a_fifth() {
    for rate in [5, 20, 100, 1000] {
        let report = World::new(half_failing(RetryBudgetConfig::default(), rate), 7).run();
        let grown = report.attempts as f64 / report.requests as f64;
        let good = report.good as f64 / report.requests as f64;
        println!(
            "{rate}/s, half failing: traffic × {grown:.3}, {:.1} % good, {} ejections, breaker opened {} times",
            good * 100.0,
            report.ejections,
            report.openings
        );
        assert!(grown <= 1.2, "{rate}/s: {grown}");
        assert!(good > 0.5, "retries help as far as they go: {good}");
        assert!(report.openings == 0 || rate == 5, "half failing is not down");
        assert!(report.most_ejected <= ENDPOINTS / 2);
    }
    let report = World::new(half_failing(NO_BUDGET, 1000), 7).run();
    let grown = report.attempts as f64 / report.requests as f64;
    println!("1000/s, half failing, no budget: traffic × {grown:.3}");
    assert!(grown > 1.6, "the budget is what keeps it down");
}

/// 800 requests a second for an upstream of 1,000; for three seconds, from second 5 on, it is five times slower. Answers that take longer than
/// half a second are timed out and tried again.
fn outage(budget: RetryBudgetConfig, breaker: BreakerConfig) -> Scenario {
    Scenario {
        rate: 800,
        secs: 60,
        budget,
        breaker,
        answer_timeout: Duration::from_millis(500),
        weather: |ms, _| Sky { work: if (5_000..8_000).contains(&ms) { 20.0 } else { 4.0 }, ..FAIR },
    }
}

#[test]
fn a_storm_outlasts_its_cause_without_budget_and_breaker_and_not_with_them() {
    // Bronson, Aghayev, Charapko and Zhu, "Metastable Failures in Distributed Systems", HotOS 2021: the overload feeds itself.
    let last = |report: &Report| report.good_by_second[50..60].iter().sum::<u64>() as f64 / 8000.0;
    let without = World::new(outage(NO_BUDGET, no_breaker()), 3).run();
    let with = World::new(outage(RetryBudgetConfig::default(), BreakerConfig::default()), 3).run();
    let recovered = (8..60).find(|second| with.good_by_second[*second..60].iter().all(|good| *good >= 792));
    println!(
        "42 s after a slow spell of 3 s: without budget and breaker {:.1} % good (traffic × {:.2}), with them {:.1} % (× {:.2}; whole again from second {:?})",
        last(&without) * 100.0,
        without.attempts as f64 / without.requests as f64,
        last(&with) * 100.0,
        with.attempts as f64 / with.requests as f64,
        recovered
    );
    assert!(last(&without) < 0.5, "the storm goes on: {}", last(&without));
    assert!(last(&with) > 0.99, "{}", last(&with));
    assert!(with.attempts as f64 <= with.requests as f64 * 1.2);
}

fn calm(rate: u64, weather: Weather) -> Scenario {
    let breaker = BreakerConfig::default();
    Scenario {
        rate,
        secs: 60,
        budget: RetryBudgetConfig::default(),
        breaker,
        answer_timeout: Duration::from_secs(15),
        weather,
    }
}

#[test]
fn rolling_restarts_and_dead_endpoints_fail_no_request_that_another_endpoint_could_answer() {
    let scenarios: [(&str, Weather); 4] = [
        // From second 5 on one endpoint after the other is down for a second and a half, the next one as soon as it is back.
        ("restarts, one after the other, three times", |ms, at| Sky {
            refuses: (5_000..23_000).contains(&ms) && (ms - 5_000) / 1_500 % 4 == at as u64,
            ..FAIR
        }),
        ("one dead", |ms, at| Sky { refuses: at == 2 && ms >= 5_000, ..FAIR }),
        ("all but one dead, one by one", |ms, at| Sky { refuses: at > 0 && ms >= 5_000 * at as u64, ..FAIR }),
        ("one says 503", |ms, at| Sky { failing: if at == 1 && ms >= 5_000 { 1.0 } else { 0.0 }, ..FAIR }),
    ];
    for (name, weather) in scenarios {
        for (rate, seed) in [(20, 1), (200, 2), (2000, 3)] {
            let report = World::new(calm(rate, weather), seed).run();
            println!(
                "{name}, {rate}/s: {} of {} failed, traffic × {:.4}",
                report.requests - report.good,
                report.requests,
                report.attempts as f64 / report.requests as f64
            );
            assert_eq!(report.good, report.requests, "{name}, {rate}/s");
            assert_eq!(report.openings, 0, "{name}, {rate}/s");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| World::new(outage(RetryBudgetConfig::default(), BreakerConfig::default()), seed).run();
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).good_by_second, run(12).good_by_second);
}

//! Two changes of the cluster at the same moment, asked for at two nodes: both must come about, and neither undo the other unseen.

use super::faults::{CHANGE, Course};
use crate::interrupt;
use crate::nodes::Nodes;
use serde_json::Value as Json;
use std::time::{Duration, Instant};

/// How often something is tried that the cluster may just have done by itself.
const TRIES: usize = 5;
/// How often the cluster is looked at.
const LOOK: Duration = Duration::from_millis(30);

/// A shard as the cluster shows it.
struct Shard {
    group: u64,
    voters: Vec<u64>,
    wanted_leader: u64,
}

fn shards(view: &Json) -> Vec<Shard> {
    let shard = |group: &Json| {
        let voters = group["voters"].as_array().into_iter().flatten().filter_map(Json::as_u64).collect();
        let number = |name: &str| group[name].as_u64();
        Some(Shard { group: number("group")?, voters, wanted_leader: number("wanted_leader").unwrap_or(0) })
    };
    view["groups"].as_array().into_iter().flatten().filter_map(shard).filter(|shard| shard.group > 0).collect()
}

/// Whether somebody else, the cluster itself mostly, had done it before.
fn was_quicker(why: &str) -> bool {
    ["already", "has no replica", "does not vote"].iter().any(|word| why.contains(word))
}

impl Course {
    /// Two changes at once, as there are nodes for it. What was done, in words.
    pub(super) fn twice(&mut self) -> Result<String, String> {
        let running = self.running();
        match running.len() {
            ..=3 => self.two_join(&running),
            4 if self.rng.percent(40) => self.one_joins_one_leaves(&running),
            4 => self.two_change_a_shard(&running),
            _ if self.rng.percent(50) => self.two_leave(&running),
            _ => self.two_change_a_shard(&running),
        }
    }

    /// Two of those that run, in any order.
    fn two(&mut self, running: &[usize]) -> [usize; 2] {
        let first = *self.rng.pick(running);
        [first, self.other(first)]
    }

    fn two_join(&mut self, running: &[usize]) -> Result<String, String> {
        let start = Instant::now();
        let by = self.two(running);
        let mut places = Vec::new();
        for by in by {
            let Some(at) = self.nodes.free_place()? else { break };
            self.nodes.launch_by(at, Some(by))?;
            places.push(at);
        }
        for at in &places {
            self.nodes.ready(*at)?;
            self.nodes.learn_id(*at)?;
        }
        self.nodes.await_replicas(CHANGE)?;
        let ids: Vec<u64> = places.iter().map(|at| self.nodes.nodes[*at].id).collect();
        Ok(format!("nodes {ids:?} joined at once by two others in {:.2} s", start.elapsed().as_secs_f64()))
    }

    fn two_leave(&mut self, running: &[usize]) -> Result<String, String> {
        let start = Instant::now();
        let [first, second] = self.two(running);
        let others: Vec<usize> = running.iter().copied().filter(|at| ![first, second].contains(at)).collect();
        let by = self.two(&others);
        let ids = [first, second].map(|at| self.nodes.nodes[at].id);
        let is_dead = self.rng.percent(30);
        if is_dead {
            self.nodes.kill(first);
        }
        let asked =
            self.nodes.both([(by[0], format!("remove?node={}", ids[0])), (by[1], format!("remove?node={}", ids[1]))]);
        for at in [first, second] {
            self.nodes.leave(at, CHANGE).map_err(|why| format!("{why}; at once: {asked:?}"))?;
        }
        self.nodes.await_replicas(CHANGE)?;
        let how = if is_dead { ", the first one dead," } else { "" };
        Ok(format!("nodes {ids:?}{how} left at once in {:.2} s", start.elapsed().as_secs_f64()))
    }

    fn one_joins_one_leaves(&mut self, running: &[usize]) -> Result<String, String> {
        let start = Instant::now();
        let Some(comes) = self.nodes.free_place()? else { return self.two_change_a_shard(running) };
        let goes = *self.rng.pick(running);
        let others: Vec<usize> = running.iter().copied().filter(|at| *at != goes).collect();
        let by = self.two(&others);
        self.nodes.launch_by(comes, Some(by[0]))?;
        let id = self.nodes.nodes[goes].id;
        let asked = self.nodes.change_at(by[1], &format!("remove?node={id}"));
        self.nodes.ready(comes)?;
        self.nodes.learn_id(comes)?;
        self.nodes.leave(goes, CHANGE).map_err(|why| format!("{why}; at first: {asked:?}"))?;
        self.nodes.await_replicas(CHANGE)?;
        let (came, took) = (self.nodes.nodes[comes].id, start.elapsed().as_secs_f64());
        Ok(format!("node {came} came and node {id} left at once in {took:.2} s"))
    }

    /// One shard's replica moves by one node's word; by another's another replica does, or the lead.
    fn two_change_a_shard(&mut self, running: &[usize]) -> Result<String, String> {
        for _ in 0..TRIES {
            let start = Instant::now();
            let all = shards(&self.nodes.view()?);
            let ids: Vec<u64> = running.iter().map(|at| self.nodes.nodes[*at].id).collect();
            let Shard { group, voters, .. } = self.rng.pick(&all);
            let (group, voters) = (*group, voters.clone());
            let outside: Vec<u64> = ids.into_iter().filter(|id| !voters.contains(id)).collect();
            if voters.len() < 3 || outside.is_empty() {
                self.nodes.await_replicas(CHANGE)?;
                continue;
            }
            let first = format!("move?group={group}&from={}&to={}", voters[0], outside[0]);
            let (second, moves) = match outside.get(1) {
                Some(to) => (format!("move?group={group}&from={}&to={to}", voters[1]), Some(*to)),
                None => (format!("lead?group={group}&to={}", voters[1]), None),
            };
            let by = self.two(running);
            let asked = self.nodes.both([(by[0], first.clone()), (by[1], second.clone())]);
            if asked.iter().any(|asked| asked.as_ref().is_err_and(|why| was_quicker(why))) {
                // It moves replicas by itself; what was asked for may be half done, and by hand.
                self.nodes.change("rebalance")?;
                self.nodes.await_replicas(CHANGE)?;
                continue;
            }
            for asked in asked {
                asked?;
            }
            let is_there = |shard: &Shard| {
                let has = |id: &u64| shard.voters.contains(id);
                let other = moves.map_or(shard.wanted_leader == voters[1], |to| has(&to) && !has(&voters[1]));
                has(&outside[0]) && !has(&voters[0]) && other
            };
            self.nodes.await_view(CHANGE, |view| {
                let all = shards(view);
                let now = all.iter().find(|shard| shard.group == group).ok_or("it is gone")?;
                let place = || {
                    format!(
                        "{first} and {second} were done, and now it is {:?}, led by {}",
                        now.voters, now.wanted_leader
                    )
                };
                if is_there(now) { Ok(()) } else { Err(place()) }
            })?;
            self.nodes.change("rebalance")?;
            return Ok(format!("{first} and {second} at once in {:.2} s", start.elapsed().as_secs_f64()));
        }
        Err(format!("no shard could be changed twice at once in {TRIES} attempts"))
    }
}

impl Nodes {
    /// Asks for a change at this node.
    pub fn change_at(&self, at: usize, what: &str) -> Result<(), String> {
        let (addr, path) = (self.nodes[at].admin.clone(), format!("/cluster/{what}"));
        let patience = Duration::from_secs(15);
        match self.ground.visit(|| crate::server::http_within("POST", &addr, &path, patience)) {
            Ok((200, _)) => Ok(()),
            Ok((_, said)) => Err(format!("{what}: {said}")),
            Err(error) => Err(format!("{what}: {error}")),
        }
    }

    /// Asks for two changes at the same moment, each at a node of its own.
    pub fn both(&self, asked: [(usize, String); 2]) -> [Result<(), String>; 2] {
        let (ready, patience) = (std::sync::Barrier::new(2), Duration::from_secs(15));
        let asked = asked.map(|(at, what)| (self.nodes[at].admin.clone(), what));
        let ask = |(addr, what): &(String, String)| {
            ready.wait();
            match crate::server::http_within("POST", addr, &format!("/cluster/{what}"), patience) {
                Ok((200, _)) => Ok(()),
                Ok((_, said)) => Err(format!("{what}: {said}")),
                Err(error) => Err(format!("{what}: {error}")),
            }
        };
        let done = self.ground.visit(|| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| ask(&asked[1]));
                let own = ask(&asked[0]);
                Ok([own, other.join().unwrap_or_else(|_| Err("a client panicked".to_owned()))])
            })
        });
        done.unwrap_or_else(|why| [Err(why.clone()), Err(why)])
    }

    /// Waits until the cluster, as a node sees it, is as `is` wants; its last word is the error.
    pub fn await_view(&self, limit: Duration, is: impl Fn(&Json) -> Result<(), String>) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let why = match self.view().and_then(|view| is(&view)) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if start.elapsed() > limit || interrupt::told() {
                return Err(format!("not after {} s: {why}", start.elapsed().as_secs()));
            }
            std::thread::sleep(LOOK);
        }
    }
}

//! The cluster over HTTP, below `/cluster` of the admin door. `quorate cluster` speaks it.
//!
//! ```text
//!  GET  /cluster                            nodes, shards, leaders, lag, moves, and what is wrong
//!  POST /cluster/token                      a new join token; the old one is of no use any more
//!  POST /cluster/drain?node=N               the node leads nothing any more (undrain: again)
//!  POST /cluster/remove?node=N              its replicas move away, then it is forgotten
//!  POST /cluster/move?group=G&from=A&to=B   a replica goes from one node to another, and stays there
//!  POST /cluster/lead?group=G&to=N          this voter should lead
//!  POST /cluster/split?group=G[&slots=S]     a new shard takes half of its slots, or these, as in 0-99,200
//!  POST /cluster/move-slots?slots=S&from=G&to=H   a shard takes slots from another
//!  POST /cluster/rebalance                  what was placed by hand is no longer
//!  POST /cluster/replication?voters=N       3 or 5 replicas decide
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use ::cluster::{Assignment, Change, NodeState, Outcome};
use base::{GroupId, NodeId, SlotSet};
use serde_json::json;

use super::gateway::{Told, error, told};
use crate::cluster::Member;

/// So often is a change thought out, if others are quicker each time.
const THINKS: usize = 5;

/// Answers a request below `/cluster`; `path` is what follows it.
pub async fn answer(member: &Arc<Member>, method: &str, path: &str, query: &str) -> Told {
    let asked = Asked { member, query: parse(query) };
    match (method, path.trim_matches('/')) {
        ("GET" | "HEAD", "") => match serde_json::to_value(member.view().await) {
            Ok(view) => told(200, view),
            Err(why) => error(500, why.to_string()),
        },
        ("POST", "token") => match member.new_token().await {
            Ok(token) => {
                let command = format!("quorate up --join {} --token {token}", member.address());
                told(200, json!({ "token": token, "command": command }))
            }
            Err(why) => error(503, why),
        },
        ("POST", "split") => match asked.split() {
            Err(why) => error(400, why),
            Ok((group, slots)) => match member.split(group, slots).await {
                Ok(made) => told(200, json!({ "done": true, "shard": made.0 })),
                Err(why) => error(409, why),
            },
        },
        ("POST", verb) => asked.make(verb).await,
        (_, "") => error(405, "this path takes GET"),
        _ => error(405, "this path takes POST"),
    }
}

struct Asked<'a> {
    member: &'a Member,
    query: BTreeMap<String, String>,
}

impl Asked<'_> {
    fn number(&self, name: &str) -> Result<u64, String> {
        let text = self.query.get(name).ok_or_else(|| format!("?{name}= is missing"))?;
        text.parse().map_err(|_| format!("?{name}={text} is no number"))
    }

    fn node(&self, name: &str) -> Result<NodeId, String> {
        let node = NodeId(self.number(name)?);
        let cluster = self.member.cluster();
        if cluster.nodes().contains_key(&node) {
            return Ok(node);
        }
        let there: Vec<String> = cluster.nodes().keys().map(|id| id.0.to_string()).collect();
        let gone = if cluster.was_removed(node) { "was removed" } else { "does not exist" };
        Err(format!("node {} {gone}; there are {}", node.0, there.join(", ")))
    }

    fn group(&self) -> Result<(GroupId, Assignment), String> {
        let number = self.number("group")?;
        let cluster = self.member.cluster();
        let found = u32::try_from(number).ok().and_then(|group| cluster.groups().get_key_value(&GroupId(group)));
        match found {
            Some((group, to)) => Ok((*group, to.clone())),
            None => Err(format!(
                "there is no shard {number}; there are 0 (the meta group) to {}",
                cluster.groups().len().saturating_sub(1)
            )),
        }
    }

    /// Makes the changes that a verb means. Of two people who move replicas of one shard at the same moment, at two nodes, the second one's
    /// change is thought out anew from where the first one's has put them: none undoes the other unseen.
    async fn make(&self, verb: &str) -> Told {
        'think: for _ in 0..THINKS {
            let seen = self.member.cluster().index();
            let changes = match self.change(verb) {
                Ok(Some(changes)) => changes,
                Ok(None) => {
                    return error(
                        404,
                        "below /cluster: token, drain, undrain, remove, move, lead, split, move-slots, rebalance, replication",
                    );
                }
                Err(why) => return error(400, why),
            };
            for change in &changes {
                match self.member.change(change).await {
                    Ok(Outcome::Outdated) => {
                        self.member.hear_beyond(seen).await;
                        continue 'think;
                    }
                    Ok(_) => {}
                    Err(why) => return error(409, why),
                }
            }
            return told(200, json!({ "done": true }));
        }
        error(409, "others change the same again and again; `quorate cluster` shows what they have made of it")
    }

    fn slots(&self) -> Result<Option<SlotSet>, String> {
        self.query.get("slots").map(|text| SlotSet::parse(text)).transpose()
    }

    /// Which shard is to be split, and what the new one takes: the upper half, where nothing is said.
    fn split(&self) -> Result<(GroupId, SlotSet), String> {
        let (group, _) = self.group()?;
        if let Some(slots) = self.slots()? {
            return Ok((group, slots));
        }
        let own = self.member.cluster().slots_of(group);
        if own.len() < 2 {
            return Err(format!("shard {} has {} slots, which cannot be split in two", group.0, own.len()));
        }
        Ok((group, SlotSet::of(own.iter().skip(own.len() / 2).map(|slot| (slot, slot)))))
    }

    /// The changes that a verb means; `None` for a verb that there is not.
    fn change(&self, verb: &str) -> Result<Option<Vec<Change>>, String> {
        let state = |state| Ok::<_, String>(Some(vec![Change::SetState { node: self.node("node")?, state }]));
        match verb {
            "drain" => state(NodeState::Draining),
            "undrain" => state(NodeState::Active),
            "remove" => state(NodeState::Leaving),
            "move" => {
                let ((group, was), from, target) = (self.group()?, self.node("from")?, self.node("to")?);
                let mut to = was.clone();
                if group == GroupId::META {
                    return Err("the meta group is on every node; `quorate cluster lead` moves its lead".into());
                }
                if !to.voters.contains(&from) {
                    return Err(format!("shard {} has no replica on node {}", group.0, from.0));
                }
                if to.voters.contains(&target) {
                    return Err(format!("shard {} has a replica on node {} already", group.0, target.0));
                }
                let cluster = self.member.cluster();
                let fits = cluster
                    .nodes()
                    .get(&target)
                    .is_some_and(|node| node.place.roles.data && node.state == NodeState::Active);
                if !fits {
                    return Err(format!(
                        "node {} takes no replicas: it lacks the role data, or is draining or leaving",
                        target.0
                    ));
                }
                to.voters.retain(|id| *id != from);
                to.learners.retain(|id| *id != target);
                to.voters.push(target);
                to.voters.sort_unstable();
                to.leader = to.leader.filter(|leader| *leader != from);
                to.by_hand = true;
                Ok(Some(vec![Change::Assign { group, was: Some(was), to }]))
            }
            "lead" => {
                let ((group, was), target) = (self.group()?, self.node("to")?);
                let mut to = was.clone();
                if !to.voters.contains(&target) {
                    return Err(format!(
                        "node {} does not vote in shard {}; move a replica there first",
                        target.0, group.0
                    ));
                }
                (to.leader, to.by_hand) = (Some(target), true);
                Ok(Some(vec![Change::Assign { group, was: Some(was), to }]))
            }
            "move-slots" => {
                let slots = self.slots()?.ok_or("?slots= is missing, as in slots=0-99,200")?;
                let shard = |name| {
                    let number = self.number(name)?;
                    u32::try_from(number).map(GroupId).map_err(|_| format!("there is no shard {number}"))
                };
                Ok(Some(vec![Change::MoveSlots { from: shard("from")?, to: shard("to")?, slots }]))
            }
            "rebalance" => {
                let cluster = self.member.cluster();
                let placed = cluster.groups().iter().filter(|(_, to)| to.by_hand);
                let free = |to: &Assignment| Assignment { by_hand: false, ..to.clone() };
                let freed = |(group, to): (&GroupId, &Assignment)| Change::Assign {
                    group: *group,
                    was: Some(to.clone()),
                    to: free(to),
                };
                Ok(Some(placed.map(freed).collect()))
            }
            "replication" => Ok(Some(vec![Change::Replicate { voters: self.number("voters")? as usize }])),
            _ => Ok(None),
        }
    }
}

fn parse(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

//! Stored forms, each with its version: the cluster in a snapshot, a change in an entry, its outcome in an answer.

use base::{ClusterId, GroupId, NodeId, SLOT_COUNT, SlotSet};
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

use crate::change::{Change, Outcome};
use crate::model::{Assignment, Authority, Cluster, NODES_MAX, Node, NodeState, Place, Roles};
use crate::slots::{Move, SlotMap};

const VERSION: u8 = 1;
/// Of the whole cluster: in 2 there are shards that were made later, the map of slots and moves.
const CLUSTER_VERSION: u8 = 2;

/// Beside the bits of a place's roles: the address of its Kafka door follows.
const KAFKA: u8 = 0x80;
/// And one of an etcd door.
const ETCD: u8 = 0x40;

type Out = Vec<u8>;

fn put_word(out: &mut Out, word: &str) {
    put_bytes(out, word.as_bytes());
}

fn word(input: &mut Input<'_>) -> Result<String, Corrupt> {
    String::from_utf8(input.bytes()?.to_vec()).map_err(|_| Corrupt("a word that is no text"))
}

fn digest(input: &mut Input<'_>) -> Result<[u8; 32], Corrupt> {
    input.take(32)?.try_into().map_err(|_| Corrupt("a digest of another length"))
}

fn node(input: &mut Input<'_>) -> Result<NodeId, Corrupt> {
    Some(NodeId(input.varint()?)).filter(|id| id.0 != 0).ok_or(Corrupt("no node has the number 0"))
}

fn group(input: &mut Input<'_>) -> Result<GroupId, Corrupt> {
    u32::try_from(input.varint()?).map(GroupId).map_err(|_| Corrupt("no group has such a number"))
}

fn put_nodes(out: &mut Out, nodes: &[NodeId]) {
    put_varint(out, nodes.len() as u64);
    nodes.iter().for_each(|id| put_varint(out, id.0));
}

fn nodes(input: &mut Input<'_>) -> Result<Vec<NodeId>, Corrupt> {
    let count = input.count()?;
    (0..count).map(|_| node(input)).collect()
}

fn put_place(out: &mut Out, place: &Place) {
    let Place { peer, redis, redis_cluster, admin, kafka, etcd, zone, roles } = place;
    [peer, redis, redis_cluster, admin, zone].into_iter().for_each(|word| put_word(out, word));
    // A place that was written before there was a Kafka door has no such bit.
    let kafka_bit = if kafka.is_empty() { 0 } else { KAFKA };
    let etcd_bit = if etcd.is_empty() { 0 } else { ETCD };
    out.push(roles.bits() | kafka_bit | etcd_bit);
    if kafka_bit != 0 {
        put_word(out, kafka);
    }
    if etcd_bit != 0 {
        put_word(out, etcd);
    }
}

fn place(input: &mut Input<'_>) -> Result<Place, Corrupt> {
    let (peer, redis, redis_cluster) = (word(input)?, word(input)?, word(input)?);
    let (admin, zone, bits) = (word(input)?, word(input)?, input.u8()?);
    let roles = Roles::from_bits(bits & !(KAFKA | ETCD)).ok_or(Corrupt("unknown roles"))?;
    let kafka = if bits & KAFKA != 0 { word(input)? } else { String::new() };
    let etcd = if bits & ETCD != 0 { word(input)? } else { String::new() };
    Ok(Place { peer, redis, redis_cluster, admin, kafka, etcd, zone, roles })
}

fn put_state(out: &mut Out, state: NodeState) {
    out.push(match state {
        NodeState::Active => 0,
        NodeState::Draining => 1,
        NodeState::Leaving => 2,
    });
}

fn state(input: &mut Input<'_>) -> Result<NodeState, Corrupt> {
    match input.u8()? {
        0 => Ok(NodeState::Active),
        1 => Ok(NodeState::Draining),
        2 => Ok(NodeState::Leaving),
        _ => Err(Corrupt("unknown state of a node")),
    }
}

fn put_authority(out: &mut Out, authority: &Authority) {
    put_bytes(out, &authority.certificate);
    out.extend_from_slice(&authority.token);
}

fn authority(input: &mut Input<'_>) -> Result<Authority, Corrupt> {
    Ok(Authority { certificate: input.bytes()?.to_vec(), token: digest(input)? })
}

fn put_assignment(out: &mut Out, to: &Assignment) {
    put_nodes(out, &to.voters);
    put_nodes(out, &to.learners);
    put_varint(out, to.leader.map_or(0, |leader| leader.0));
    out.push(u8::from(to.by_hand));
}

fn assignment(input: &mut Input<'_>) -> Result<Assignment, Corrupt> {
    let (voters, learners) = (nodes(input)?, nodes(input)?);
    let leader = Some(NodeId(input.varint()?)).filter(|id| id.0 != 0);
    Ok(Assignment { voters, learners, leader, by_hand: input.u8()? != 0 })
}

fn put_group(out: &mut Out, group: GroupId) {
    put_varint(out, u64::from(group.0));
}

fn put_slots(out: &mut Out, slots: &SlotSet) {
    let ranges = slots.ranges();
    put_varint(out, ranges.len() as u64);
    for (first, last) in ranges {
        put_varint(out, u64::from(first));
        put_varint(out, u64::from(last));
    }
}

fn slots(input: &mut Input<'_>) -> Result<SlotSet, Corrupt> {
    let number = |input: &mut Input<'_>| {
        u16::try_from(input.varint()?).ok().filter(|slot| *slot < SLOT_COUNT).ok_or(Corrupt("no such slot"))
    };
    let count = input.count()?;
    if count > usize::from(SLOT_COUNT) {
        return Err(Corrupt("more slots than there are"));
    }
    let ranges: Vec<(u16, u16)> =
        (0..count).map(|_| Ok((number(input)?, number(input)?))).collect::<Result<_, Corrupt>>()?;
    Ok(SlotSet::of(ranges))
}

fn put_cluster_id(out: &mut Out, id: ClusterId) {
    out.extend_from_slice(&id.0);
}

fn cluster_id(input: &mut Input<'_>) -> Result<ClusterId, Corrupt> {
    let bytes = input.take(16)?.try_into().map_err(|_| Corrupt("a cluster id of another length"))?;
    Ok(ClusterId(bytes))
}

fn version(input: &mut Input<'_>) -> Result<(), Corrupt> {
    match input.u8()? {
        VERSION => Ok(()),
        _ => Err(Corrupt("a cluster of a version that this build does not know")),
    }
}

impl Cluster {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(CLUSTER_VERSION);
        put_cluster_id(out, self.id);
        out.push(u8::from(self.authority.is_some()));
        if let Some(authority) = &self.authority {
            put_authority(out, authority);
        }
        put_varint(out, self.nodes.len() as u64);
        for node in self.nodes.values() {
            put_varint(out, node.id.0);
            put_place(out, &node.place);
            put_state(out, node.state);
            out.extend_from_slice(&node.key);
            put_u64(out, node.since);
        }
        put_varint(out, self.next);
        put_varint(out, self.groups.len() as u64);
        for (group, to) in &self.groups {
            put_varint(out, u64::from(group.0));
            put_assignment(out, to);
        }
        put_varint(out, self.replication as u64);
        put_varint(out, self.index);
        put_varint(out, self.born.len() as u64);
        for (group, founders) in &self.born {
            put_group(out, *group);
            put_nodes(out, founders);
        }
        out.push(u8::from(self.map.is_some()));
        if let Some(map) = &self.map {
            put_varint(out, map.shards.len() as u64);
            for (group, slots) in &map.shards {
                put_group(out, *group);
                put_slots(out, slots);
            }
        }
        put_varint(out, self.moves.len() as u64);
        for (from, own) in &self.moves {
            put_group(out, *from);
            put_group(out, own.to);
            put_slots(out, &own.slots);
            put_u64(out, own.since);
            out.push(u8::from(own.is_split));
        }
    }

    /// Reads what [`Cluster::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &mut Input<'_>) -> Result<Cluster, Corrupt> {
        let version = input.u8()?;
        if !(1..=CLUSTER_VERSION).contains(&version) {
            return Err(Corrupt("a cluster of a version that this build does not know"));
        }
        let id = cluster_id(input)?;
        let authority = if input.u8()? == 0 { None } else { Some(authority(input)?) };
        let mut cluster = Cluster { id, authority, ..Cluster::default() };
        let count = input.count()?;
        if count > NODES_MAX {
            return Err(Corrupt("more nodes than a cluster may have"));
        }
        for _ in 0..count {
            let id = node(input)?;
            let (place, state) = (place(input)?, state(input)?);
            let (key, since) = (digest(input)?, input.u64()?);
            cluster.nodes.insert(id, Node { id, place, state, key, since });
        }
        cluster.next = Some(input.varint()?).filter(|next| *next > 0).ok_or(Corrupt("no node has the number 0"))?;
        for _ in 0..input.count()? {
            let group = group(input)?;
            cluster.groups.insert(group, assignment(input)?);
        }
        cluster.replication = input.varint()? as usize;
        cluster.index = input.varint()?;
        if version == 1 {
            return Ok(cluster);
        }
        for _ in 0..input.count()? {
            let group = group(input)?;
            cluster.born.insert(group, nodes(input)?);
        }
        if input.u8()? != 0 {
            let mut map = SlotMap::default();
            for _ in 0..input.count()? {
                let group = group(input)?;
                map.shards.insert(group, slots(input)?);
            }
            cluster.map = Some(map);
        }
        for _ in 0..input.count()? {
            let from = group(input)?;
            let (to, slots) = (group(input)?, slots(input)?);
            let (since, is_split) = (input.u64()?, input.u8()? != 0);
            cluster.moves.insert(from, Move { to, slots, since, is_split });
        }
        Ok(cluster)
    }
}

impl Change {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Change::Found { id, authority, node, key, place, groups } => {
                out.push(1);
                put_cluster_id(&mut out, *id);
                put_authority(&mut out, authority);
                put_varint(&mut out, node.0);
                out.extend_from_slice(key);
                put_place(&mut out, place);
                put_varint(&mut out, groups.len() as u64);
                groups.iter().for_each(|group| put_varint(&mut out, u64::from(group.0)));
            }
            Change::Join { key, place } => {
                out.push(2);
                out.extend_from_slice(key);
                put_place(&mut out, place);
            }
            Change::Describe { node, place } => {
                out.push(3);
                put_varint(&mut out, node.0);
                put_place(&mut out, place);
            }
            Change::SetState { node, state } => {
                out.push(4);
                put_varint(&mut out, node.0);
                put_state(&mut out, *state);
            }
            Change::Forget { node } => {
                out.push(5);
                put_varint(&mut out, node.0);
            }
            Change::Assign { group, was, to } => {
                out.push(if was.is_some() { 12 } else { 6 });
                put_group(&mut out, *group);
                was.iter().for_each(|was| put_assignment(&mut out, was));
                put_assignment(&mut out, to);
            }
            Change::Replicate { voters } => {
                out.push(7);
                put_varint(&mut out, *voters as u64);
            }
            Change::Token { token } => {
                out.push(8);
                out.extend_from_slice(token);
            }
            Change::Split { from, slots, founders } => {
                out.push(9);
                put_group(&mut out, *from);
                put_slots(&mut out, slots);
                put_nodes(&mut out, founders);
            }
            Change::MoveSlots { from, to, slots } => {
                out.push(10);
                put_group(&mut out, *from);
                put_group(&mut out, *to);
                put_slots(&mut out, slots);
            }
            Change::Moved { from, to, slots } => {
                out.push(11);
                put_group(&mut out, *from);
                put_group(&mut out, *to);
                put_slots(&mut out, slots);
            }
        }
        out
    }

    /// Reads what [`Change::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Change, Corrupt> {
        let mut input = Input::new(bytes);
        version(&mut input)?;
        let input = &mut input;
        Ok(match input.u8()? {
            1 => Change::Found {
                id: cluster_id(input)?,
                authority: authority(input)?,
                node: node(input)?,
                key: digest(input)?,
                place: place(input)?,
                groups: {
                    let count = input.count()?;
                    (0..count).map(|_| group(input)).collect::<Result<_, _>>()?
                },
            },
            2 => Change::Join { key: digest(input)?, place: place(input)? },
            3 => Change::Describe { node: node(input)?, place: place(input)? },
            4 => Change::SetState { node: node(input)?, state: state(input)? },
            5 => Change::Forget { node: node(input)? },
            6 => Change::Assign { group: group(input)?, was: None, to: assignment(input)? },
            7 => Change::Replicate { voters: input.varint()? as usize },
            8 => Change::Token { token: digest(input)? },
            9 => Change::Split { from: group(input)?, slots: slots(input)?, founders: nodes(input)? },
            10 => Change::MoveSlots { from: group(input)?, to: group(input)?, slots: slots(input)? },
            11 => Change::Moved { from: group(input)?, to: group(input)?, slots: slots(input)? },
            12 => Change::Assign { group: group(input)?, was: Some(assignment(input)?), to: assignment(input)? },
            _ => return Err(Corrupt("unknown change of the cluster")),
        })
    }
}

impl Outcome {
    /// The form in which it is answered.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Outcome::Done => out.push(0),
            Outcome::Joined(node) => {
                out.push(1);
                put_varint(&mut out, node.0);
            }
            Outcome::Refused(why) => {
                out.push(2);
                put_word(&mut out, why);
            }
            Outcome::Made(group) => {
                out.push(3);
                put_group(&mut out, *group);
            }
            Outcome::Outdated => out.push(4),
        }
        out
    }

    /// Reads what [`Outcome::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, Corrupt> {
        let mut input = Input::new(bytes);
        version(&mut input)?;
        match input.u8()? {
            0 => Ok(Outcome::Done),
            1 => Ok(Outcome::Joined(node(&mut input)?)),
            2 => Ok(Outcome::Refused(word(&mut input)?)),
            3 => Ok(Outcome::Made(group(&mut input)?)),
            4 => Ok(Outcome::Outdated),
            _ => Err(Corrupt("unknown outcome")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Place {
        Place {
            peer: format!("{name}:7400"),
            redis: format!("{name}:6379"),
            redis_cluster: String::new(),
            kafka: "10.0.0.1:9092".into(),
            etcd: "10.0.0.1:2379".into(),
            admin: format!("{name}:7070"),
            zone: "a".into(),
            roles: Roles::ALL,
        }
    }

    fn changes() -> Vec<Change> {
        let authority = Authority { certificate: b"cert".to_vec(), token: [7; 32] };
        let groups = vec![GroupId(0), GroupId(1)];
        let to = Assignment { voters: vec![NodeId(1)], learners: vec![NodeId(2)], leader: None, by_hand: true };
        let alone = Assignment { learners: Vec::new(), ..to.clone() };
        vec![
            Change::Found {
                id: ClusterId([5; 16]),
                authority,
                node: NodeId(1),
                key: [1; 32],
                place: example("a"),
                groups,
            },
            Change::Join { key: [2; 32], place: example("b") },
            Change::Join { key: [2; 32], place: example("b") },
            Change::Describe { node: NodeId(2), place: Place { zone: "z".into(), ..example("b") } },
            Change::Assign { group: GroupId(1), was: None, to: to.clone() },
            Change::Assign { group: GroupId(1), was: Some(to.clone()), to: alone.clone() },
            Change::Assign { group: GroupId(1), was: Some(alone.clone()), to: to.clone() },
            Change::Assign { group: GroupId(1), was: Some(alone.clone()), to: alone },
            Change::SetState { node: NodeId(2), state: NodeState::Leaving },
            Change::Forget { node: NodeId(2) },
            Change::Replicate { voters: 5 },
            Change::Token { token: [9; 32] },
            Change::Split { from: GroupId(1), slots: SlotSet::of([(0, 7), (9, 9)]), founders: vec![NodeId(1)] },
            Change::Moved { from: GroupId(1), to: GroupId(2), slots: SlotSet::of([(0, 7), (9, 9)]) },
            Change::MoveSlots { from: GroupId(1), to: GroupId(2), slots: SlotSet::of([(8, 8)]) },
        ]
    }

    #[test]
    fn everything_reads_back_as_it_was_written() {
        let mut cluster = Cluster::default();
        let mut outcomes = Vec::new();
        for (at, change) in changes().into_iter().enumerate() {
            assert_eq!(Change::decode(&change.encode()), Ok(change.clone()));
            let outcome = cluster.apply(&change, at as u64 + 1, 100);
            assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome.clone()));
            outcomes.push(outcome);
            let mut bytes = Vec::new();
            cluster.encode(&mut bytes);
            assert_eq!(Cluster::decode(&mut Input::new(&bytes)), Ok(cluster.clone()));
        }
        assert_eq!(outcomes[1..3], [Outcome::Joined(NodeId(2)), Outcome::Joined(NodeId(2))]);
        assert_eq!(
            outcomes[6..8],
            [Outcome::Done, Outcome::Outdated],
            "of two from the same sight the second does nothing"
        );
        assert_eq!(outcomes[9], Outcome::Refused("the node still holds replicas".into()));
        assert_eq!((cluster.replication(), cluster.index()), (5, 15));
    }

    #[test]
    fn damaged_forms_are_errors_never_panics() {
        let mut rng = base::Rng::new(3);
        let mut cluster = Cluster::default();
        for change in changes() {
            cluster.apply(&change, 1, 1);
        }
        let mut whole = Vec::new();
        cluster.encode(&mut whole);
        let forms: Vec<Vec<u8>> = changes().iter().map(Change::encode).chain([whole]).collect();
        for form in forms {
            for _ in 0..3_000 {
                let mut bytes = form.clone();
                for _ in 0..=rng.below(3) {
                    let at = rng.index(bytes.len());
                    bytes[at] = rng.next_u64() as u8;
                }
                bytes.truncate(rng.index(bytes.len()) + 1);
                let _ = (Change::decode(&bytes), Outcome::decode(&bytes), Cluster::decode(&mut Input::new(&bytes)));
            }
        }
    }
}

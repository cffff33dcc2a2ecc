//! Who is where: nodes, topics, leaders, coordinators.

use std::sync::Arc;

use base::{GroupId, NodeId};
use queue::{Topic, Topics, topics};

use super::messages::*;
use super::{Call, Door, errors};

/// A node as clients reach it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub node: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

fn split(address: &str) -> Option<(String, i32)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

impl Door {
    /// All nodes that say where their Kafka door is; this one anyway.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let cluster = self.registry.cluster();
        let mut addresses = Vec::new();
        let of = |node: NodeId, text: &str, zone: &str| {
            let (host, port) = split(text)?;
            let rack = Some(zone.to_owned()).filter(|zone| !zone.is_empty());
            Some(Address { node: node.0 as i32, host, port, rack })
        };
        for (id, node) in cluster.nodes() {
            // What this node was told at its start is newer than what the directory may still say.
            if *id != self.own {
                addresses.extend(of(*id, &node.place.kafka, &node.place.zone));
            }
        }
        let zone = cluster.nodes().get(&self.own).map_or("", |node| node.place.zone.as_str());
        addresses.extend(of(self.own, &self.config.advertise, zone));
        addresses.sort_by_key(|address| address.node);
        addresses
    }

    pub(super) fn cluster_id(&self) -> String {
        format!("quorate-{}", self.registry.cluster().id())
    }

    /// The topics, as of the last entry of the meta group that was applied here.
    pub(super) fn topics(&self) -> Arc<Topics> {
        self.registry.shard().state().topics().clone()
    }

    /// The shard of a partition.
    pub(super) fn shard_of_partition(&self, topic: &Topic, partition: u32) -> usize {
        self.shards.home_of(format!("topic:{}:{partition}", topic.place()).as_bytes())
    }

    /// The shard of a group or a transactional id.
    pub(super) fn shard_of_name(&self, name: &str) -> usize {
        self.shards.home_of(name.as_bytes())
    }

    /// Who leads a shard, as far as this node knows. Of one that is on other nodes alone: who should (if it does not, it says so), for
    /// whoever led it while this node still had a part in it may be long dead.
    fn leader(&self, at: usize) -> Option<i32> {
        let shard = &self.shards.shards[at];
        let leader = match shard.is_led_elsewhere() {
            true => self.leader_by_plan(shard.group).or_else(|| shard.leader().filter(|node| *node != self.own)),
            false => Some(self.own),
        };
        leader.map(|node| node.0 as i32)
    }

    fn leader_by_plan(&self, group: GroupId) -> Option<NodeId> {
        let (cluster, me) = (self.registry.cluster(), &self.own);
        let own = cluster.groups().get(&group)?;
        if own.voters.contains(me) || own.learners.contains(me) {
            return None;
        }
        own.leader.or_else(|| own.voters.first().copied())
    }

    /// The leader's epoch of a shard, where this node holds a copy.
    pub(super) fn epoch(&self, at: usize) -> i32 {
        let state = self.shards.shards[at].state();
        if state.applied() == 0 { -1 } else { state.queue().epoch() }
    }

    fn replicas(&self, at: usize, leader: Option<i32>) -> Vec<i32> {
        let cluster = self.registry.cluster();
        let voters = cluster.groups().get(&self.shards.shards[at].group).map(|own| own.voters.clone());
        let mut replicas: Vec<i32> = voters.unwrap_or_default().iter().map(|node| node.0 as i32).collect();
        if replicas.is_empty() {
            replicas.extend(leader);
        }
        replicas
    }

    /// Makes a topic with the default number of partitions.
    async fn create(self: &Arc<Door>, name: &str) -> i16 {
        let partitions = self.config.partitions;
        let change = topics::Change::Create { name: name.to_owned(), partitions, settings: Vec::new() };
        match self.change_topics(&change).await {
            Ok(topics::Outcome::Done { .. }) => errors::NONE,
            Ok(topics::Outcome::Refused(code, _)) if code.0 == errors::TOPIC_ALREADY_EXISTS => errors::NONE,
            Ok(topics::Outcome::Refused(code, _)) => code.0,
            Err(_) => errors::LEADER_NOT_AVAILABLE,
        }
    }
}

fn described(door: &Door, topic: &Topic) -> MetadataTopic {
    let mut known: std::collections::BTreeMap<usize, (Option<i32>, i32, Vec<i32>)> = std::collections::BTreeMap::new();
    let partitions = (0..topic.partitions).map(|index| {
        let at = door.shard_of_partition(topic, index);
        let (leader, epoch, replicas) = known
            .entry(at)
            .or_insert_with(|| {
                let leader = door.leader(at);
                (leader, door.epoch(at), door.replicas(at, leader))
            })
            .clone();
        MetadataPartition {
            error: if leader.is_some() { errors::NONE } else { errors::LEADER_NOT_AVAILABLE },
            index: index as i32,
            leader: leader.unwrap_or(-1),
            leader_epoch: epoch,
            replicas: replicas.clone(),
            isr: replicas,
            offline: Vec::new(),
        }
    });
    MetadataTopic {
        name: Some(topic.name.to_string()),
        id: topic.id.0.to_be_bytes(),
        partitions: partitions.collect(),
        ..MetadataTopic::default()
    }
}

pub(super) async fn metadata(door: &Arc<Door>, request: MetadataRequest, call: &Call) -> MetadataResponse {
    let version = call.header.version;
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let mut topics = Vec::new();
    if all {
        topics.extend(door.topics().iter().map(|topic| described(door, topic)));
    } else {
        for asked in request.topics.unwrap_or_default() {
            let name = match asked.name {
                Some(name) => name,
                None => {
                    let id = queue::TopicId(u128::from_be_bytes(asked.id));
                    topics.push(match door.topics().by_id(id) {
                        Some(topic) => described(door, topic),
                        None => {
                            MetadataTopic { error: errors::UNKNOWN_TOPIC_ID, id: asked.id, ..MetadataTopic::default() }
                        }
                    });
                    continue;
                }
            };
            let mut error = errors::UNKNOWN_TOPIC_OR_PARTITION;
            if door.topics().get(&name).is_none() {
                if let Err((code, _)) = topics::check_name(&name) {
                    error = code.0;
                } else if request.may_create && door.config.creates_topics {
                    error = match door.create(&name).await {
                        errors::NONE => errors::LEADER_NOT_AVAILABLE,
                        error => error,
                    };
                }
            }
            topics.push(match door.topics().get(&name) {
                Some(topic) => described(door, topic),
                None => MetadataTopic { error, name: Some(name), ..MetadataTopic::default() },
            });
        }
    }
    let brokers = door.addresses().into_iter();
    let brokers = brokers.map(|at| Broker { node: at.node, host: at.host, port: at.port, rack: at.rack }).collect();
    MetadataResponse {
        brokers,
        cluster_id: Some(door.cluster_id()),
        controller: controller(door),
        topics,
        ..MetadataResponse::default()
    }
}

fn controller(door: &Door) -> i32 {
    door.registry.leader().unwrap_or(door.own).0 as i32
}

pub(super) fn describe_cluster(door: &Arc<Door>, _: DescribeClusterRequest, _: &Call) -> DescribeClusterResponse {
    let brokers = door.addresses().into_iter();
    let brokers = brokers.map(|at| ClusterBroker { node: at.node, host: at.host, port: at.port, rack: at.rack });
    DescribeClusterResponse {
        cluster_id: door.cluster_id(),
        controller: controller(door),
        brokers: brokers.collect(),
        ..DescribeClusterResponse::default()
    }
}

pub(super) fn find_coordinator(
    door: &Arc<Door>,
    request: FindCoordinatorRequest,
    call: &Call,
) -> FindCoordinatorResponse {
    let addresses = door.addresses();
    let find = |key: String| {
        if request.kind != 0 && request.kind != 1 {
            let message = Some("only groups and transactional ids have a coordinator".to_owned());
            return Coordinator {
                key,
                node: -1,
                port: -1,
                error: errors::INVALID_REQUEST,
                message,
                ..Coordinator::default()
            };
        }
        let leader = door.leader(door.shard_of_name(&key));
        match addresses.iter().find(|at| Some(at.node) == leader) {
            Some(at) => Coordinator {
                key,
                node: at.node,
                host: at.host.clone(),
                port: at.port,
                error: errors::NONE,
                message: None,
            },
            None => {
                let message = Some("its shard has no leader at the moment".to_owned());
                let error = errors::COORDINATOR_NOT_AVAILABLE;
                Coordinator { key, node: -1, port: -1, error, message, ..Coordinator::default() }
            }
        }
    };
    if call.header.version >= 4 {
        let coordinators = request.keys.into_iter().map(find).collect();
        return FindCoordinatorResponse { coordinators, ..FindCoordinatorResponse::default() };
    }
    let Coordinator { node, host, port, error, message, .. } = find(request.key);
    FindCoordinatorResponse { error, message, node, host, port, ..FindCoordinatorResponse::default() }
}

pub(super) fn describe_log_dirs(
    door: &Arc<Door>,
    request: DescribeLogDirsRequest,
    _: &Call,
) -> DescribeLogDirsResponse {
    let topics = door.topics();
    let asked: Vec<(String, Option<Vec<i32>>)> = match request.topics {
        Some(asked) => asked.into_iter().map(|own| (own.name, Some(own.partitions))).collect(),
        None => topics.iter().map(|topic| (topic.name.to_string(), None)).collect(),
    };
    let sized = asked.into_iter().filter_map(|(name, asked)| {
        let topic = topics.get(&name)?;
        let is_asked = |index: &u32| asked.as_ref().is_none_or(|asked| asked.contains(&(*index as i32)));
        let partitions = (0..topic.partitions).filter(is_asked).filter_map(|index| {
            let at = door.shard_of_partition(topic, index);
            let is_here = door.replicas(at, door.leader(at)).contains(&(door.own.0 as i32));
            let bytes = door.shards.shards[at].state().queue().partition(topic.id, index).map_or(0, |own| own.bytes());
            is_here.then_some(LogDirPartition { index: index as i32, bytes: bytes as i64, lag: 0, is_future: false })
        });
        let partitions: Vec<LogDirPartition> = partitions.collect();
        (!partitions.is_empty()).then_some(LogDirTopicSizes { name, partitions })
    });
    // One directory holds everything; where it is on this machine is nobody's business.
    let dir = LogDir { dir: "data".into(), topics: sized.collect(), ..LogDir::default() };
    DescribeLogDirsResponse { results: vec![dir], ..DescribeLogDirsResponse::default() }
}

//! Topics made, changed and deleted, and their settings.

use std::sync::Arc;

use queue::topics::{Change, Edit, How, KNOWN, Outcome};
use queue::{Topic, TopicId};

use super::messages::*;
use super::{Call, Door, errors};

/// The kind of resource that has settings here.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET_BY_TOPIC: i8 = 1;
const SET_BY_BROKER_FILE: i8 = 4;
const DEFAULT: i8 = 5;

async fn change(
    door: &Arc<Door>,
    change: Change,
    validate_only: bool,
) -> (i16, Option<String>, Option<(TopicId, u32)>) {
    let outcome = if validate_only {
        let index = door.registry.shard().state().applied() + 1;
        Ok(door.topics().judge(&change, index, door.shards.world.wall_micros() / 1000))
    } else {
        door.change_topics(&change).await
    };
    match outcome {
        Ok(Outcome::Done { id, partitions }) => (errors::NONE, None, Some((id, partitions))),
        Ok(Outcome::Refused(code, why)) => (code.0, Some(why), None),
        Err(error) => (error, None, None),
    }
}

fn replication(door: &Door) -> i16 {
    i16::try_from(door.registry.cluster().replication()).unwrap_or(i16::MAX).max(1)
}

pub(super) async fn create(door: &Arc<Door>, request: CreateTopicsRequest, _: &Call) -> CreateTopicsResponse {
    let mut topics = Vec::new();
    for asked in &request.topics {
        let refused = |error, why: &str| CreatedTopic {
            name: asked.name.clone(),
            error,
            message: Some(why.to_owned()),
            ..CreatedTopic::default()
        };
        let twice = request.topics.iter().filter(|other| other.name == asked.name).count() > 1;
        if twice {
            topics.push(refused(errors::INVALID_REQUEST, "the topic stands twice in the request"));
            continue;
        }
        if !asked.assignments.is_empty() && (asked.partitions != -1 || asked.replication != -1) {
            topics.push(refused(errors::INVALID_REQUEST, "replicas are assigned, or counted, not both"));
            continue;
        }
        // Where replicas lie is the cluster's plan; a list of them says how many partitions there are to be.
        let partitions = match (asked.partitions, asked.assignments.len()) {
            (-1, 0) => Some(door.config.partitions),
            (-1, count) => u32::try_from(count).ok(),
            (count, _) => u32::try_from(count).ok().filter(|count| *count > 0),
        };
        let Some(partitions) = partitions else {
            topics.push(refused(errors::INVALID_PARTITIONS, "a topic has at least one partition"));
            continue;
        };
        if asked.replication == 0 || asked.replication < -1 {
            topics.push(refused(errors::INVALID_REPLICATION_FACTOR, "a partition has at least one replica"));
            continue;
        }
        let settings = asked.configs.iter().filter_map(|own| Some((own.name.clone(), own.value.clone()?)));
        let wish = Change::Create { name: asked.name.clone(), partitions, settings: settings.collect() };
        let (error, message, done) = change(door, wish, request.validate_only).await;
        let mut created = CreatedTopic { name: asked.name.clone(), error, message, ..CreatedTopic::default() };
        if let Some((id, partitions)) = done {
            created.id = if request.validate_only { [0; 16] } else { id.0.to_be_bytes() };
            (created.partitions, created.replication) = (partitions as i32, replication(door));
            created.configs = door.topics().get(&asked.name).map(|topic| {
                let configs = described(topic, None).into_iter();
                let configs = configs.map(|own| CreatedConfig {
                    name: own.name,
                    value: own.value,
                    read_only: false,
                    source: own.source,
                    is_sensitive: false,
                });
                configs.collect()
            });
            if created.configs.is_none() {
                created.configs = Some(Vec::new());
            }
        }
        topics.push(created);
    }
    CreateTopicsResponse { topics, throttle_ms: 0 }
}

pub(super) async fn delete(door: &Arc<Door>, request: DeleteTopicsRequest, _: &Call) -> DeleteTopicsResponse {
    let by_name = request.names.into_iter().map(|name| DeletableTopic { name: Some(name), id: [0; 16] });
    let mut topics = Vec::new();
    for asked in by_name.chain(request.topics) {
        let (name, id) = match asked.name {
            Some(name) => (name, None),
            None => {
                let id = TopicId(u128::from_be_bytes(asked.id));
                match door.topics().by_id(id) {
                    Some(topic) => (topic.name.to_string(), Some(id)),
                    None => {
                        let error = errors::UNKNOWN_TOPIC_ID;
                        topics.push(DeletedTopic { id: asked.id, error, ..DeletedTopic::default() });
                        continue;
                    }
                }
            }
        };
        let (error, message, done) = change(door, Change::Delete { name: name.clone(), id }, false).await;
        let id = done.map_or(asked.id, |(id, _)| id.0.to_be_bytes());
        topics.push(DeletedTopic { name: Some(name), id, error, message });
    }
    DeleteTopicsResponse { topics, throttle_ms: 0 }
}

pub(super) async fn grow(door: &Arc<Door>, request: CreatePartitionsRequest, _: &Call) -> CreatePartitionsResponse {
    let mut topics = Vec::new();
    for asked in request.topics {
        let (error, message) = match u32::try_from(asked.count) {
            Err(_) => (errors::INVALID_PARTITIONS, Some("a topic has at least one partition".to_owned())),
            Ok(partitions) => {
                let wish = Change::Grow { name: asked.name.clone(), partitions };
                let (error, message, _) = change(door, wish, request.validate_only).await;
                (error, message)
            }
        };
        topics.push(GrownTopic { name: asked.name, error, message });
    }
    CreatePartitionsResponse { topics, throttle_ms: 0 }
}

/// Kafka's number for what a value looks like.
fn kind(default: &str) -> i8 {
    if matches!(default, "true" | "false") {
        return 1;
    }
    if default.parse::<i64>().is_ok() { 5 } else { 2 }
}

fn described(topic: &Topic, keys: Option<&[String]>) -> Vec<DescribedConfig> {
    let is_asked = |key: &str| keys.is_none_or(|keys| keys.iter().any(|asked| asked == key));
    let known = KNOWN.iter().filter(|known| is_asked(known.key));
    let one = |known: &queue::topics::Known| {
        let value = topic.settings.get(known.key).map(str::to_owned);
        let source = if topic.settings.is_set(known.key) { SET_BY_TOPIC } else { DEFAULT };
        let mut synonyms = Vec::new();
        if source == SET_BY_TOPIC {
            synonyms.push(ConfigSynonym { name: known.key.into(), value: value.clone(), source });
        }
        synonyms.push(ConfigSynonym { name: known.key.into(), value: Some(known.default.into()), source: DEFAULT });
        DescribedConfig {
            name: known.key.into(),
            value,
            read_only: known.key == "quorate.tag",
            source,
            is_sensitive: false,
            synonyms,
            kind: kind(known.default),
            documentation: Some(known.about.into()),
        }
    };
    known.map(one).collect()
}

/// What of a node may be read under Kafka's names. None of it can be set this way.
fn of_node(door: &Door, keys: Option<&[String]>) -> Vec<DescribedConfig> {
    let replication = replication(door).to_string();
    let all = [
        ("broker.id", door.own.0.to_string()),
        ("auto.create.topics.enable", door.config.creates_topics.to_string()),
        ("num.partitions", door.config.partitions.to_string()),
        ("default.replication.factor", replication),
        ("socket.request.max.bytes", super::REQUEST_BYTES_MAX.to_string()),
        ("group.initial.rebalance.delay.ms", queue::coordinator::COMPANY_WAIT.as_millis().to_string()),
        ("group.min.session.timeout.ms", queue::coordinator::SESSION_MS.start().to_string()),
        ("group.max.session.timeout.ms", queue::coordinator::SESSION_MS.end().to_string()),
        ("transaction.max.timeout.ms", queue::limits::TRANSACTION_TIMEOUT_MS_MAX.to_string()),
        ("offset.metadata.max.bytes", queue::limits::OFFSET_METADATA_BYTES_MAX.to_string()),
    ];
    let is_asked = |key: &str| keys.is_none_or(|keys| keys.iter().any(|asked| asked == key));
    let one = |(name, value): (&str, String)| DescribedConfig {
        name: name.into(),
        kind: kind(&value),
        value: Some(value),
        read_only: true,
        source: SET_BY_BROKER_FILE,
        ..DescribedConfig::default()
    };
    all.into_iter().filter(|(key, _)| is_asked(key)).map(one).collect()
}

pub(super) fn describe_configs(door: &Arc<Door>, request: DescribeConfigsRequest, _: &Call) -> DescribeConfigsResponse {
    let topics = door.topics();
    let one = |asked: ConfigResource| {
        let (kind, name) = (asked.kind, asked.name);
        let keys = asked.keys.as_deref();
        let found = match kind {
            TOPIC => topics.get(&name).map(|topic| described(topic, keys)).ok_or(errors::UNKNOWN_TOPIC_OR_PARTITION),
            BROKER if name.is_empty() || name == door.own.0.to_string() => Ok(of_node(door, keys)),
            _ => Err(errors::INVALID_REQUEST),
        };
        let (error, mut configs) = found.map_or_else(|error| (error, Vec::new()), |configs| (errors::NONE, configs));
        for config in &mut configs {
            if !request.with_synonyms {
                config.synonyms.clear();
            }
            if !request.with_documentation {
                config.documentation = None;
            }
        }
        DescribedResource { error, message: None, kind, name, configs }
    };
    DescribeConfigsResponse { resources: request.resources.into_iter().map(one).collect(), throttle_ms: 0 }
}

async fn alter(
    door: &Arc<Door>,
    (kind, name): (i8, String),
    edits: Result<Vec<Edit>, &'static str>,
    replace: bool,
    validate_only: bool,
) -> AlterResult {
    let (error, message) = match (kind, edits) {
        (TOPIC, Ok(edits)) => {
            let wish = Change::Configure { name: name.clone(), edits, replace };
            let (error, message, _) = change(door, wish, validate_only).await;
            (error, message)
        }
        (TOPIC, Err(why)) => (errors::INVALID_REQUEST, Some(why.to_owned())),
        _ => (errors::INVALID_REQUEST, Some("only topics have settings that can be set by this protocol".to_owned())),
    };
    AlterResult { error, message, kind, name }
}

pub(super) async fn alter_configs(door: &Arc<Door>, request: AlterConfigsRequest, _: &Call) -> AlterConfigsResponse {
    let mut resources = Vec::new();
    for own in request.resources {
        let edits = own
            .configs
            .into_iter()
            .map(|config| Edit { key: config.name, how: config.value.map_or(How::Delete, How::Set) });
        let edits = Ok(edits.collect());
        resources.push(alter(door, (own.kind, own.name), edits, true, request.validate_only).await);
    }
    AlterConfigsResponse { resources, throttle_ms: 0 }
}

pub(super) async fn incremental_alter_configs(
    door: &Arc<Door>,
    request: IncrementalAlterConfigsRequest,
    _: &Call,
) -> IncrementalAlterConfigsResponse {
    let mut resources = Vec::new();
    for own in request.resources {
        let edits = own.configs.into_iter().map(|config| {
            let how = match (config.operation, config.value) {
                (0, Some(value)) => How::Set(value),
                (1, _) => How::Delete,
                (2, Some(value)) => How::Append(value),
                (3, Some(value)) => How::Subtract(value),
                _ => return Err("an unknown operation, or a value that is missing"),
            };
            Ok(Edit { key: config.name, how })
        });
        let edits = edits.collect();
        resources.push(alter(door, (own.kind, own.name), edits, false, request.validate_only).await);
    }
    IncrementalAlterConfigsResponse { resources, throttle_ms: 0 }
}

//! Topics and settings.

use crate::kafka::wire::{Uuid, wire};

wire! {
    message CreateTopicsRequest(5) {
        topics: Vec<CreatableTopic>,
        timeout_ms: i32,
        validate_only: bool [1..],
    }
    part CreatableTopic {
        name: String,
        partitions: i32,
        replication: i16,
        assignments: Vec<ReplicaAssignment>,
        configs: Vec<TopicConfig>,
    }
    part ReplicaAssignment {
        index: i32,
        brokers: Vec<i32>,
    }
    part TopicConfig {
        name: String,
        value: Option<String>,
    }
    message CreateTopicsResponse(5) {
        throttle_ms: i32 [2..],
        topics: Vec<CreatedTopic>,
    }
    part CreatedTopic {
        name: String,
        id: Uuid [7..],
        error: i16,
        message: Option<String> [1..],
        partitions: i32 [5..] = -1,
        replication: i16 [5..] = -1,
        configs: Option<Vec<CreatedConfig>> [5..],
    }
    part CreatedConfig {
        name: String,
        value: Option<String>,
        read_only: bool,
        source: i8 = -1,
        is_sensitive: bool,
    }

    message DeleteTopicsRequest(4) {
        topics: Vec<DeletableTopic> [6..],
        names: Vec<String> [..=5],
        timeout_ms: i32,
    }
    part DeletableTopic {
        name: Option<String>,
        id: Uuid,
    }
    message DeleteTopicsResponse(4) {
        throttle_ms: i32 [1..],
        topics: Vec<DeletedTopic>,
    }
    part DeletedTopic {
        name: Option<String>,
        id: Uuid [6..],
        error: i16,
        message: Option<String> [5..],
    }

    message CreatePartitionsRequest(2) {
        topics: Vec<GrowingTopic>,
        timeout_ms: i32,
        validate_only: bool,
    }
    part GrowingTopic {
        name: String,
        count: i32,
        assignments: Option<Vec<PartitionAssignment>>,
    }
    part PartitionAssignment {
        brokers: Vec<i32>,
    }
    message CreatePartitionsResponse(2) {
        throttle_ms: i32,
        topics: Vec<GrownTopic>,
    }
    part GrownTopic {
        name: String,
        error: i16,
        message: Option<String>,
    }

    message DescribeConfigsRequest(4) {
        resources: Vec<ConfigResource>,
        with_synonyms: bool [1..],
        with_documentation: bool [3..],
    }
    part ConfigResource {
        /// 2 for a topic, 4 for a broker.
        kind: i8,
        name: String,
        /// None for all.
        keys: Option<Vec<String>>,
    }
    message DescribeConfigsResponse(4) {
        throttle_ms: i32,
        resources: Vec<DescribedResource>,
    }
    part DescribedResource {
        error: i16,
        message: Option<String>,
        kind: i8,
        name: String,
        configs: Vec<DescribedConfig>,
    }
    part DescribedConfig {
        name: String,
        value: Option<String>,
        read_only: bool,
        /// 1 the topic's own, 5 the default.
        source: i8 [1..] = -1,
        is_sensitive: bool,
        synonyms: Vec<ConfigSynonym> [1..],
        /// 1 boolean, 2 string, 3 int, 5 long, 7 list.
        kind: i8 [3..],
        documentation: Option<String> [3..],
    }
    part ConfigSynonym {
        name: String,
        value: Option<String>,
        source: i8,
    }

    message AlterConfigsRequest(2) {
        resources: Vec<AlteredResource>,
        validate_only: bool,
    }
    part AlteredResource {
        kind: i8,
        name: String,
        configs: Vec<TopicConfig>,
    }
    message AlterConfigsResponse(2) {
        throttle_ms: i32,
        resources: Vec<AlterResult>,
    }
    part AlterResult {
        error: i16,
        message: Option<String>,
        kind: i8,
        name: String,
    }

    message IncrementalAlterConfigsRequest(1) {
        resources: Vec<IncrementalResource>,
        validate_only: bool,
    }
    part IncrementalResource {
        kind: i8,
        name: String,
        configs: Vec<IncrementalConfig>,
    }
    part IncrementalConfig {
        name: String,
        /// 0 set, 1 delete, 2 append, 3 subtract.
        operation: i8,
        value: Option<String>,
    }
    message IncrementalAlterConfigsResponse(1) {
        throttle_ms: i32,
        resources: Vec<AlterResult>,
    }

    message DescribeLogDirsRequest(2) {
        topics: Option<Vec<LogDirTopic>>,
    }
    part LogDirTopic {
        name: String,
        partitions: Vec<i32>,
    }
    message DescribeLogDirsResponse(2) {
        throttle_ms: i32,
        error: i16 [3..],
        results: Vec<LogDir>,
    }
    part LogDir {
        error: i16,
        dir: String,
        topics: Vec<LogDirTopicSizes>,
        total_bytes: i64 [4..] = -1,
        usable_bytes: i64 [4..] = -1,
    }
    part LogDirTopicSizes {
        name: String,
        partitions: Vec<LogDirPartition>,
    }
    part LogDirPartition {
        index: i32,
        bytes: i64,
        lag: i64,
        is_future: bool,
    }
}

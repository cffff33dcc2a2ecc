//! Which APIs are spoken, in which versions: what is listed here is handled whole.

/// The number of an API.
pub mod key {
    #![allow(missing_docs)]
    pub const PRODUCE: i16 = 0;
    pub const FETCH: i16 = 1;
    pub const LIST_OFFSETS: i16 = 2;
    pub const METADATA: i16 = 3;
    pub const OFFSET_COMMIT: i16 = 8;
    pub const OFFSET_FETCH: i16 = 9;
    pub const FIND_COORDINATOR: i16 = 10;
    pub const JOIN_GROUP: i16 = 11;
    pub const HEARTBEAT: i16 = 12;
    pub const LEAVE_GROUP: i16 = 13;
    pub const SYNC_GROUP: i16 = 14;
    pub const DESCRIBE_GROUPS: i16 = 15;
    pub const LIST_GROUPS: i16 = 16;
    pub const SASL_HANDSHAKE: i16 = 17;
    pub const API_VERSIONS: i16 = 18;
    pub const CREATE_TOPICS: i16 = 19;
    pub const DELETE_TOPICS: i16 = 20;
    pub const DELETE_RECORDS: i16 = 21;
    pub const INIT_PRODUCER_ID: i16 = 22;
    pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
    pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
    pub const ADD_OFFSETS_TO_TXN: i16 = 25;
    pub const END_TXN: i16 = 26;
    pub const TXN_OFFSET_COMMIT: i16 = 28;
    pub const DESCRIBE_CONFIGS: i16 = 32;
    pub const ALTER_CONFIGS: i16 = 33;
    pub const DESCRIBE_LOG_DIRS: i16 = 35;
    pub const SASL_AUTHENTICATE: i16 = 36;
    pub const CREATE_PARTITIONS: i16 = 37;
    pub const DELETE_GROUPS: i16 = 42;
    pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
    pub const OFFSET_DELETE: i16 = 47;
    pub const DESCRIBE_CLUSTER: i16 = 60;
}

/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// See [`key`].
    pub key: i16,
    /// Kafka's name for it.
    pub name: &'static str,
    /// The lowest version that is advertised.
    pub min: i16,
    /// The highest.
    pub max: i16,
    /// From which version on it is flexible.
    pub flexible: i16,
}

const fn api(key: i16, name: &'static str, min: i16, max: i16, flexible: i16) -> Api {
    Api { key, name, min, max, flexible }
}

/// Versions of Produce below this are advertised, as clients want (KAFKA-18659), but told that they are not supported: record batches of
/// the second format only.
pub const PRODUCE_MIN: i16 = 3;

/// From this version of Produce on a client knows TRANSACTION_ABORTABLE.
pub const PRODUCE_ABORTABLE: i16 = 11;
/// From these versions on a client speaks the second version of transactions (KIP-890): what it writes to takes part by being written to,
/// and its epoch grows with every end.
pub const PRODUCE_SECOND: i16 = 12;
/// See [`PRODUCE_SECOND`].
pub const END_TXN_SECOND: i16 = 5;
/// See [`PRODUCE_SECOND`].
pub const TXN_OFFSET_COMMIT_SECOND: i16 = 5;

/// All of them, by number.
pub const APIS: &[Api] = &[
    api(key::PRODUCE, "Produce", 0, 12, 9),
    api(key::FETCH, "Fetch", 4, 12, 12),
    api(key::LIST_OFFSETS, "ListOffsets", 1, 7, 6),
    api(key::METADATA, "Metadata", 0, 12, 9),
    api(key::OFFSET_COMMIT, "OffsetCommit", 2, 8, 8),
    api(key::OFFSET_FETCH, "OffsetFetch", 1, 8, 6),
    api(key::FIND_COORDINATOR, "FindCoordinator", 0, 4, 3),
    api(key::JOIN_GROUP, "JoinGroup", 0, 9, 6),
    api(key::HEARTBEAT, "Heartbeat", 0, 4, 4),
    api(key::LEAVE_GROUP, "LeaveGroup", 0, 5, 4),
    api(key::SYNC_GROUP, "SyncGroup", 0, 5, 4),
    api(key::DESCRIBE_GROUPS, "DescribeGroups", 0, 5, 5),
    api(key::LIST_GROUPS, "ListGroups", 0, 4, 3),
    api(key::SASL_HANDSHAKE, "SaslHandshake", 0, 1, 99),
    api(key::API_VERSIONS, "ApiVersions", 0, 4, 3),
    api(key::CREATE_TOPICS, "CreateTopics", 2, 7, 5),
    api(key::DELETE_TOPICS, "DeleteTopics", 1, 6, 4),
    api(key::DELETE_RECORDS, "DeleteRecords", 0, 2, 2),
    api(key::INIT_PRODUCER_ID, "InitProducerId", 0, 5, 2),
    api(key::OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", 2, 4, 4),
    api(key::ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", 0, 5, 3),
    api(key::ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", 0, 4, 3),
    api(key::END_TXN, "EndTxn", 0, 5, 3),
    api(key::TXN_OFFSET_COMMIT, "TxnOffsetCommit", 0, 5, 3),
    api(key::DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4, 4),
    api(key::ALTER_CONFIGS, "AlterConfigs", 0, 2, 2),
    api(key::DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 4, 2),
    api(key::SASL_AUTHENTICATE, "SaslAuthenticate", 0, 2, 2),
    api(key::CREATE_PARTITIONS, "CreatePartitions", 0, 3, 2),
    api(key::DELETE_GROUPS, "DeleteGroups", 0, 2, 2),
    api(key::INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 1, 1),
    api(key::OFFSET_DELETE, "OffsetDelete", 0, 0, 99),
    api(key::DESCRIBE_CLUSTER, "DescribeCluster", 0, 0, 0),
];

/// What is known of an API.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

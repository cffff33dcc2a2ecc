//! Bounds of the queue. They are part of what an entry does (a change beyond one is refused on every replica alike), so they
//! are constants and not settings. `docs/limits.md` lists them.

/// Topics of a cluster.
pub const TOPICS_MAX: usize = 20_000;
/// Partitions of all topics.
pub const PARTITIONS_MAX: u64 = 100_000;
/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 10_000;
/// Bytes of a topic's name (Kafka's own bound).
pub const NAME_BYTES_MAX: usize = 249;
/// Bytes of a setting's value.
pub const SETTING_BYTES_MAX: usize = 1024;
/// Bytes of the name of a group, a member, an instance, a client or a transactional id.
pub const ID_BYTES_MAX: usize = 1024;
/// Bytes of all batches of one produce to one partition.
pub const PRODUCE_BYTES_MAX: usize = 64 << 20;
/// Batches of one produce to one partition.
pub const PRODUCE_BATCHES_MAX: usize = 10_000;
/// Bytes to which the records of one compressed batch may unfold, where somebody has to look inside: the Redis door,
/// compaction, a produce to a topic that is compacted.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Keys of one pass of compaction; where there are more, the pass ends there and the next one goes on.
pub const COMPACT_KEYS_MAX: usize = 1_000_000;
/// Bytes of batches that one entry of a pass cleans, where a single run has no more.
pub const COMPACT_BYTES: u64 = 1 << 20;
/// Batches of a producer that a partition remembers, to recognise them when they come again (Kafka's own bound).
pub const WINDOW: usize = 5;
/// Producers that the partitions of one shard remember; beyond it the one that was silent longest is forgotten.
pub const PRODUCERS_MAX: usize = 1_000_000;
/// Milliseconds after which a silent producer is forgotten (Kafka's `producer.id.expiration.ms`).
pub const PRODUCER_SILENT_MS: u64 = 24 * 60 * 60 * 1000;
/// Aborted transactions that one partition lists; beyond it no transactional write is taken until retention has let go of some.
pub const ABORTED_MAX: usize = 1_000_000;
/// Leader epochs that a partition remembers; beyond it the oldest go.
pub const EPOCHS_MAX: usize = 1_024;
/// Groups of one shard.
pub const GROUPS_MAX: usize = 100_000;
/// Offsets of all groups of one shard.
pub const OFFSETS_MAX: usize = 4_000_000;
/// Offsets of one commit.
pub const COMMIT_OFFSETS_MAX: usize = 100_000;
/// Bytes of the words that a consumer keeps with an offset (Kafka's `offset.metadata.max.bytes`).
pub const OFFSET_METADATA_BYTES_MAX: usize = 4096;
/// Milliseconds for which the offsets of a group without members are kept (Kafka's `offsets.retention.minutes`).
pub const OFFSETS_RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Members of one group.
pub const MEMBERS_MAX: usize = 10_000;
/// Bytes of a member's subscription or of its assignment.
pub const MEMBER_BYTES_MAX: usize = 1 << 20;
/// Bytes of one group's saved generation.
pub const GENERATION_BYTES_MAX: usize = 16 << 20;
/// Transactional ids of one shard.
pub const TRANSACTIONS_MAX: usize = 100_000;
/// Partitions and groups of one transaction.
pub const TARGETS_MAX: usize = 100_000;
/// Longest timeout of a transaction, milliseconds (Kafka's `transaction.max.timeout.ms`).
pub const TRANSACTION_TIMEOUT_MS_MAX: u32 = 15 * 60 * 1000;
/// Milliseconds after which an unused transactional id is forgotten (Kafka's `transactional.id.expiration.ms`).
pub const TRANSACTION_SILENT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Deleted topics that a shard remembers, so that a late write does not bring one back.
pub const DROPPED_MAX: usize = 4_096;
/// What one entry may sweep away: producers, offsets, transactional ids.
pub const SWEEP_MAX: usize = 10_000;

/// Marked records (delayed, or with a priority) that a partition remembers. Beyond it delays that are over and then the oldest priorities
/// are forgotten; if all are yet to come, further ones are refused.
pub const MARKS_MAX: usize = 1 << 20;
/// Longest delay of a record, milliseconds: 366 days.
pub const DELAY_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// Levels of priority that a topic may have.
pub const PRIORITIES_MAX: u8 = 10;

// What one commit or one produce may hold must fit into what the shard may hold.
const _: () = assert!(COMMIT_OFFSETS_MAX <= OFFSETS_MAX);
const _: () = assert!(TOPIC_PARTITIONS_MAX as u64 <= PARTITIONS_MAX);

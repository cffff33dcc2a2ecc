//! The error codes of the Kafka protocol that this room answers with (<https://kafka.apache.org/protocol#protocol_error_codes>).

/// An error code as it stands in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub i16);

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal;)+) => {
        impl Code {
            $($(#[doc = $doc])+ pub const $name: Code = Code($number);)+

            /// Its name in Kafka's documents; "UNKNOWN" for numbers that nothing here answers.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)+
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    /// A bug of ours, or something that has no other code.
    UNKNOWN_SERVER_ERROR = -1;
    /// No error.
    NONE = 0;
    /// The offset lies outside of what the partition holds.
    OFFSET_OUT_OF_RANGE = 1;
    /// A batch's checksum or length is wrong.
    CORRUPT_MESSAGE = 2;
    /// No such topic or partition here.
    UNKNOWN_TOPIC_OR_PARTITION = 3;
    /// Larger than the topic's `max.message.bytes`.
    MESSAGE_TOO_LARGE = 10;
    /// An offset's metadata is larger than allowed.
    OFFSET_METADATA_TOO_LARGE = 12;
    /// The group's state is being loaded.
    COORDINATOR_LOAD_IN_PROGRESS = 14;
    /// Not a name that a topic may have.
    INVALID_TOPIC_EXCEPTION = 17;
    /// The generation is not the group's current one.
    ILLEGAL_GENERATION = 22;
    /// No group has this name, or it is empty.
    INVALID_GROUP_ID = 24;
    /// The group knows no such member.
    UNKNOWN_MEMBER_ID = 25;
    /// A rebalance is under way.
    REBALANCE_IN_PROGRESS = 27;
    /// A batch's timestamp is too far from now, or its type is not the client's to set.
    INVALID_TIMESTAMP = 32;
    /// There is a topic of this name.
    TOPIC_ALREADY_EXISTS = 36;
    /// A number of partitions that cannot be.
    INVALID_PARTITIONS = 37;
    /// A replication factor that cannot be.
    INVALID_REPLICATION_FACTOR = 38;
    /// An unknown setting or a value that it cannot have.
    INVALID_CONFIG = 40;
    /// A request that makes no sense.
    INVALID_REQUEST = 42;
    /// Record batches of an old format.
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43;
    /// A bound of ours.
    POLICY_VIOLATION = 44;
    /// A batch's sequence is not the next one: something before it is missing.
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45;
    /// The producer's epoch is older than the newest one (a producer may begin anew).
    INVALID_PRODUCER_EPOCH = 47;
    /// A transactional write outside of a transaction.
    INVALID_TXN_STATE = 48;
    /// The transactional id has another producer id, or none.
    INVALID_PRODUCER_ID_MAPPING = 49;
    /// A transaction's timeout is zero or too long.
    INVALID_TRANSACTION_TIMEOUT = 50;
    /// Another change of this transaction is under way: try again.
    CONCURRENT_TRANSACTIONS = 51;
    /// An unknown producer id.
    UNKNOWN_PRODUCER_ID = 59;
    /// The group has members.
    NON_EMPTY_GROUP = 68;
    /// There is no such group.
    GROUP_ID_NOT_FOUND = 69;
    /// A leader epoch older than the partition's.
    FENCED_LEADER_EPOCH = 74;
    /// A leader epoch newer than the partition's.
    UNKNOWN_LEADER_EPOCH = 75;
    /// Another member has taken this static member's place.
    FENCED_INSTANCE_ID = 82;
    /// The group consumes this topic.
    GROUP_SUBSCRIBED_TO_TOPIC = 86;
    /// A batch that breaks the rules of its format.
    INVALID_RECORD = 87;
    /// Offsets of a transaction that has not ended.
    UNSTABLE_OFFSET_COMMIT = 88;
    /// A bound of ours on how many there may be, for now.
    THROTTLING_QUOTA_EXCEEDED = 89;
    /// A newer producer has taken the transactional id.
    PRODUCER_FENCED = 90;
    /// There is no such transactional id.
    TRANSACTIONAL_ID_NOT_FOUND = 105;
    /// The transaction must be aborted; then the producer may go on.
    TRANSACTION_ABORTABLE = 120;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

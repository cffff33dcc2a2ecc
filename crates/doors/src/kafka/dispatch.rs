//! From a request's bytes to whoever answers it, and from the answer to bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::apis::{APIS, key};
use super::messages::*;
use super::wire::{Field, Garbage, Message, Reader, Writer};
use super::{Call, Door, Said, Soon, admin, data, errors, groups, nodes, transactions};

/// Reads a request. Bytes behind its end are left alone, as Kafka leaves them: librdkafka 2.15 has three too many where it asks for the
/// metadata of all topics (version 12: it leaves a count of four bytes where one byte is due).
pub(super) fn read<M: Message>(from: &mut Reader<'_>) -> Result<M, Garbage> {
    M::read(from)
}

/// An answer as a frame.
pub(super) fn said<M: Message>(call: &Call, answer: &M) -> Said {
    let mut writer = Writer::new(0, false);
    call.header.correlation.write(&mut writer);
    let version = call.header.version;
    // The answer to ApiVersions keeps the oldest header: who asks does not know yet what is spoken here (KIP-511).
    writer.become_message(version, call.flexible && call.header.key != key::API_VERSIONS);
    writer.tags();
    writer.become_message(version, call.flexible);
    answer.write(&mut writer);
    let mut pieces = writer.finish();
    let length: usize = pieces.iter().map(Bytes::len).sum();
    pieces.insert(0, Bytes::copy_from_slice(&(length as u32).to_be_bytes()));
    Said::Answer(pieces)
}

fn versions() -> Vec<ApiVersion> {
    APIS.iter().map(|api| ApiVersion { key: api.key, min: api.min, max: api.max }).collect()
}

/// The answer to an ApiVersions of a version that is not spoken: that of version 0, and with it what is.
pub(super) fn unknown_version(header: &RequestHeader) -> Said {
    let header = RequestHeader { version: 0, ..header.clone() };
    let call = Call { header, flexible: false, peer: String::new(), asking: Arc::default() };
    let answer = ApiVersionsResponse { error: errors::UNSUPPORTED_VERSION, apis: versions(), ..Default::default() };
    said(&call, &answer)
}

fn api_versions(_: &Arc<Door>, request: ApiVersionsRequest, call: &Call) -> ApiVersionsResponse {
    let word = |text: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        text.len() <= 256 && text.bytes().all(inner) && !text.starts_with(['.', '-']) && !text.ends_with(['.', '-'])
    };
    let is_valid = |text: &str| !text.is_empty() && word(text);
    let is_odd = call.header.version >= 3 && !(is_valid(&request.software_name) && is_valid(&request.software_version));
    let error = if is_odd { errors::INVALID_REQUEST } else { errors::NONE };
    // A client speaks the second version of transactions if this says so, and the versions of the messages do.
    let name = || "transaction.version".to_owned();
    let finalized = vec![Finalized { name: name(), max: TRANSACTION_VERSION, min: TRANSACTION_VERSION }];
    // Clients before version 4 cannot read a least version of 0 (KAFKA-17011).
    let supported = match call.header.version {
        4.. => vec![Feature { name: name(), min: 0, max: TRANSACTION_VERSION }],
        _ => Vec::new(),
    };
    ApiVersionsResponse { error, apis: versions(), throttle_ms: 0, supported, finalized_epoch: 1, finalized }
}

/// Kafka's number for what transactions can: 2 for KIP-890's second part.
const TRANSACTION_VERSION: i16 = 2;

/// Begins whatever it is.
pub(super) fn dispatch(door: &Arc<Door>, call: Call, from: &mut Reader<'_>) -> Result<Soon<Said>, Garbage> {
    /// Answers that are known at once.
    macro_rules! now {
        ($handler:path) => {{
            let request = read(from)?;
            let door = door.clone();
            Box::pin(async move { said(&call, &$handler(&door, request, &call)) })
        }};
    }
    /// Answers that take their time.
    macro_rules! soon {
        ($handler:path) => {{
            let request = read(from)?;
            let door = door.clone();
            Box::pin(async move {
                let answer = $handler(&door, request, &call).await;
                said(&call, &answer)
            })
        }};
    }
    Ok(match call.header.key {
        key::API_VERSIONS => now!(api_versions),
        key::PRODUCE => data::produce(door, read(from)?, call),
        key::FETCH => soon!(data::fetch),
        key::LIST_OFFSETS => soon!(data::list_offsets),
        key::OFFSET_FOR_LEADER_EPOCH => now!(data::offset_for_leader_epoch),
        key::DELETE_RECORDS => soon!(data::delete_records),
        key::METADATA => soon!(nodes::metadata),
        key::FIND_COORDINATOR => now!(nodes::find_coordinator),
        key::DESCRIBE_CLUSTER => now!(nodes::describe_cluster),
        key::JOIN_GROUP => soon!(groups::join),
        key::SYNC_GROUP => soon!(groups::sync),
        key::HEARTBEAT => now!(groups::heartbeat),
        key::LEAVE_GROUP => now!(groups::leave),
        key::OFFSET_COMMIT => soon!(groups::commit),
        key::OFFSET_FETCH => soon!(groups::fetch_offsets),
        key::OFFSET_DELETE => soon!(groups::delete_offsets),
        key::DESCRIBE_GROUPS => now!(groups::describe),
        key::LIST_GROUPS => now!(groups::list),
        key::DELETE_GROUPS => soon!(groups::delete_groups),
        key::INIT_PRODUCER_ID => soon!(transactions::init),
        key::ADD_PARTITIONS_TO_TXN => soon!(transactions::add_partitions),
        key::ADD_OFFSETS_TO_TXN => soon!(transactions::add_offsets),
        key::END_TXN => soon!(transactions::end),
        key::TXN_OFFSET_COMMIT => soon!(transactions::commit_offsets),
        key::DESCRIBE_LOG_DIRS => now!(nodes::describe_log_dirs),
        key::CREATE_TOPICS => soon!(admin::create),
        key::DELETE_TOPICS => soon!(admin::delete),
        key::CREATE_PARTITIONS => soon!(admin::grow),
        key::DESCRIBE_CONFIGS => now!(admin::describe_configs),
        key::ALTER_CONFIGS => soon!(admin::alter_configs),
        key::INCREMENTAL_ALTER_CONFIGS => soon!(admin::incremental_alter_configs),
        _ => return Err(Garbage("there is no such API here")),
    })
}

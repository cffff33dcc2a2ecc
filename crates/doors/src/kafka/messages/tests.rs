//! Every version of every message: our own bytes are read by the `kafka-protocol` crate, written by it, and are the same; read by us they
//! are what was written. And whatever comes in instead, nothing breaks, and nothing grows beyond its bound.

use base::Rng;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable};

use super::*;
use crate::kafka::apis::{APIS, Api, key};
use crate::kafka::wire::{Message, Reader, Writer};

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new(version, version >= M::FLEXIBLE);
    message.write(&mut writer);
    writer.finish().concat().into()
}

fn decode<M: Message>(bytes: &Bytes, version: i16) -> Option<M> {
    let mut reader = Reader::new(bytes, version, version >= M::FLEXIBLE);
    let message = M::read(&mut reader).ok()?;
    (reader.left() == 0).then_some(message)
}

fn judge<M: Message + PartialEq + std::fmt::Debug, T: Decodable + Encodable + std::fmt::Debug>(
    api: &Api,
    from: i16,
    rng: &mut Rng,
) {
    for version in from..=api.max {
        for _ in 0..30 {
            let bytes = encode(&M::any(rng), version);
            let own: M = decode(&bytes, version).unwrap_or_else(|| panic!("{} v{version}: not read again", api.name));
            assert_eq!(encode(&own, version), bytes, "{} v{version}", api.name);
            let mut rest = bytes.clone();
            let other = T::decode(&mut rest, version)
                .unwrap_or_else(|error| panic!("{} v{version}: {error}: {own:?}", api.name));
            assert!(rest.is_empty(), "{} v{version}: {} bytes more than the definition has", api.name, rest.len());
            let mut again = BytesMut::new();
            // What is null here and there, and bytes that only later versions may have, differ in nothing that is sent.
            other.encode(&mut again, version).unwrap_or_else(|error| panic!("{} v{version}: {error}", api.name));
            assert_eq!(again.freeze(), bytes, "{} v{version}: {other:?}", api.name);
        }
    }
}

fn broken<M: Message>(api: &Api, rng: &mut Rng) {
    for _ in 0..60 {
        let version = api.min + rng.below((api.max - api.min + 1) as u64) as i16;
        let mut bytes = encode(&M::any(rng), version).to_vec();
        for _ in 0..rng.index(4) {
            if !bytes.is_empty() {
                let at = rng.index(bytes.len());
                bytes[at] = [0, 0xff, 0x7f, rng.next_u64() as u8][rng.index(4)];
            }
        }
        bytes.truncate(bytes.len() - if rng.below(2) == 0 { rng.index(bytes.len() + 1) } else { 0 });
        let _ = decode::<M>(&bytes.into(), version);
        let noise: Vec<u8> = (0..rng.index(200)).map(|_| rng.next_u64() as u8).collect();
        let _ = decode::<M>(&noise.into(), version);
    }
}

macro_rules! all {
    ($($key:ident: $request:ident, $response:ident;)*) => {
        #[test]
        fn every_version_is_as_the_definitions_say() {
            let mut rng = Rng::new(9092);
            $({
                let api = crate::kafka::apis::find(key::$key).expect("it is spoken");
                assert_eq!(api.flexible, $request::FLEXIBLE);
                assert_eq!(api.flexible, $response::FLEXIBLE);
                // The crate begins where Kafka 4 does.
                let from = match api.key { key::PRODUCE => 3, _ => api.min };
                judge::<$request, theirs::$request>(api, from, &mut rng);
                judge::<$response, theirs::$response>(api, from, &mut rng);
            })*
            assert_eq!([$(key::$key),*].len(), APIS.len(), "each has its case");
        }

        #[test]
        fn garbage_breaks_nothing() {
            let mut rng = Rng::new(1);
            $({
                let api = crate::kafka::apis::find(key::$key).expect("it is spoken");
                broken::<$request>(api, &mut rng);
                broken::<$response>(api, &mut rng);
            })*
        }
    };
}

all! {
    PRODUCE: ProduceRequest, ProduceResponse;
    FETCH: FetchRequest, FetchResponse;
    LIST_OFFSETS: ListOffsetsRequest, ListOffsetsResponse;
    METADATA: MetadataRequest, MetadataResponse;
    OFFSET_COMMIT: OffsetCommitRequest, OffsetCommitResponse;
    OFFSET_FETCH: OffsetFetchRequest, OffsetFetchResponse;
    FIND_COORDINATOR: FindCoordinatorRequest, FindCoordinatorResponse;
    JOIN_GROUP: JoinGroupRequest, JoinGroupResponse;
    HEARTBEAT: HeartbeatRequest, HeartbeatResponse;
    LEAVE_GROUP: LeaveGroupRequest, LeaveGroupResponse;
    SYNC_GROUP: SyncGroupRequest, SyncGroupResponse;
    DESCRIBE_GROUPS: DescribeGroupsRequest, DescribeGroupsResponse;
    LIST_GROUPS: ListGroupsRequest, ListGroupsResponse;
    SASL_HANDSHAKE: SaslHandshakeRequest, SaslHandshakeResponse;
    API_VERSIONS: ApiVersionsRequest, ApiVersionsResponse;
    CREATE_TOPICS: CreateTopicsRequest, CreateTopicsResponse;
    DELETE_TOPICS: DeleteTopicsRequest, DeleteTopicsResponse;
    DELETE_RECORDS: DeleteRecordsRequest, DeleteRecordsResponse;
    INIT_PRODUCER_ID: InitProducerIdRequest, InitProducerIdResponse;
    OFFSET_FOR_LEADER_EPOCH: OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    ADD_PARTITIONS_TO_TXN: AddPartitionsToTxnRequest, AddPartitionsToTxnResponse;
    ADD_OFFSETS_TO_TXN: AddOffsetsToTxnRequest, AddOffsetsToTxnResponse;
    END_TXN: EndTxnRequest, EndTxnResponse;
    TXN_OFFSET_COMMIT: TxnOffsetCommitRequest, TxnOffsetCommitResponse;
    DESCRIBE_CONFIGS: DescribeConfigsRequest, DescribeConfigsResponse;
    ALTER_CONFIGS: AlterConfigsRequest, AlterConfigsResponse;
    SASL_AUTHENTICATE: SaslAuthenticateRequest, SaslAuthenticateResponse;
    CREATE_PARTITIONS: CreatePartitionsRequest, CreatePartitionsResponse;
    DELETE_GROUPS: DeleteGroupsRequest, DeleteGroupsResponse;
    INCREMENTAL_ALTER_CONFIGS: IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    OFFSET_DELETE: OffsetDeleteRequest, OffsetDeleteResponse;
    DESCRIBE_LOG_DIRS: DescribeLogDirsRequest, DescribeLogDirsResponse;
    DESCRIBE_CLUSTER: DescribeClusterRequest, DescribeClusterResponse;
}

/// Twenty bytes that claim two thousand million elements, and an honest message with more than is taken.
#[test]
fn a_claim_of_many_elements_costs_nothing() {
    let mut claim = vec![0; 64];
    claim[..4].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(decode::<MetadataRequest>(&claim.into(), 1), None);
    let many = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic::default(); crate::kafka::wire::ELEMENTS_MAX + 1]),
        ..MetadataRequest::default()
    };
    assert_eq!(decode::<MetadataRequest>(&encode(&many, 9), 9), None);
}

#[test]
fn unknown_tags_are_skipped_and_strings_end_where_they_must() {
    let request = HeartbeatRequest { group: "g".into(), generation: 3, member: "m".into(), instance: None };
    let mut bytes = encode(&request, 4).to_vec();
    assert_eq!(bytes.pop(), Some(0), "no tags");
    bytes.extend([2, 7, 3, 1, 2, 3, 0x88, 1, 0]);
    assert_eq!(decode::<HeartbeatRequest>(&bytes.clone().into(), 4), Some(request));
    bytes.pop();
    bytes.push(9);
    assert_eq!(decode::<HeartbeatRequest>(&bytes.into(), 4), None, "a tag that reaches beyond the end");
    let wrong = [0, 2, 0xff, 0xfe, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode::<HeartbeatRequest>(&Bytes::copy_from_slice(&wrong), 0), None, "not UTF-8");
}

//! A connection before there is anything behind it: what is said to whom, and that nothing which is sent breaks anything.

use std::task::Waker;

use base::{GroupId, Limits, Rng};
use queue::topics::Change;
use shard::live::{Gate, Refusal, Shard};
use shard::pending::Batch;
use shard::state::{Silent, State};
use store::keyspace::Keyspaces;

use super::apis::{APIS, key};
use super::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse};
use super::messages::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use super::wire::{Field, Message, Writer};
use super::*;
use crate::resp::introspect;
use crate::secret::Secret;

struct Still;

impl World for Still {
    fn sleep(&self, _: Duration) -> Soon<()> {
        Box::pin(std::future::pending())
    }
    fn random(&self) -> u64 {
        7
    }
    fn read(&self, _: GroupId, _: Vec<Piece>, _: bool) -> Soon<Result<Bytes, ReadError>> {
        Box::pin(std::future::ready(Err(ReadError::Gone)))
    }
}

struct Nowhere;

impl crate::resp::door::World for Nowhere {
    fn wake_driver(&self) {}
    fn now(&self) -> Instant {
        Instant(1)
    }
    fn wall_micros(&self) -> u64 {
        1_700_000_000_000_000
    }
    fn random(&self) -> u64 {
        7
    }
    fn facts(&self) -> introspect::Facts {
        introspect::Facts::default()
    }
}

fn session(password: Option<&str>) -> Session {
    let shard = |group| {
        let mut state = State::new(GroupId(group), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
        if group == 0 {
            let mut batch = Batch::<u64>::default();
            batch.topics(1, &Change::Create { name: "orders".into(), partitions: 2, settings: Vec::new() });
            state.apply::<u64, _>(1, &batch.take_entry(1, 7), None, &mut Silent).expect("it is readable");
        }
        let shard = Arc::new(Shard::new(GroupId(group), state, &Limits::DEFAULT, Arc::new(Gate::default())));
        shard.set_refusal(None);
        shard.set_lease(Some(Instant(u64::MAX)));
        shard
    };
    let config = introspect::Config::new(&introspect::ConfigFacts {
        port: 0,
        bind: String::new(),
        dir: String::new(),
        maxclients: Limits::DEFAULT.connections_max as u64,
        timeout_seconds: 0,
        maxmemory: 0,
        maxmemory_policy: String::new(),
        databases: 16,
        bulk_bytes_max: Limits::DEFAULT.bulk_bytes_max,
        command_bytes_max: Limits::DEFAULT.command_bytes_max,
        has_password: false,
    });
    let shards = Arc::new(Shards::new(Limits::DEFAULT, vec![shard(1), shard(2)], None, config, Box::new(Nowhere)));
    let registry = Arc::new(Registry::new(shard(0), Box::new(|| {})));
    let user = password.map(|password| User::new("user".into(), Secret::new(password.into()), [1, 2]));
    let config = Config { user, partitions: 1, advertise: "127.0.0.1:9092".into(), ..Config::default() };
    Session::new(Arc::new(Door::new(NodeId(1), config, shards, registry, Box::new(Still))), "127.0.0.1".into())
}

fn frame<M: Message>(key: i16, version: i16, correlation: i32, message: &M) -> Bytes {
    let mut writer = Writer::new(version, false);
    RequestHeader { key, version, correlation, client_id: Some("test".into()) }.write(&mut writer);
    writer.become_message(version, version >= M::FLEXIBLE);
    writer.tags();
    message.write(&mut writer);
    writer.finish().concat().into()
}

fn hear(session: &mut Session) -> Poll<Said> {
    session.poll(&mut Context::from_waker(Waker::noop()))
}

fn answer<M: Message>(said: Poll<Said>, version: i16, tags: bool) -> (i32, M) {
    let Poll::Ready(Said::Answer(pieces)) = said else { panic!("no answer: {said:?}") };
    let bytes: Bytes = pieces.concat().into();
    let mut reader = Reader::new(&bytes, version, false);
    assert_eq!(i32::read(&mut reader).expect("a length") as usize, bytes.len() - 4);
    let correlation = i32::read(&mut reader).expect("a correlation");
    reader.become_message(version, version >= M::FLEXIBLE);
    if tags {
        reader.tags().expect("the header's tags");
    }
    let message = M::read(&mut reader).expect("an answer");
    assert_eq!(reader.left(), 0);
    (correlation, message)
}

#[test]
fn who_asks_for_versions_in_an_unknown_version_is_told_in_the_oldest() {
    let mut session = session(None);
    let request = ApiVersionsRequest { software_name: "x".into(), software_version: "1".into() };
    session.take(frame(key::API_VERSIONS, 9, 5, &request));
    let (correlation, told): (_, ApiVersionsResponse) = answer(hear(&mut session), 0, false);
    assert_eq!((correlation, told.error), (5, errors::UNSUPPORTED_VERSION));
    assert_eq!(told.apis.len(), APIS.len());
    // And the answer of a flexible version has the oldest header.
    session.take(frame(key::API_VERSIONS, 3, 6, &request));
    let (correlation, told): (_, ApiVersionsResponse) = answer(hear(&mut session), 3, false);
    assert_eq!((correlation, told.error, told.apis.len()), (6, errors::NONE, APIS.len()));
    session.take(frame(key::API_VERSIONS, 3, 7, &ApiVersionsRequest::default()));
    let (_, told): (_, ApiVersionsResponse) = answer(hear(&mut session), 3, false);
    assert_eq!(told.error, errors::INVALID_REQUEST, "a name is needed");
}

#[test]
fn any_other_version_or_api_that_was_not_offered_ends_the_connection() {
    for (api, version) in [(key::FETCH, 99), (key::FETCH, 3), (777, 0), (-1, 0), (key::METADATA, -1)] {
        let mut session = session(None);
        session.take(frame(api, version, 1, &MetadataRequest::default()));
        assert!(matches!(hear(&mut session), Poll::Ready(Said::Close(_))), "{api} {version}");
    }
}

#[test]
fn bytes_behind_a_request_are_left_alone() {
    let mut session = session(None);
    // As librdkafka 2.15 asks for the metadata of all topics.
    let request = b"\0\x03\0\x0c\0\0\0\x03\0\x01x\0\0\0\0\0\x01\0\0";
    session.take(Bytes::from_static(request));
    let (correlation, told): (_, MetadataResponse) = answer(hear(&mut session), 12, true);
    assert_eq!((correlation, told.topics.len()), (3, 1));
}

#[test]
fn a_stranger_may_say_who_it_is_and_nothing_else() {
    let mut session = session(Some("pencil"));
    assert_eq!(session.frame_bytes_max(), STRANGER_BYTES_MAX);
    session.take(frame(key::METADATA, 1, 1, &MetadataRequest::default()));
    assert!(matches!(hear(&mut session), Poll::Ready(Said::Close(_))));
    let say = |session: &mut Session, bytes: &'static [u8]| {
        session.take(frame(key::SASL_HANDSHAKE, 1, 2, &SaslHandshakeRequest { mechanism: "PLAIN".into() }));
        let (_, told): (_, SaslHandshakeResponse) = answer(hear(session), 1, false);
        assert_eq!((told.error, told.mechanisms.len()), (errors::NONE, 3));
        session.take(frame(key::SASL_AUTHENTICATE, 2, 3, &SaslAuthenticateRequest { bytes: bytes.into() }));
        answer::<SaslAuthenticateResponse>(hear(session), 2, true).1.error
    };
    assert_eq!(say(&mut session, b"\0user\0pen"), errors::SASL_AUTHENTICATION_FAILED);
    assert_eq!(session.frame_bytes_max(), STRANGER_BYTES_MAX);
    assert_eq!(say(&mut session, b"\0user\0pencil"), errors::NONE);
    assert_eq!(session.frame_bytes_max(), REQUEST_BYTES_MAX);
    session.take(frame(key::SASL_HANDSHAKE, 1, 4, &SaslHandshakeRequest { mechanism: "GSSAPI".into() }));
    let (_, told): (_, SaslHandshakeResponse) = answer(hear(&mut session), 1, false);
    assert_eq!(told.error, errors::UNSUPPORTED_SASL_MECHANISM);
}

/// Noise, and requests of every API and version that break off or are bent: each gets an answer, a wait or a closed connection.
#[test]
fn nothing_that_is_sent_breaks_anything() {
    let mut rng = Rng::new(9092);
    let mut session = session(None);
    for _ in 0..20_000 {
        let api = APIS[rng.index(APIS.len())];
        let version = api.min + rng.below((api.max - api.min + 1) as u64) as i16;
        let mut bytes = Vec::new();
        bytes.extend(api.key.to_be_bytes());
        bytes.extend(version.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 1, b'c']);
        if version >= api.flexible {
            bytes.push(0);
        }
        for _ in 0..rng.index(60) {
            bytes.push([0, 0, 0, 1, 2, 3, 0xff, 0x7f, rng.next_u64() as u8][rng.index(9)]);
        }
        session.take(bytes.into());
        let _ = hear(&mut session);
        session.pending.clear();
    }
}

#[test]
fn answers_come_in_the_order_of_requests_and_so_many_may_wait() {
    let mut session = session(None);
    for correlation in 0..PIPELINE_MAX as i32 {
        assert!(session.takes());
        let request = ApiVersionsRequest::default();
        session.take(frame(key::API_VERSIONS, 0, correlation, &request));
    }
    assert!(!session.takes() && session.waits());
    for correlation in 0..PIPELINE_MAX as i32 {
        let (told, _): (_, ApiVersionsResponse) = answer(hear(&mut session), 0, false);
        assert_eq!(told, correlation);
    }
    assert!(session.takes() && !session.waits() && hear(&mut session).is_pending());
}

/// A node that replays its log has less than it had, and its log may have stopped while others went on: neither is to send a reader back.
#[test]
fn only_who_is_sure_to_lead_says_that_an_offset_is_out_of_range() {
    let mut session = session(None);
    let fetch = |session: &mut Session| {
        let partitions = vec![FetchPartition { offset: 27, max_bytes: 1000, ..FetchPartition::default() }];
        let topics = vec![FetchTopic { name: "orders".into(), partitions }];
        session.take(frame(key::FETCH, 11, 1, &FetchRequest { topics, ..FetchRequest::default() }));
        let (_, told): (_, FetchResponse) = answer(hear(session), 11, false);
        told.topics[0].partitions[0].error
    };
    assert_eq!(fetch(&mut session), errors::OFFSET_OUT_OF_RANGE);
    for refusal in [Refusal::Loading, Refusal::Stopped("an I/O error".into())] {
        for at in 0..2 {
            let shard = &session.door.shards.shards[at];
            shard.set_lease(None);
            shard.set_refusal(Some(refusal.clone()));
        }
        assert_eq!(fetch(&mut session), errors::NOT_LEADER_OR_FOLLOWER, "{refusal:?}");
    }
}

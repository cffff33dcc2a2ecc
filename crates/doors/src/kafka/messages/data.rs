//! Records in and out, and where they begin and end.

use crate::kafka::wire::{Records, wire};
use bytes::Bytes;

wire! {
    message ProduceRequest(9) {
        transactional_id: Option<String> [3..],
        acks: i16,
        timeout_ms: i32,
        topics: Vec<ProduceTopic>,
    }
    part ProduceTopic {
        name: String,
        partitions: Vec<ProducePartition>,
    }
    part ProducePartition {
        index: i32,
        records: Option<Bytes>,
    }
    message ProduceResponse(9) {
        topics: Vec<ProducedTopic>,
        throttle_ms: i32 [1..],
    }
    part ProducedTopic {
        name: String,
        partitions: Vec<ProducedPartition>,
    }
    part ProducedPartition {
        index: i32,
        error: i16,
        base_offset: i64 = -1,
        /// When it was appended, where the topic's time is that; else -1.
        append_ms: i64 [2..] = -1,
        log_start: i64 [5..] = -1,
        record_errors: Vec<RecordError> [8..],
        message: Option<String> [8..],
    }
    part RecordError {
        index: i32,
        message: Option<String>,
    }

    message FetchRequest(12) {
        replica: i32 = -1,
        max_wait_ms: i32,
        min_bytes: i32,
        max_bytes: i32 [3..] = i32::MAX,
        isolation: i8 [4..],
        session: i32 [7..],
        session_epoch: i32 [7..] = -1,
        topics: Vec<FetchTopic>,
        forgotten: Vec<ForgottenTopic> [7..],
        rack: String [11..],
    }
    part FetchTopic {
        name: String,
        partitions: Vec<FetchPartition>,
    }
    part FetchPartition {
        index: i32,
        leader_epoch: i32 [9..] = -1,
        offset: i64,
        last_epoch: i32 [12..] = -1,
        log_start: i64 [5..] = -1,
        max_bytes: i32,
    }
    part ForgottenTopic {
        name: String,
        partitions: Vec<i32>,
    }
    message FetchResponse(12) {
        throttle_ms: i32 [1..],
        error: i16 [7..],
        session: i32 [7..],
        topics: Vec<FetchedTopic>,
    }
    part FetchedTopic {
        name: String,
        partitions: Vec<FetchedPartition>,
    }
    part FetchedPartition {
        index: i32,
        error: i16,
        high_watermark: i64 = -1,
        last_stable: i64 [4..] = -1,
        log_start: i64 [5..] = -1,
        aborted: Option<Vec<Aborted>> [4..],
        preferred_replica: i32 [11..] = -1,
        records: Records,
    }
    part Aborted {
        producer: i64,
        first_offset: i64,
    }

    message ListOffsetsRequest(6) {
        replica: i32 = -1,
        isolation: i8 [2..],
        topics: Vec<ListTopic>,
    }
    part ListTopic {
        name: String,
        partitions: Vec<ListPartition>,
    }
    part ListPartition {
        index: i32,
        leader_epoch: i32 [4..] = -1,
        /// -1 the end, -2 the begin, -3 the largest time, else a time in milliseconds.
        stamp: i64,
    }
    message ListOffsetsResponse(6) {
        throttle_ms: i32 [2..],
        topics: Vec<ListedTopic>,
    }
    part ListedTopic {
        name: String,
        partitions: Vec<ListedPartition>,
    }
    part ListedPartition {
        index: i32,
        error: i16,
        stamp: i64 = -1,
        offset: i64 = -1,
        leader_epoch: i32 [4..] = -1,
    }

    message OffsetForLeaderEpochRequest(4) {
        replica: i32 [3..] = -2,
        topics: Vec<EpochTopic>,
    }
    part EpochTopic {
        name: String,
        partitions: Vec<EpochPartition>,
    }
    part EpochPartition {
        index: i32,
        current_epoch: i32 [2..] = -1,
        epoch: i32,
    }
    message OffsetForLeaderEpochResponse(4) {
        throttle_ms: i32 [2..],
        topics: Vec<EpochEndTopic>,
    }
    part EpochEndTopic {
        name: String,
        partitions: Vec<EpochEnd>,
    }
    part EpochEnd {
        error: i16,
        index: i32,
        epoch: i32 [1..] = -1,
        end_offset: i64 = -1,
    }

    message DeleteRecordsRequest(2) {
        topics: Vec<DeleteRecordsTopic>,
        timeout_ms: i32,
    }
    part DeleteRecordsTopic {
        name: String,
        partitions: Vec<DeleteRecordsPartition>,
    }
    part DeleteRecordsPartition {
        index: i32,
        /// Everything before it goes; -1 for all that is committed.
        offset: i64,
    }
    message DeleteRecordsResponse(2) {
        throttle_ms: i32,
        topics: Vec<DeletedRecordsTopic>,
    }
    part DeletedRecordsTopic {
        name: String,
        partitions: Vec<DeletedRecordsPartition>,
    }
    part DeletedRecordsPartition {
        index: i32,
        low_watermark: i64 = -1,
        error: i16,
    }
}

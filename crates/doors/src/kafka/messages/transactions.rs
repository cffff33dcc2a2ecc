//! Producers' ids and transactions.

use crate::kafka::wire::wire;

wire! {
    message InitProducerIdRequest(2) {
        transactional_id: Option<String>,
        timeout_ms: i32,
        producer: i64 [3..] = -1,
        epoch: i16 [3..] = -1,
    }
    message InitProducerIdResponse(2) {
        throttle_ms: i32,
        error: i16,
        producer: i64 = -1,
        epoch: i16 = -1,
    }

    message AddPartitionsToTxnRequest(3) {
        transactions: Vec<TxnOfProducer> [4..],
        transactional_id: String [..=3],
        producer: i64 [..=3],
        epoch: i16 [..=3],
        topics: Vec<TxnTopic> [..=3],
    }
    part TxnOfProducer {
        transactional_id: String,
        producer: i64,
        epoch: i16,
        /// Nothing is added: only whether it takes part is asked.
        verify_only: bool,
        topics: Vec<TxnTopic>,
    }
    part TxnTopic {
        name: String,
        partitions: Vec<i32>,
    }
    message AddPartitionsToTxnResponse(3) {
        throttle_ms: i32,
        error: i16 [4..],
        transactions: Vec<TxnResult> [4..],
        topics: Vec<TxnTopicResult> [..=3],
    }
    part TxnResult {
        transactional_id: String,
        topics: Vec<TxnTopicResult>,
    }
    part TxnTopicResult {
        name: String,
        partitions: Vec<TxnPartitionResult>,
    }
    part TxnPartitionResult {
        index: i32,
        error: i16,
    }

    message AddOffsetsToTxnRequest(3) {
        transactional_id: String,
        producer: i64,
        epoch: i16,
        group: String,
    }
    message AddOffsetsToTxnResponse(3) {
        throttle_ms: i32,
        error: i16,
    }

    message EndTxnRequest(3) {
        transactional_id: String,
        producer: i64,
        epoch: i16,
        commit: bool,
    }
    message EndTxnResponse(3) {
        throttle_ms: i32,
        error: i16,
        producer: i64 [5..] = -1,
        epoch: i16 [5..] = -1,
    }

    message TxnOffsetCommitRequest(3) {
        transactional_id: String,
        group: String,
        producer: i64,
        epoch: i16,
        generation: i32 [3..] = -1,
        member: String [3..],
        instance: Option<String> [3..],
        topics: Vec<TxnOffsetTopic>,
    }
    part TxnOffsetTopic {
        name: String,
        partitions: Vec<TxnOffset>,
    }
    part TxnOffset {
        index: i32,
        offset: i64,
        leader_epoch: i32 [2..] = -1,
        metadata: Option<String>,
    }
    message TxnOffsetCommitResponse(3) {
        throttle_ms: i32,
        topics: Vec<TxnTopicResult>,
    }
}

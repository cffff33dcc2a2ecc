//! Consumer groups and their offsets.

use crate::kafka::wire::wire;
use bytes::Bytes;

wire! {
    message JoinGroupRequest(6) {
        group: String,
        session_timeout_ms: i32,
        rebalance_timeout_ms: i32 [1..] = -1,
        member: String,
        instance: Option<String> [5..],
        protocol_type: String,
        protocols: Vec<JoinProtocol>,
        reason: Option<String> [8..],
    }
    part JoinProtocol {
        name: String,
        metadata: Bytes,
    }
    message JoinGroupResponse(6) {
        throttle_ms: i32 [2..],
        error: i16,
        generation: i32 = -1,
        protocol_type: Option<String> [7..],
        protocol: Option<String>,
        leader: String,
        skip_assignment: bool [9..],
        member: String,
        members: Vec<JoinedMember>,
    }
    part JoinedMember {
        member: String,
        instance: Option<String> [5..],
        metadata: Bytes,
    }

    message SyncGroupRequest(4) {
        group: String,
        generation: i32,
        member: String,
        instance: Option<String> [3..],
        protocol_type: Option<String> [5..],
        protocol: Option<String> [5..],
        assignments: Vec<SyncAssignment>,
    }
    part SyncAssignment {
        member: String,
        assignment: Bytes,
    }
    message SyncGroupResponse(4) {
        throttle_ms: i32 [1..],
        error: i16,
        protocol_type: Option<String> [5..],
        protocol: Option<String> [5..],
        assignment: Bytes,
    }

    message HeartbeatRequest(4) {
        group: String,
        generation: i32,
        member: String,
        instance: Option<String> [3..],
    }
    message HeartbeatResponse(4) {
        throttle_ms: i32 [1..],
        error: i16,
    }

    message LeaveGroupRequest(4) {
        group: String,
        member: String [..=2],
        members: Vec<LeavingMember> [3..],
    }
    part LeavingMember {
        member: String,
        instance: Option<String>,
        reason: Option<String> [5..],
    }
    message LeaveGroupResponse(4) {
        throttle_ms: i32 [1..],
        error: i16,
        members: Vec<LeftMember> [3..],
    }
    part LeftMember {
        member: String,
        instance: Option<String>,
        error: i16,
    }

    message OffsetCommitRequest(8) {
        group: String,
        generation: i32 [1..] = -1,
        member: String [1..],
        instance: Option<String> [7..],
        retention_ms: i64 [2..=4] = -1,
        topics: Vec<CommitTopic>,
    }
    part CommitTopic {
        name: String,
        partitions: Vec<CommitPartition>,
    }
    part CommitPartition {
        index: i32,
        offset: i64,
        leader_epoch: i32 [6..] = -1,
        metadata: Option<String>,
    }
    message OffsetCommitResponse(8) {
        throttle_ms: i32 [3..],
        topics: Vec<CommittedTopic>,
    }
    part CommittedTopic {
        name: String,
        partitions: Vec<CommittedPartition>,
    }
    part CommittedPartition {
        index: i32,
        error: i16,
    }

    message OffsetFetchRequest(6) {
        group: String [..=7],
        /// None for all.
        topics: Option<Vec<OffsetFetchTopic>> [..=7],
        groups: Vec<OffsetFetchGroup> [8..],
        require_stable: bool [7..],
    }
    part OffsetFetchGroup {
        group: String,
        topics: Option<Vec<OffsetFetchTopic>>,
    }
    part OffsetFetchTopic {
        name: String,
        partitions: Vec<i32>,
    }
    message OffsetFetchResponse(6) {
        throttle_ms: i32 [3..],
        topics: Vec<FetchedOffsetTopic> [..=7],
        error: i16 [2..=7],
        groups: Vec<FetchedOffsetGroup> [8..],
    }
    part FetchedOffsetGroup {
        group: String,
        topics: Vec<FetchedOffsetTopic>,
        error: i16,
    }
    part FetchedOffsetTopic {
        name: String,
        partitions: Vec<FetchedOffset>,
    }
    part FetchedOffset {
        index: i32,
        offset: i64,
        leader_epoch: i32 [5..] = -1,
        metadata: Option<String>,
        error: i16,
    }

    message OffsetDeleteRequest(99) {
        group: String,
        topics: Vec<OffsetFetchTopic>,
    }
    message OffsetDeleteResponse(99) {
        error: i16,
        throttle_ms: i32,
        topics: Vec<CommittedTopic>,
    }

    message DescribeGroupsRequest(5) {
        groups: Vec<String>,
        with_operations: bool [3..],
    }
    message DescribeGroupsResponse(5) {
        throttle_ms: i32 [1..],
        groups: Vec<DescribedGroup>,
    }
    part DescribedGroup {
        error: i16,
        group: String,
        state: String,
        protocol_type: String,
        protocol: String,
        members: Vec<DescribedMember>,
        operations: i32 [3..] = i32::MIN,
    }
    part DescribedMember {
        member: String,
        instance: Option<String> [4..],
        client_id: String,
        client_host: String,
        metadata: Bytes,
        assignment: Bytes,
    }

    message ListGroupsRequest(3) {
        states: Vec<String> [4..],
    }
    message ListGroupsResponse(3) {
        throttle_ms: i32 [1..],
        error: i16,
        groups: Vec<ListedGroup>,
    }
    part ListedGroup {
        group: String,
        protocol_type: String,
        state: String [4..],
    }

    message DeleteGroupsRequest(2) {
        groups: Vec<String>,
    }
    message DeleteGroupsResponse(2) {
        throttle_ms: i32,
        results: Vec<DeletedGroup>,
    }
    part DeletedGroup {
        group: String,
        error: i16,
    }
}

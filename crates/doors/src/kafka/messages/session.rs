//! Headers, versions, passwords, and where everything is.

use crate::kafka::wire::{Field, Garbage, Message, Reader, Tag, Uuid, Writer, wire};
use bytes::Bytes;

/// What is spoken here.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ApiVersionsResponse {
    pub error: i16,
    pub apis: Vec<ApiVersion>,
    pub throttle_ms: i32,
    /// Features that this node could have.
    pub supported: Vec<Feature>,
    /// How often the finalized features have changed; -1 where nothing is known of them.
    pub finalized_epoch: i64,
    /// Features that are in force everywhere.
    pub finalized: Vec<Finalized>,
}

impl Default for ApiVersionsResponse {
    fn default() -> ApiVersionsResponse {
        let (supported, finalized) = (Vec::new(), Vec::new());
        ApiVersionsResponse { error: 0, apis: Vec::new(), throttle_ms: 0, supported, finalized_epoch: -1, finalized }
    }
}

impl Message for ApiVersionsResponse {
    const FLEXIBLE: i16 = 3;
}

impl Field for ApiVersionsResponse {
    fn read(from: &mut Reader<'_>) -> Result<ApiVersionsResponse, Garbage> {
        let mut own = ApiVersionsResponse { error: i16::read(from)?, apis: Vec::read(from)?, ..Default::default() };
        if from.version() >= 1 {
            own.throttle_ms = i32::read(from)?;
        }
        from.tags_with(|tag, from| {
            match tag {
                0 => own.supported = Vec::read(from)?,
                1 => own.finalized_epoch = i64::read(from)?,
                2 => own.finalized = Vec::read(from)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(own)
    }

    fn write(&self, to: &mut Writer) {
        self.error.write(to);
        self.apis.write(to);
        if to.version() >= 1 {
            self.throttle_ms.write(to);
        }
        let mut tags: Vec<Tag<'_>> = Vec::new();
        let supported = |to: &mut Writer| self.supported.write(to);
        let epoch = |to: &mut Writer| self.finalized_epoch.write(to);
        let finalized = |to: &mut Writer| self.finalized.write(to);
        if !self.supported.is_empty() {
            tags.push((0, &supported));
        }
        if self.finalized_epoch != -1 {
            tags.push((1, &epoch));
        }
        if !self.finalized.is_empty() {
            tags.push((2, &finalized));
        }
        to.tags_with(&tags);
    }

    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> ApiVersionsResponse {
        ApiVersionsResponse {
            error: i16::any(rng),
            apis: Vec::any(rng),
            throttle_ms: i32::any(rng),
            supported: Vec::any(rng),
            finalized_epoch: i64::any(rng),
            finalized: Vec::any(rng),
        }
    }
}

/// What stands before every request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestHeader {
    /// Which API.
    pub key: i16,
    /// Which version of it.
    pub version: i16,
    /// Comes back with the answer.
    pub correlation: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// Reads all but the tags; these follow where the message is flexible (header version 2). The client's name is never compact.
    ///
    /// # Errors
    /// [`Garbage`].
    pub fn read(from: &mut Reader<'_>) -> Result<RequestHeader, Garbage> {
        Ok(RequestHeader {
            key: i16::read(from)?,
            version: i16::read(from)?,
            correlation: i32::read(from)?,
            client_id: Option::read(from)?,
        })
    }

    /// Writes the same.
    pub fn write(&self, to: &mut Writer) {
        self.key.write(to);
        self.version.write(to);
        self.correlation.write(to);
        self.client_id.write(to);
    }
}

wire! {
    message ApiVersionsRequest(3) {
        software_name: String [3..],
        software_version: String [3..],
    }
    part ApiVersion {
        key: i16,
        min: i16,
        max: i16,
    }
    part Feature {
        name: String,
        min: i16,
        max: i16,
    }
    part Finalized {
        name: String,
        max: i16,
        min: i16,
    }

    message SaslHandshakeRequest(99) {
        mechanism: String,
    }
    message SaslHandshakeResponse(99) {
        error: i16,
        mechanisms: Vec<String>,
    }
    message SaslAuthenticateRequest(2) {
        bytes: Bytes,
    }
    message SaslAuthenticateResponse(2) {
        error: i16,
        message: Option<String>,
        bytes: Bytes,
        lifetime_ms: i64 [1..],
    }

    message MetadataRequest(9) {
        /// None for all; in version 0 an empty list means the same.
        topics: Option<Vec<MetadataRequestTopic>>,
        may_create: bool [4..] = true,
        with_cluster_operations: bool [8..=10],
        with_topic_operations: bool [8..],
    }
    part MetadataRequestTopic {
        id: Uuid [10..],
        name: Option<String>,
    }
    message MetadataResponse(9) {
        throttle_ms: i32 [3..],
        brokers: Vec<Broker>,
        cluster_id: Option<String> [2..],
        controller: i32 [1..] = -1,
        topics: Vec<MetadataTopic>,
        cluster_operations: i32 [8..=10] = i32::MIN,
    }
    part Broker {
        node: i32,
        host: String,
        port: i32,
        rack: Option<String> [1..],
    }
    part MetadataTopic {
        error: i16,
        name: Option<String>,
        id: Uuid [10..],
        is_internal: bool [1..],
        partitions: Vec<MetadataPartition>,
        operations: i32 [8..] = i32::MIN,
    }
    part MetadataPartition {
        error: i16,
        index: i32,
        leader: i32,
        leader_epoch: i32 [7..] = -1,
        replicas: Vec<i32>,
        isr: Vec<i32>,
        offline: Vec<i32> [5..],
    }

    message FindCoordinatorRequest(3) {
        key: String [..=3],
        /// 0 for a group, 1 for a transactional id.
        kind: i8 [1..],
        keys: Vec<String> [4..],
    }
    message FindCoordinatorResponse(3) {
        throttle_ms: i32 [1..],
        error: i16 [..=3],
        message: Option<String> [1..=3],
        node: i32 [..=3],
        host: String [..=3],
        port: i32 [..=3],
        coordinators: Vec<Coordinator> [4..],
    }
    part Coordinator {
        key: String,
        node: i32,
        host: String,
        port: i32,
        error: i16,
        message: Option<String>,
    }

    message DescribeClusterRequest(0) {
        with_operations: bool,
    }
    message DescribeClusterResponse(0) {
        throttle_ms: i32,
        error: i16,
        message: Option<String>,
        cluster_id: String,
        controller: i32,
        brokers: Vec<ClusterBroker>,
        operations: i32 = i32::MIN,
    }
    part ClusterBroker {
        node: i32,
        host: String,
        port: i32,
        rack: Option<String>,
    }
}

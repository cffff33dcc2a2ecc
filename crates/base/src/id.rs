//! Who and which: nodes and replicated groups.

use std::fmt;

/// A node of the cluster. Zero is never a node (Raft's "nobody").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One replicated log among those that share a node's log files. Group 0 is *meta*; data shards follow from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The group that holds the cluster itself: nodes, the shard map, keyspace settings.
    pub const META: GroupId = GroupId(0);
}

/// A cluster, by the random bits drawn at its birth: nodes of two clusters never take each other for their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads what `Display` writes: 32 digits in small letters.
    pub fn parse(text: &str) -> Option<ClusterId> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(ClusterId(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ClusterId;

    #[test]
    fn a_cluster_id_is_read_as_it_is_written_and_no_other_way() {
        let id = ClusterId(std::array::from_fn(|at| (at * 17) as u8));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        for wrong in [
            "",
            "00",
            "00112233445566778899AABBCCDDEEFF",
            "+0112233445566778899aabbccddeeff",
            "é0112233445566778899aabbccddeef",
        ] {
            assert_eq!(ClusterId::parse(wrong), None, "{wrong}");
        }
    }
}

//! Helpers on configuration changes, with the original crate's names.

use crate::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use std::borrow::Cow;

/// One step of a change.
pub fn new_conf_change_single(node_id: u64, ty: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { change_type: ty as i32, node_id }
}

/// Reads `v1 l2 r3`: make 1 a voter, make 2 a learner, remove 3. The error names the token.
pub fn parse_conf_change(s: &str) -> Result<Vec<ConfChangeSingle>, String> {
    s.split_ascii_whitespace()
        .map(|token| {
            let (ty, rest) = match token.as_bytes().first() {
                Some(b'v') => (ConfChangeType::AddNode, &token[1..]),
                Some(b'l') => (ConfChangeType::AddLearnerNode, &token[1..]),
                Some(b'r') => (ConfChangeType::RemoveNode, &token[1..]),
                _ => return Err(format!("unknown token {token}")),
            };
            let id = rest.parse().map_err(|e| format!("parse token {token} fail: {e}"))?;
            Ok(new_conf_change_single(id, ty))
        })
        .collect()
}

/// The inverse of [`parse_conf_change`].
pub fn stringify_conf_change(ccs: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = ccs
        .iter()
        .map(|cc| match cc.get_change_type() {
            ConfChangeType::AddNode => format!("v{}", cc.node_id),
            ConfChangeType::AddLearnerNode => format!("l{}", cc.node_id),
            ConfChangeType::RemoveNode => format!("r{}", cc.node_id),
        })
        .collect();
    words.join(" ")
}

/// Both forms of a change, seen as one.
pub trait ConfChangeI {
    /// As the newer form.
    fn into_v2(self) -> ConfChangeV2;
    /// As the newer form, borrowed where it is one already.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;
    /// As the older form, if it is one.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        let single = new_conf_change_single(self.node_id, self.get_change_type());
        ConfChangeV2 { changes: vec![single], context: self.context, ..ConfChangeV2::default() }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// `Some` where the change goes through a joint configuration; the flag says whether that is left by itself.
    pub fn enter_joint(&self) -> Option<bool> {
        match self.get_transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether the change leaves a joint configuration: it is empty but for its context.
    pub fn leave_joint(&self) -> bool {
        self.get_transition() == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

//! The accessors of rust-protobuf's style that `raft` is written against. prost itself makes `x()` and `set_x()` for
//! enumerations; the rest is here. `get_` of an absent message is its default, as protobuf says.

use crate::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use bytes::Bytes;
use std::mem::take;

/// A number or a flag.
macro_rules! plain {
    ($of:ty { $($field:ident: $kind:ty => $get:ident $set:ident $clear:ident;)* }) => {
        impl $of { $(
            #[inline] pub fn $get(&self) -> $kind { self.$field }
            #[inline] pub fn $set(&mut self, v: $kind) { self.$field = v; }
            #[inline] pub fn $clear(&mut self) { self.$field = Default::default(); }
        )* }
    };
}

/// Bytes and repeated fields, which are borrowed and can be taken.
macro_rules! held {
    ($of:ty { $($field:ident: $kind:ty as $seen:ty => $get:ident $set:ident $edit:ident $take:ident $clear:ident;)* }) => {
        impl $of { $(
            #[inline] pub fn $get(&self) -> &$seen { &self.$field }
            #[inline] pub fn $set(&mut self, v: $kind) { self.$field = v; }
            #[inline] pub fn $edit(&mut self) -> &mut $kind { &mut self.$field }
            #[inline] pub fn $take(&mut self) -> $kind { take(&mut self.$field) }
            #[inline] pub fn $clear(&mut self) { self.$field.clear(); }
        )* }
    };
}

/// Messages inside messages.
macro_rules! nested {
    ($of:ty { $($field:ident: $kind:ty => $get:ident $set:ident $edit:ident $take:ident $has:ident $clear:ident;)* }) => {
        impl $of { $(
            #[inline] pub fn $get(&self) -> &$kind {
                match &self.$field { Some(v) => v, None => <$kind>::default_ref() }
            }
            #[inline] pub fn $set(&mut self, v: $kind) { self.$field = Some(v); }
            #[inline] pub fn $edit(&mut self) -> &mut $kind { self.$field.get_or_insert_default() }
            #[inline] pub fn $take(&mut self) -> $kind { self.$field.take().unwrap_or_default() }
            #[inline] pub fn $has(&self) -> bool { self.$field.is_some() }
            #[inline] pub fn $clear(&mut self) { self.$field = None; }
        )* }
    };
}

/// Enumerations: prost has made the setter; an unknown number reads as the first value.
macro_rules! choice {
    ($of:ty { $($field:ident: $kind:ty => $get:ident $clear:ident;)* }) => {
        impl $of { $(
            #[inline] pub fn $get(&self) -> $kind { self.$field() }
            #[inline] pub fn $clear(&mut self) { self.$field = 0; }
        )* }
    };
}

choice!(Entry { entry_type: EntryType => get_entry_type clear_entry_type; });
plain!(Entry {
    term: u64 => get_term set_term clear_term;
    index: u64 => get_index set_index clear_index;
    sync_log: bool => get_sync_log set_sync_log clear_sync_log;
});
held!(Entry {
    data: Bytes as [u8] => get_data set_data mut_data take_data clear_data;
    context: Bytes as [u8] => get_context set_context mut_context take_context clear_context;
});

plain!(SnapshotMetadata {
    index: u64 => get_index set_index clear_index;
    term: u64 => get_term set_term clear_term;
});
nested!(SnapshotMetadata {
    conf_state: ConfState => get_conf_state set_conf_state mut_conf_state take_conf_state has_conf_state clear_conf_state;
});

held!(Snapshot { data: Bytes as [u8] => get_data set_data mut_data take_data clear_data; });
nested!(Snapshot {
    metadata: SnapshotMetadata => get_metadata set_metadata mut_metadata take_metadata has_metadata clear_metadata;
});

choice!(Message { msg_type: MessageType => get_msg_type clear_msg_type; });
plain!(Message {
    to: u64 => get_to set_to clear_to;
    from: u64 => get_from set_from clear_from;
    term: u64 => get_term set_term clear_term;
    log_term: u64 => get_log_term set_log_term clear_log_term;
    index: u64 => get_index set_index clear_index;
    commit: u64 => get_commit set_commit clear_commit;
    commit_term: u64 => get_commit_term set_commit_term clear_commit_term;
    request_snapshot: u64 => get_request_snapshot set_request_snapshot clear_request_snapshot;
    reject: bool => get_reject set_reject clear_reject;
    reject_hint: u64 => get_reject_hint set_reject_hint clear_reject_hint;
    deprecated_priority: u64 => get_deprecated_priority set_deprecated_priority clear_deprecated_priority;
    priority: i64 => get_priority set_priority clear_priority;
});
held!(Message {
    entries: Vec<Entry> as [Entry] => get_entries set_entries mut_entries take_entries clear_entries;
    context: Bytes as [u8] => get_context set_context mut_context take_context clear_context;
});
nested!(Message {
    snapshot: Snapshot => get_snapshot set_snapshot mut_snapshot take_snapshot has_snapshot clear_snapshot;
});

plain!(HardState {
    term: u64 => get_term set_term clear_term;
    vote: u64 => get_vote set_vote clear_vote;
    commit: u64 => get_commit set_commit clear_commit;
});

plain!(ConfState { auto_leave: bool => get_auto_leave set_auto_leave clear_auto_leave; });
held!(ConfState {
    voters: Vec<u64> as [u64] => get_voters set_voters mut_voters take_voters clear_voters;
    learners: Vec<u64> as [u64] => get_learners set_learners mut_learners take_learners clear_learners;
    voters_outgoing: Vec<u64> as [u64]
        => get_voters_outgoing set_voters_outgoing mut_voters_outgoing take_voters_outgoing clear_voters_outgoing;
    learners_next: Vec<u64> as [u64]
        => get_learners_next set_learners_next mut_learners_next take_learners_next clear_learners_next;
});

choice!(ConfChange { change_type: ConfChangeType => get_change_type clear_change_type; });
plain!(ConfChange {
    node_id: u64 => get_node_id set_node_id clear_node_id;
    id: u64 => get_id set_id clear_id;
});
held!(ConfChange { context: Bytes as [u8] => get_context set_context mut_context take_context clear_context; });

choice!(ConfChangeSingle { change_type: ConfChangeType => get_change_type clear_change_type; });
plain!(ConfChangeSingle { node_id: u64 => get_node_id set_node_id clear_node_id; });

choice!(ConfChangeV2 { transition: ConfChangeTransition => get_transition clear_transition; });
held!(ConfChangeV2 {
    changes: Vec<ConfChangeSingle> as [ConfChangeSingle]
        => get_changes set_changes mut_changes take_changes clear_changes;
    context: Bytes as [u8] => get_context set_context mut_context take_context clear_context;
});

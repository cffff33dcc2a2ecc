//! `protobuf::Message` in the form that `raft` 0.7 uses: sizes, bytes in, bytes out, default instances. What it cannot
//! reach (streams of the rust-protobuf codec, unknown fields) answers an error or nothing.

use crate::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, Snapshot, SnapshotMetadata,
};
use protobuf::error::WireError;
use protobuf::reflect::MessageDescriptor;
use protobuf::{CodedInputStream, CodedOutputStream, ProtobufError, ProtobufResult, UnknownFields};
use std::any::Any;
use std::sync::LazyLock;

/// The answer of what is not offered here, and of bytes that are no such message.
fn refused<T>() -> ProtobufResult<T> {
    Err(ProtobufError::WireError(WireError::Other))
}

macro_rules! message {
    ($($of:ident)*) => { $(
        impl $of {
            /// An empty message.
            #[inline]
            pub fn new_() -> Self {
                Self::default()
            }

            /// The one shared empty message, which `get_` of an absent field answers.
            #[inline]
            pub fn default_ref() -> &'static Self {
                <Self as protobuf::Message>::default_instance()
            }
        }

        impl protobuf::Clear for $of {
            fn clear(&mut self) {
                *self = Self::default();
            }
        }

        impl protobuf::Message for $of {
            // `raft` never asks for reflection; rust-protobuf's own default of `descriptor_static` panics, so this stays
            // unreachable by being the only caller's business.
            fn descriptor(&self) -> &'static MessageDescriptor {
                Self::descriptor_static()
            }

            fn is_initialized(&self) -> bool {
                true
            }

            fn merge_from(&mut self, _: &mut CodedInputStream) -> ProtobufResult<()> {
                refused()
            }

            fn write_to_with_cached_sizes(&self, _: &mut CodedOutputStream) -> ProtobufResult<()> {
                refused()
            }

            fn compute_size(&self) -> u32 {
                u32::try_from(prost::Message::encoded_len(self)).unwrap_or(u32::MAX)
            }

            fn get_cached_size(&self) -> u32 {
                self.compute_size()
            }

            fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
                Ok(prost::Message::encode_to_vec(self))
            }

            fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
                match prost::Message::merge(self, bytes) {
                    Ok(()) => Ok(()),
                    Err(_) => refused(),
                }
            }

            fn get_unknown_fields(&self) -> &UnknownFields {
                static NONE: LazyLock<UnknownFields> = LazyLock::new(UnknownFields::new);
                &NONE
            }

            // prost keeps no unknown fields, so there is nothing to lend; a fresh one is leaked rather than panicking. `raft`
            // never calls this.
            fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
                Box::leak(Box::new(UnknownFields::new()))
            }

            fn as_any(&self) -> &dyn Any {
                self
            }

            fn new() -> Self {
                Self::default()
            }

            fn default_instance() -> &'static Self {
                static EMPTY: LazyLock<$of> = LazyLock::new($of::default);
                &EMPTY
            }
        }
    )* };
}

message!(Entry SnapshotMetadata Snapshot Message HardState ConfState ConfChange ConfChangeSingle ConfChangeV2);

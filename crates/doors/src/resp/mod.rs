//! The Redis door: what its clients send, and what they are answered.

pub mod decode;
pub mod introspect;
pub mod pubsub;
pub mod text;

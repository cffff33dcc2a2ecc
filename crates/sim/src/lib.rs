//! sim
pub mod disk;

//! The deterministic world's own tests, and those of rooms that need it.

mod disk;
mod log;
mod world;

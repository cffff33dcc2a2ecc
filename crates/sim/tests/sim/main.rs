//! The deterministic world's own tests, and those of rooms that need it.

mod cluster;
mod disk;
mod full;
mod log;
mod steps;
mod topics;
mod world;

//! The engine between real sockets: what an upstream gets and what a client gets, byte by byte.

mod wire;

mod framing;
mod h2_frames;
mod http2;
mod resilience;
mod streams;

//! What a group promises, on groups that talk over a network of values in virtual time.

mod claims;
mod lone;
mod malformed;
mod random;
mod scripts;
mod world;

//! What the front door decides: which route a request takes, which endpoint gets it, what is tried again and what is refused.
//! Pure: it is told the time, draws from the generator it is handed, and moves no bytes (that is `proxy`).
//!
//! ```text
//!  documents ─► model (read) ─► Config (judged whole) ─► RouteTable ─┐
//!                                                                     ▼
//!  head ─► request (one normal form) ─► route ─► Plan ─► endpoint ─► proxy moves the bytes ─► outcome ─► log line
//! ```

pub mod balance;
mod config;
pub mod headers;
pub mod live;
pub mod log;
pub mod model;
pub mod request;
pub mod resilience;
mod route;
mod split;
mod table;
mod template;

pub use config::Config;
pub use route::{Compiled, HostRewrite, RouteAction, Share};
pub use table::{Captures, RouteTable};
pub use template::Template;

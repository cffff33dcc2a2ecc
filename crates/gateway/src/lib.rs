//! What the front door decides: which route a request takes, which endpoint gets it, what is tried again and what is refused.
//! Pure: it is told the time, draws from the generator it is handed, and moves no bytes (that is `proxy`).

pub mod model;
pub mod request;

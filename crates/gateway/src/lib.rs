//! What the gateway decides: which route a request takes, which endpoint gets it, whether it may be tried again, slowed or refused.
//!
//! Plain values, driven by whoever moves the bytes (`proxy`): no sockets, no clocks, no randomness but what the caller hands in.

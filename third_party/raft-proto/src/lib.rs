//! eraftpb

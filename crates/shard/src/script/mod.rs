//! Lua scripts. (Filled in by its author.)

/// Scripts by their SHA-1, and the interpreter that runs them.
#[derive(Debug, Default)]
pub struct Scripts {}

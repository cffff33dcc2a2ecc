//! Bounds of users: they are small, and everybody holds them.

/// Users.
pub const USERS_MAX: usize = 10_000;
/// Bytes of a user's name.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of one user in words.
pub const USER_BYTES_MAX: usize = 64 << 10;
/// Bytes of all users.
pub const ALL_BYTES_MAX: usize = 32 << 20;
/// Passwords of one user.
pub const PASSWORDS_MAX: usize = 64;
/// Selectors of one user.
pub const SELECTORS_MAX: usize = 64;
/// Patterns of one selector, of keys or of channels: each command of the user is compared with all of them.
pub const PATTERNS_MAX: usize = 1024;

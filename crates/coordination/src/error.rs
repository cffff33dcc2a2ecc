//! Errors with etcd's codes and texts: its clients match on them.

use std::borrow::Cow;

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// gRPC's number of the kind.
    pub code: u8,
    /// etcd's text.
    pub text: Cow<'static, str>,
}

impl Error {
    /// An error of this code and text.
    pub const fn new(code: u8, text: &'static str) -> Error {
        Error { code, text: Cow::Borrowed(text) }
    }

    /// The same, with a text made up now.
    pub fn of(code: u8, text: String) -> Error {
        Error { code, text: Cow::Owned(text) }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// gRPC's numbers of kinds of errors.
pub mod code {
    /// The caller has gone or asked for an end.
    pub const CANCELLED: u8 = 1;
    /// Anything else.
    pub const UNKNOWN: u8 = 2;
    /// The request is wrong, whatever the state.
    pub const INVALID_ARGUMENT: u8 = 3;
    /// It took too long.
    pub const DEADLINE_EXCEEDED: u8 = 4;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 5;
    /// The user may not.
    pub const PERMISSION_DENIED: u8 = 7;
    /// A bound.
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    /// The state does not allow it.
    pub const FAILED_PRECONDITION: u8 = 9;
    /// Beyond what there is.
    pub const OUT_OF_RANGE: u8 = 11;
    /// There is no such method.
    pub const UNIMPLEMENTED: u8 = 12;
    /// A bug.
    pub const INTERNAL: u8 = 13;
    /// Not now; try again.
    pub const UNAVAILABLE: u8 = 14;
    /// Who are you?
    pub const UNAUTHENTICATED: u8 = 16;
}

macro_rules! errors {
    ($($name:ident = $code:ident $text:literal;)*) => {
        $(#[doc = $text] pub const $name: Error = Error::new(code::$code, $text);)*
    };
}

errors! {
    EMPTY_KEY = INVALID_ARGUMENT "etcdserver: key is not provided";
    KEY_NOT_FOUND = INVALID_ARGUMENT "etcdserver: key not found";
    VALUE_PROVIDED = INVALID_ARGUMENT "etcdserver: value is provided";
    LEASE_PROVIDED = INVALID_ARGUMENT "etcdserver: lease is provided";
    TOO_MANY_OPS = INVALID_ARGUMENT "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = INVALID_ARGUMENT "etcdserver: duplicate key given in txn request";
    INVALID_SORT = INVALID_ARGUMENT "etcdserver: invalid sort option";
    COMPACTED = OUT_OF_RANGE "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OUT_OF_RANGE "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE = RESOURCE_EXHAUSTED "etcdserver: mvcc: database space exceeded";
    REQUEST_TOO_LARGE = INVALID_ARGUMENT "etcdserver: request is too large";
    TOO_MANY_REQUESTS = RESOURCE_EXHAUSTED "etcdserver: too many requests";
    LEASE_NOT_FOUND = NOT_FOUND "etcdserver: requested lease not found";
    LEASE_EXISTS = FAILED_PRECONDITION "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OUT_OF_RANGE "etcdserver: too large lease TTL";
    ROOT_USER_NOT_EXIST = FAILED_PRECONDITION "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST = FAILED_PRECONDITION "etcdserver: root user does not have root role";
    USER_ALREADY_EXIST = FAILED_PRECONDITION "etcdserver: user name already exists";
    USER_EMPTY = INVALID_ARGUMENT "etcdserver: user name is empty";
    USER_NOT_FOUND = FAILED_PRECONDITION "etcdserver: user name not found";
    ROLE_ALREADY_EXIST = FAILED_PRECONDITION "etcdserver: role name already exists";
    ROLE_NOT_FOUND = FAILED_PRECONDITION "etcdserver: role name not found";
    ROLE_EMPTY = INVALID_ARGUMENT "etcdserver: role name is empty";
    AUTH_FAILED = INVALID_ARGUMENT "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN = INVALID_ARGUMENT "etcdserver: permission not given";
    PERMISSION_DENIED = PERMISSION_DENIED "etcdserver: permission denied";
    ROLE_NOT_GRANTED = FAILED_PRECONDITION "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED = FAILED_PRECONDITION "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED = FAILED_PRECONDITION "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN = UNAUTHENTICATED "etcdserver: invalid auth token";
    INVALID_AUTH_MANAGEMENT = INVALID_ARGUMENT "etcdserver: invalid auth management";
    NO_LEADER = UNAVAILABLE "etcdserver: no leader";
    LEADER_CHANGED = UNAVAILABLE "etcdserver: leader changed";
    TIMEOUT = UNAVAILABLE "etcdserver: request timed out";
    STOPPED = UNAVAILABLE "etcdserver: server stopped";
    CANCELED = CANCELLED "etcdserver: request cancelled";
    NOT_CAPABLE = UNAVAILABLE "etcdserver: not capable";
    BUG = INTERNAL "etcdserver: this request met a bug of quorate; please report it";
}

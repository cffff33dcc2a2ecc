//! What an entry may do here, and what comes of it. A request is kept as the client sent it: protobuf's numbers are fixed for ever.
//!
//! ```text
//!   command  version:u8=1  kind:u8  user:bytes  request
//!   outcome  1 revision:varint answer | 2 code:u8 text        (travels back to who asked; never stored)
//! ```

use store::codec::{Corrupt, Input, put_bytes, put_varint};

use crate::error::Error;

const VERSION: u8 = 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// What is asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            fn of(number: u8) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// `PutRequest`.
    Put = 1,
    /// `DeleteRangeRequest`.
    Delete = 2,
    /// `TxnRequest`.
    Txn = 3,
    /// `CompactionRequest`.
    Compact = 4,
    /// `LeaseGrantRequest`, its id chosen.
    Grant = 5,
    /// `LeaseRevokeRequest`.
    Revoke = 6,
    /// `LeaseKeepAliveRequest`.
    KeepAlive = 7,
    /// The leader's own: leases that are over go.
    Expire = 8,
    /// A new secret: users are asked from now on.
    AuthEnable = 20,
    /// Nobody is asked from now on.
    AuthDisable = 21,
    /// `AuthUserAddRequest`, its password as the door keeps it.
    UserAdd = 22,
    /// `AuthUserDeleteRequest`.
    UserDelete = 23,
    /// `AuthUserChangePasswordRequest`, like [`Kind::UserAdd`].
    UserPassword = 24,
    /// `AuthUserGrantRoleRequest`.
    UserGrant = 25,
    /// `AuthUserRevokeRoleRequest`.
    UserRevoke = 26,
    /// `AuthRoleAddRequest`.
    RoleAdd = 27,
    /// `AuthRoleDeleteRequest`.
    RoleDelete = 28,
    /// `AuthRoleGrantPermissionRequest`.
    RoleGrant = 29,
    /// `AuthRoleRevokePermissionRequest`.
    RoleRevoke = 30,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// What.
    pub kind: Kind,
    /// Whose; empty where nobody was asked.
    pub user: &'a str,
    /// The request.
    pub request: &'a [u8],
}

impl<'a> Command<'a> {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.kind as u8]);
        put_bytes(out, self.user.as_bytes());
        out.extend_from_slice(self.request);
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A version or a kind that this build does not know, or damage.
    pub fn decode(form: &'a [u8]) -> Result<Command<'a>, Corrupt> {
        let mut input = Input::new(form);
        if input.u8()? != VERSION {
            return Err(Corrupt("a command of etcd's of a version that this build does not know"));
        }
        let kind = Kind::of(input.u8()?).ok_or(Corrupt("an unknown command of etcd's"))?;
        let user = std::str::from_utf8(input.bytes()?).map_err(|_| Corrupt("a user that is not UTF-8"))?;
        Ok(Command { kind, user, request: input.take(input.len())? })
    }

    /// Whether it frees room, or is so small and so needed that it may use the log's reserve.
    pub fn frees(&self) -> bool {
        matches!(self.kind, Kind::Delete | Kind::Compact | Kind::Revoke | Kind::KeepAlive | Kind::Expire)
    }
}

/// What was done: the revision then, and the answer's fields but for its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The revision.
    pub revision: i64,
    /// The answer.
    pub body: Vec<u8>,
}

/// What came of a command.
pub type Outcome = Result<Answer, Error>;

/// Appends an outcome's form.
pub fn put_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match outcome {
        Ok(answer) => {
            out.push(1);
            put_varint(out, answer.revision as u64);
            out.extend_from_slice(&answer.body);
        }
        Err(error) => {
            out.extend_from_slice(&[2, error.code]);
            out.extend_from_slice(error.text.as_bytes());
        }
    }
}

/// Reads it.
///
/// # Errors
/// Bytes that are none.
pub fn read_outcome(form: &[u8]) -> Result<Outcome, Corrupt> {
    let mut input = Input::new(form);
    match input.u8()? {
        1 => Ok(Ok(Answer { revision: input.varint()? as i64, body: input.take(input.len())?.to_vec() })),
        2 => {
            let code = input.u8()?;
            Ok(Err(Error::of(code, String::from_utf8_lossy(input.take(input.len())?).into_owned())))
        }
        _ => Err(Corrupt("no outcome of etcd's")),
    }
}

//! The kinds of value a key can hold, one file per kind, each with its stored form.
//!
//! The numbers in [`Value::encode`] never change; a kind that needs another form gets another number.

mod hash;
mod list;
mod packed;
mod set;
mod stream;
mod zset;

pub use hash::Hash;
pub use list::{End, List};
pub use set::{Member, Set};
pub use stream::*;
pub use zset::*;

use crate::codec::{Corrupt, Input, Stored, put_bytes};

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A byte string.
    Str(Vec<u8>),
    /// A list, both ends cheap.
    List(Box<List>),
    /// Fields and their values.
    Hash(Box<Hash>),
    /// Members without order.
    Set(Box<Set>),
    /// Members ordered by score.
    Zset(Box<Zset>),
    /// An append-only log of entries with consumer groups.
    Stream(Box<Stream>),
}

/// One kind of value, so that tables can hand out a typed view or say `WRONGTYPE`.
pub trait Kind: Sized {
    /// The view of a value, `None` where it is of another kind.
    fn of(value: &Value) -> Option<&Self>;
    /// The mutable view.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    /// A new empty value.
    fn fresh() -> Value;
    /// Whether Redis would delete the key of a value in this state (an emptied collection; never a string or a stream).
    fn is_vacant(&self) -> bool;
    /// Heap bytes by estimate; must be cheap (kept up to date by the kind, not counted).
    fn heap_bytes(&self) -> usize;
}

macro_rules! kind {
    ($variant:ident, $type:ty, $vacant:expr) => {
        impl Kind for $type {
            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
            fn fresh() -> Value {
                Value::$variant(Default::default())
            }
            fn is_vacant(&self) -> bool {
                let vacant: fn(&$type) -> bool = $vacant;
                vacant(self)
            }
            fn heap_bytes(&self) -> usize {
                <$type>::heap_bytes(self)
            }
        }
    };
}

kind!(List, List, |list| list.is_empty());
kind!(Hash, Hash, |hash| hash.is_empty());
kind!(Set, Set, |set| set.is_empty());
kind!(Zset, Zset, |zset| zset.is_empty());
kind!(Stream, Stream, |_| false);

impl Kind for Vec<u8> {
    fn of(value: &Value) -> Option<&Self> {
        match value {
            Value::Str(inner) => Some(inner),
            _ => None,
        }
    }
    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Str(inner) => Some(inner),
            _ => None,
        }
    }
    fn fresh() -> Value {
        Value::Str(Vec::new())
    }
    fn is_vacant(&self) -> bool {
        false
    }
    /// What it holds, not what it has room for: replicas must agree, and room depends on history.
    fn heap_bytes(&self) -> usize {
        self.len()
    }
}

impl Value {
    /// The name that TYPE answers.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Str(_) => "string",
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::Zset(_) => "zset",
            Value::Stream(_) => "stream",
        }
    }

    /// Heap bytes by estimate.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Value::Str(inner) => inner.len(),
            Value::List(inner) => inner.heap_bytes(),
            Value::Hash(inner) => inner.heap_bytes(),
            Value::Set(inner) => inner.heap_bytes(),
            Value::Zset(inner) => inner.heap_bytes(),
            Value::Stream(inner) => inner.heap_bytes(),
        }
    }

    /// Whether the key would be deleted in this state.
    pub fn is_vacant(&self) -> bool {
        match self {
            Value::Str(_) | Value::Stream(_) => false,
            Value::List(inner) => inner.is_empty(),
            Value::Hash(inner) => inner.is_empty(),
            Value::Set(inner) => inner.is_empty(),
            Value::Zset(inner) => inner.is_empty(),
        }
    }
}

impl Stored for Value {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Str(inner) => {
                out.push(1);
                put_bytes(out, inner);
            }
            Value::List(inner) => {
                out.push(2);
                inner.encode(out);
            }
            Value::Hash(inner) => {
                out.push(3);
                inner.encode(out);
            }
            Value::Set(inner) => {
                out.push(4);
                inner.encode(out);
            }
            Value::Zset(inner) => {
                out.push(5);
                inner.encode(out);
            }
            Value::Stream(inner) => {
                out.push(6);
                inner.encode(out);
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Value, Corrupt> {
        Ok(match input.u8()? {
            1 => Value::Str(input.bytes()?.to_vec()),
            2 => Value::List(Box::new(List::decode(input)?)),
            3 => Value::Hash(Box::new(Hash::decode(input)?)),
            4 => Value::Set(Box::new(Set::decode(input)?)),
            5 => Value::Zset(Box::new(Zset::decode(input)?)),
            6 => Value::Stream(Box::new(Stream::decode(input)?)),
            _ => return Err(Corrupt("unknown kind of value")),
        })
    }
}

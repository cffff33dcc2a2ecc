//! The kinds of value a key can hold, one file per kind, each with its stored form.
//!
//! The numbers in [`View::number`] never change; a kind that needs another form gets another number.

mod hash;
mod list;
mod packed;
mod pieces;
mod rows;
mod set;
mod shared;
mod stream;
mod zset;

pub use hash::Hash;
pub use list::{End, List};
pub use pieces::{Frozen, Growing};
pub use set::{Member, Set};
pub use stream::*;
pub use zset::*;

use std::sync::Arc;

use crate::codec::{Corrupt, Input, Stored, put_bytes};

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A byte string. Shared, so that a snapshot can hold on to a long one while the key changes.
    Str(Arc<Vec<u8>>),
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

/// What a key holds, as one looks at it: a string is its bytes, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// A byte string.
    Str(&'a [u8]),
    /// A list.
    List(&'a List),
    /// A hash.
    Hash(&'a Hash),
    /// A set.
    Set(&'a Set),
    /// A sorted set.
    Zset(&'a Zset),
    /// A stream.
    Stream(&'a Stream),
}

/// One kind of collection, so that tables can hand out a typed view or say `WRONGTYPE`.
pub trait Kind: Sized {
    /// The view of a value, `None` where it is of another kind.
    fn of(view: View<'_>) -> Option<&Self>;
    /// The mutable view.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    /// A new empty value.
    fn fresh() -> Value;
    /// Whether Redis would delete the key of a value in this state (an emptied collection; never a stream).
    fn is_vacant(&self) -> bool;
    /// Heap bytes by estimate; must be cheap (kept up to date by the kind, not counted).
    fn heap_bytes(&self) -> usize;
}

macro_rules! kind {
    ($variant:ident, $type:ty, $vacant:expr) => {
        impl Kind for $type {
            #[inline]
            fn of(view: View<'_>) -> Option<&Self> {
                match view {
                    View::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
            #[inline]
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

impl From<Vec<u8>> for Value {
    fn from(text: Vec<u8>) -> Value {
        Value::Str(Arc::new(text))
    }
}

impl<'a> View<'a> {
    /// The name that TYPE answers.
    pub fn type_name(self) -> &'static str {
        match self {
            View::Str(_) => "string",
            View::List(_) => "list",
            View::Hash(_) => "hash",
            View::Set(_) => "set",
            View::Zset(_) => "zset",
            View::Stream(_) => "stream",
        }
    }

    /// What the stored form begins with.
    fn number(self) -> u8 {
        match self {
            View::Str(_) => 1,
            View::List(_) => 2,
            View::Hash(_) => 3,
            View::Set(_) => 4,
            View::Zset(_) => 5,
            View::Stream(_) => 6,
        }
    }

    /// Heap bytes by estimate. Of a string what it holds, not what it has room for: replicas must agree, and room depends
    /// on history.
    pub fn heap_bytes(self) -> usize {
        match self {
            View::Str(inner) => inner.len(),
            View::List(inner) => inner.heap_bytes(),
            View::Hash(inner) => inner.heap_bytes(),
            View::Set(inner) => inner.heap_bytes(),
            View::Zset(inner) => inner.heap_bytes(),
            View::Stream(inner) => inner.heap_bytes(),
        }
    }

    /// Whether the key would be deleted in this state.
    pub fn is_vacant(self) -> bool {
        match self {
            View::Str(_) | View::Stream(_) => false,
            View::List(inner) => inner.is_empty(),
            View::Hash(inner) => inner.is_empty(),
            View::Set(inner) => inner.is_empty(),
            View::Zset(inner) => inner.is_empty(),
        }
    }

    /// Appends the stored form of the value, as [`Value::encode`] does.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.push(self.number());
        match self {
            View::Str(inner) => put_bytes(out, inner),
            View::List(inner) => inner.encode(out),
            View::Hash(inner) => inner.encode(out),
            View::Set(inner) => inner.encode(out),
            View::Zset(inner) => inner.encode(out),
            View::Stream(inner) => inner.encode(out),
        }
    }
}

impl Value {
    /// What it holds.
    #[inline]
    pub fn view(&self) -> View<'_> {
        match self {
            Value::Str(inner) => View::Str(inner),
            Value::List(inner) => View::List(inner),
            Value::Hash(inner) => View::Hash(inner),
            Value::Set(inner) => View::Set(inner),
            Value::Zset(inner) => View::Zset(inner),
            Value::Stream(inner) => View::Stream(inner),
        }
    }

    /// Heap bytes by estimate.
    pub fn heap_bytes(&self) -> usize {
        self.view().heap_bytes()
    }

    /// Whether the key would be deleted in this state.
    pub fn is_vacant(&self) -> bool {
        self.view().is_vacant()
    }
}

impl Stored for Value {
    fn encode(&self, out: &mut Vec<u8>) {
        self.view().encode(out);
    }

    fn decode(input: &mut Input<'_>) -> Result<Value, Corrupt> {
        let mut value = Growing::begin(input)?;
        if value.feed(input)? { Ok(value.finish()) } else { Err(Corrupt("ends early")) }
    }
}

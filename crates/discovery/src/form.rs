//! The stored form of the registry's values: field after field in the order of declaration, in `store::codec`'s words.
//!
//! Whoever holds such a value begins it with a version ([`Change`](crate::Change), the snapshot's books); within a version a
//! form never changes.

use std::collections::BTreeMap;

use store::codec::{Corrupt, Input, put_bytes, put_varint};

/// A value with a stored form.
pub trait Form: Sized {
    /// Appends the stored form.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads what [`Form::put`] wrote. Never panics, never reserves more than the input holds.
    fn take(input: &mut Input<'_>) -> Result<Self, Corrupt>;
}

impl Form for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, *self);
    }
    fn take(input: &mut Input<'_>) -> Result<u64, Corrupt> {
        input.varint()
    }
}

impl Form for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(*self));
    }
    fn take(input: &mut Input<'_>) -> Result<u32, Corrupt> {
        u32::try_from(input.varint()?).map_err(|_| Corrupt("a number is too large"))
    }
}

impl Form for u16 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(*self));
    }
    fn take(input: &mut Input<'_>) -> Result<u16, Corrupt> {
        u16::try_from(input.varint()?).map_err(|_| Corrupt("a number is too large"))
    }
}

impl Form for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut Input<'_>) -> Result<bool, Corrupt> {
        match input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt("a truth value that is neither")),
        }
    }
}

impl Form for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }
    fn take(input: &mut Input<'_>) -> Result<String, Corrupt> {
        let text = std::str::from_utf8(input.bytes()?).map_err(|_| Corrupt("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

/// Bytes that are no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Form for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.0);
    }
    fn take(input: &mut Input<'_>) -> Result<Blob, Corrupt> {
        Ok(Blob(input.bytes()?.to_vec()))
    }
}

impl<T: Form> Form for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Option<T>, Corrupt> {
        if bool::take(input)? { T::take(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Form> Form for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Box<T>, Corrupt> {
        T::take(input).map(Box::new)
    }
}

impl<T: Form> Form for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for value in self {
            value.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Vec<T>, Corrupt> {
        let count = input.count()?;
        // Grown as it is read: a count is only bounded by bytes, and a value in memory is larger than its form.
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(T::take(input)?);
        }
        Ok(values)
    }
}

impl<K: Form + Ord, V: Form> Form for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<BTreeMap<K, V>, Corrupt> {
        let count = input.count()?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            map.insert(K::take(input)?, V::take(input)?);
        }
        Ok(map)
    }
}

impl<A: Form, B: Form> Form for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<(A, B), Corrupt> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

/// Gives a struct the form of its fields, in this order.
macro_rules! form {
    ($name:ty { $($field:ident),* $(,)? }) => {
        impl $crate::form::Form for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::form::Form::put(&self.$field, out);)*
            }
            fn take(input: &mut store::codec::Input<'_>) -> Result<Self, store::codec::Corrupt> {
                Ok(Self { $($field: $crate::form::Form::take(input)?,)* })
            }
        }
    };
}

/// Gives an enum of fields the form: a fixed number, then the fields of that variant.
macro_rules! form_enum {
    ($name:ty { $($number:literal = $variant:ident $(($($inner:ident),*))? $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl $crate::form::Form for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $(($($inner),*))? $({ $($field),* })? => {
                        out.push($number);
                        $($($crate::form::Form::put($inner, out);)*)?
                        $($($crate::form::Form::put($field, out);)*)?
                    })*
                }
            }
            fn take(input: &mut store::codec::Input<'_>) -> Result<Self, store::codec::Corrupt> {
                match input.u8()? {
                    $($number => {
                        $($(let $inner = $crate::form::Form::take(input)?;)*)?
                        $($(let $field = $crate::form::Form::take(input)?;)*)?
                        Ok(Self::$variant $(($($inner),*))? $({ $($field),* })?)
                    })*
                    _ => Err(store::codec::Corrupt("an unknown variant")),
                }
            }
        }
    };
}

pub(crate) use {form, form_enum};

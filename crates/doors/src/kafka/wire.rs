//! The bytes of Kafka's messages: a reader that trusts no length, a writer that can carry record batches without copying them, and
//! [`wire!`], by which a message is written down once, as Kafka's own definitions do, for all its versions and both directions.
//!
//! A message is *flexible* from some version on: its strings and arrays are then compact (lengths as variable integers, one too
//! large, 0 for null), and every structure ends in tagged fields. Tags that are not known are skipped (KIP-482).

use bytes::Bytes;

/// Elements of all arrays of one request together: what a request of a few bytes may cost in memory is bounded by this.
pub const ELEMENTS_MAX: usize = 1 << 18;
/// From here on a part of an answer is passed on, not copied.
const SPLICE_BYTES_MIN: usize = 4 << 10;

/// Bytes that are no message, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage(pub &'static str);

impl std::fmt::Display for Garbage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Garbage {}

/// Reads a message of one version.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    version: i16,
    flexible: bool,
    elements: usize,
}

impl<'a> Reader<'a> {
    /// At the first byte.
    pub fn new(bytes: &'a Bytes, version: i16, flexible: bool) -> Reader<'a> {
        Reader { bytes, at: 0, version, flexible, elements: ELEMENTS_MAX }
    }

    /// Goes on as a message of this version.
    pub fn become_message(&mut self, version: i16, flexible: bool) {
        (self.version, self.flexible) = (version, flexible);
    }

    /// The version that is read.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Garbage> {
        if count > self.left() {
            return Err(Garbage("it breaks off"));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    fn varint(&mut self) -> Result<u32, Garbage> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Garbage("a number is too large"));
            }
        }
        Err(Garbage("a number does not end"))
    }

    /// A length, in `wide` (four bytes) or narrow (two bytes) form where the message is not flexible. `None` for null.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, Garbage> {
        let length = match (self.flexible, wide) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, true) => i64::from(i32::from_be_bytes(self.array()?)),
            (false, false) => i64::from(i16::from_be_bytes(self.array()?)),
        };
        match length {
            -1 => Ok(None),
            0.. if length as u64 <= self.left() as u64 => Ok(Some(length as usize)),
            0.. => Err(Garbage("a length reaches beyond the end")),
            _ => Err(Garbage("a length is negative")),
        }
    }

    fn text(&mut self) -> Result<Option<String>, Garbage> {
        let Some(length) = self.length(false)? else {
            return Ok(None);
        };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|_| Garbage("a string is not UTF-8"))
    }

    fn blob(&mut self) -> Result<Option<Bytes>, Garbage> {
        let Some(length) = self.length(true)? else {
            return Ok(None);
        };
        let from = self.at;
        self.take(length)?;
        Ok(Some(self.bytes.slice(from..self.at)))
    }

    fn list<T: Field>(&mut self) -> Result<Option<Vec<T>>, Garbage> {
        // An element takes a byte at least, so the bytes that are there bound the count.
        let Some(count) = self.length(true)? else {
            return Ok(None);
        };
        self.elements = self.elements.checked_sub(count).ok_or(Garbage("its arrays have too many elements"))?;
        let mut list = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            list.push(T::read(self)?);
        }
        Ok(Some(list))
    }

    /// Skips tagged fields, where there are any.
    pub fn tags(&mut self) -> Result<(), Garbage> {
        self.tags_with(|_, _| Ok(false))
    }

    /// Reads tagged fields, where there are any; those are skipped that `known` says false to.
    pub(super) fn tags_with(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, Garbage>,
    ) -> Result<(), Garbage> {
        if self.flexible {
            for _ in 0..self.varint()? {
                let (tag, length) = (self.varint()?, self.varint()? as usize);
                let begin = self.at;
                self.take(length)?;
                let end = std::mem::replace(&mut self.at, begin);
                if !known(tag, self)? {
                    self.at = end;
                }
                if self.at != end {
                    return Err(Garbage("a tagged field has another length than it says"));
                }
            }
        }
        Ok(())
    }
}

/// Writes a message of one version.
#[derive(Debug)]
pub struct Writer {
    parts: Vec<Bytes>,
    out: Vec<u8>,
    version: i16,
    flexible: bool,
}

impl Writer {
    /// Nothing written yet.
    pub fn new(version: i16, flexible: bool) -> Writer {
        Writer { parts: Vec::new(), out: Vec::new(), version, flexible }
    }

    /// Goes on as a message of this version.
    pub fn become_message(&mut self, version: i16, flexible: bool) {
        (self.version, self.flexible) = (version, flexible);
    }

    /// The version that is written.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Everything, in order.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.out.is_empty() {
            self.parts.push(self.out.into());
        }
        self.parts
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, wide: bool, length: Option<usize>) {
        let number = length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX));
        match (self.flexible, wide) {
            (true, _) => self.varint((i64::from(number) + 1) as u32),
            (false, true) => self.put(&number.to_be_bytes()),
            (false, false) => self.put(&(number.min(i32::from(i16::MAX)) as i16).to_be_bytes()),
        }
    }

    fn text(&mut self, text: Option<&str>) {
        // Only what we say ourselves could be longer; then its end is missing.
        let text = text.map(|text| &text[..text.floor_char_boundary(i16::MAX as usize)]);
        self.length(false, text.map(str::len));
        self.put(text.unwrap_or_default().as_bytes());
    }

    fn blob(&mut self, bytes: Option<&Bytes>) {
        self.length(true, bytes.map(Bytes::len));
        if let Some(bytes) = bytes {
            self.splice(bytes);
        }
    }

    fn splice(&mut self, bytes: &Bytes) {
        if bytes.len() < SPLICE_BYTES_MIN {
            return self.put(bytes);
        }
        if !self.out.is_empty() {
            self.parts.push(std::mem::take(&mut self.out).into());
        }
        self.parts.push(bytes.clone());
    }

    fn list<T: Field>(&mut self, list: Option<&[T]>) {
        self.length(true, list.map(<[T]>::len));
        for element in list.unwrap_or_default() {
            element.write(self);
        }
    }

    /// Says that there are no tagged fields.
    pub fn tags(&mut self) {
        self.tags_with(&[]);
    }

    /// Writes tagged fields, where the message may have any. By their number, growing.
    pub(super) fn tags_with(&mut self, tags: &[Tag<'_>]) {
        if !self.flexible {
            return;
        }
        self.varint(tags.len() as u32);
        for (tag, write) in tags {
            let mut own = Writer::new(self.version, true);
            write(&mut own);
            let bytes = own.finish().concat();
            self.varint(*tag);
            self.varint(bytes.len() as u32);
            self.put(&bytes);
        }
    }
}

/// A tagged field: its number, and what writes it.
pub(super) type Tag<'a> = (u32, &'a dyn Fn(&mut Writer));

/// What can stand in a message.
pub trait Field: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// [`Garbage`].
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage>;
    /// Writes it.
    fn write(&self, to: &mut Writer);
    /// One of the many.
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self;
}

/// A message or the header of one.
pub trait Message: Field {
    /// The first flexible version.
    const FLEXIBLE: i16;
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            #[inline]
            fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
                Ok(<$kind>::from_be_bytes(from.array()?))
            }
            #[inline]
            fn write(&self, to: &mut Writer) {
                to.put(&self.to_be_bytes());
            }
            #[cfg(test)]
            fn any(rng: &mut base::Rng) -> Self {
                rng.next_u64() as $kind
            }
        }
    )*};
}

number!(i8, i16, i32, i64);

impl Field for bool {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        Ok(i8::read(from)? != 0)
    }
    fn write(&self, to: &mut Writer) {
        i8::from(*self).write(to);
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        rng.below(2) == 0
    }
}

/// A topic's id; all zeros for none.
pub type Uuid = [u8; 16];

impl Field for Uuid {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.array()
    }
    fn write(&self, to: &mut Writer) {
        to.put(self);
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        [rng.next_u64() as u8; 16]
    }
}

impl Field for String {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.text()?.ok_or(Garbage("a string is null"))
    }
    fn write(&self, to: &mut Writer) {
        to.text(Some(self));
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        "größe-x".repeat(rng.index(25)).chars().take(rng.index(150)).collect()
    }
}

impl Field for Option<String> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.text()
    }
    fn write(&self, to: &mut Writer) {
        to.text(self.as_deref());
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        (rng.below(2) == 0).then(|| String::any(rng))
    }
}

impl Field for Bytes {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.blob()?.ok_or(Garbage("bytes are null"))
    }
    fn write(&self, to: &mut Writer) {
        to.blob(Some(self));
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        vec![rng.next_u64() as u8; rng.index(9000)].into()
    }
}

impl Field for Option<Bytes> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.blob()
    }
    fn write(&self, to: &mut Writer) {
        to.blob(self.as_ref());
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        (rng.below(3) != 0).then(|| Bytes::any(rng))
    }
}

/// Record batches, one behind the other, as many pieces as they were read in.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Bytes>);

impl Records {
    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        self.0.concat() == other.0.concat()
    }
}

impl Field for Records {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        Ok(Records(from.blob()?.into_iter().collect()))
    }
    fn write(&self, to: &mut Writer) {
        to.length(true, Some(self.len()));
        for piece in &self.0 {
            to.splice(piece);
        }
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        Records((0..rng.index(3)).map(|_| Bytes::any(rng)).collect())
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.list()?.ok_or(Garbage("an array is null"))
    }
    fn write(&self, to: &mut Writer) {
        to.list(Some(self));
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        (0..rng.index(4)).map(|_| T::any(rng)).collect()
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Garbage> {
        from.list()
    }
    fn write(&self, to: &mut Writer) {
        to.list(self.as_deref());
    }
    #[cfg(test)]
    fn any(rng: &mut base::Rng) -> Self {
        (rng.below(3) != 0).then(|| Vec::any(rng))
    }
}

/// Messages and their parts. A field stands in the versions behind it (all, where none are named), and has the value behind `=` (else
/// zero, nothing) where it does not. `message(6)` is flexible from version 6 on; a `part` is as the message that holds it.
macro_rules! wire {
    ($($(#[$about:meta])* $kind:ident $name:ident $(($flexible:literal))? {
        $($(#[$note:meta])* $field:ident: $type:ty $([$versions:expr])? $(= $absent:expr)?,)*
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub struct $name {
            $($(#[$note])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $crate::kafka::wire::absent!($($absent)?),)* }
            }
        }

        impl $crate::kafka::wire::Field for $name {
            #[allow(unused_variables, clippy::default_trait_access)]
            fn read(from: &mut $crate::kafka::wire::Reader<'_>) -> Result<Self, $crate::kafka::wire::Garbage> {
                let version = from.version();
                $(let $field = match true $(&& ($versions).contains(&version))? {
                    true => <$type as $crate::kafka::wire::Field>::read(from)?,
                    false => $crate::kafka::wire::absent!($($absent)?),
                };)*
                from.tags()?;
                Ok($name { $($field,)* })
            }

            #[allow(unused_variables)]
            fn write(&self, to: &mut $crate::kafka::wire::Writer) {
                let version = to.version();
                $(if true $(&& ($versions).contains(&version))? {
                    $crate::kafka::wire::Field::write(&self.$field, to);
                })*
                to.tags();
            }

            #[cfg(test)]
            fn any(rng: &mut base::Rng) -> Self {
                $name { $($field: <$type as $crate::kafka::wire::Field>::any(rng),)* }
            }
        }

        $(impl $crate::kafka::wire::Message for $name {
            const FLEXIBLE: i16 = $flexible;
        })?
    )*};
}

/// What a field is where its version has none.
macro_rules! absent {
    () => {
        Default::default()
    };
    ($value:expr) => {
        $value
    };
}

pub(super) use {absent, wire};

//! Short byte strings one after the other, each behind one byte of length: what small hashes and sets are made of.
//!
//! Everything is found by walking, which for at most a few hundred short strings costs less than a table in memory and not
//! more in time.

/// Up to 255 bytes each, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    count: usize,
}

impl Packed {
    /// How many strings.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all strings with their lengths.
    #[inline]
    pub(super) fn used(&self) -> usize {
        self.bytes.len()
    }

    /// The string that starts at this offset, and where the next one starts.
    #[inline]
    pub(super) fn at(&self, offset: usize) -> Option<(&[u8], usize)> {
        let len = usize::from(*self.bytes.get(offset)?);
        Some((&self.bytes[offset + 1..offset + 1 + len], offset + 1 + len))
    }

    /// All strings.
    #[inline]
    pub(super) fn iter(&self) -> Strings<'_> {
        Strings { rest: &self.bytes }
    }

    /// Where the first string equal to `needle` starts, looking at every `STEP`th only.
    #[inline]
    pub(super) fn find<const STEP: usize>(&self, needle: &[u8]) -> Option<usize> {
        let bytes = &self.bytes[..];
        // Names in one collection often have one length and begin alike, so the last byte is looked at first.
        let last = needle.last();
        let mut offset = 0;
        while let Some(&len) = bytes.get(offset) {
            let next = offset + 1 + usize::from(len);
            if usize::from(len) == needle.len()
                && last.is_none_or(|last| bytes[next - 1] == *last)
                && &bytes[offset + 1..next] == needle
            {
                return Some(offset);
            }
            offset = next;
            for _ in 1..STEP {
                offset += 1 + usize::from(bytes[offset]);
            }
        }
        None
    }

    /// Where the string with this index starts.
    pub(super) fn offset(&self, index: usize) -> usize {
        (0..index).fold(0, |offset, _| offset + 1 + usize::from(self.bytes[offset]))
    }

    /// Appends a string of at most 255 bytes.
    #[inline]
    pub(super) fn push(&mut self, text: &[u8]) {
        self.make_room(text.len() + 1);
        self.bytes.push(len_byte(text));
        self.bytes.extend_from_slice(text);
        self.count += 1;
    }

    /// Puts another string in the place of the one that starts at `offset`.
    pub(super) fn replace(&mut self, offset: usize, text: &[u8]) {
        let old = usize::from(self.bytes[offset]);
        if old == text.len() {
            self.bytes[offset + 1..offset + 1 + old].copy_from_slice(text);
            return;
        }
        self.make_room(text.len().saturating_sub(old));
        self.bytes[offset] = len_byte(text);
        self.bytes.splice(offset + 1..offset + 1 + old, text.iter().copied());
    }

    /// Removes `count` strings from `offset` on.
    pub(super) fn remove(&mut self, offset: usize, count: usize) {
        let end = (0..count).fold(offset, |end, _| end + 1 + usize::from(self.bytes[end]));
        self.bytes.drain(offset..end);
        self.count -= count;
        if self.bytes.capacity() > 64 && self.bytes.len() < self.bytes.capacity() / 4 {
            self.bytes.shrink_to(self.bytes.len() * 2);
        }
    }

    /// Grows by a quarter rather than twofold: small collections are many, and each is rewritten seldom.
    #[inline]
    fn make_room(&mut self, need: usize) {
        if self.bytes.capacity() - self.bytes.len() < need {
            self.bytes.reserve_exact(need.max(self.bytes.len() / 4 + 8));
        }
    }
}

fn len_byte(text: &[u8]) -> u8 {
    u8::try_from(text.len()).expect("only short strings are packed")
}

/// See [`Packed::iter`].
#[derive(Clone, Debug)]
pub(super) struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first()?;
        let (text, rest) = rest.split_at(usize::from(*len));
        self.rest = rest;
        Some(text)
    }
}

//! A run of list elements packed into one buffer, with room at either end.
//!
//! ```text
//!   | free | len bytes nel | len bytes nel | ... | free |
//!          ^ start                               ^ end
//! ```
//!
//! An element is its length as a LEB128 varint, its bytes, and the same varint backwards, so that it can be read from
//! either side: two bytes of cost up to 127 bytes, four up to 16 KB.

use std::sync::Arc;

use crate::value::shared::Shared;

/// A chunk takes no further element once it would hold more packed bytes than this; only an element that is larger
/// than this by itself goes beyond, and then lies alone. Redis's `list-max-listpack-size -2`.
pub(super) const FULL: usize = 8192;
const SMALLEST: usize = 64;
/// A length of up to 64 bits in LEB128.
const VARINT_MAX: usize = 10;

/// Which side of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Index 0 (LEFT).
    Head,
    /// Index -1 (RIGHT).
    Tail,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    buffer: Shared<Box<[u8]>>,
    start: usize,
    end: usize,
    count: usize,
}

/// A chunk's elements as they were once.
#[derive(Clone, Debug)]
pub(in crate::value) struct Part {
    buffer: Arc<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Part {
    /// The elements from head to tail.
    pub(in crate::value) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.buffer[self.start..self.end];
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| {
                let (element, bytes) = first(rest);
                rest = &rest[bytes..];
                element
            })
        })
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        Chunk { buffer: Shared::Own(self.packed().into()), start: 0, end: self.used(), count: self.count }
    }
}

/// The packed size of an element of `len` bytes.
pub(super) fn packed_len(len: usize) -> usize {
    let bits = (usize::BITS - len.leading_zeros()).max(1) as usize;
    len + 2 * bits.div_ceil(7)
}

fn varint(mut len: usize) -> ([u8; VARINT_MAX], usize) {
    let mut bytes = [0; VARINT_MAX];
    let mut at = 0;
    while len >= 0x80 {
        bytes[at] = len as u8 | 0x80;
        len >>= 7;
        at += 1;
    }
    bytes[at] = len as u8;
    (bytes, at + 1)
}

/// Writes one element into exactly [`packed_len`] bytes.
fn write(place: &mut [u8], element: &[u8]) {
    let (len, width) = varint(element.len());
    let (head, rest) = place.split_at_mut(width);
    let (body, tail) = rest.split_at_mut(element.len());
    head.copy_from_slice(&len[..width]);
    body.copy_from_slice(element);
    for (to, from) in tail.iter_mut().rev().zip(&len[..width]) {
        *to = *from;
    }
}

/// The element that starts `packed`, and its packed size.
#[inline]
pub(super) fn first(packed: &[u8]) -> (&[u8], usize) {
    if packed[0] < 0x80 {
        let len = usize::from(packed[0]);
        return (&packed[1..1 + len], len + 2);
    }
    let (mut len, mut width) = (0, 0);
    loop {
        let byte = packed[width];
        len |= usize::from(byte & 0x7F) << (7 * width);
        width += 1;
        if byte < 0x80 {
            break;
        }
    }
    (&packed[width..width + len], len + 2 * width)
}

/// The element that ends `packed`, and its packed size.
#[inline]
pub(super) fn last(packed: &[u8]) -> (&[u8], usize) {
    let (mut len, mut width) = (0, 0);
    loop {
        let byte = packed[packed.len() - 1 - width];
        len |= usize::from(byte & 0x7F) << (7 * width);
        width += 1;
        if byte < 0x80 {
            break;
        }
    }
    let end = packed.len() - width;
    (&packed[end - len..end], len + 2 * width)
}

impl Chunk {
    /// A chunk of these packed elements.
    pub(super) fn of(packed: &[u8], count: usize) -> Chunk {
        Chunk { buffer: Shared::Own(packed.into()), start: 0, end: packed.len(), count }
    }

    /// An empty chunk that need not grow soon.
    pub(super) fn with_room(capacity: usize) -> Chunk {
        Chunk { buffer: Shared::Own(vec![0; capacity].into()), start: 0, end: 0, count: 0 }
    }

    /// Elements in it.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The elements, one after the other.
    #[inline]
    pub(super) fn packed(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Bytes of the elements.
    #[inline]
    pub(super) fn used(&self) -> usize {
        self.end - self.start
    }

    /// Puts an element at one end; false where the chunk is too full for it.
    pub(super) fn push(&mut self, end: End, element: &[u8]) -> bool {
        let need = packed_len(element.len());
        let room = match end {
            End::Head => self.start,
            End::Tail => self.buffer.len() - self.end,
        };
        // A buffer can be larger than a full chunk where a long element has become a short one.
        if self.count > 0 && self.used() + need > FULL || room < need && !self.make_room(end, need) {
            return false;
        }
        let at = match end {
            End::Head => {
                self.start -= need;
                self.start
            }
            End::Tail => {
                self.end += need;
                self.end - need
            }
        };
        write(&mut self.buffer.own()[at..at + need], element);
        self.count += 1;
        true
    }

    /// Moves the elements to the other side of the buffer, or of a larger one. Costs a constant per pushed byte: it
    /// moves in place only while a quarter of the buffer is free, and grows twofold.
    fn make_room(&mut self, end: End, need: usize) -> bool {
        let used = self.used();
        let total = used + need;
        let capacity = self.buffer.len();
        if total > capacity - capacity / 4 {
            if capacity >= FULL && self.count > 0 {
                return false;
            }
            let larger = if total > FULL { total } else { total.max(2 * capacity).clamp(SMALLEST, FULL) };
            let mut buffer = vec![0; larger].into_boxed_slice();
            let at = if end == End::Head { larger - used } else { 0 };
            buffer[at..at + used].copy_from_slice(self.packed());
            self.buffer = Shared::Own(buffer);
            self.start = at;
        } else {
            let at = if end == End::Head { capacity - used } else { 0 };
            self.buffer.own().copy_within(self.start..self.end, at);
            self.start = at;
        }
        self.end = self.start + used;
        true
    }

    /// The element at one end and its packed size. The chunk must not be empty.
    #[inline]
    pub(super) fn peek(&self, end: End) -> (&[u8], usize) {
        match end {
            End::Head => first(self.packed()),
            End::Tail => last(self.packed()),
        }
    }

    /// Forgets `count` elements of `bytes` packed bytes at one end, and gives memory back where most of it is unused.
    #[inline]
    pub(super) fn cut(&mut self, end: End, count: usize, bytes: usize) {
        match end {
            End::Head => self.start += bytes,
            End::Tail => self.end -= bytes,
        }
        debug_assert!(self.start <= self.end && count <= self.count, "a chunk gives what it holds");
        self.count -= count;
        let used = self.used();
        if self.buffer.len() > 512 && used < self.buffer.len() / 8 {
            let mut buffer = vec![0; 2 * used.max(SMALLEST)].into_boxed_slice();
            // In the middle, since either end may grow.
            let at = (buffer.len() - used) / 2;
            buffer[at..at + used].copy_from_slice(self.packed());
            self.buffer = Shared::Own(buffer);
            (self.start, self.end) = (at, at + used);
        }
    }

    /// Where the element with this index starts among the packed bytes. `index` may be the count: then the end.
    pub(super) fn offset(&self, index: usize) -> usize {
        let packed = self.packed();
        if index <= self.count / 2 {
            (0..index).fold(0, |at, _| at + first(&packed[at..]).1)
        } else {
            (index..self.count).fold(packed.len(), |at, _| at - last(&packed[..at]).1)
        }
    }

    /// Puts an element in the place of `old` packed bytes (none: inserts) at `offset`. The caller has seen that it fits.
    pub(super) fn splice(&mut self, offset: usize, old: usize, element: &[u8]) {
        let need = packed_len(element.len());
        let used = self.used() - old + need;
        let (at, after) = (self.start + offset, self.start + offset + old);
        if self.start + used <= self.buffer.len() && self.buffer.len() <= FULL.max(2 * used) {
            self.buffer.own().copy_within(after..self.end, at + need);
            write(&mut self.buffer.own()[at..at + need], element);
            self.end = self.start + used;
        } else {
            let mut buffer = vec![0; used].into_boxed_slice();
            buffer[..offset].copy_from_slice(&self.buffer[self.start..at]);
            write(&mut buffer[offset..offset + need], element);
            buffer[offset + need..].copy_from_slice(&self.buffer[after..self.end]);
            self.buffer = Shared::Own(buffer);
            (self.start, self.end) = (0, used);
        }
        self.count += usize::from(old == 0);
    }

    /// Takes the elements from `offset` on into a chunk of their own; `count` stay.
    pub(super) fn split_off(&mut self, offset: usize, count: usize) -> Chunk {
        let rest = Chunk::of(&self.packed()[offset..], self.count - count);
        let bytes = rest.used();
        self.cut(End::Tail, rest.count, bytes);
        rest
    }

    /// The elements as they are now, for a snapshot.
    pub(super) fn hold(&mut self) -> Part {
        Part { buffer: self.buffer.hold(), start: self.start, end: self.end }
    }

    /// Takes over all elements of the next chunk.
    pub(super) fn absorb(&mut self, next: &Chunk) {
        let mut all = Vec::with_capacity(self.used() + next.used());
        all.extend_from_slice(self.packed());
        all.extend_from_slice(next.packed());
        *self = Chunk::of(&all, self.count + next.count);
    }
}

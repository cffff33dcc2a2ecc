//! One key, what is known about it, and a short string: one allocation behind a thin pointer.
//!
//! ```text
//!   Entry ──► Head 24 | Value 16, where there is one | expiry 8, where it has had one | key | text and room for more
//! ```
//!
//! A string of up to [`TEXT_MAX`] bytes lies behind its key; anything else is a [`Value`]. So a small key costs its bytes,
//! 24 more, and a pointer in the directory.
//!
//! All unsafe code of this room is in this file. Its rules: the shape that the head describes is the one the allocation
//! was made with; a `Value` is there exactly where the head says so, and is dropped or moved out once; every byte of key,
//! expiry and text is written before anybody can look at it, room never looked at.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base::Millis;

use crate::keyspace::KeyspaceId;
use crate::value::{Value, View};

/// The longest string that lies in its entry. Longer ones have a vector of their own, so that what is appended to them
/// need not move them every time.
const TEXT_MAX: usize = 1024;

const HEAD: usize = size_of::<Head>();
const BODY: usize = size_of::<Value>();
const SLOT: usize = size_of::<Millis>();

// Whatever stands behind the head stands aligned as it does.
const _: () = assert!(HEAD.is_multiple_of(align_of::<Head>()) && align_of::<Head>() >= align_of::<Value>());

#[repr(C, align(8))]
struct Head {
    version: u64,
    /// Shard time of the last use in seconds.
    used: AtomicU32,
    key_len: u32,
    text_len: u16,
    /// Bytes behind the key, of which `text_len` are in use.
    text_room: u16,
    keyspace: KeyspaceId,
    walked: u8,
    /// Whether a `Value` stands behind the head. Otherwise the value is the text.
    has_body: bool,
    /// Where the key begins.
    key_at: u8,
}

/// Where things stand in an allocation.
#[derive(Clone, Copy)]
struct Shape {
    body: bool,
    slot: bool,
    key: usize,
    room: usize,
}

impl Shape {
    /// For this key and a string of `text` bytes in place, with the room that rounding gives.
    fn of_text(slot: bool, key: usize, text: usize) -> Shape {
        let tight = Shape { body: false, slot, key, room: text };
        Shape { room: text + (tight.size().next_multiple_of(8) - tight.size()), ..tight }
    }

    fn of_body(slot: bool, key: usize) -> Shape {
        Shape { body: true, slot, key, room: 0 }
    }

    fn slot_at(self) -> usize {
        HEAD + if self.body { BODY } else { 0 }
    }

    fn key_at(self) -> usize {
        self.slot_at() + if self.slot { SLOT } else { 0 }
    }

    fn text_at(self) -> usize {
        self.key_at() + self.key
    }

    fn size(self) -> usize {
        self.text_at() + self.room
    }

    fn layout(self) -> Layout {
        Layout::from_size_align(self.size(), align_of::<Head>()).expect("a key's length fits into 32 bits")
    }
}

/// A key with its value.
pub struct Entry(NonNull<u8>);

// SAFETY: an entry owns its allocation alone, and all that stands in it (numbers, bytes, a `Value`) may be sent and shared.
unsafe impl Send for Entry {}
// SAFETY: as above; the one thing that changes behind a shared reference is atomic.
unsafe impl Sync for Entry {}

const _: fn() = || {
    fn sendable<T: Send + Sync>() {}
    sendable::<Value>();
};

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", String::from_utf8_lossy(self.key()), self.value())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let shape = self.shape();
        if shape.body {
            // SAFETY: the head says that a value stands there; nobody looks at it again.
            unsafe { self.body_at().drop_in_place() }
        }
        // SAFETY: it was allocated with the layout of this shape.
        unsafe { dealloc(self.0.as_ptr(), shape.layout()) }
    }
}

/// What a key is to hold.
pub(super) enum New<'a> {
    Text(&'a [u8]),
    Value(Value),
}

impl From<Value> for New<'_> {
    fn from(value: Value) -> Self {
        New::Value(value)
    }
}

impl Entry {
    pub(super) fn new(key: &[u8], value: New<'_>, keyspace: KeyspaceId, version: u64) -> Entry {
        let head = Head {
            version,
            used: AtomicU32::new(0),
            key_len: u32::try_from(key.len()).expect("a key is shorter than 4 GiB"),
            text_len: 0,
            text_room: 0,
            keyspace,
            walked: 0,
            has_body: false,
            key_at: 0,
        };
        Entry::build(head, key, 0, false, value)
    }

    /// An allocation with all that belongs into it, where wanted with room for an expiry.
    fn build(mut head: Head, key: &[u8], expire: Millis, slot: bool, value: New<'_>) -> Entry {
        let (body, text) = match value {
            New::Text(text) if text.len() <= TEXT_MAX => (None, text),
            New::Text(text) => (Some(Value::from(text.to_vec())), &[][..]),
            New::Value(Value::Str(text)) if text.len() <= TEXT_MAX => {
                return Entry::build(head, key, expire, slot, New::Text(&text));
            }
            New::Value(value) => (Some(value), &[][..]),
        };
        let shape = match &body {
            None => Shape::of_text(slot, key.len(), text.len()),
            Some(_) => Shape::of_body(slot, key.len()),
        };
        head.has_body = shape.body;
        head.key_at = shape.key_at() as u8;
        head.text_len = text.len() as u16;
        head.text_room = shape.room as u16;
        let layout = shape.layout();
        // SAFETY: the layout is never of size zero: the head alone is 24 bytes.
        let Some(place) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        // SAFETY: the allocation has the shape's size and the head's alignment. All places below lie in it and do not
        // overlap: head, value, expiry, key and text in this order (see `Shape`). The key and the text come from elsewhere.
        unsafe {
            place.cast::<Head>().write(head);
            if let Some(body) = body {
                place.add(HEAD).cast::<Value>().write(body);
            }
            if shape.slot {
                place.add(shape.slot_at()).cast::<Millis>().write(expire);
            }
            place.add(shape.key_at()).copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
            place.add(shape.text_at()).copy_from_nonoverlapping(NonNull::from(text).cast(), text.len());
        }
        Entry(place)
    }

    /// This entry in another shape.
    fn rebuilt(&self, slot: bool, value: New<'_>) -> Entry {
        let head = self.head();
        let head = Head { used: AtomicU32::new(head.used.load(Ordering::Relaxed)), ..*head };
        Entry::build(head, self.key(), self.expire(), slot, value)
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: every entry begins with an initialized head; nobody writes to it while `self` is borrowed.
        unsafe { self.0.cast::<Head>().as_ref() }
    }

    #[inline]
    fn head_mut(&mut self) -> &mut Head {
        // SAFETY: as in `head`, and `self` is borrowed alone.
        unsafe { self.0.cast::<Head>().as_mut() }
    }

    #[inline]
    fn shape(&self) -> Shape {
        let head = self.head();
        let tight = Shape { body: head.has_body, slot: false, key: head.key_len as usize, room: head.text_room.into() };
        Shape { slot: usize::from(head.key_at) != tight.key_at(), ..tight }
    }

    /// Bytes of the key or of the text.
    #[inline]
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: the callers name a place between the key's start and the text's end, all of which is initialized.
        unsafe { NonNull::slice_from_raw_parts(self.0.add(at), len).as_ref() }
    }

    /// Where the value stands in an entry that has one.
    #[inline]
    fn body_at(&self) -> NonNull<Value> {
        // SAFETY: there always is an allocation of at least the head's size.
        unsafe { self.0.add(HEAD).cast() }
    }

    #[inline]
    fn body(&self) -> Option<&Value> {
        // SAFETY: the head says that a value stands there.
        self.head().has_body.then(|| unsafe { self.body_at().as_ref() })
    }

    /// The value, unless it is a string that lies in the entry.
    #[inline]
    pub(super) fn body_mut(&mut self) -> Option<&mut Value> {
        // SAFETY: the head says that a value stands there, and `self` is borrowed alone.
        self.head().has_body.then(|| unsafe { self.body_at().as_mut() })
    }

    /// The string that lies in the entry. Empty where there is a value.
    #[inline]
    fn inline_text(&self) -> &[u8] {
        let head = self.head();
        self.bytes(usize::from(head.key_at) + head.key_len as usize, head.text_len.into())
    }

    /// The key's bytes.
    #[inline]
    pub fn key(&self) -> &[u8] {
        let head = self.head();
        self.bytes(head.key_at.into(), head.key_len as usize)
    }

    /// What the key holds.
    #[inline]
    pub fn value(&self) -> View<'_> {
        match self.body() {
            Some(value) => value.view(),
            None => View::Str(self.inline_text()),
        }
    }

    /// The key's string, `None` where it holds something else.
    #[inline]
    pub(super) fn text(&self) -> Option<&[u8]> {
        match self.value() {
            View::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Takes the value out; a string in the entry becomes one of its own.
    pub(super) fn into_value(self) -> Value {
        if !self.head().has_body {
            return self.inline_text().to_vec().into();
        }
        let old = ManuallyDrop::new(self);
        // SAFETY: the head says that a value stands there; it is not dropped with the entry, so it is moved out once.
        unsafe {
            let value = old.body_at().read();
            dealloc(old.0.as_ptr(), old.shape().layout());
            value
        }
    }

    /// Puts another value in the place of this one. Returns the old one where it was not a string in the entry.
    pub(super) fn replace(&mut self, new: New<'_>) -> Option<Value> {
        if let New::Text(text) = new
            && self.overwrite(text)
        {
            return None;
        }
        let rebuilt = self.rebuilt(self.shape().slot, new);
        let old = std::mem::replace(self, rebuilt);
        old.head().has_body.then(|| old.into_value())
    }

    /// Length of the string where it lies in the entry and the entry has no expiry: what most keys are.
    #[inline]
    pub(super) fn plain_text_len(&self) -> Option<usize> {
        (usize::from(self.head().key_at) == HEAD).then_some(self.head().text_len.into())
    }

    /// Writes over a string in the entry, where the new one fits and does not leave much room unused.
    #[inline]
    pub(super) fn overwrite(&mut self, text: &[u8]) -> bool {
        let head = self.head();
        let room = usize::from(head.text_room);
        if head.has_body || text.len() > room || room - text.len() > 16 + text.len() / 8 {
            return false;
        }
        let at = usize::from(head.key_at) + head.key_len as usize;
        // SAFETY: the text and its room end the allocation, and what is written is not longer. It comes from elsewhere:
        // whoever has a reference into this entry cannot have `self` too.
        unsafe {
            self.0.add(at).copy_from_nonoverlapping(NonNull::from(text).cast(), text.len());
        }
        self.head_mut().text_len = text.len() as u16;
        true
    }

    /// Lets `change` work on the key's string, in `scratch` where it lies in the entry; `None` where the key holds something
    /// else.
    pub(super) fn edit_text<R>(&mut self, scratch: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
        match self.body_mut() {
            Some(Value::Str(text)) => Some(change(Arc::make_mut(text))),
            Some(_) => None,
            None => {
                scratch.clear();
                scratch.extend_from_slice(self.inline_text());
                let result = change(scratch);
                if scratch.len() <= TEXT_MAX {
                    self.replace(New::Text(scratch));
                } else {
                    self.replace(New::Value(std::mem::take(scratch).into()));
                }
                Some(result)
            }
        }
    }

    /// A copy of the value.
    pub fn to_value(&self) -> Value {
        match self.body() {
            Some(value) => value.clone(),
            None => self.inline_text().to_vec().into(),
        }
    }

    /// Shard time at which it is gone; 0 is never.
    #[inline]
    pub fn expire(&self) -> Millis {
        let shape = self.shape();
        if !shape.slot {
            return 0;
        }
        // SAFETY: the head says that an expiry stands there, and its place is aligned as the head is.
        unsafe { self.0.add(shape.slot_at()).cast::<Millis>().read() }
    }

    pub(super) fn set_expire(&mut self, at: Millis) {
        if !self.shape().slot {
            if at == 0 {
                return;
            }
            let rebuilt = match self.head().has_body {
                false => self.rebuilt(true, New::Text(self.inline_text())),
                true => {
                    // SAFETY: the value moves into the new allocation; the old one is freed below without it.
                    let value = unsafe { self.body_at().read() };
                    self.rebuilt(true, New::Value(value))
                }
            };
            let old = ManuallyDrop::new(std::mem::replace(self, rebuilt));
            // SAFETY: it was allocated with the layout of its shape; a value in it has moved on.
            unsafe { dealloc(old.0.as_ptr(), old.shape().layout()) }
        }
        let shape = self.shape();
        // SAFETY: the shape has room for an expiry there, aligned as the head is, and `self` is borrowed alone.
        unsafe { self.0.add(shape.slot_at()).cast::<Millis>().write(at) }
    }

    /// Whether it counts as absent at this shard time.
    #[inline]
    pub fn is_expired(&self, now: Millis) -> bool {
        let at = self.expire();
        at != 0 && at <= now
    }

    /// The tables' sequence at the last change.
    #[inline]
    pub fn version(&self) -> u64 {
        self.head().version
    }

    pub(super) fn set_version(&mut self, version: u64) {
        self.head_mut().version = version;
    }

    /// The last snapshot walk that has this entry's old form, or has come by.
    #[inline]
    pub(super) fn walked(&self) -> u8 {
        self.head().walked
    }

    pub(super) fn set_walked(&mut self, generation: u8) {
        self.head_mut().walked = generation;
    }

    /// The keyspace that the key's prefix selects.
    #[inline]
    pub fn keyspace(&self) -> KeyspaceId {
        self.head().keyspace
    }

    pub(super) fn set_keyspace(&mut self, keyspace: KeyspaceId) {
        self.head_mut().keyspace = keyspace;
    }

    /// When it was last used, seconds of shard time.
    pub fn used_seconds(&self) -> u32 {
        self.head().used.load(Ordering::Relaxed)
    }

    /// Remembers a use. Writes only once a second, so that readers do not fight over the cache line.
    #[inline]
    pub(super) fn mark_used(&self, now: Millis) {
        let (seconds, used) = ((now / 1000) as u32, &self.head().used);
        if used.load(Ordering::Relaxed) != seconds {
            used.store(seconds, Ordering::Relaxed);
        }
    }

    /// Its whole cost in memory by estimate: head, key and value, the table's slot. A function of key and value alone,
    /// since replicas must agree.
    pub fn cost(&self) -> usize {
        const SLOT_AND_ROUNDING: usize = 28;
        HEAD + SLOT_AND_ROUNDING + self.head().key_len as usize + self.value().heap_bytes()
    }
}

#[cfg(test)]
mod tests;

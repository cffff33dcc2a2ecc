//! Buffers that are borrowed only while they are needed: an idle connection has none.
//!
//! A buffer's bytes are zeroed once, when it is made; then threads hand it from one request to the next. (Reading into memory that was never
//! written would need `unsafe`.)

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// What one read takes at most, and the size of every buffer but those that a large head made grow.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// Buffers that a thread keeps.
const KEPT_MAX: usize = 128;

/// Bytes of the buffers that are borrowed at the moment, all threads together.
static BORROWED: AtomicU64 = AtomicU64::new(0);

/// Bytes of the buffers that connections hold at the moment, whatever is in them; HTTP/2 connections to upstreams have others beside.
pub fn borrowed_bytes() -> u64 {
    BORROWED.load(Relaxed)
}

fn borrow(bytes: usize) {
    BORROWED.fetch_add(bytes as u64, Relaxed);
}

fn give_back(bytes: usize) {
    BORROWED.fetch_sub(bytes as u64, Relaxed);
}

thread_local! {
    static READ: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that came and were not used yet.
#[derive(Default)]
pub(crate) struct Inbox {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `count` bytes are done with.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "only what is there can be consumed");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once. Nothing is read where there is room for nothing: where `self` holds [`BUFFER_BYTES`] or more already, see [`Inbox::grow`].
    /// Zero is the end.
    pub fn poll_fill(&mut self, io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.take_buffer();
        if self.end == self.data.len() && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        debug_assert!(self.end < self.data.len(), "a full inbox would look like the end");
        let mut buffer = ReadBuf::new(&mut self.data[self.end..]);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    fn take_buffer(&mut self) {
        if self.data.is_empty() {
            self.data = READ.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES].into());
            borrow(BUFFER_BYTES);
        }
    }

    /// Whether nothing more could be read.
    pub fn is_full(&self) -> bool {
        !self.data.is_empty() && self.end - self.start == self.data.len()
    }

    /// Makes room where it is full: doubles.
    pub fn grow(&mut self) {
        let mut data = vec![0; (self.data.len() * 2).max(BUFFER_BYTES)];
        data[..self.end - self.start].copy_from_slice(self.bytes());
        (self.start, self.end) = (0, self.end - self.start);
        borrow(data.len() - self.data.len());
        self.data = data.into();
    }

    /// Puts a byte in front that was read elsewhere; only of an empty inbox.
    pub fn push_first(&mut self, byte: u8) {
        debug_assert!(self.is_empty(), "nothing came before the first byte");
        self.take_buffer();
        self.data[0] = byte;
        (self.start, self.end) = (0, 1);
    }

    /// Puts bytes in front that were read elsewhere; only of an empty inbox.
    pub fn begin_with(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_empty(), "nothing came before the first bytes");
        let mut data = vec![0; bytes.len().max(BUFFER_BYTES)];
        data[..bytes.len()].copy_from_slice(bytes);
        give_back(self.data.len());
        borrow(data.len());
        (self.data, self.start, self.end) = (data.into(), 0, bytes.len());
    }

    /// Gives the buffer back if nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() {
            give_back(self.data.len());
        }
        if self.is_empty() && self.data.len() == BUFFER_BYTES {
            let data = std::mem::take(&mut self.data);
            // A thread that is ending has no pool any more.
            let _ = READ.try_with(|pool| keep(pool, data));
        } else if self.is_empty() {
            self.data = Box::default();
        }
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }
}

fn keep<T>(pool: &RefCell<Vec<T>>, it: T) {
    if let Ok(mut pool) = pool.try_borrow_mut()
        && pool.len() < KEPT_MAX
    {
        pool.push(it);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.release();
    }
}

/// Bytes that are to be sent.
#[derive(Default)]
pub(crate) struct Outbox {
    data: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// To append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.data.capacity() == 0 {
            self.data = WRITE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
            borrow(BUFFER_BYTES);
        }
        // Who reads slowly and without a pause never empties it.
        if self.sent > 4 * BUFFER_BYTES {
            self.data.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.data
    }

    /// What is still to be sent.
    pub fn len(&self) -> usize {
        self.data.len() - self.sent
    }

    /// Sends all of it.
    pub fn poll_send(
        &mut self,
        io: &mut (impl tokio::io::AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.data.len() {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, &self.data[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.data.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back if nothing is in it.
    pub fn release(&mut self) {
        if self.len() == 0 && self.data.capacity() > 0 {
            let mut data = std::mem::take(&mut self.data);
            give_back(BUFFER_BYTES);
            data.clear();
            self.sent = 0;
            if data.capacity() <= 4 * BUFFER_BYTES {
                let _ = WRITE.try_with(|pool| keep(pool, data));
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.sent = self.data.len();
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_BYTES, Inbox, Outbox, borrowed_bytes};

    /// Other tests borrow meanwhile: so many more at least, and in the end as many as before or fewer than these.
    #[test]
    fn what_is_borrowed_is_counted_until_it_is_given_back() {
        let many = 1_000;
        let before = borrowed_bytes();
        let mut held: Vec<(Inbox, Outbox)> = Vec::new();
        for _ in 0..many {
            let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
            inbox.begin_with(&vec![1; 3 * BUFFER_BYTES]);
            inbox.grow();
            outbox.buffer().push(1);
            held.push((inbox, outbox));
        }
        let bytes = (many * 7 * BUFFER_BYTES) as u64;
        assert!(borrowed_bytes() >= bytes, "{} of {bytes}", borrowed_bytes());
        drop(held);
        assert!(borrowed_bytes() < before + bytes / 2, "{}", borrowed_bytes());
        let mut inbox = Inbox::default();
        inbox.push_first(1);
        inbox.consume(1);
        inbox.release();
        inbox.release();
    }
}

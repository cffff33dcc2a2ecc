//! The small words of every stored form: varints, byte strings, fixed integers. Little-endian.
//!
//! Reading never panics and never allocates more than the input holds.

/// Stored bytes that do not say what they should: damaged, or written by something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

impl std::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stored bytes are damaged: {}", self.0)
    }
}

impl std::error::Error for Corrupt {}

/// A value with a stored form of its own.
pub trait Stored: Sized {
    /// Appends the stored form.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads what [`Stored::encode`] wrote.
    fn decode(input: &mut Input<'_>) -> Result<Self, Corrupt>;
}

/// Appends an unsigned LEB128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends eight bytes.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a float bit for bit.
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    put_u64(out, value.to_bits());
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// What has been read since, where `later` is this one read further.
    pub fn until(&self, later: &Input<'a>) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len().min(self.rest.len())]
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.rest.split_first().ok_or(Corrupt("ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Corrupt> {
        let (head, rest) = self.rest.split_first_chunk::<8>().ok_or(Corrupt("ends early"))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*head))
    }

    /// A float bit for bit.
    pub fn f64(&mut self) -> Result<f64, Corrupt> {
        self.u64().map(f64::from_bits)
    }

    /// A varint of at most 64 bits.
    pub fn varint(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Corrupt("a number is too large"));
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Corrupt("a number is too long"))
    }

    /// A count of things that follow, each at least one byte long: so it can be trusted for a reservation.
    pub fn count(&mut self) -> Result<usize, Corrupt> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(Corrupt("a count exceeds the input"));
        }
        Ok(count as usize)
    }

    /// A byte string written by [`put_bytes`].
    pub fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let len = self.count()?;
        self.take(len)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        if len > self.rest.len() {
            return Err(Corrupt("ends early"));
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }
}

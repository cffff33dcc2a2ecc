//! Kafka's protocol, as far as our own clients need it: versions that are not flexible, so all headers are the old ones, and record batches
//! of version 2. By hand and of its own, since these clients judge the product and may share no code with it.

/// Writes a request's parts.
#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// With the header of version 1; the length is put in by [`Out::done`].
    pub fn request((api, version): (i16, i16), correlation: i32, client: &str) -> Out {
        let mut out = Out(vec![0; 4]);
        out.i16(api).i16(version).i32(correlation).string(client);
        out
    }

    pub fn i8(&mut self, number: i8) -> &mut Out {
        self.0.push(number as u8);
        self
    }

    pub fn i16(&mut self, number: i16) -> &mut Out {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub fn i32(&mut self, number: i32) -> &mut Out {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub fn i64(&mut self, number: i64) -> &mut Out {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub fn string(&mut self, text: &str) -> &mut Out {
        self.i16(text.len() as i16).0.extend_from_slice(text.as_bytes());
        self
    }

    pub fn put_len(&mut self, at: usize) -> &mut Out {
        let len = (self.0.len() - at - 4) as i32;
        self.0[at..at + 4].copy_from_slice(&len.to_be_bytes());
        self
    }

    pub fn done(&mut self) -> &[u8] {
        self.put_len(0);
        &self.0
    }
}

pub fn put_varint(out: &mut Vec<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Reads an answer's parts.
pub struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("Kafka: an answer that ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N).map(|bytes| *bytes.first_chunk().expect("so many were taken"))
    }

    pub fn i8(&mut self) -> Result<i8, String> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, String> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, String> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, String> {
        self.array().map(i64::from_be_bytes)
    }

    /// A string; null reads as empty.
    pub fn string(&mut self) -> Result<String, String> {
        let len = self.i16()?.max(0) as usize;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// Bytes; null reads as none.
    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.i32()?.max(0) as usize;
        self.take(len)
    }

    /// How many elements follow; null reads as none.
    pub fn count(&mut self) -> Result<usize, String> {
        Ok(self.i32()?.max(0) as usize)
    }

    pub fn varint(&mut self) -> Result<i64, String> {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 63 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
    }
}

/// An error code that is not 0, in words.
pub fn good(code: i16, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("Kafka: {what}: error {code}")) }
}

/// The batches of an answer, each whole one: its first offset, its head behind the length, its records.
pub fn batches(mut records: &[u8]) -> impl Iterator<Item = Result<(i64, &[u8]), String>> {
    std::iter::from_fn(move || {
        let mut head = In(records);
        let (base, len) = head.i64().and_then(|base| Ok((base, head.i32()?))).ok()?;
        // The last one may be cut off.
        let batch = head.take(len.max(0) as usize).ok()?;
        records = head.0;
        Some(if batch.len() < 49 || batch[4] != 2 {
            Err("Kafka: not a batch of version 2".into())
        } else {
            Ok((base, batch))
        })
    })
}

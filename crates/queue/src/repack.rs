//! The records of a batch one by one in their stored form, to be left out or written again: what compaction does. Whoever wants fields
//! reads them by [`crate::records`].

use std::borrow::Cow;
use std::io::Write;

use crate::batch::{HEAD_BYTES, Header, put_zigzag, zigzag};
use crate::records::{Unreadable, unpack};

/// Bytes of one of snappy-java's blocks before compression, as its own writer has it.
const XERIAL_BLOCK: usize = 32 << 10;

/// One record, as far as compaction wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    attributes: u8,
    /// Its timestamp less that of the batch.
    pub stamp_delta: i64,
    /// Its offset less that of the batch.
    pub offset_delta: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Whether it has no value: the key's deletion.
    pub is_tombstone: bool,
    /// Key, value and headers in their stored form.
    rest: &'a [u8],
}

/// The records of a whole batch, opened.
///
/// # Errors
/// Damaged, of an unknown compression, or larger than what is opened.
pub(crate) fn open<'a>(head: &Header, batch: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
    let bytes = batch.get(HEAD_BYTES..head.bytes).ok_or(Unreadable("a batch breaks off"))?;
    match head.compression() {
        0 => Ok(Cow::Borrowed(bytes)),
        packing => unpack(packing, bytes).map(Cow::Owned),
    }
}

/// Compresses records again, the same way.
pub(crate) fn close(packing: u8, records: Vec<u8>) -> Vec<u8> {
    const LAW: &str = "a vector takes every byte";
    match packing {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&records).expect(LAW);
            encoder.finish().expect(LAW)
        }
        2 => {
            // In snappy-java's blocks, which every client reads.
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            for block in records.chunks(XERIAL_BLOCK) {
                let closed = snap::raw::Encoder::new().compress_vec(block).expect("a block is shorter than 4 GiB");
                out.extend_from_slice(&(closed.len() as u32).to_be_bytes());
                out.extend_from_slice(&closed);
            }
            out
        }
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&records).expect(LAW);
            encoder.finish().expect(LAW)
        }
        4 => ruzstd::encoding::compress_to_vec(&records[..], ruzstd::encoding::CompressionLevel::Fastest),
        _ => records,
    }
}

/// The next of some opened records, and moves behind it.
///
/// # Errors
/// What is no record.
pub(crate) fn next<'a>(records: &mut &'a [u8]) -> Result<Record<'a>, Unreadable> {
    read(records).ok_or(Unreadable("a record breaks off"))
}

fn read<'a>(records: &mut &'a [u8]) -> Option<Record<'a>> {
    let length = usize::try_from(zigzag(records)?).ok()?;
    let (record, behind) = records.split_at_checked(length)?;
    *records = behind;
    let (attributes, mut record) = record.split_first()?;
    let (stamp_delta, offset_delta) = (zigzag(&mut record)?, zigzag(&mut record)?);
    let rest = record;
    let field = |record: &mut &'a [u8]| match zigzag(record)? {
        -1 => Some(None),
        length => {
            let (field, behind) = record.split_at_checked(usize::try_from(length).ok()?)?;
            *record = behind;
            Some(Some(field))
        }
    };
    let key = field(&mut record)?;
    let is_tombstone = field(&mut record)?.is_none();
    Some(Record { attributes: *attributes, stamp_delta, offset_delta, key, is_tombstone, rest })
}

impl Record<'_> {
    /// Appends its stored form, with another timestamp delta.
    pub(crate) fn write(&self, stamp_delta: i64, out: &mut Vec<u8>) {
        let mut record = vec![self.attributes];
        put_zigzag(&mut record, stamp_delta);
        put_zigzag(&mut record, self.offset_delta);
        put_zigzag(out, (record.len() + self.rest.len()) as i64);
        out.extend_from_slice(&record);
        out.extend_from_slice(self.rest);
    }
}

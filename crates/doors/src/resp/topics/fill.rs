//! An answer of the shard, in which places stand for records, and the answer with the records in it. Works on the bytes of any
//! answer of RESP2 and RESP3; what is inside of strings is not looked at.

use std::collections::BTreeMap;

use queue::PartitionId;
use queue::records::Record;
use shard::reply::{Protocol, Reply};
use shard::streams::Stand;

/// Which record.
pub(super) type Wanted = (PartitionId, u64);
/// Records by their places, each as an array of its fields.
pub(super) type Records = BTreeMap<Wanted, Vec<u8>>;

/// The field that says how often an entry was delivered, of one that was delivered before.
const DELIVERIES: &[u8] = b"quorate-deliveries";

/// A record as the fields of a stream's entry.
pub(super) fn fields(record: &Record<'_>) -> Vec<u8> {
    let mut reply = Reply::new(Protocol::Resp2);
    let pairs = usize::from(record.key.is_some()) + usize::from(record.value.is_some()) + record.headers.len();
    reply.array(2 * pairs);
    let own = [(b"K".as_slice(), record.key), (b"V", record.value)];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let headers = record.headers.iter().map(|(name, value)| (*name, value.unwrap_or_default()));
    for (name, value) in own.chain(headers) {
        reply.bulk(name);
        reply.bulk(value);
    }
    reply.bytes
}

fn line<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = input.windows(2).position(|two| two == b"\r\n")? + 2;
    let (line, rest) = input.split_at(end);
    *input = rest;
    Some(line)
}

fn number(line: &[u8]) -> Option<i64> {
    base::parse_i64(line.get(1..line.len() - 2)?)
}

/// How an answer is put together.
pub(super) struct Fill<'a> {
    /// The records.
    pub records: &'a Records,
    /// Whether an entry without a record becomes null; else it is left out.
    pub as_null: bool,
    /// Entries that have become one.
    pub filled: usize,
    /// Places without a record: it is a marker, was aborted, or has gone.
    pub missing: Vec<Wanted>,
    /// Entries that were delivered too often; they are left out.
    pub dead: Vec<Stand>,
}

impl Fill<'_> {
    /// The answer, filled in. `None` where it is none.
    pub(super) fn all(&mut self, mut answer: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(answer.len());
        while !answer.is_empty() {
            self.value(&mut answer, &mut out, 0)?;
        }
        Some(out)
    }

    /// Writes one value. False where it was left out.
    fn value(&mut self, input: &mut &[u8], out: &mut Vec<u8>, depth: usize) -> Option<bool> {
        // Answers of streams are not deep.
        if depth > 16 {
            return None;
        }
        let head = line(input)?;
        match head[0] {
            b'$' | b'=' | b'!' => {
                out.extend_from_slice(head);
                if let Ok(length) = usize::try_from(number(head)?) {
                    let (bytes, rest) = input.split_at_checked(length + 2)?;
                    out.extend_from_slice(bytes);
                    *input = rest;
                }
            }
            b'*' | b'~' | b'>' | b'%' => {
                let Ok(count) = usize::try_from(number(head)?) else {
                    out.extend_from_slice(head);
                    return Some(true);
                };
                let parts = if head[0] == b'%' { count * 2 } else { count };
                let (mut body, mut kept) = (Vec::new(), 0);
                for nth in 0..parts {
                    if nth == 1 && parts == 2 && input.first() == Some(&b'@') {
                        return self.entry(input, &body, out);
                    }
                    kept += usize::from(self.value(input, &mut body, depth + 1)?);
                }
                let shown = if head[0] == b'%' { count } else { kept };
                out.push(head[0]);
                out.extend_from_slice(format!("{shown}\r\n").as_bytes());
                out.extend_from_slice(&body);
            }
            _ => out.extend_from_slice(head),
        }
        Some(true)
    }

    fn entry(&mut self, input: &mut &[u8], id: &[u8], out: &mut Vec<u8>) -> Option<bool> {
        let place = line(input)?;
        let stand = shard::streams::read_place(place.get(1..place.len() - 2)?)?;
        let wanted = (stand.id, stand.offset);
        self.dead.extend(stand.is_dead.then_some(stand));
        match self.records.get(&wanted) {
            Some(_) if stand.is_dead => Some(false),
            Some(fields) => {
                out.extend_from_slice(b"*2\r\n");
                out.extend_from_slice(id);
                put_fields(out, fields, stand.deliveries)?;
                self.filled += 1;
                Some(true)
            }
            None => {
                self.missing.push(wanted);
                if self.as_null {
                    out.extend_from_slice(b"*-1\r\n");
                }
                Some(self.as_null)
            }
        }
    }
}

/// A record's fields, and how often its entry was delivered where that was more than once.
fn put_fields(out: &mut Vec<u8>, mut fields: &[u8], deliveries: u64) -> Option<()> {
    if deliveries > 1 {
        let count = number(line(&mut fields)?)?;
        let text = deliveries.to_string();
        let mut reply = Reply::new(Protocol::Resp2);
        reply.bulk(DELIVERIES);
        reply.bulk(text.as_bytes());
        out.extend_from_slice(format!("*{}\r\n", count + 2).as_bytes());
        out.extend_from_slice(fields);
        out.extend_from_slice(&reply.bytes);
    } else {
        out.extend_from_slice(fields);
    }
    Some(())
}

/// The records that an answer wants, in order; the same one may stand in it twice.
pub(super) fn wanted(answer: &[u8]) -> Option<Vec<Wanted>> {
    let mut fill = Fill { records: &Records::new(), as_null: false, filled: 0, missing: Vec::new(), dead: Vec::new() };
    fill.all(answer)?;
    fill.missing.sort_unstable();
    fill.missing.dedup();
    Some(fill.missing)
}

/// What stands in an answer in place of records.
pub(super) fn stands(answer: &[u8]) -> Option<Vec<Stand>> {
    let mut fill = Fill { records: &Records::new(), as_null: false, filled: 0, missing: Vec::new(), dead: Vec::new() };
    fill.all(answer)?;
    Some(fill.dead)
}

#[cfg(test)]
mod tests {
    use queue::TopicId;

    use super::*;

    fn place(offset: u64) -> Vec<u8> {
        let mut out = Vec::new();
        shard::streams::put_place(&mut out, (7, 3), offset);
        out
    }

    #[test]
    fn entries_become_records_and_what_has_none_is_left_out() {
        // As XREAD answers: two entries of one stream, the second a marker; the key and the id look like places and are none.
        let mut answer = b"*1\r\n*2\r\n$9\r\n@topic:\r\n\r\n*2\r\n*2\r\n$3\r\n4-1\r\n".to_vec();
        answer.extend(place(4));
        answer.extend(b"*2\r\n$3\r\n5-1\r\n");
        answer.extend(place(5));
        let own = (TopicId(7), 3);
        assert_eq!(wanted(&answer), Some(vec![(own, 4), (own, 5)]));
        let record = Record { value: Some(b"v"), headers: vec![(b"h", None)], ..Record::default() };
        let records = Records::from([((own, 4), fields(&record))]);
        let mut fill = Fill { records: &records, as_null: false, filled: 0, missing: Vec::new(), dead: Vec::new() };
        let filled = fill.all(&answer).expect("it is an answer");
        let expected = "*1\r\n*2\r\n$9\r\n@topic:\r\n\r\n*1\r\n*2\r\n$3\r\n4-1\r\n*4\r\n$1\r\nV\r\n$1\r\nv\r\n$1\r\nh\r\n$0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&filled), expected);
        assert_eq!((fill.filled, fill.missing), (1, vec![(own, 5)]));
    }

    #[test]
    fn damaged_answers_are_told_apart() {
        for bytes in [&b"*2\r\n$3\r\n4-1\r\n@x\r\n"[..], b"*2\r\n:1\r\n", b"$5\r\nab\r\n", b"*9999999\r\n", b"+OK"] {
            assert_eq!(wanted(bytes), None);
        }
        assert_eq!(wanted(&b"*1\r\n".repeat(100)), None, "too deep");
        assert_eq!(wanted(b"*-1\r\n"), Some(Vec::new()));
    }
}

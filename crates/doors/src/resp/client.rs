//! The other side of the protocol: reading answers and writing commands. For command lines and tests; the door itself never
//! needs it.
//!
//! Reads from anything that buffers, without a socket in sight. Nothing is reserved for a length that is only claimed, and
//! answers nest at most [`DEPTH_MAX`] deep.

use std::io::{self, BufRead, Read};

use base::parse_i64;

/// How deep answers may nest.
pub const DEPTH_MAX: usize = 128;

/// Longest line of an answer, bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// An answer, in the types of RESP2 and RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+OK`.
    Simple(Vec<u8>),
    /// `-ERR …`, or its RESP3 form with a length.
    Error(Vec<u8>),
    /// `:1`.
    Int(i64),
    /// A byte string.
    Bulk(Vec<u8>),
    /// Text for people, without its three-letter format.
    Verbatim(Vec<u8>),
    /// A float, as it was written.
    Double(Vec<u8>),
    /// An integer of any size, as it was written.
    Big(Vec<u8>),
    /// A truth value.
    Bool(bool),
    /// No value.
    Null,
    /// An array.
    Array(Vec<Value>),
    /// A set.
    Set(Vec<Value>),
    /// Pairs, in the order they came.
    Map(Vec<(Value, Value)>),
    /// A message that answers no command.
    Push(Vec<Value>),
}

/// Reads one answer. Errors of the reader are passed on; [`io::ErrorKind::UnexpectedEof`] if it ends within the answer or
/// before it, [`io::ErrorKind::InvalidData`] if the bytes are no answer.
pub fn read_value(reader: &mut impl BufRead) -> io::Result<Value> {
    read_nested(reader, DEPTH_MAX)
}

/// Appends a command to `buffer`, as an array of byte strings.
pub fn write_command(words: &[impl AsRef<[u8]>], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        buffer.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        buffer.extend_from_slice(word);
        buffer.extend_from_slice(b"\r\n");
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an answer of a Redis server: {why}"))
}

fn read_nested(reader: &mut impl BufRead, depth: usize) -> io::Result<Value> {
    if depth == 0 {
        return Err(bad("it nests too deep"));
    }
    let mut line = read_line(reader)?;
    let mark = if line.is_empty() { return Err(bad("an empty line")) } else { line.remove(0) };
    match mark {
        b'+' => Ok(Value::Simple(line)),
        b'-' => Ok(Value::Error(line)),
        b':' => number(&line).map(Value::Int),
        b',' => Ok(Value::Double(line)),
        b'(' => Ok(Value::Big(line)),
        b'_' => Ok(Value::Null),
        b'#' => match &line[..] {
            b"t" => Ok(Value::Bool(true)),
            b"f" => Ok(Value::Bool(false)),
            _ => Err(bad("a truth value that is neither t nor f")),
        },
        b'$' | b'!' | b'=' => {
            let len = number(&line)?;
            if len < 0 {
                return Ok(Value::Null);
            }
            let mut bytes = read_bytes(reader, len as u64)?;
            Ok(match mark {
                b'$' => Value::Bulk(bytes),
                b'!' => Value::Error(bytes),
                _ if bytes.get(3) == Some(&b':') => Value::Verbatim(bytes.split_off(4)),
                _ => return Err(bad("a text without its format")),
            })
        }
        b'*' | b'~' | b'>' => {
            let len = number(&line)?;
            if len < 0 {
                return Ok(Value::Null);
            }
            let values = (0..len).map(|_| read_nested(reader, depth - 1)).collect::<io::Result<Vec<Value>>>()?;
            Ok(match mark {
                b'*' => Value::Array(values),
                b'~' => Value::Set(values),
                _ => Value::Push(values),
            })
        }
        b'%' => read_pairs(reader, &line, depth).map(Value::Map),
        // Attributes say something about the answer behind them that nobody here asks for.
        b'|' => {
            read_pairs(reader, &line, depth)?;
            read_nested(reader, depth - 1)
        }
        other => Err(bad(&format!("it begins with {:?}", char::from(other)))),
    }
}

fn read_pairs(reader: &mut impl BufRead, line: &[u8], depth: usize) -> io::Result<Vec<(Value, Value)>> {
    (0..number(line)?).map(|_| Ok((read_nested(reader, depth - 1)?, read_nested(reader, depth - 1)?))).collect()
}

fn number(line: &[u8]) -> io::Result<i64> {
    parse_i64(line).ok_or_else(|| bad("a number that is none"))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text.to_vec()),
        None if line.len() as u64 == LINE_BYTES_MAX => Err(bad("a line without an end")),
        None if line.last() == Some(&b'\n') => Err(bad("a line that ends without \\r")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read_bytes(reader: &mut impl BufRead, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let whole = len.saturating_add(2);
    // `take` grows the bytes by what has arrived.
    if (reader.by_ref().take(whole).read_to_end(&mut bytes)? as u64) < whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !bytes.ends_with(b"\r\n") {
        return Err(bad("a byte string of another length than it says"));
    }
    bytes.truncate(bytes.len() - 2);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};

    use super::{DEPTH_MAX, Value, read_value, write_command};

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.into())
    }

    #[test]
    fn all_types_are_read() {
        let one = || Value::Int(1);
        for (text, value) in [
            ("+OK\r\n", Value::Simple("OK".into())),
            ("-ERR x\r\n", Value::Error("ERR x".into())),
            ("!5\r\nERR x\r\n", Value::Error("ERR x".into())),
            (":-7\r\n", Value::Int(-7)),
            ("$0\r\n\r\n", bulk("")),
            ("$4\r\na\r\nb\r\n", bulk("a\r\nb")),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            ("=6\r\ntxt:hi\r\n", Value::Verbatim("hi".into())),
            (",1.5\r\n", Value::Double("1.5".into())),
            ("(123\r\n", Value::Big("123".into())),
            ("#t\r\n", Value::Bool(true)),
            ("*2\r\n:1\r\n*0\r\n", Value::Array(vec![one(), Value::Array(vec![])])),
            ("~1\r\n:1\r\n", Value::Set(vec![one()])),
            (">1\r\n:1\r\n", Value::Push(vec![one()])),
            ("%1\r\n$1\r\na\r\n:1\r\n", Value::Map(vec![(bulk("a"), one())])),
            ("|1\r\n+ttl\r\n:9\r\n:1\r\n", one()),
        ] {
            let mut reader = text.as_bytes();
            assert_eq!(read_value(&mut reader).expect("valid"), value, "{text:?}");
            assert!(reader.is_empty(), "{text:?} is read to its end");
            for cut in 0..text.len() {
                let error = read_value(&mut &text.as_bytes()[..cut]).expect_err("cut short");
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn other_bytes_are_refused_without_panic_or_reservation() {
        for text in ["HTTP/1.1 400 Bad\r\n", "\r\n", ":x\r\n", "#x\r\n", "$3\r\nabcdef\r\n", "=2\r\nab\r\n", "+OK\n"] {
            assert_eq!(
                read_value(&mut text.as_bytes()).expect_err("no answer").kind(),
                ErrorKind::InvalidData,
                "{text:?}"
            );
        }
        for text in ["$9223372036854775807\r\nx", "*9223372036854775807\r\n:1\r\n"] {
            assert_eq!(read_value(&mut text.as_bytes()).expect_err("cut").kind(), ErrorKind::UnexpectedEof, "{text:?}");
        }
        let deep = "*1\r\n".repeat(DEPTH_MAX * 2);
        assert_eq!(read_value(&mut deep.as_bytes()).expect_err("too deep").kind(), ErrorKind::InvalidData);
        let mut endless = std::io::BufReader::new(std::io::repeat(b'+').take(3 << 20));
        assert_eq!(read_value(&mut endless).expect_err("no end").kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn commands_are_arrays_of_byte_strings() {
        let mut buffer = Vec::new();
        write_command(&["SET", "k", ""], &mut buffer);
        assert_eq!(buffer, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }
}

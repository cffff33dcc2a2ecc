//! The first line of a script: `#!lua flags=no-writes,allow-oom` (<https://redis.io/docs/latest/develop/programmability/>).

use crate::error::CommandError;

/// What a script says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether there is such a line at all. Without one a script may do what its command (EVAL or EVAL_RO) may.
    pub declared: bool,
    /// `no-writes`: every write command is refused.
    pub no_writes: bool,
    /// `allow-oom`: runs although memory is short.
    pub allow_oom: bool,
    /// Bytes of the line, without its line feed: the rest is Lua, and its line numbers stay the user's.
    pub len: usize,
}

/// Reads it. The texts are Redis's.
pub fn parse(source: &[u8]) -> Result<Header, CommandError> {
    let mut header = Header::default();
    if !source.starts_with(b"#!") {
        return Ok(header);
    }
    let Some(len) = source.iter().position(|byte| *byte == b'\n') else {
        return Err(CommandError::new("ERR Invalid script shebang"));
    };
    header.declared = true;
    header.len = len;
    let line = String::from_utf8_lossy(&source[..len]);
    let mut words = line.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(format!("ERR Unexpected engine in script shebang: {engine}").into());
    }
    for word in words {
        let Some(flags) = word.strip_prefix("flags=") else {
            return Err(format!("ERR Unknown lua shebang option: {word}").into());
        };
        for flag in flags.split(',').filter(|_| !flags.is_empty()) {
            match flag {
                "no-writes" => header.no_writes = true,
                "allow-oom" => header.allow_oom = true,
                "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                other => return Err(format!("ERR Unexpected flag in script shebang: {other}").into()),
            }
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_nonsense_is_named() {
        assert_eq!(parse(b"return 1"), Ok(Header::default()));
        let header = parse(b"#!lua flags=no-writes,allow-stale\nreturn 1").unwrap();
        assert!(header.declared && header.no_writes && !header.allow_oom && header.len == 33);
        for (source, text) in [
            ("#!lua", "ERR Invalid script shebang"),
            ("#!js\n", "ERR Unexpected engine in script shebang: #!js"),
            ("#!lua x=1\n", "ERR Unknown lua shebang option: x=1"),
            ("#!lua flags=foo\n", "ERR Unexpected flag in script shebang: foo"),
        ] {
            assert_eq!(parse(source.as_bytes()).unwrap_err().0, text);
        }
    }
}

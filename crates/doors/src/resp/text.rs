//! Answers that many commands share: what is said about words that nobody knows, and help texts.

use shard::error::CommandError;
use shard::reply::Reply;

/// How much of a client's words an error repeats, bytes.
const PREVIEW_BYTES_MAX: usize = 128;

/// `ERR unknown command 'x', with args beginning with: 'a' 'b' `. `args` has at least one word.
pub fn unknown_command(args: &[&[u8]], reply: &mut Reply) {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(clipped(args[0], PREVIEW_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let begun = text.len();
    for word in &args[1..] {
        let shown = text.len() - begun;
        if shown >= PREVIEW_BYTES_MAX {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(clipped(word, PREVIEW_BYTES_MAX - shown));
        text.extend_from_slice(b"' ");
    }
    error_bytes(&text, reply);
}

/// `ERR unknown subcommand 'x'. Try CLIENT HELP.` `args` has at least two words.
pub fn unknown_subcommand(args: &[&[u8]], reply: &mut Reply) {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(clipped(args[1], PREVIEW_BYTES_MAX));
    text.extend_from_slice(b"'. Try ");
    text.extend(args[0].iter().map(u8::to_ascii_uppercase));
    text.extend_from_slice(b" HELP.");
    error_bytes(&text, reply);
}

/// The text for a subcommand that is known but was given other words than it takes, where Redis does not tell which.
pub fn subcommand_syntax(args: &[&[u8]]) -> CommandError {
    let shown = String::from_utf8_lossy(clipped(args[1], PREVIEW_BYTES_MAX));
    let command = String::from_utf8_lossy(args[0]).to_ascii_uppercase();
    format!("ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {command} HELP.").into()
}

/// The answer to a HELP subcommand: simple strings, the first and the last two the same for every command.
pub fn help(command: &str, lines: &[&str], reply: &mut Reply) {
    reply.array(lines.len() + 3);
    reply.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for line in lines.iter().chain(&["HELP", "    Print this help."]) {
        reply.simple(line);
    }
}

/// An error whose text holds a client's bytes, which need not be UTF-8. Line breaks become spaces, as in [`Reply::error`].
pub fn error_bytes(text: &[u8], reply: &mut Reply) {
    reply.bytes.push(b'-');
    reply.bytes.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    reply.bytes.extend_from_slice(b"\r\n");
}

/// As Redis prints it: nothing after a zero byte.
fn clipped(word: &[u8], bytes_max: usize) -> &[u8] {
    let shown = word.split(|byte| *byte == 0).next().unwrap_or_default();
    &shown[..shown.len().min(bytes_max)]
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{help, unknown_command, unknown_subcommand};

    fn answer(write: impl FnOnce(&mut Reply)) -> String {
        let mut reply = Reply::new(Protocol::Resp2);
        write(&mut reply);
        reply.bytes.escape_ascii().to_string().replace("\\'", "'")
    }

    #[test]
    fn an_unknown_command_is_repeated_in_part() {
        let unknown = |args: &[&[u8]]| answer(|reply| unknown_command(args, reply));
        assert_eq!(unknown(&[b"foo"]), "-ERR unknown command 'foo', with args beginning with: \\r\\n");
        assert_eq!(
            unknown(&[b"f\0oo", b"\0", b"a\0b"]),
            "-ERR unknown command 'f', with args beginning with: '' 'a' \\r\\n"
        );
        assert_eq!(
            unknown(&[b"foo", b"a", b"b\r\n+OK"]),
            "-ERR unknown command 'foo', with args beginning with: 'a' 'b  +OK' \\r\\n"
        );
        let (x, y) = ("x".repeat(200), "y".repeat(200));
        assert_eq!(
            unknown(&[x.as_bytes(), &y.as_bytes()[..100], y.as_bytes(), b"z"]),
            format!(
                "-ERR unknown command '{}', with args beginning with: '{}' '{}' \\r\\n",
                &x[..128],
                &y[..100],
                &y[..25]
            )
        );
    }

    #[test]
    fn an_unknown_subcommand_names_its_command_s_help() {
        assert_eq!(
            answer(|reply| unknown_subcommand(&[b"client", b"foo"], reply)),
            "-ERR unknown subcommand 'foo'. Try CLIENT HELP.\\r\\n"
        );
    }

    #[test]
    fn help_is_an_array_of_simple_strings() {
        assert_eq!(
            answer(|reply| help("X", &["A", "    Does a."], reply)),
            "*5\\r\\n+X <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\\r\\n+A\\r\\n+    Does a.\\r\\n+HELP\\r\\n\
             +    Print this help.\\r\\n"
        );
    }
}

//! HELLO: the handshake that chooses the protocol version.

use base::parse_i64;
use shard::command::is;
use shard::error::CommandError;
use shard::reply::{Protocol, Reply};

use super::{REDIS_VERSION, validate_name};

/// What a HELLO asks for. Do it in this order: password, name, protocol; then answer with [`write_hello`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The version to speak from the answer on; `None` keeps it.
    pub protocol: Option<Protocol>,
    /// User and password.
    pub auth: Option<(&'a [u8], &'a [u8])>,
    /// A valid name for the connection; empty takes it away.
    pub name: Option<&'a [u8]>,
}

/// Reads the words of a HELLO, its name first.
pub fn parse_hello<'a>(args: &[&'a [u8]]) -> Result<Hello<'a>, CommandError> {
    let mut hello = Hello::default();
    let Some(version) = args.get(1) else { return Ok(hello) };
    hello.protocol = match parse_i64(version) {
        Some(2) => Some(Protocol::Resp2),
        Some(3) => Some(Protocol::Resp3),
        Some(_) => return Err(CommandError::new("NOPROTO unsupported protocol version")),
        None => return Err(CommandError::new("ERR Protocol version is not an integer or out of range")),
    };
    let mut rest = &args[2..];
    loop {
        rest = match rest {
            [] => return Ok(hello),
            [word, user, password, rest @ ..] if is(word, "auth") => {
                hello.auth = Some((user, password));
                rest
            }
            [word, name, rest @ ..] if is(word, "setname") => {
                validate_name(name)?;
                hello.name = Some(name);
                rest
            }
            [word, ..] => {
                return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(word)).into());
            }
        }
    }
}

/// Writes what HELLO answers, in the protocol that `reply` has by now.
pub fn write_hello(client: u64, is_cluster: bool, reply: &mut Reply) {
    reply.map(7);
    let text = |name: &str, value: &str, reply: &mut Reply| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    text("server", "redis", reply);
    text("version", REDIS_VERSION, reply);
    reply.bulk(b"proto");
    reply.int(if reply.is_resp3() { 3 } else { 2 });
    reply.bulk(b"id");
    reply.int(client as i64);
    text("mode", if is_cluster { "cluster" } else { "standalone" }, reply);
    text("role", "master", reply);
    reply.bulk(b"modules");
    reply.array(0);
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{Hello, parse_hello, write_hello};

    fn parse(line: &str) -> Result<Hello<'_>, String> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        parse_hello(&args).map_err(|error| error.0.into_owned())
    }

    #[test]
    fn options_are_read_in_any_order() {
        assert_eq!(parse("HELLO"), Ok(Hello::default()));
        let expected = Hello { protocol: Some(Protocol::Resp3), auth: Some((b"default", b"x")), name: Some(b"me") };
        assert_eq!(parse("hello 3 setname me auth default x"), Ok(expected));
        assert_eq!(parse("HELLO 3 AUTH default x SETNAME me"), Ok(expected));
    }

    #[test]
    fn errors_are_redis_s() {
        for (line, error) in [
            ("hello x", "ERR Protocol version is not an integer or out of range"),
            ("hello 99999999999999999999", "ERR Protocol version is not an integer or out of range"),
            ("hello 1", "NOPROTO unsupported protocol version"),
            ("hello 4", "NOPROTO unsupported protocol version"),
            ("hello 2 foo", "ERR Syntax error in HELLO option 'foo'"),
            ("hello 2 setname", "ERR Syntax error in HELLO option 'setname'"),
            ("hello 2 auth a", "ERR Syntax error in HELLO option 'auth'"),
            ("hello 2 setname a\tb", "ERR Client names cannot contain spaces, newlines or special characters."),
        ] {
            assert_eq!(parse(line), Err(error.to_string()), "{line}");
        }
    }

    #[test]
    fn the_answer_is_a_map_of_seven() {
        let mut reply = Reply::new(Protocol::Resp3);
        write_hello(9, false, &mut reply);
        assert_eq!(
            String::from_utf8_lossy(&reply.bytes).replace("\r\n", " "),
            "%7 $6 server $5 redis $7 version $5 7.2.0 $5 proto :3 $2 id :9 $4 mode $10 standalone $4 role $6 master $7 modules \
             *0 "
        );
        let mut reply = Reply::new(Protocol::Resp2);
        write_hello(9, false, &mut reply);
        assert!(reply.bytes.starts_with(b"*14\r\n"));
    }
}

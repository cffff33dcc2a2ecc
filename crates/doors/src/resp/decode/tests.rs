//! The expected answers are what redis-server 7.0.15 gave to the same bytes.

use base::{Limits, Rng};
use shard::reply::{Protocol, Reply};

use super::{DecodeLimits, DecodeState, Decoded, ProtocolError, Words, decode, fuzz, run, split_line};

/// All commands of `data` as readable text, and the error it ends in.
fn read(data: &[u8], limits: &DecodeLimits) -> (Vec<String>, Option<String>) {
    let (commands, error) = run(data, limits, |_| usize::MAX);
    let commands = commands
        .iter()
        .map(|words| words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join("|"))
        .collect();
    let error = error.map(|error| {
        let mut reply = Reply::new(Protocol::Resp2);
        error.write(&mut reply);
        reply.bytes.escape_ascii().to_string()
    });
    (commands, error)
}

fn authenticated() -> DecodeLimits {
    DecodeLimits::authenticated(&Limits::DEFAULT)
}

#[test]
fn commands_are_read_as_redis_reads_them() {
    for (data, commands) in [
        (&b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n"[..], &["PING", "ECHO|a\\r\\n"][..]),
        (b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n", &["SET||0123456789"]),
        (b"*0\r\n*-1\r\n\r\n  \r\nPING\r\n", &["PING"]),
        (b"*1\r\n$0\r\n\r\n", &[""]),
        (b"*1\r\n$4\rxPINGyz*0\r\nPING\r\n", &["PING", "PING"]),
        (b"PING\nGET  a\tb \r\n", &["PING", "GET|a|b"]),
        (b"ECHO \"\\x41\\n'\"\r\n", &["ECHO|A\\n\\'"]),
        (b"ECHO 'a\\'b\\n'\r\n", &["ECHO|a\\'b\\\\n"]),
        (b"ECHO a\"b c\"\r\n", &["ECHO|ab c"]),
        (b"ECHO a\x0bb\r\n", &["ECHO|a\\x0bb"]),
        (b"ECHO \x0b\x0cb\n", &["ECHO|b"]),
        (b"ECHO \"\"\r\nECHO ''\r\n", &["ECHO|", "ECHO|"]),
        (b"ECHO \"\\t\\b\\a\\r\\q\\xZZ\"\n", &["ECHO|\\t\\x08\\x07\\rqxZZ"]),
        (b"*3\r\n$3\r\nSET\r\nx", &[]),
        (b"*1\r\n$4\r\nPIN", &[]),
        (b"", &[]),
    ] {
        let (read, error) = read(data, &authenticated());
        assert_eq!(read, commands, "{}", data.escape_ascii());
        assert_eq!(error, None, "{}", data.escape_ascii());
    }
}

#[test]
fn bytes_that_are_no_command_are_refused_with_redis_s_texts() {
    let long = |head: &str, of: &str| [head.as_bytes(), &of.as_bytes().repeat(70_000)].concat();
    for (data, error) in [
        (b"*abc\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*\r\nPING\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*01\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*+1\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"* 1\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*1\n$4\r\nPING\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*2147483648\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*9223372036854775808\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$abc\r\n".to_vec(), "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n".to_vec(), "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$999999999999\r\n".to_vec(), "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\nfoo\r\n".to_vec(), "-ERR Protocol error: expected \\'$\\', got \\'f\\'"),
        (b"*1\r\n\r\n".to_vec(), "-ERR Protocol error: expected \\'$\\', got \\' \\'"),
        (b"*1\r\n\xff\r\n".to_vec(), "-ERR Protocol error: expected \\'$\\', got \\'\\xff\\'"),
        (b"\"abc\r\n".to_vec(), "-ERR Protocol error: unbalanced quotes in request"),
        (b"GET \"a\"b\r\n".to_vec(), "-ERR Protocol error: unbalanced quotes in request"),
        (b"GET 'a\r\n".to_vec(), "-ERR Protocol error: unbalanced quotes in request"),
        (long("", "a"), "-ERR Protocol error: too big inline request"),
        (long("*", "1"), "-ERR Protocol error: too big mbulk count string"),
        (long("*1\r\n$", "1"), "-ERR Protocol error: too big bulk count string"),
    ] {
        let (read, got) = read(&data, &authenticated());
        let shown = data[..data.len().min(30)].escape_ascii();
        assert_eq!(got, Some(format!("{error}\\r\\n")), "{shown}");
        assert!(read.is_empty(), "{shown}");
    }
}

#[test]
fn before_a_password_was_given_only_small_commands_are_read() {
    let limits = DecodeLimits::unauthenticated(&Limits::DEFAULT);
    let error = |data: &[u8]| read(data, &limits).1.unwrap_or_default();
    assert_eq!(error(b"*11\r\n"), "-ERR Protocol error: unauthenticated multibulk length\\r\\n");
    assert_eq!(error(b"a b c d e f g h i j k\r\n"), "-ERR Protocol error: unauthenticated multibulk length\\r\\n");
    assert_eq!(error(b"*1\r\n$16385\r\n"), "-ERR Protocol error: unauthenticated bulk length\\r\\n");
    assert_eq!(read(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n", &limits), (vec!["AUTH|x".into()], None));
}

#[test]
fn a_command_s_total_size_is_bounded() {
    let limits = DecodeLimits { command_bytes_max: 10, ..authenticated() };
    assert_eq!(run(b"*2\r\n$5\r\nabcde\r\n$6\r\n", &limits, |_| 1).1, Some(ProtocolError::CommandTooBig));
    assert_eq!(run(b"*2\r\n$5\r\nabcde\r\n$5\r\n", &limits, |_| 1).1, None);
}

#[test]
fn an_http_request_closes_the_connection_without_an_answer() {
    for data in [&b"POST / HTTP/1.1\r\nPING\r\n"[..], b"*1\r\n$5\r\nhost:\r\n", b"Host: x\r\n", b"\"post\"\r\n"] {
        let (commands, error) = read(data, &authenticated());
        assert_eq!((commands.len(), error.as_deref()), (0, Some("")), "{}", data.escape_ascii());
    }
}

#[test]
fn a_large_word_in_small_pieces_is_looked_at_once() {
    // Each call may cost only the bytes that are new. Quadratic work would take minutes here.
    let len = 64 << 20;
    let mut data = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n").into_bytes();
    let head = data.len();
    data.resize(head + len, b'x');
    data.extend_from_slice(b"\r\n");
    let (mut state, mut words, limits) = (DecodeState::new(), Words::new(), authenticated());
    let mut calls = 0;
    for arrived in (0..data.len()).step_by(256) {
        assert_eq!(decode(&data[..arrived], &mut state, &limits, &mut words), Ok(Decoded::Incomplete));
        calls += 1;
    }
    assert_eq!(state.wanted(data.len() - 2), 2);
    assert!(state.is_within_command());
    let whole = Decoded::Command { consumed: data.len(), unquoted: false };
    assert_eq!(decode(&data, &mut state, &limits, &mut words), Ok(whole));
    assert_eq!((words.len(), words[2].of(&data).len()), (3, len));
    assert!(calls > 200_000 && !state.is_within_command());
}

#[test]
fn a_line_without_an_end_in_single_bytes_is_looked_at_once() {
    let limits = DecodeLimits { inline_bytes_max: 4 << 20, ..authenticated() };
    for head in ["*", "x"] {
        let mut data = head.as_bytes().to_vec();
        data.resize(1 << 20, b'1');
        assert_eq!(run(&data, &limits, |_| 1), (vec![], None));
    }
}

#[test]
fn a_claimed_number_of_words_reserves_nothing() {
    let (mut state, mut words) = (DecodeState::new(), Words::new());
    assert_eq!(decode(b"*1000000\r\n$1\r\na\r\n", &mut state, &authenticated(), &mut words), Ok(Decoded::Incomplete));
    assert!(!words.spilled());
}

/// Streams made of parts that matter to the decoder, so that chance soon finds its corners.
fn random_stream(rng: &mut Rng) -> Vec<u8> {
    const PARTS: &[&[u8]] = &[
        b"*1\r\n",
        b"*2\r\n",
        b"*3\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*65\r\n",
        b"$1\r\na\r\n",
        b"$3\r\nGET\r\n",
        b"$0\r\n\r\n",
        b"$12\r\nhello\r\nworld\r\n",
        b"$33\r\n",
        b"$",
        b"*",
        b"\r",
        b"\n",
        b"\r\n",
        b"PING\r\n",
        b"GET a b\n",
        b"ECHO \"a b\\x41\"\r\n",
        b"'",
        b"\"",
        b"\\",
        b" ",
        b"0",
        b"1",
        b"9",
        b"host:",
        b"\xff",
        b"\0",
        b"-",
    ];
    let mut data = Vec::new();
    for _ in 0..rng.index(24) {
        match rng.index(12) {
            0 => data.extend((0..rng.index(150)).map(|_| rng.next_u64() as u8)),
            1 => {
                let words = rng.index(10) + 1;
                data.extend_from_slice(format!("*{words}\r\n").as_bytes());
                for _ in 0..words {
                    let word: Vec<u8> = (0..rng.index(40)).map(|_| rng.next_u64() as u8).collect();
                    data.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                    data.extend_from_slice(&word);
                    data.extend_from_slice(b"\r\n");
                }
            }
            _ => data.extend_from_slice(PARTS[rng.index(PARTS.len())]),
        }
    }
    data
}

#[test]
fn any_bytes_in_any_pieces_give_the_same_commands_and_never_panic() {
    let mut rng = Rng::new(7);
    for _ in 0..20_000 {
        fuzz(&random_stream(&mut rng));
    }
}

#[test]
fn a_pipeline_cut_anywhere_gives_what_was_sent() {
    let mut rng = Rng::new(11);
    for _ in 0..300 {
        let sent: Vec<Vec<Vec<u8>>> = (0..rng.index(6))
            .map(|_| {
                (0..rng.index(12) + 1)
                    .map(|_| (0..rng.index(30)).map(|_| b"a\r\n*$\"1 \0"[rng.index(9)]).collect())
                    .collect()
            })
            .collect();
        let mut data = Vec::new();
        for words in &sent {
            data.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in words {
                data.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                data.extend_from_slice(word);
                data.extend_from_slice(b"\r\n");
            }
        }
        let cut = rng.index(data.len() + 1);
        let pieces = |at: usize| if at < cut { cut - at } else { usize::MAX };
        assert_eq!(run(&data, &authenticated(), pieces), (sent, None));
    }
}

#[test]
fn the_corpus_holds() {
    // The corpus is text: `\r\n` is written as `~`, so that one line is one case.
    for case in include_str!("corpus.txt").lines() {
        fuzz(case.replace('~', "\r\n").as_bytes());
    }
}

#[test]
fn lines_that_people_type_are_split_like_inline_commands() {
    let split = |line: &str| {
        split_line(line.as_bytes())
            .map(|words| words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(
        split("set k \"a b\\x00\" 'c d'"),
        Some(vec!["set".into(), "k".into(), "a b\\x00".into(), "c d".into()])
    );
    assert_eq!(split(""), Some(vec![]));
    assert_eq!(split("get \"a"), None);
}

//! The expected output is redis-cli 7.0.15's for the same bytes.

use std::io::{BufReader, Write};
use std::net::TcpListener;

use doors::resp::client::{Value, read_value};

use super::{Cli, CliOptions, Failure, Line, doc_lines, parse, write_pretty, write_raw};

fn value(bytes: &str) -> Value {
    read_value(&mut bytes.replace(' ', "\r\n").replace('_', " ").as_bytes()).expect("the tests' answers are valid")
}

fn pretty(bytes: &str) -> String {
    let mut text = Vec::new();
    write_pretty(&value(bytes), "", &mut text);
    String::from_utf8(text).expect("pretty output is plain text")
}

fn raw(bytes: &str) -> String {
    let mut text = Vec::new();
    write_raw(&value(bytes), &mut text);
    String::from_utf8(text).expect("these answers are plain text")
}

#[test]
fn answers_are_printed_as_redis_cli_prints_them() {
    for (bytes, printed) in [
        ("+OK ", "OK\n"),
        ("-ERR_x ", "(error) ERR x\n"),
        (":5 ", "(integer) 5\n"),
        ("$1 a ", "\"a\"\n"),
        ("$-1 ", "(nil)\n"),
        ("*-1 ", "(nil)\n"),
        (",1.5 ", "(double) 1.5\n"),
        ("#t ", "(true)\n"),
        ("=6 txt:hi ", "hi\n"),
        ("*0 ", "(empty array)\n"),
        ("~0 ", "(empty set)\n"),
        ("%0 ", "(empty hash)\n"),
        ("*2 $1 a :1 ", "1) \"a\"\n2) (integer) 1\n"),
        ("~1 $1 a ", "1~ \"a\"\n"),
        ("%1 $1 a $1 1 ", "1# \"a\" => \"1\"\n"),
        ("*2 *2 $1 a ~2 +OW +update :1 ", "1) 1) \"a\"\n   2) 1~ OW\n      2~ update\n2) (integer) 1\n"),
        (
            "%2 $1 a *2 :1 :2 $1 b *1 :3 ",
            "1# \"a\" => \n   1) (integer) 1\n   2) (integer) 2\n2# \"b\" => 1) (integer) 3\n",
        ),
        ("*1 %1 +k *0 ", "1) 1# k => (empty array)\n"),
    ] {
        assert_eq!(pretty(bytes), printed, "{bytes}");
    }
    let ten = format!("*10 {}", ":7 ".repeat(10));
    assert!(pretty(&ten).starts_with(" 1) (integer) 7\n 2) ") && pretty(&ten).ends_with("\n10) (integer) 7\n"));
}

#[test]
fn byte_strings_are_quoted_for_a_terminal() {
    let mut text = Vec::new();
    write_pretty(&Value::Bulk(b"a\"\\\n\r\t\x07\x08\x00\x1b\xff ~".to_vec()), "", &mut text);
    assert_eq!(text, b"\"a\\\"\\\\\\n\\r\\t\\a\\b\\x00\\x1b\\xff ~\"\n");
}

#[test]
fn raw_output_is_the_bytes() {
    for (bytes, printed) in [
        ("+OK ", "OK"),
        ("-ERR_x ", "ERR x\n"),
        (":5 ", "5"),
        ("$-1 ", ""),
        ("*3 $1 a *2 :1 :2 $-1 ", "a\n1\n2\n"),
        ("%2 $1 a :1 $1 b :2 ", "a 1\nb 2"),
        ("=6 txt:hi ", "hi"),
    ] {
        assert_eq!(raw(bytes), printed, "{bytes}");
    }
}

#[test]
fn lines_are_commands_or_words_to_the_cli_itself() {
    assert_eq!(parse(b" \n"), Line::Empty);
    assert_eq!(parse(b"QUIT\n"), Line::Quit);
    assert_eq!(parse(b"get \"a\n"), Line::Invalid);
    assert_eq!(parse(b"help\r\n"), Line::Help(None));
    assert_eq!(parse(b"help set x\n"), Line::Help(Some(b"set".to_vec())));
    assert_eq!(parse(b"get 'a b'\n"), Line::Command(vec![b"get".to_vec(), b"a b".to_vec()]));
}

#[test]
fn help_shows_what_the_node_says() {
    let resp2 = "*2 $3 get *4 $7 summary $1 S $5 since $5 1.0.0 ";
    let resp3 = "%1 $3 get %2 $7 summary $1 S $5 since $5 1.0.0 ";
    for answer in [resp2, resp3] {
        assert_eq!(doc_lines(&value(answer)).as_deref(), Some("\n  GET\n  summary: S\n  since: 1.0.0\n\n"));
    }
    assert_eq!(doc_lines(&value("*0 ")), None);
}

/// A node that reads a command, sends the next of these answers and so on, and closes the connection.
/// Returns its port, and what it was sent when it is joined.
fn node(answers: &'static [&'static str]) -> (u16, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let served = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the cli connects");
        let mut reader = BufReader::new(stream);
        let mut sent = Vec::new();
        for answer in answers {
            sent.push(read_value(&mut reader).expect("a command is an array"));
            let bytes = answer.replace(' ', "\r\n").replace('_', " ");
            reader.get_mut().write_all(bytes.as_bytes()).expect("the cli reads");
        }
        sent
    });
    (port, served)
}

fn cli(port: u16) -> Cli<Vec<u8>> {
    let options = CliOptions { port, ..CliOptions::default() };
    Cli { db: options.db, options, is_raw: false, connection: None, in_multi: false, out: Vec::new() }
}

fn printed(cli: &Cli<Vec<u8>>) -> String {
    String::from_utf8_lossy(&cli.out).into_owned()
}

#[test]
fn the_connection_begins_with_password_protocol_and_database() {
    let (port, served) = node(&["+OK ", "%1 +proto :3 ", "+OK ", "+PONG "]);
    let mut cli = cli(port);
    cli.options.password = Some("secret".into());
    cli.options.user = Some("me".into());
    cli.options.resp3 = true;
    cli.db = 2;
    cli.connect().expect("connects");
    assert!(cli.prompt_text().ends_with("[2]> "));
    cli.lines(&mut &b"ping\nquit\nping\n"[..]).expect("all answered");
    assert_eq!(printed(&cli), "PONG\n");
    let words = |line: &str| Value::Array(line.split(' ').map(|word| Value::Bulk(word.into())).collect());
    let sent = ["AUTH me secret", "HELLO 3", "SELECT 2", "ping"].map(words);
    assert_eq!(served.join().expect("served"), sent);
}

#[test]
fn a_prompt_shows_database_and_transaction_and_survives_the_loss_of_the_node() {
    let (port, served) = node(&["+OK ", "+OK ", "+QUEUED ", "*1 $1 v ", "-ERR_no "]);
    let mut cli = cli(port);
    let lines = b"select 3\nmulti\nget k\nexec\nnosuch\nping\nget 'a\n\n";
    cli.prompt(&mut &lines[..]).expect("the input ends");
    served.join().expect("served");
    let at = format!("127.0.0.1:{port}");
    assert_eq!(
        printed(&cli),
        format!(
            "{at}> OK\n{at}[3]> OK\n{at}[3](TX)> QUEUED\n{at}[3](TX)> 1) \"v\"\n{at}[3]> (error) ERR no\n{at}[3]> \
             not connected> Invalid argument(s)\nnot connected> not connected> \n"
        )
    );
}

#[test]
fn a_subscription_prints_messages_until_the_node_ends_it() {
    let (port, served) = node(&["*3 $9 subscribe $1 c :1 *3 $7 message $1 c $2 hi "]);
    let mut cli = cli(port);
    cli.connect().expect("connects");
    let end = cli.command(&[b"SUBSCRIBE".to_vec(), b"c".to_vec()]).expect_err("the node closes");
    assert!(matches!(end, Failure::Connection(text) if text.contains("closed the connection")));
    served.join().expect("served");
    assert_eq!(
        printed(&cli),
        "Reading messages... (press Ctrl-C to quit)\n1) \"subscribe\"\n2) \"c\"\n3) (integer) 1\n1) \"message\"\n2) \"c\"\n\
         3) \"hi\"\n"
    );
}

#[test]
fn a_node_that_is_not_there_is_named_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    drop(listener);
    match cli(port).connect() {
        Err(Failure::Connection(text)) => {
            assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("`quorate up`"), "{text}");
        }
        other => panic!("expected a failure to connect, got {other:?}"),
    }
}

#[test]
fn an_error_reply_ends_it_only_if_asked_to() {
    for error_exit in [false, true] {
        let (port, served) = node(&["-ERR_x "]);
        let mut cli = cli(port);
        cli.options.error_exit = error_exit;
        cli.connect().expect("connects");
        assert_eq!(cli.command(&[b"x".to_vec()]).is_err(), error_exit);
        served.join().expect("served");
    }
}

//! `quorate cli`: a command line for the Redis door, so that nothing need be installed to try it. Prints what redis-cli prints.
//!
//! Three ways to use it: words behind it are one command; lines on a pipe are a command each; at a terminal it prompts.
//! Blocking and with one connection: a person waits for it. Ctrl-C ends it, as it ends any program.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use doors::resp::client::{Value, read_value, write_command};
use doors::resp::decode::split_line;

/// What was asked for on the command line. The letters are redis-cli's.
#[derive(Clone, Debug)]
pub struct CliOptions {
    /// `-h`: where the node is.
    pub host: String,
    /// `-p`: its Redis door.
    pub port: u16,
    /// `-a`: the password.
    pub password: Option<String>,
    /// `--user`: whose password; Redis's `default` if not given.
    pub user: Option<String>,
    /// `-n`: the database.
    pub db: u32,
    /// `-3`: speak RESP3.
    pub resp3: bool,
    /// `--raw` and `--no-raw`: whether byte strings are printed as they are. `None`: unless to a terminal.
    pub raw: Option<bool>,
    /// `-e`: an error reply ends it with exit code 1.
    pub error_exit: bool,
    /// One command; empty to read commands.
    pub command: Vec<OsString>,
}

impl Default for CliOptions {
    fn default() -> CliOptions {
        CliOptions {
            host: "127.0.0.1".into(),
            port: 6379,
            password: None,
            user: None,
            db: 0,
            resp3: false,
            raw: None,
            error_exit: false,
            command: Vec::new(),
        }
    }
}

/// Does what the options say. Exit code 1 if the node cannot be reached or is lost, or for an error reply with `error_exit`.
pub fn run(options: CliOptions) -> ExitCode {
    let is_raw = options.raw.unwrap_or(!io::stdout().is_terminal());
    let mut cli = Cli { db: options.db, options, is_raw, connection: None, in_multi: false, out: io::stdout() };
    let done = if !cli.options.command.is_empty() {
        let words = cli.options.command.iter().map(|word| word.as_encoded_bytes().to_vec()).collect::<Vec<_>>();
        cli.connect().and_then(|()| cli.command(&words))
    } else if io::stdin().is_terminal() {
        cli.prompt(&mut io::stdin().lock())
    } else {
        cli.connect().and_then(|()| cli.lines(&mut io::stdin().lock()))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Output) => ExitCode::SUCCESS,
        Err(Failure::Reply) => ExitCode::FAILURE,
        Err(Failure::Connection(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Why it cannot go on.
#[derive(Debug)]
enum Failure {
    /// The node is not there, or no longer; the text says what to do.
    Connection(String),
    /// An error reply, with `error_exit`.
    Reply,
    /// Nobody reads what is printed.
    Output,
}

type Done = Result<(), Failure>;

struct Cli<W> {
    options: CliOptions,
    is_raw: bool,
    connection: Option<BufReader<TcpStream>>,
    /// The selected database, for the prompt.
    db: u32,
    /// Between MULTI and EXEC, for the prompt.
    in_multi: bool,
    out: W,
}

impl<W: Write> Cli<W> {
    /// Connects, gives the password, selects protocol and database.
    fn connect(&mut self) -> Done {
        let (host, port) = (self.options.host.clone(), self.options.port);
        let stream = open(&host, port).map_err(|error| {
            Failure::Connection(format!(
                "Could not connect to a node at {host}:{port}: {error}\n\
                 Start one with `quorate up`, or say where it is with -h and -p."
            ))
        })?;
        self.connection = Some(BufReader::new(stream));
        self.in_multi = false;
        if let Some(password) = self.options.password.clone() {
            let user = self.options.user.clone();
            let words: Vec<String> = ["AUTH".into()].into_iter().chain(user).chain([password]).collect();
            self.prepare(&words, "AUTH failed")?;
        }
        if self.options.resp3 {
            self.prepare(&["HELLO", "3"], "HELLO 3 failed")?;
        }
        if self.db != 0 {
            self.prepare(&["SELECT", &self.db.to_string()], &format!("SELECT {} failed", self.db))?;
        }
        Ok(())
    }

    /// A command of our own: an error is told and passed over, as the user's commands may still work.
    fn prepare(&mut self, words: &[impl AsRef<[u8]>], what: &str) -> Done {
        self.send(words)?;
        if let Value::Error(text) = self.read()? {
            eprintln!("{what}: {}", String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    fn lost(&mut self, error: &io::Error) -> Failure {
        self.connection = None;
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_string(),
            _ => error.to_string(),
        };
        Failure::Connection(format!("Lost the node at {}:{}: {why}", self.options.host, self.options.port))
    }

    fn send(&mut self, words: &[impl AsRef<[u8]>]) -> Done {
        let mut bytes = Vec::new();
        write_command(words, &mut bytes);
        let connection = self.connection.as_mut().expect("commands are sent only when connected");
        connection.get_mut().write_all(&bytes).map_err(|error| self.lost(&error))
    }

    fn read(&mut self) -> Result<Value, Failure> {
        let connection = self.connection.as_mut().expect("answers are read only when connected");
        read_value(connection).map_err(|error| self.lost(&error))
    }

    fn print(&mut self, bytes: &[u8]) -> Done {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|_| Failure::Output)
    }

    fn print_value(&mut self, value: &Value, is_text: bool) -> Done {
        let mut text = Vec::new();
        if self.is_raw || is_text && !matches!(value, Value::Error(_)) {
            write_raw(value, &mut text);
            text.push(b'\n');
        } else {
            write_pretty(value, "", &mut text);
        }
        self.print(&text)
    }

    /// Sends one command and prints what it answers; a subscription prints messages until the connection ends.
    fn command(&mut self, words: &[Vec<u8>]) -> Done {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_lowercase();
        self.send(words)?;
        if is_subscription(&name) || name == "monitor" {
            return self.stream();
        }
        // One answer per command, except that it is told of each channel it leaves.
        let answers = if name.ends_with("unsubscribe") { words.len().saturating_sub(1).max(1) } else { 1 };
        for _ in 0..answers {
            let value = loop {
                match self.read()? {
                    push @ Value::Push(_) if !name.ends_with("unsubscribe") => self.print_value(&push, false)?,
                    value => break value,
                }
            };
            self.print_value(&value, answers_text(words))?;
            let is_error = matches!(value, Value::Error(_));
            self.remember(&name, words, &value, is_error);
            if is_error {
                return if self.options.error_exit { Err(Failure::Reply) } else { Ok(()) };
            }
        }
        Ok(())
    }

    /// What the prompt shows follows from commands that worked.
    fn remember(&mut self, name: &str, words: &[Vec<u8>], value: &Value, is_error: bool) {
        match name {
            "exec" | "discard" => self.in_multi = false,
            _ if is_error || matches!(value, Value::Simple(text) if text == b"QUEUED") => {}
            "multi" => self.in_multi = true,
            "select" => {
                let db = words.get(1).and_then(|word| base::parse_i64(word));
                self.db = db.and_then(|db| u32::try_from(db).ok()).unwrap_or(self.db);
            }
            "reset" => (self.db, self.in_multi) = (0, false),
            _ => {}
        }
    }

    /// Prints what comes until the node or the user ends it, or until an error shows that nothing will come.
    fn stream(&mut self) -> Done {
        if !self.is_raw {
            self.print(b"Reading messages... (press Ctrl-C to quit)\n")?;
        }
        loop {
            let value = self.read()?;
            self.print_value(&value, false)?;
            if matches!(value, Value::Error(_)) {
                return if self.options.error_exit { Err(Failure::Reply) } else { Ok(()) };
            }
        }
    }

    /// A command a line until they end, or until `quit`.
    fn lines(&mut self, input: &mut impl BufRead) -> Done {
        while let Some(line) = next_line(input) {
            match parse(&line) {
                Line::Empty => {}
                Line::Quit => break,
                Line::Invalid => self.print(b"Invalid argument(s)\n")?,
                Line::Help(topic) => self.help(topic)?,
                Line::Command(words) => self.command(&words)?,
            }
        }
        Ok(())
    }

    /// Asks for commands; connects again when the node was lost.
    fn prompt(&mut self, input: &mut impl BufRead) -> Done {
        self.survive(Self::connect)?;
        loop {
            let prompt = self.prompt_text();
            self.print(prompt.as_bytes())?;
            let Some(line) = next_line(input) else {
                return self.print(b"\n");
            };
            let began = Instant::now();
            match parse(&line) {
                Line::Empty => continue,
                Line::Quit => return Ok(()),
                Line::Invalid => self.print(b"Invalid argument(s)\n")?,
                line => self.survive(|cli| {
                    if cli.connection.is_none() {
                        cli.connect()?;
                    }
                    match line {
                        Line::Help(topic) => cli.help(topic),
                        Line::Command(words) => cli.command(&words),
                        _ => Ok(()),
                    }
                })?,
            }
            let elapsed = began.elapsed();
            if elapsed >= Duration::from_millis(500) {
                self.print(format!("({:.2}s)\n", elapsed.as_secs_f64()).as_bytes())?;
            }
        }
    }

    /// At a prompt nothing but a closed terminal is the end.
    fn survive(&mut self, act: impl FnOnce(&mut Self) -> Done) -> Done {
        match act(self) {
            Err(Failure::Connection(text)) => {
                eprintln!("{text}");
                Ok(())
            }
            Err(Failure::Reply) => Ok(()),
            done => done,
        }
    }

    fn prompt_text(&self) -> String {
        if self.connection.is_none() {
            return "not connected> ".into();
        }
        let host = match self.options.host.contains(':') {
            true => format!("[{}]", self.options.host),
            false => self.options.host.clone(),
        };
        let db = if self.db == 0 { String::new() } else { format!("[{}]", self.db) };
        let multi = if self.in_multi { "(TX)" } else { "" };
        format!("{host}:{}{db}{multi}> ", self.options.port)
    }

    /// What the node itself says about a command.
    fn help(&mut self, topic: Option<Vec<u8>>) -> Done {
        let Some(topic) = topic else {
            return self.print(
                b"Type a command and its words, quoted where they hold blanks: SET greeting \"hello world\"\n\
                  \"help <command>\" explains a command, \"command list\" lists them all, \"quit\" ends.\n",
            );
        };
        self.send(&[b"COMMAND", &b"DOCS"[..], &topic])?;
        let answer = self.read()?;
        let found = doc_lines(&answer);
        let topic = String::from_utf8_lossy(&topic).into_owned();
        self.print(found.unwrap_or_else(|| format!("The node knows no command named {topic}.\n")).as_bytes())
    }
}

/// Connects to the first address of the name that answers.
fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn next_line(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    match input.read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line),
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Empty,
    Quit,
    Invalid,
    Help(Option<Vec<u8>>),
    Command(Vec<Vec<u8>>),
}

fn parse(line: &[u8]) -> Line {
    let Some(words) = split_line(line) else { return Line::Invalid };
    let is = |word: &Vec<u8>, text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    match &words[..] {
        [] => Line::Empty,
        [word, ..] if is(word, "quit") || is(word, "exit") => Line::Quit,
        [word] if is(word, "help") => Line::Help(None),
        [word, topic, ..] if is(word, "help") => Line::Help(Some(topic.clone())),
        _ => Line::Command(words),
    }
}

fn is_subscription(name: &str) -> bool {
    matches!(name, "subscribe" | "psubscribe" | "ssubscribe")
}

/// Whether a command answers text for people, printed as it is.
fn answers_text(words: &[Vec<u8>]) -> bool {
    let word = |at: usize, text: &str| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(text.as_bytes()));
    word(0, "info")
        || word(0, "client") && (word(1, "list") || word(1, "info"))
        || word(0, "cluster") && (word(1, "nodes") || word(1, "info"))
}

/// The answer of COMMAND DOCS as lines for people; `None` if it explains nothing.
fn doc_lines(answer: &Value) -> Option<String> {
    let pairs = |value: &Value| -> Vec<(Value, Value)> {
        match value {
            Value::Map(pairs) => pairs.clone(),
            Value::Array(values) => values.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
            _ => Vec::new(),
        }
    };
    let text = |value: &Value| match value {
        Value::Bulk(text) | Value::Simple(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    let (name, about) = pairs(answer).into_iter().next()?;
    let mut lines = format!("\n  {}\n", text(&name).to_ascii_uppercase());
    for (field, value) in pairs(&about) {
        if matches!(text(&field).as_str(), "summary" | "since" | "group") {
            lines.push_str(&format!("  {}: {}\n", text(&field), text(&value)));
        }
    }
    Some(lines + "\n")
}

/// Writes an answer as redis-cli does at a terminal. Every line but the first begins with `indent`.
fn write_pretty(value: &Value, indent: &str, text: &mut Vec<u8>) {
    match value {
        Value::Error(error) => line(text, &[b"(error) ", error]),
        Value::Simple(status) => line(text, &[status]),
        Value::Int(number) => line(text, &[format!("(integer) {number}").as_bytes()]),
        Value::Double(number) => line(text, &[b"(double) ", number]),
        Value::Big(number) => line(text, &[b"(big number) ", number]),
        Value::Verbatim(bytes) => line(text, &[bytes]),
        Value::Bulk(bytes) => {
            quote(bytes, text);
            text.push(b'\n');
        }
        Value::Null => line(text, &[b"(nil)"]),
        Value::Bool(truth) => line(text, &[if *truth { b"(true)" } else { b"(false)" }]),
        Value::Array(values) => write_items(values, "array", ')', indent, text),
        Value::Push(values) => write_items(values, "push", ')', indent, text),
        Value::Set(values) => write_items(values, "set", '~', indent, text),
        Value::Map(pairs) if pairs.is_empty() => line(text, &[b"(empty hash)"]),
        Value::Map(pairs) => {
            let width = pairs.len().to_string().len();
            let inner = format!("{indent}{:1$}", "", width + 2);
            for (at, (key, value)) in pairs.iter().enumerate() {
                write_number(at, width, '#', indent, text);
                write_pretty(key, &inner, text);
                text.pop();
                text.extend_from_slice(b" => ");
                if is_many_lines(value) {
                    text.push(b'\n');
                    text.extend_from_slice(inner.as_bytes());
                }
                write_pretty(value, &inner, text);
            }
        }
    }
}

fn line(text: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| text.extend_from_slice(part));
    text.push(b'\n');
}

fn write_items(values: &[Value], kind: &str, mark: char, indent: &str, text: &mut Vec<u8>) {
    if values.is_empty() {
        return line(text, &[format!("(empty {kind})").as_bytes()]);
    }
    let width = values.len().to_string().len();
    let inner = format!("{indent}{:1$}", "", width + 2);
    for (at, value) in values.iter().enumerate() {
        write_number(at, width, mark, indent, text);
        write_pretty(value, &inner, text);
    }
}

/// The number in front of an element; the first one's indent stands there already.
fn write_number(at: usize, width: usize, mark: char, indent: &str, text: &mut Vec<u8>) {
    let indent = if at == 0 { "" } else { indent };
    text.extend_from_slice(format!("{indent}{:width$}{mark} ", at + 1).as_bytes());
}

fn is_many_lines(value: &Value) -> bool {
    match value {
        Value::Array(values) | Value::Set(values) | Value::Push(values) => match &values[..] {
            [] => false,
            [one] => is_many_lines(one),
            _ => true,
        },
        Value::Map(pairs) => match &pairs[..] {
            [] => false,
            [(_, one)] => is_many_lines(one),
            _ => true,
        },
        _ => false,
    }
}

/// A byte string in quotes, so that a terminal shows what it is and not what it does.
fn quote(bytes: &[u8], text: &mut Vec<u8>) {
    text.push(b'"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            0x07 => text.extend_from_slice(b"\\a"),
            0x08 => text.extend_from_slice(b"\\b"),
            b' '..=b'~' => text.push(*byte),
            _ => text.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    text.push(b'"');
}

/// Writes an answer as redis-cli does into a pipe: the bytes as they are, a line for each element.
fn write_raw(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Error(error) => line(text, &[error]),
        Value::Simple(bytes)
        | Value::Bulk(bytes)
        | Value::Verbatim(bytes)
        | Value::Double(bytes)
        | Value::Big(bytes) => {
            text.extend_from_slice(bytes);
        }
        Value::Int(number) => text.extend_from_slice(number.to_string().as_bytes()),
        Value::Bool(truth) => text.extend_from_slice(if *truth { b"(true)" } else { b"(false)" }),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.push(b'\n');
                }
                write_raw(value, text);
            }
        }
        Value::Map(pairs) => {
            for (at, (key, value)) in pairs.iter().enumerate() {
                if at > 0 {
                    text.push(b'\n');
                }
                write_raw(key, text);
                text.push(b' ');
                write_raw(value, text);
            }
        }
    }
}

#[cfg(test)]
mod tests;

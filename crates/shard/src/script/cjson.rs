//! `cjson`: JSON as lua-cjson 2.1 writes and reads it (<https://github.com/mpx/lua-cjson>, Redis's copy), error texts included.
//! Settings hold for one run of one script.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::number;
use super::sandbox::{Host, as_number, bad_argument, fail, number as number_argument, string, type_name};

/// Deeper than this our own stack would end, whatever a script sets.
const DEPTH_MAX: usize = 1000;

#[derive(Clone)]
struct Settings {
    sparse_convert: bool,
    sparse_ratio: f64,
    sparse_safe: f64,
    encode_depth_max: usize,
    decode_depth_max: usize,
    /// 0 refuses, 1 writes them, 2 writes null.
    encode_invalid: u8,
    decode_invalid: bool,
    keep_buffer: bool,
    precision: usize,
}

/// The library's table.
pub(super) fn library(lua: &Lua, host: &Host) -> mlua::Result<Table> {
    let settings = Rc::new(RefCell::new(Settings {
        sparse_convert: false,
        sparse_ratio: 2.0,
        sparse_safe: 10.0,
        encode_depth_max: DEPTH_MAX,
        decode_depth_max: DEPTH_MAX,
        encode_invalid: 0,
        decode_invalid: true,
        keep_buffer: true,
        precision: 14,
    }));
    let table = lua.create_table()?;
    let (own, shared) = (host.clone(), settings.clone());
    table.raw_set(
        "encode",
        lua.create_function(move |lua, args: MultiValue| {
            if args.len() != 1 {
                return Err(bad_argument(lua, 1, "encode", "expected 1 argument"));
            }
            let settings = shared.borrow().clone();
            let mut encoder = Encoder { lua, host: &own, settings, out: Vec::new() };
            encoder.value(&args[0], 0)?;
            lua.create_string(encoder.out)
        })?,
    )?;
    let (own, shared) = (host.clone(), settings.clone());
    table.raw_set(
        "decode",
        lua.create_function(move |lua, args: MultiValue| {
            if args.len() != 1 {
                return Err(bad_argument(lua, 1, "decode", "expected 1 argument"));
            }
            let text = string(lua, &args, 0, "decode")?;
            let text = text.as_bytes();
            own.meter.charge_bytes(text.len() * 8)?;
            own.meter.absorb(lua)?;
            let value = decode(lua, &text, shared.borrow().clone())?;
            own.meter.absorb(lua)?;
            Ok(value)
        })?,
    )?;
    table.raw_set("null", Value::NULL)?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    let again = host.clone();
    table.raw_set("new", lua.create_function(move |lua, ()| library(lua, &again))?)?;
    setters(lua, &table, &settings, host)?;
    Ok(table)
}

/// A setting that is a whole number: its name, its place, its largest value.
type Depth = (&'static str, fn(&mut Settings) -> &mut usize, f64);

// Settings end a warm run, as the library outlives it.
fn setters(lua: &Lua, table: &Table, settings: &Rc<RefCell<Settings>>, host: &Host) -> mlua::Result<()> {
    let depths: [Depth; 3] = [
        ("encode_max_depth", |settings| &mut settings.encode_depth_max, i32::MAX as f64),
        ("decode_max_depth", |settings| &mut settings.decode_depth_max, i32::MAX as f64),
        ("encode_number_precision", |settings| &mut settings.precision, 14.0),
    ];
    for (name, field, most) in depths {
        let (settings, meter) = (settings.clone(), host.meter.clone());
        let function = lua.create_function(move |lua, args: MultiValue| {
            meter.only_cold()?;
            let mut settings = settings.borrow_mut();
            if let Some(value) = whole(lua, &args, 0, name, 1.0, most)? {
                *field(&mut settings) = value as usize;
            }
            Ok(*field(&mut settings) as f64)
        })?;
        table.raw_set(name, function)?;
    }
    let (shared, meter) = (settings.clone(), host.meter.clone());
    let sparse = lua.create_function(move |lua, args: MultiValue| {
        meter.only_cold()?;
        let mut settings = shared.borrow_mut();
        if let Some(value) = args.front().filter(|value| !value.is_nil()) {
            settings.sparse_convert = matches!(value, Value::Boolean(true));
        }
        if let Some(value) = whole(lua, &args, 1, "encode_sparse_array", 0.0, i32::MAX as f64)? {
            settings.sparse_ratio = value;
        }
        if let Some(value) = whole(lua, &args, 2, "encode_sparse_array", 0.0, i32::MAX as f64)? {
            settings.sparse_safe = value;
        }
        Ok((settings.sparse_convert, settings.sparse_ratio, settings.sparse_safe))
    })?;
    table.raw_set("encode_sparse_array", sparse)?;
    let switch = |value: Option<&Value>| match value {
        Some(Value::Boolean(value)) => Some(u8::from(*value)),
        Some(Value::String(text)) => match &*text.as_bytes() {
            b"on" => Some(1),
            b"off" => Some(0),
            b"null" => Some(2),
            _ => None,
        },
        _ => None,
    };
    let (shared, meter) = (settings.clone(), host.meter.clone());
    let keep = lua.create_function(move |_, args: MultiValue| {
        meter.only_cold()?;
        let mut settings = shared.borrow_mut();
        settings.keep_buffer = switch(args.front()).map_or(settings.keep_buffer, |value| value == 1);
        Ok(settings.keep_buffer)
    })?;
    table.raw_set("encode_keep_buffer", keep)?;
    let (shared, meter) = (settings.clone(), host.meter.clone());
    let invalid = lua.create_function(move |lua, args: MultiValue| {
        meter.only_cold()?;
        let mut settings = shared.borrow_mut();
        settings.encode_invalid = switch(args.front()).unwrap_or(settings.encode_invalid);
        match settings.encode_invalid {
            2 => Ok(Value::String(lua.create_string("null")?)),
            value => Ok(Value::Boolean(value == 1)),
        }
    })?;
    table.raw_set("encode_invalid_numbers", invalid)?;
    let (shared, meter) = (settings.clone(), host.meter.clone());
    let invalid = lua.create_function(move |_, args: MultiValue| {
        meter.only_cold()?;
        let mut settings = shared.borrow_mut();
        settings.decode_invalid = switch(args.front()).map_or(settings.decode_invalid, |value| value == 1);
        Ok(settings.decode_invalid)
    })?;
    table.raw_set("decode_invalid_numbers", invalid)
}

fn whole(
    lua: &Lua,
    args: &MultiValue,
    place: usize,
    function: &str,
    least: f64,
    most: f64,
) -> mlua::Result<Option<f64>> {
    if args.get(place).is_none_or(Value::is_nil) {
        return Ok(None);
    }
    let value = number_argument(lua, args, place, function)?.trunc();
    if !(least..=most).contains(&value) {
        return Err(bad_argument(lua, 1, function, format!("expected integer between {least} and {most}")));
    }
    Ok(Some(value))
}

struct Encoder<'a> {
    lua: &'a Lua,
    host: &'a Host,
    settings: Settings,
    out: Vec<u8>,
}

impl Encoder<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        self.host.meter.charge(4)?;
        if self.out.len() > self.host.bytes_max {
            return Err(mlua::Error::MemoryError("not enough memory".into()));
        }
        match value {
            Value::String(text) => self.text(&text.as_bytes())?,
            Value::Integer(_) | Value::Number(_) => self.number(value)?,
            Value::Boolean(value) => self.out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Value::Nil => self.out.extend_from_slice(b"null"),
            Value::LightUserData(pointer) if pointer.0.is_null() => self.out.extend_from_slice(b"null"),
            Value::Table(table) => {
                let depth = depth + 1;
                if depth > self.settings.encode_depth_max.min(DEPTH_MAX) {
                    return Err(fail(self.lua, format!("Cannot serialise, excessive nesting ({depth})")));
                }
                match self.list_length(table)? {
                    Some(len) if len > 0 => self.list(table, len, depth)?,
                    _ => self.object(table, depth)?,
                }
            }
            _ => return Err(self.refuse(value, "type not supported")),
        }
        Ok(())
    }

    fn refuse(&self, value: &Value, reason: &str) -> mlua::Error {
        fail(self.lua, format!("Cannot serialise {}: {reason}", type_name(Some(value))))
    }

    fn text(&mut self, text: &[u8]) -> mlua::Result<()> {
        self.host.meter.charge_bytes(text.len())?;
        self.out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' | b'/' => self.out.extend([b'\\', *byte]),
                8 => self.out.extend(b"\\b"),
                9 => self.out.extend(b"\\t"),
                10 => self.out.extend(b"\\n"),
                12 => self.out.extend(b"\\f"),
                13 => self.out.extend(b"\\r"),
                0..32 | 127 => self.out.extend(format!("\\u{byte:04x}").as_bytes()),
                _ => self.out.push(*byte),
            }
        }
        self.out.push(b'"');
        Ok(())
    }

    fn number(&mut self, value: &Value) -> mlua::Result<()> {
        let number = as_number(Some(value)).expect("the caller saw a number");
        if !number.is_finite() {
            match self.settings.encode_invalid {
                0 => return Err(self.refuse(value, "must not be NaN or Inf")),
                1 if number.is_nan() => self.out.extend_from_slice(b"nan"),
                1 => self.out.extend_from_slice(number::text(number).as_bytes()),
                _ => self.out.extend_from_slice(b"null"),
            }
            return Ok(());
        }
        self.out.extend_from_slice(number::general(number, self.settings.precision).as_bytes());
        Ok(())
    }

    /// The length of a table that is a list, holes allowed; `None` where it is an object.
    fn list_length(&mut self, table: &Table) -> mlua::Result<Option<usize>> {
        let (mut largest, mut items, mut list) = (0.0f64, 0.0, true);
        let mut visited = 0;
        table.for_each(|key: Value, _: Value| {
            visited += 1;
            match as_number(Some(&key)).filter(|_| !matches!(key, Value::String(_))) {
                Some(key) if key.floor() == key && key >= 1.0 => {
                    largest = largest.max(key);
                    items += 1.0;
                }
                _ => list = false,
            }
            Ok(())
        })?;
        self.host.meter.charge(visited)?;
        if !list {
            return Ok(None);
        }
        let sparse = self.settings.sparse_ratio > 0.0
            && largest > items * self.settings.sparse_ratio
            && largest > self.settings.sparse_safe;
        if sparse && !self.settings.sparse_convert {
            return Err(fail(self.lua, "Cannot serialise table: excessively sparse array"));
        }
        Ok((!sparse).then_some(largest as usize))
    }

    fn list(&mut self, table: &Table, len: usize, depth: usize) -> mlua::Result<()> {
        self.out.push(b'[');
        for place in 1..=len {
            if place > 1 {
                self.out.push(b',');
            }
            self.value(&table.raw_get(place)?, depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        self.out.push(b'{');
        for (place, pair) in table.pairs::<Value, Value>().enumerate() {
            let (key, value) = pair?;
            if place > 0 {
                self.out.push(b',');
            }
            match &key {
                Value::String(text) => self.text(&text.as_bytes())?,
                Value::Integer(_) | Value::Number(_) => {
                    self.out.push(b'"');
                    self.number(&key)?;
                    self.out.push(b'"');
                }
                other => return Err(self.refuse(other, "table key must be a number or string")),
            }
            self.out.push(b':');
            self.value(&value, depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ListBegin,
    ListEnd,
    Colon,
    Comma,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    Wrong(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ListBegin => "T_ARR_BEGIN",
            Token::ListEnd => "T_ARR_END",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::Text(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::End => "T_END",
            Token::Wrong(text) => text,
        }
    }
}

struct Decoder<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    /// Where the last token began.
    begun: usize,
    depth: usize,
    settings: Settings,
}

fn decode(lua: &Lua, text: &[u8], settings: Settings) -> mlua::Result<Value> {
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(fail(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut decoder = Decoder { lua, text, at: 0, begun: 0, depth: 0, settings };
    let token = decoder.next();
    let value = decoder.value(token)?;
    match decoder.next() {
        Token::End => Ok(value),
        token => Err(decoder.wrong("the end", &token)),
    }
}

impl Decoder<'_> {
    fn wrong(&self, expected: &str, found: &Token) -> mlua::Error {
        let at = self.begun + 1;
        fail(self.lua, format!("Expected {expected} but found {} at character {at}", found.name()))
    }

    fn value(&mut self, token: Token) -> mlua::Result<Value> {
        Ok(match token {
            Token::Text(text) => Value::String(self.lua.create_string(text)?),
            Token::Number(number) => Value::Number(number),
            Token::Boolean(value) => Value::Boolean(value),
            Token::Null => Value::NULL,
            Token::ObjectBegin => self.nested(Decoder::object)?,
            Token::ListBegin => self.nested(Decoder::list)?,
            token => return Err(self.wrong("value", &token)),
        })
    }

    fn nested(&mut self, read: fn(&mut Self, &Table) -> mlua::Result<()>) -> mlua::Result<Value> {
        self.depth += 1;
        if self.depth > self.settings.decode_depth_max.min(DEPTH_MAX) {
            let (depth, at) = (self.depth, self.at);
            let text = format!("Found too many nested data structures ({depth}) at character {at}");
            return Err(fail(self.lua, text));
        }
        let table = self.lua.create_table()?;
        read(self, &table)?;
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn object(&mut self, table: &Table) -> mlua::Result<()> {
        let mut token = self.next();
        if token == Token::ObjectEnd {
            return Ok(());
        }
        loop {
            let Token::Text(key) = token else {
                return Err(self.wrong("object key string", &token));
            };
            let key = self.lua.create_string(key)?;
            match self.next() {
                Token::Colon => {}
                token => return Err(self.wrong("colon", &token)),
            }
            let first = self.next();
            table.raw_set(key, self.value(first)?)?;
            match self.next() {
                Token::ObjectEnd => return Ok(()),
                Token::Comma => token = self.next(),
                token => return Err(self.wrong("comma or object end", &token)),
            }
        }
    }

    fn list(&mut self, table: &Table) -> mlua::Result<()> {
        let mut token = self.next();
        if token == Token::ListEnd {
            return Ok(());
        }
        for place in 1.. {
            table.raw_set(place, self.value(token)?)?;
            match self.next() {
                Token::ListEnd => return Ok(()),
                Token::Comma => token = self.next(),
                token => return Err(self.wrong("comma or array end", &token)),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Token {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.begun = self.at;
        let rest = &self.text[self.at..];
        let Some(first) = rest.first() else {
            return Token::End;
        };
        let (token, len) = match first {
            b'{' => (Token::ObjectBegin, 1),
            b'}' => (Token::ObjectEnd, 1),
            b'[' => (Token::ListBegin, 1),
            b']' => (Token::ListEnd, 1),
            b':' => (Token::Colon, 1),
            b',' => (Token::Comma, 1),
            0 => (Token::End, 0),
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => return self.number(),
            _ if rest.starts_with(b"true") => (Token::Boolean(true), 4),
            _ if rest.starts_with(b"false") => (Token::Boolean(false), 5),
            _ if rest.starts_with(b"null") => (Token::Null, 4),
            b'+' | b'i' | b'I' | b'n' | b'N' if self.settings.decode_invalid && is_invalid_number(rest) => {
                return self.number();
            }
            _ => (Token::Wrong("invalid token"), 0),
        };
        self.at += len;
        token
    }

    fn number(&mut self) -> Token {
        let rest = &self.text[self.at..];
        if !self.settings.decode_invalid && is_invalid_number(rest) {
            return Token::Wrong("invalid number");
        }
        match number::prefix(rest) {
            Some((value, len)) => {
                self.at += len;
                Token::Number(value)
            }
            None => Token::Wrong("invalid number"),
        }
    }

    fn string(&mut self) -> Token {
        let mut out = Vec::new();
        let mut at = self.at + 1;
        loop {
            match self.text.get(at) {
                None => return self.broken(at, "unexpected end of string"),
                Some(b'"') => break,
                Some(b'\\') => match self.text.get(at + 1) {
                    Some(b'u') => match self.unicode(at, &mut out) {
                        Some(len) => at += len,
                        None => return self.broken(at, "invalid unicode escape code"),
                    },
                    Some(letter) => {
                        let byte = match letter {
                            b'"' | b'\\' | b'/' => *letter,
                            b'b' => 8,
                            b't' => 9,
                            b'n' => 10,
                            b'f' => 12,
                            b'r' => 13,
                            _ => return self.broken(at, "invalid escape code"),
                        };
                        out.push(byte);
                        at += 2;
                    }
                    None => return self.broken(at, "invalid escape code"),
                },
                Some(0) if at + 1 >= self.text.len() => return self.broken(at, "unexpected end of string"),
                Some(byte) => {
                    out.push(*byte);
                    at += 1;
                }
            }
        }
        self.at = at + 1;
        Token::Text(out)
    }

    fn broken(&mut self, at: usize, text: &'static str) -> Token {
        self.begun = at;
        Token::Wrong(text)
    }

    /// Reads `\uXXXX` (or a pair of surrogates) at `at`, writes UTF-8; returns how much was read.
    fn unicode(&self, at: usize, out: &mut Vec<u8>) -> Option<usize> {
        let unit = |at: usize| -> Option<u32> {
            let text = self.text.get(at..at + 6)?;
            if !text.starts_with(b"\\u") {
                return None;
            }
            text[2..].iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
        };
        let first = unit(at)?;
        let (code, len) = match first {
            0xDC00..=0xDFFF => return None,
            0xD800..=0xDBFF => match unit(at + 6)? {
                second @ 0xDC00..=0xDFFF => (0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF), 12),
                _ => return None,
            },
            code => (code, 6),
        };
        let mut buffer = [0; 4];
        out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
        Some(len)
    }
}

/// Numbers that C reads but JSON has not: a leading `+`, hexadecimal, leading zeros, `inf`, `nan`.
fn is_invalid_number(text: &[u8]) -> bool {
    let text = match text.first() {
        Some(b'+') => return true,
        Some(b'-') => &text[1..],
        _ => text,
    };
    let starts = |word: &[u8]| text.len() >= word.len() && text[..word.len()].eq_ignore_ascii_case(word);
    match text.first() {
        Some(b'0') => matches!(text.get(1), Some(b'x' | b'X' | b'0'..=b'9')),
        Some(digit) if digit.is_ascii_digit() => false,
        _ => starts(b"inf") || starts(b"nan"),
    }
}

//! Answers of commands as Lua values, and Lua values as answers
//! (<https://redis.io/docs/latest/develop/programmability/lua-api/>, "data type conversion").

use mlua::{Lua, MultiValue, Table, Value};
use smallvec::SmallVec;

use super::number;
use super::sandbox::{Host, type_name};
use super::session::{self, Session};
use crate::reply::{Reply, format_f64};

/// What a command costs beyond its bytes, in instructions.
const COMMAND_COST: u64 = 100;
/// Answers that a warm run remembers for a cold one, bytes.
const REMEMBERED_BYTES_MAX: usize = 256 << 10;
/// How deeply an answer may nest.
const DEPTH_MAX: usize = 200;

/// An error that is one line of an answer: scripts see it as a table with the field `err`.
#[derive(Debug)]
pub struct Line {
    text: Vec<u8>,
    /// Whether it came out of a command: Redis marks those.
    from_command: bool,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

impl std::error::Error for Line {}

impl Line {
    /// The words, code first.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// What `pcall` shows.
    pub fn table(&self, lua: &Lua) -> mlua::Result<Value> {
        error_table(lua, &self.text, self.from_command)
    }
}

/// Raises such an error.
pub fn raise(text: impl Into<Vec<u8>>) -> mlua::Error {
    mlua::Error::external(Line { text: text.into(), from_command: false })
}

/// `redis.call`.
pub fn call(lua: &Lua, host: &Host, session: &mut Session<'_, '_>, args: &MultiValue) -> mlua::Result<Value> {
    let answer = perform(lua, host, session, args)?.map_err(raise)?;
    match answer.strip_prefix(b"-") {
        Some(line) => {
            let text = with_code(line);
            Err(mlua::Error::external(Line { text, from_command: true }))
        }
        None => value_of(lua, host, answer),
    }
}

fn value_of(lua: &Lua, host: &Host, answer: &[u8]) -> mlua::Result<Value> {
    let meter = &host.meter;
    meter.absorb(lua)?;
    let value = if meter.is_warm() && answer.len() <= REMEMBERED_BYTES_MAX {
        // What it takes is known; without a limit mlua need not guard every step.
        let limit = lua.set_memory_limit(0)?;
        let value = from_reply(lua, &mut &answer[..]);
        lua.set_memory_limit(limit)?;
        value?
    } else {
        from_reply(lua, &mut &answer[..])?
    };
    if let Value::String(_) = value {
        meter.note_string(answer.len());
    }
    meter.absorb(lua)?;
    Ok(value)
}

/// `redis.pcall`.
pub fn protected(lua: &Lua, host: &Host, session: &mut Session<'_, '_>, args: &MultiValue) -> mlua::Result<Value> {
    match perform(lua, host, session, args)? {
        Ok(answer) => value_of(lua, host, answer),
        Err(text) => error_table(lua, text.as_bytes(), false),
    }
}

/// The answer of a command, or what is wrong with its words.
fn perform<'a>(
    lua: &Lua,
    host: &Host,
    session: &'a mut Session<'_, '_>,
    args: &MultiValue,
) -> mlua::Result<Result<&'a [u8], &'static str>> {
    let size = |value: &Value| if let Value::String(text) = value { text.as_bytes().len() } else { 24 };
    let bytes: usize = args.iter().map(size).sum();
    let meter = &host.meter;
    meter.check(lua)?;
    meter.charge(COMMAND_COST)?;
    meter.charge_bytes(bytes)?;
    if bytes > session.command_bytes_max() {
        return Ok(Err("ERR Command exceeds the limit of its size (limit command_bytes_max)"));
    }
    let words = match words(args) {
        Ok(words) => words,
        Err(text) => return Ok(Err(text)),
    };
    let words: SmallVec<[&[u8]; 8]> = words.iter().map(Word::bytes).collect();
    if session.remembered() > REMEMBERED_BYTES_MAX {
        meter.only_cold()?;
    }
    let answer = session.call(&words, host.protocol.get());
    meter.charge_bytes(answer.len())?;
    Ok(Ok(answer))
}

/// `redis.acl_check_cmd`: everybody who may run a script may call what scripts may call.
pub fn known(args: &MultiValue) -> mlua::Result<bool> {
    let words = words(args).map_err(raise)?;
    if session::is_known(words[0].bytes()) {
        Ok(true)
    } else {
        Err(raise("ERR Invalid command passed to redis.acl_check_cmd()"))
    }
}

/// One of a command's.
enum Word {
    Text(mlua::BorrowedBytes),
    Number(String),
}

impl Word {
    fn bytes(&self) -> &[u8] {
        match self {
            Word::Text(text) => text,
            Word::Number(text) => text.as_bytes(),
        }
    }
}

fn words(args: &MultiValue) -> Result<SmallVec<[Word; 8]>, &'static str> {
    if args.is_empty() {
        return Err("ERR Please specify at least one argument for this redis lib call");
    }
    let word = |value: &Value| match value {
        Value::String(text) => Some(Word::Text(text.as_bytes())),
        Value::Integer(value) => Some(Word::Number(value.to_string())),
        Value::Number(value) => Some(Word::Number(argument(*value))),
        _ => None,
    };
    args.iter()
        .map(word)
        .collect::<Option<SmallVec<_>>>()
        .ok_or("ERR Lua redis lib command arguments must be strings or integers")
}

/// A number as a command's argument: whole ones without an exponent, others in the shortest form.
fn argument(value: f64) -> String {
    const BOUND: f64 = (i64::MAX / 2) as f64;
    if value.trunc() == value && (-BOUND..=BOUND).contains(&value) {
        return (value as i64).to_string();
    }
    format_f64(value)
}

/// Redis's rule: an error is a code and a text; where there is one word only, the code is ERR.
pub fn with_code(line: &[u8]) -> Vec<u8> {
    let end = line.iter().rposition(|byte| *byte != b'\r' && *byte != b'\n').map_or(0, |end| end + 1);
    let line = &line[..end];
    if line.contains(&b' ') { line.to_vec() } else { [b"ERR ", line].concat() }
}

fn error_table(lua: &Lua, text: &[u8], counted: bool) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("err", lua.create_string(text)?)?;
    if counted {
        table.raw_set("ignore_error_stats_update", true)?;
    }
    Ok(Value::Table(table))
}

fn field(lua: &Lua, name: &str, value: Value) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

/// The next value of an answer that this node has written: well formed by construction.
fn from_reply(lua: &Lua, rest: &mut &[u8]) -> mlua::Result<Value> {
    let end = rest.iter().position(|byte| *byte == b'\r').unwrap_or(rest.len());
    let (mark, line) = rest[..end].split_first().map_or((b'_', &b""[..]), |(mark, line)| (*mark, line));
    *rest = rest.get(end + 2..).unwrap_or_default();
    let count = || base::parse_i64(line).unwrap_or(0);
    Ok(match mark {
        b'+' => field(lua, "ok", Value::String(lua.create_string(line)?))?,
        b'-' => error_table(lua, &with_code(line), true)?,
        b':' => Value::Number(count() as f64),
        b'_' => Value::Nil,
        b'#' => Value::Boolean(line == b"t"),
        b',' => field(lua, "double", Value::Number(number::parse(line).unwrap_or(f64::NAN)))?,
        b'(' => field(lua, "big_number", Value::String(lua.create_string(line)?))?,
        b'$' | b'*' if count() < 0 => Value::Boolean(false),
        b'$' => Value::String(lua.create_string(take(rest, count() as usize))?),
        b'=' => {
            let text = take(rest, count() as usize);
            let verbatim = lua.create_table()?;
            verbatim.raw_set("string", lua.create_string(text.get(4..).unwrap_or_default())?)?;
            verbatim.raw_set("format", lua.create_string(text.get(..3).unwrap_or_default())?)?;
            field(lua, "verbatim_string", Value::Table(verbatim))?
        }
        b'%' => {
            let pairs = lua.create_table()?;
            for _ in 0..count() {
                let key = from_reply(lua, rest)?;
                let value = from_reply(lua, rest)?;
                pairs.raw_set(key, value)?;
            }
            field(lua, "map", Value::Table(pairs))?
        }
        b'~' => {
            let members = lua.create_table()?;
            for _ in 0..count() {
                let member = from_reply(lua, rest)?;
                members.raw_set(member, true)?;
            }
            field(lua, "set", Value::Table(members))?
        }
        b'|' => {
            for _ in 0..2 * count() {
                from_reply(lua, rest)?;
            }
            from_reply(lua, rest)?
        }
        _ => {
            let list = lua.create_table_with_capacity(count().clamp(0, 1 << 20) as usize, 0)?;
            for place in 1..=count() {
                let value = from_reply(lua, rest)?;
                list.raw_set(place, value)?;
            }
            Value::Table(list)
        }
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (text, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
    *rest = after.get(2..).unwrap_or_default();
    text
}

/// Whether a key's place in a table follows its address, which differs between replicas.
pub fn has_no_order(key: &Value) -> bool {
    !matches!(
        key,
        Value::String(_) | Value::Integer(_) | Value::Number(_) | Value::Boolean(_) | Value::LightUserData(_)
    )
}

/// Writes an error whose words are bytes.
pub fn error_line(reply: &mut Reply, text: &[u8]) {
    reply.bytes.push(b'-');
    reply.bytes.extend(text.iter().map(one_line));
    reply.bytes.extend_from_slice(b"\r\n");
}

fn one_line(byte: &u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }
}

/// Writes what a script returned. An error is what the client gets instead of it.
pub fn answer(host: &Host, value: &Value, resp3: bool, reply: &mut Reply) -> Result<(), String> {
    let limit = reply.bytes.len() + 2 * host.bytes_max;
    Answer { host, resp3, limit }.write(value, reply, 0)
}

struct Answer<'a> {
    host: &'a Host,
    resp3: bool,
    limit: usize,
}

impl Answer<'_> {
    fn write(&self, value: &Value, reply: &mut Reply, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("ERR reached lua stack limit".into());
        }
        if reply.bytes.len() > self.limit || self.host.meter.charge(1).is_err() {
            return Err("ERR Script's answer is too large".into());
        }
        match value {
            Value::String(text) => reply.bulk(&text.as_bytes()),
            Value::Boolean(value) if self.resp3 => reply.bool(*value),
            Value::Boolean(true) => reply.int(1),
            Value::Integer(value) => reply.int(*value),
            Value::Number(value) => reply.int(truncated(*value)),
            Value::Table(table) => self.table(table, reply, depth).map_err(|error| match error {
                mlua::Error::RuntimeError(text) => text,
                other => format!("ERR {other}"),
            })?,
            _ => reply.null(),
        }
        Ok(())
    }

    fn table(&self, table: &Table, reply: &mut Reply, depth: usize) -> mlua::Result<()> {
        let inner =
            |value: &Value, reply: &mut Reply| self.write(value, reply, depth + 1).map_err(mlua::Error::RuntimeError);
        if let Value::String(text) = table.raw_get("err")? {
            error_line(reply, &text.as_bytes());
            return Ok(());
        }
        if let Value::String(text) = table.raw_get("ok")? {
            reply.bytes.push(b'+');
            reply.bytes.extend(text.as_bytes().iter().map(one_line));
            reply.bytes.extend_from_slice(b"\r\n");
            return Ok(());
        }
        match table.raw_get("double")? {
            Value::Number(value) => {
                reply.double(value);
                return Ok(());
            }
            Value::Integer(value) => {
                reply.double(value as f64);
                return Ok(());
            }
            _ => {}
        }
        if let Value::String(text) = table.raw_get("big_number")? {
            let line: Vec<u8> = text.as_bytes().iter().map(one_line).collect();
            if reply.is_resp3() {
                reply.bytes.push(b'(');
                reply.bytes.extend_from_slice(&line);
                reply.bytes.extend_from_slice(b"\r\n");
            } else {
                reply.bulk(&line);
            }
            return Ok(());
        }
        if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
            && let (Value::String(format), Value::String(text)) =
                (verbatim.raw_get("format")?, verbatim.raw_get("string")?)
        {
            let format: String = format.to_string_lossy().chars().filter(char::is_ascii_graphic).take(3).collect();
            reply.verbatim(&format!("{format:<3}"), &text.as_bytes());
            return Ok(());
        }
        if let Value::Table(pairs) = table.raw_get("map")? {
            let pairs = ordered(&pairs)?;
            reply.map(pairs.len());
            for (key, value) in &pairs {
                inner(key, reply)?;
                inner(value, reply)?;
            }
            return Ok(());
        }
        if let Value::Table(members) = table.raw_get("set")? {
            let members = ordered(&members)?;
            reply.set(members.len());
            return members.iter().try_for_each(|(member, _)| inner(member, reply));
        }
        let begun = reply.begin_array();
        let mut count = 0;
        loop {
            let value: Value = table.raw_get(count + 1)?;
            if value.is_nil() {
                break;
            }
            inner(&value, reply)?;
            count += 1;
        }
        reply.end_array(begun, count);
        Ok(())
    }
}

/// A table's pairs, where their order is the same on every replica.
pub fn ordered(table: &Table) -> mlua::Result<Vec<(Value, Value)>> {
    let pairs = table.pairs::<Value, Value>().collect::<mlua::Result<Vec<_>>>()?;
    match pairs.iter().find(|(key, _)| has_no_order(key)) {
        Some((key, _)) => Err(mlua::Error::RuntimeError(format!(
            "ERR Script returned a table with a {} as key, which has no order that is the same on every replica",
            type_name(Some(key))
        ))),
        None => Ok(pairs),
    }
}

/// C's cast of a double to a long long on x86: what does not fit becomes the smallest.
fn truncated(value: f64) -> i64 {
    if value.is_nan() || !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        return i64::MIN;
    }
    value as i64
}

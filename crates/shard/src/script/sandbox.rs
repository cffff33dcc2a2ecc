//! The interpreter around one script: what it may see, and how its end becomes an answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::OnceLock;

use base::Limits;
use mlua::chunk::ChunkMode;
use mlua::{Error, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value};

use super::meter::{Meter, TICK};
use super::session::Session;
use super::{Script, bit, cjson, cmsgpack, convert, number, pattern, sha1, structs};
use crate::command::Writing;
use crate::error::CommandError;
use crate::reply::Reply;

/// Chunk names as Redis shows them in errors.
const USER: &str = "@user_script";
const PRELUDE: &str = "@prelude";

/// What every library function needs.
#[derive(Clone)]
pub(super) struct Host {
    pub meter: Rc<Meter>,
    /// Most bytes that a library may build outside of the interpreter's memory.
    pub bytes_max: usize,
}

/// An error that names where in the script it happened, as Lua's own library errors do.
pub(super) fn fail(lua: &Lua, text: impl std::fmt::Display) -> Error {
    Error::RuntimeError(match position(lua, true) {
        Some((source, line)) => format!("{source}:{line}: {text}"),
        None => text.to_string(),
    })
}

/// `bad argument #1 to 'f' (…)`.
pub(super) fn bad_argument(lua: &Lua, place: usize, function: &str, text: impl std::fmt::Display) -> Error {
    fail(lua, format!("bad argument #{place} to '{function}' ({text})"))
}

/// Lua's name of a value's type.
pub(super) fn type_name(value: Option<&Value>) -> &'static str {
    match value {
        None => "no value",
        Some(Value::Integer(_) | Value::Number(_)) => "number",
        Some(Value::LightUserData(_) | Value::UserData(_) | Value::Error(_)) => "userdata",
        Some(value) => value.type_name(),
    }
}

/// A string argument; numbers count as strings.
pub(super) fn string(lua: &Lua, args: &MultiValue, place: usize, function: &str) -> mlua::Result<mlua::LuaString> {
    match args.get(place) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Integer(_) | Value::Number(_)) => {
            lua.create_string(number::text(as_number(args.get(place)).expect("it is a number")))
        }
        other => Err(bad_argument(lua, place + 1, function, format!("string expected, got {}", type_name(other)))),
    }
}

/// A number, as `lua_tonumber` sees it: strings that read as one count.
pub(super) fn as_number(value: Option<&Value>) -> Option<f64> {
    match value {
        Some(Value::Integer(value)) => Some(*value as f64),
        Some(Value::Number(value)) => Some(*value),
        Some(Value::String(text)) => number::parse(&text.as_bytes()),
        _ => None,
    }
}

/// A number argument.
pub(super) fn number(lua: &Lua, args: &MultiValue, place: usize, function: &str) -> mlua::Result<f64> {
    as_number(args.get(place)).ok_or_else(|| {
        bad_argument(lua, place + 1, function, format!("number expected, got {}", type_name(args.get(place))))
    })
}

/// A number argument that may be absent or nil.
pub(super) fn optional(lua: &Lua, args: &MultiValue, place: usize, function: &str) -> mlua::Result<Option<f64>> {
    match args.get(place) {
        None | Some(Value::Nil) => Ok(None),
        Some(_) => number(lua, args, place, function).map(Some),
    }
}

/// The innermost frame of the user's code: its source (or how Lua shortens that), and its line.
fn position(lua: &Lua, shortened: bool) -> Option<(String, usize)> {
    for level in 0..200 {
        let frame = lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.source.unwrap_or_default();
            if source.what == "C" || source.what == "tail" || name == PRELUDE {
                return None;
            }
            let shown = if shortened { source.short_src.unwrap_or_default() } else { name };
            Some((shown.into_owned(), frame.current_line()))
        })?;
        if let Some((shown, line)) = frame {
            return line.map(|line| (shown, line));
        }
    }
    None
}

/// A library function of the prelude names itself as the place of its errors: takes that away.
fn without_prelude(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"prelude:")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b": ")
}

/// The words of an error that came out of Rust or out of Lua.
fn error_text(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } => error_text(cause),
        Error::WithContext { cause, .. } => error_text(cause),
        Error::RuntimeError(text) => text.clone(),
        Error::MemoryError(_) => "not enough memory".into(),
        other => other.to_string(),
    }
}

/// The line of an answer that an error is, if it is one.
fn answer_line(error: &Error) -> Option<&convert::Line> {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => answer_line(cause),
        Error::ExternalError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Compiles source to bytecode, in an interpreter of its own with the collector stopped (a collection while parsing is
/// what CVE-2025-49844 needed). Says what is wrong in Lua's words.
pub(super) fn compile(source: &[u8], limits: &Limits) -> Result<Vec<u8>, String> {
    if source.first() == Some(&0x1b) {
        return Err("user_script: bad binary format (bytecode is not accepted)".into());
    }
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).map_err(|error| error_text(&error))?;
    lua.gc_stop();
    lua.set_memory_limit(limits.script_memory_bytes_max).map_err(|error| error_text(&error))?;
    let function = load(&lua, source, USER)?;
    Ok(function.dump(false))
}

fn load(lua: &Lua, source: &[u8], name: &str) -> Result<Function, String> {
    lua.load(source).set_name(name).set_mode(ChunkMode::Text).into_function().map_err(|error| match error {
        Error::SyntaxError { message, .. } => message,
        other => error_text(&other),
    })
}

fn prelude() -> &'static [u8] {
    static BYTECODE: OnceLock<Vec<u8>> = OnceLock::new();
    BYTECODE.get_or_init(|| {
        let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).expect("an interpreter without libraries opens");
        load(&lua, include_bytes!("prelude.lua"), PRELUDE).expect("the prelude is Lua").dump(false)
    })
}

/// How a script that failed did so.
#[derive(Default)]
struct Failure {
    text: Vec<u8>,
    place: Option<(String, usize)>,
}

/// Runs a script and writes its answer.
pub(super) fn run(
    script: &Script,
    writing: &mut Writing<'_>,
    keys: &[&[u8]],
    arguments: &[&[u8]],
    read_only: bool,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let limits = writing.limits;
    let begun = reply.bytes.len();
    let session = RefCell::new(Session::new(writing, keys.first().copied(), read_only));
    match attempt(script, &session, limits, keys, arguments, reply) {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => {
            reply.bytes.truncate(begun);
            let mut text = failure.text;
            if let Some((source, line)) = failure.place {
                text.extend_from_slice(format!(" script: {}, on {source}:{line}.", script.hex()).as_bytes());
            }
            convert::error_line(reply, &text);
            Ok(())
        }
        Err(error) => {
            reply.bytes.truncate(begun);
            let text = error_text(&error);
            Err(if text.contains("not enough memory") { out_of_memory(limits) } else { format!("ERR {text}").into() })
        }
    }
}

fn out_of_memory(limits: &Limits) -> CommandError {
    let limit = limits.script_memory_bytes_max;
    format!("ERR Script exceeded the limit of {limit} bytes of memory (limit script_memory_bytes_max)").into()
}

fn attempt(
    script: &Script,
    session: &RefCell<Session<'_, '_>>,
    limits: &Limits,
    keys: &[&[u8]],
    arguments: &[&[u8]],
    reply: &mut Reply,
) -> mlua::Result<Option<Failure>> {
    let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, LuaOptions::new().catch_rust_panics(false))?;
    lua.gc_stop();
    // The script's own memory; what its keys and arguments take is paid for by the limits of a command.
    let words: usize = keys.iter().chain(arguments).map(|word| word.len() + 64).sum();
    lua.set_memory_limit(lua.used_memory() + words + limits.script_memory_bytes_max)?;
    let host = Host { meter: Rc::new(Meter::default()), bytes_max: limits.script_memory_bytes_max };
    host.meter.start(&lua, limits);
    host.meter.note_string(keys.iter().chain(arguments).map(|word| word.len()).max().unwrap_or(0));
    let raw = clean_globals(&lua)?;
    let native = natives(&lua, &host)?;
    let failure: RefCell<Option<Failure>> = RefCell::new(None);
    lua.scope(|scope| {
        let meter = host.meter.clone();
        native.raw_set(
            "call",
            scope.create_function(move |lua, args: MultiValue| {
                convert::call(lua, &meter, &mut session.borrow_mut(), &args)
            })?,
        )?;
        let meter = host.meter.clone();
        native.raw_set(
            "pcall",
            scope.create_function(move |lua, args: MultiValue| {
                convert::protected(lua, &meter, &mut session.borrow_mut(), &args)
            })?,
        )?;
        native.raw_set(
            "setresp",
            scope.create_function(|_, args: MultiValue| {
                if args.len() != 1 {
                    return Err(convert::raise("ERR redis.setresp() requires one argument."));
                }
                match as_number(args.front()).map(f64::trunc) {
                    Some(version @ (2.0 | 3.0)) => session.borrow_mut().set_protocol(version as i64),
                    _ => return Err(convert::raise("ERR RESP version must be 2 or 3.")),
                }
                Ok(())
            })?,
        )?;
        let handler = scope.create_function(|lua, args: MultiValue| {
            *failure.borrow_mut() = Some(describe(lua, args.front()));
            Ok(())
        })?;
        let (globals, start): (Table, Function) =
            lua.load(prelude()).set_name(PRELUDE).set_mode(ChunkMode::Binary).into_function()?.call((&native, raw))?;
        lua.set_globals(globals)?;
        let main = lua.load(&script.bytecode[..]).set_name(USER).set_mode(ChunkMode::Binary).into_function()?;
        let meter = host.meter.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(TICK), move |lua, _| meter.tick(lua))?;
        let keys =
            lua.create_sequence_from(keys.iter().map(|key| lua.create_string(key)).collect::<Result<Vec<_>, _>>()?)?;
        let arguments = lua.create_sequence_from(
            arguments.iter().map(|word| lua.create_string(word)).collect::<Result<Vec<_>, _>>()?,
        )?;
        let mut results: MultiValue = start.call((main, handler, keys, arguments))?;
        lua.remove_global_hook();
        let fine = matches!(results.pop_front(), Some(Value::Boolean(true)));
        let value = results.pop_front().unwrap_or(Value::Nil);
        if fine {
            let resp3 = session.borrow().is_resp3();
            return match convert::answer(&host, &value, resp3, reply) {
                Ok(()) => Ok(None),
                Err(text) => Ok(Some(Failure { text: text.into(), place: None })),
            };
        }
        if host.meter.is_exhausted() {
            let place = failure.take().and_then(|failure| failure.place);
            return Ok(Some(Failure { text: format!("ERR {}", host.meter.text()).into(), place }));
        }
        let described = failure.take().unwrap_or_else(|| describe(&lua, Some(&value)));
        if described.text.ends_with(b"not enough memory") {
            return Ok(Some(Failure { text: out_of_memory(limits).0.into_owned().into(), place: described.place }));
        }
        Ok(Some(described))
    })
}

/// What goes on top of an error: its text, and where the user's code was. Runs as xpcall's handler.
fn describe(lua: &Lua, value: Option<&Value>) -> Failure {
    let place = position(lua, false);
    let text = match value {
        Some(Value::Table(table)) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => text.as_bytes().to_vec(),
            Ok(value) => {
                as_number(Some(&value)).map_or(b"ERR unknown error".to_vec(), |value| number::text(value).into())
            }
            Err(_) => b"ERR unknown error".to_vec(),
        },
        Some(Value::String(text)) => {
            let text = text.as_bytes();
            match (without_prelude(&text), position(lua, true)) {
                (Some(rest), Some((source, line))) => [format!("ERR {source}:{line}: ").as_bytes(), rest].concat(),
                (Some(rest), None) => [b"ERR ", rest].concat(),
                (None, _) => [b"ERR ", &*text].concat(),
            }
        }
        Some(Value::Error(error)) => match answer_line(error) {
            Some(line) => line.text().to_vec(),
            None => format!("ERR {}", error_text(error)).into_bytes(),
        },
        Some(Value::Boolean(value)) => format!("ERR {value}").into_bytes(),
        Some(Value::Nil) | None => b"ERR nil".to_vec(),
        Some(value) => match as_number(Some(value)) {
            Some(value) => format!("ERR {}", number::text(value)).into_bytes(),
            None => format!("ERR {}", type_name(Some(value))).into_bytes(),
        },
    };
    Failure { text, place }
}

/// The interpreter's own globals without anything that reaches outside of it.
fn clean_globals(lua: &Lua) -> mlua::Result<Table> {
    let raw = lua.globals();
    for name in [
        "dofile",
        "loadfile",
        "print",
        "newproxy",
        "load",
        "loadstring",
        "module",
        "require",
        "collectgarbage",
        "getfenv",
        "setfenv",
    ] {
        raw.raw_set(name, Value::Nil)?;
    }
    raw.get::<Table>("string")?.raw_set("dump", Value::Nil)?;
    Ok(raw)
}

/// Functions in Rust that the prelude builds on.
fn natives(lua: &Lua, host: &Host) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    native.raw_set("null", Value::NULL)?;
    let meter = host.meter.clone();
    native.raw_set(
        "charge",
        lua.create_function(move |_, amount: f64| meter.charge(if amount > 0.0 { amount as u64 } else { 0 }))?,
    )?;
    let meter = host.meter.clone();
    native.raw_set("exhausted", lua.create_function(move |_, ()| Ok(meter.is_exhausted().then(|| meter.text())))?)?;
    let meter = host.meter.clone();
    native.raw_set("clock", lua.create_function(move |_, ()| Ok(meter.used() as f64 / 1e8))?)?;
    native.raw_set("memory", lua.create_function(|lua, ()| Ok((lua.used_memory() / 1024) as f64))?)?;
    native.raw_set(
        "text",
        lua.create_function(|lua, value: Value| match value {
            Value::Error(error) => match answer_line(&error) {
                Some(line) => line.table(lua),
                None => lua.create_string(error_text(&error)).map(Value::String),
            },
            Value::String(text) => match without_prelude(&text.as_bytes()) {
                Some(rest) => lua.create_string(rest).map(Value::String),
                None => Ok(Value::String(text.clone())),
            },
            other => Ok(other),
        })?,
    )?;
    native.raw_set(
        "unordered",
        lua.create_function({
            let meter = host.meter.clone();
            move |_, table: Table| {
                let mut found = false;
                let mut count = 0;
                table.for_each(|key: Value, _: Value| {
                    count += 1;
                    found |= convert::has_no_order(&key);
                    Ok(())
                })?;
                meter.charge(count)?;
                Ok(found)
            }
        })?,
    )?;
    native.raw_set(
        "strings",
        lua.create_function(|lua, args: MultiValue| {
            let name = string(lua, &args, 0, "?")?.to_string_lossy();
            let mut rest = args;
            rest.pop_front();
            Ok((string(lua, &rest, 0, &name)?, string(lua, &rest, 1, &name)?))
        })?,
    )?;
    native.raw_set(
        "compile",
        lua.create_function({
            let meter = host.meter.clone();
            move |lua, (source, name): (mlua::LuaString, mlua::LuaString)| {
                let source = source.as_bytes();
                meter.charge_bytes(source.len() * 64)?;
                if source.first() == Some(&0x1b) {
                    return Ok((None, Some(lua.create_string("bytecode is not accepted")?)));
                }
                let name = name.to_string_lossy().replace('\0', "?");
                match load(lua, &source, &name) {
                    Ok(function) => Ok((Some(function), None)),
                    Err(text) => Ok((None, Some(lua.create_string(text)?))),
                }
            }
        })?,
    )?;
    native.raw_set(
        "sha1hex",
        lua.create_function({
            let meter = host.meter.clone();
            move |lua, args: MultiValue| {
                let bytes = match args.front() {
                    Some(Value::String(text)) if args.len() == 1 => text.as_bytes().to_vec(),
                    value if args.len() == 1 => as_number(value).map(number::text).unwrap_or_default().into_bytes(),
                    _ => return Err(convert::raise("ERR wrong number of arguments")),
                };
                meter.charge_bytes(bytes.len() * 8)?;
                lua.create_string(sha1::hex(&sha1::digest(&bytes)))
            }
        })?,
    )?;
    native.raw_set(
        "error_text",
        lua.create_function(|lua, text: mlua::LuaString| {
            let text = text.as_bytes();
            let line = if text.first() == Some(&b'-') { &text[1..] } else { &text[..] };
            lua.create_string(convert::with_code(line))
        })?,
    )?;
    native.raw_set("known", lua.create_function(|_, args: MultiValue| convert::known(&args))?)?;
    native.raw_set("log", lua.create_function(|_, args: MultiValue| check_log(&args))?)?;
    native.raw_set("set_repl", lua.create_function(|_, args: MultiValue| check_set_repl(&args))?)?;
    native.raw_set(
        "library",
        lua.create_function({
            let host = host.clone();
            move |lua, name: String| match name.as_str() {
                "cjson" => cjson::library(lua, &host),
                "cmsgpack" => cmsgpack::library(lua, &host),
                "bit" => bit::library(lua),
                _ => structs::library(lua, &host),
            }
        })?,
    )?;
    randomness(lua, &native)?;
    pattern::natives(lua, host, &native)?;
    Ok(native)
}

/// `redis.log`: the arguments are checked as Redis does. Nothing is written: a script runs on every replica.
fn check_log(args: &MultiValue) -> mlua::Result<()> {
    if args.len() < 2 {
        return Err(convert::raise("ERR redis.log() requires two arguments or more."));
    }
    match as_number(args.front()) {
        None => Err(convert::raise("ERR First argument must be a number (log level).")),
        Some(level) if !(0.0..4.0).contains(&level) => Err(convert::raise("ERR Invalid debug level.")),
        Some(_) => Ok(()),
    }
}

/// `redis.set_repl`: what a script does is always replicated, by running it everywhere.
fn check_set_repl(args: &MultiValue) -> mlua::Result<()> {
    const WRONG: &str = "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.";
    if args.len() != 1 {
        return Err(convert::raise("ERR redis.set_repl() requires one argument."));
    }
    let flags = as_number(args.front()).unwrap_or(0.0);
    if (0.0..4.0).contains(&flags) { Ok(()) } else { Err(convert::raise(WRONG)) }
}

/// Redis's `math.random`: the 48-bit linear congruential generator of drand48(3), seeded with 0.
fn randomness(lua: &Lua, native: &Table) -> mlua::Result<()> {
    const MAX: f64 = i32::MAX as f64;
    let state = Rc::new(Cell::new(0x330E_u64));
    let seeding = state.clone();
    native.raw_set(
        "random",
        lua.create_function(move |lua, args: MultiValue| {
            let next = state.get().wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & 0xFFFF_FFFF_FFFF;
            state.set(next);
            let unit = ((next >> 17) % i32::MAX as u64) as f64 / MAX;
            let integer = |place| number(lua, &args, place, "random").map(|value| f64::from(value as i32));
            match args.len() {
                0 => Ok(unit),
                1 => match integer(0)? {
                    high if high >= 1.0 => Ok((unit * high).floor() + 1.0),
                    _ => Err(bad_argument(lua, 1, "random", "interval is empty")),
                },
                2 => match (integer(0)?, integer(1)?) {
                    (low, high) if low <= high => Ok((unit * (high - low + 1.0)).floor() + low),
                    _ => Err(bad_argument(lua, 2, "random", "interval is empty")),
                },
                _ => Err(fail(lua, "wrong number of arguments")),
            }
        })?,
    )?;
    native.raw_set(
        "randomseed",
        lua.create_function(move |lua, args: MultiValue| {
            let seed = number(lua, &args, 0, "randomseed")? as i32;
            seeding.set((u64::from(seed as u32) << 16) | 0x330E);
            Ok(())
        })?,
    )
}

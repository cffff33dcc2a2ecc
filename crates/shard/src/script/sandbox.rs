//! What the libraries of scripts share: arguments, errors, places; and the compiler.

use std::cell::Cell;
use std::rc::Rc;

use base::Limits;
use mlua::chunk::ChunkMode;
use mlua::{Error, Function, Lua, LuaOptions, MultiValue, StdLib, Value};

use super::meter::Meter;
use super::{convert, number};
use crate::reply::Protocol;

/// Chunk names as Redis shows them in errors.
pub(super) const USER: &str = "@user_script";
pub(super) const USER_FUNCTION: &str = "@user_function";
pub(super) const PRELUDE: &str = "@prelude";

/// What library functions share with who runs a script. What changes here is set anew for each run.
#[derive(Clone)]
pub(super) struct Host {
    pub meter: Rc<Meter>,
    /// Most bytes that a library may build outside of the interpreter's memory.
    pub bytes_max: usize,
    /// What `redis.setresp` chose.
    pub protocol: Rc<Cell<Protocol>>,
    /// `math.random`'s.
    pub random: Rc<Cell<u64>>,
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
pub(super) fn position(lua: &Lua, shortened: bool) -> Option<(String, usize)> {
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
pub(super) fn without_prelude(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"prelude:")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b": ")
}

/// The words of an error that came out of Rust or out of Lua.
pub(super) fn error_text(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } => error_text(cause),
        Error::WithContext { cause, .. } => error_text(cause),
        Error::RuntimeError(text) => text.clone(),
        Error::MemoryError(_) => "not enough memory".into(),
        other => other.to_string(),
    }
}

/// Whether an error may come of how full the interpreter is, or of how large its stacks have become.
pub(super) fn is_of_memory(text: &[u8]) -> bool {
    const TEXTS: [&[u8]; 3] = [b"not enough memory", b"stack overflow", b"error in error handling"];
    TEXTS.iter().any(|part| text.windows(part.len()).any(|window| window == *part))
}

/// The line of an answer that an error is, if it is one.
pub(super) fn answer_line(error: &Error) -> Option<&convert::Line> {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => answer_line(cause),
        Error::ExternalError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Compiles source to bytecode, in an interpreter of its own with the collector stopped (a collection while parsing is
/// what CVE-2025-49844 needed). Says what is wrong in Lua's words.
pub(super) fn compile(source: &[u8], name: &str, limits: &Limits) -> Result<Vec<u8>, String> {
    if source.first() == Some(&0x1b) {
        return Err(format!("{}: bad binary format (bytecode is not accepted)", name.trim_start_matches('@')));
    }
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).map_err(|error| error_text(&error))?;
    lua.gc_stop();
    lua.set_memory_limit(limits.script_memory_bytes_max).map_err(|error| error_text(&error))?;
    let function = load(&lua, source, name)?;
    Ok(function.dump(false))
}

pub(super) fn load(lua: &Lua, source: &[u8], name: &str) -> Result<Function, String> {
    lua.load(source).set_name(name).set_mode(ChunkMode::Text).into_function().map_err(|error| match error {
        Error::SyntaxError { message, .. } => message,
        other => error_text(&other),
    })
}

//! Functions in Rust that the prelude builds the scripts' world from, and what of Lua's own is taken away.

use mlua::{Lua, MultiValue, Table, Value};

use super::sandbox::{
    Host, answer_line, as_number, bad_argument, error_text, fail, is_of_memory, load, number, string, without_prelude,
};
use super::{bit, cjson, cmsgpack, convert, number as numbers, pattern, sha1, structs};
use crate::reply::Protocol;

/// The interpreter's own globals without anything that reaches outside of it.
pub(super) fn clean_globals(lua: &Lua) -> mlua::Result<Table> {
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
pub(super) fn natives(lua: &Lua, host: &Host) -> mlua::Result<Table> {
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
    native.raw_set(
        "clock",
        lua.create_function(move |_, ()| {
            meter.only_cold()?;
            Ok(meter.used() as f64 / 1e8)
        })?,
    )?;
    let meter = host.meter.clone();
    native.raw_set(
        "memory",
        lua.create_function(move |lua, ()| {
            meter.only_cold()?;
            Ok((lua.used_memory() / 1024) as f64)
        })?,
    )?;
    let meter = host.meter.clone();
    native.raw_set("only_cold", lua.create_function(move |_, ()| meter.only_cold())?)?;
    let meter = host.meter.clone();
    native.raw_set(
        "text",
        lua.create_function(move |lua, value: Value| match value {
            Value::Error(error) => match answer_line(&error) {
                Some(line) => line.table(lua),
                None => {
                    let text = error_text(&error);
                    if is_of_memory(text.as_bytes()) {
                        meter.only_cold()?;
                    }
                    lua.create_string(text).map(Value::String)
                }
            },
            Value::String(text) => {
                let bytes = text.as_bytes();
                if is_of_memory(&bytes) {
                    meter.only_cold()?;
                }
                match without_prelude(&bytes) {
                    Some(rest) => lua.create_string(rest).map(Value::String),
                    None => Ok(Value::String(text.clone())),
                }
            }
            other => Ok(other),
        })?,
    )?;
    let protocol = host.protocol.clone();
    native.raw_set(
        "setresp",
        lua.create_function(move |_, args: MultiValue| {
            if args.len() != 1 {
                return Err(convert::raise("ERR redis.setresp() requires one argument."));
            }
            match as_number(args.front()).map(f64::trunc) {
                Some(2.0) => protocol.set(Protocol::Resp2),
                Some(3.0) => protocol.set(Protocol::Resp3),
                _ => return Err(convert::raise("ERR RESP version must be 2 or 3.")),
            }
            Ok(())
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
                    Err(text) => {
                        if is_of_memory(text.as_bytes()) {
                            meter.only_cold()?;
                        }
                        Ok((None, Some(lua.create_string(text)?)))
                    }
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
                    value if args.len() == 1 => as_number(value).map(numbers::text).unwrap_or_default().into_bytes(),
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
    native.raw_set(
        "raise",
        lua.create_function(|_, text: mlua::LuaString| -> mlua::Result<()> {
            Err(convert::raise([b"ERR ", &*text.as_bytes()].concat()))
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
    randomness(lua, &native, host)?;
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

/// Where `math.random` starts in every script: seed 0.
pub(super) const RANDOM_START: u64 = 0x330E;

/// Redis's `math.random`: the 48-bit linear congruential generator of drand48(3).
fn randomness(lua: &Lua, native: &Table, host: &Host) -> mlua::Result<()> {
    const MAX: f64 = i32::MAX as f64;
    let (state, seeding) = (host.random.clone(), host.random.clone());
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
            seeding.set((u64::from(seed as u32) << 16) | RANDOM_START);
            Ok(())
        })?,
    )
}

//! `bit`: the operations of LuaBitOp 1.0.2 on 32-bit words (<https://bitop.luajit.org/api.html>).

use mlua::{Lua, MultiValue, Table};

use super::sandbox::number;

type Map = (&'static str, fn(u32) -> u32);
type Fold = (&'static str, fn(u32, u32) -> u32);

/// The library's table.
pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let one: [Map; 3] = [("tobit", |bits| bits), ("bnot", |bits| !bits), ("bswap", u32::swap_bytes)];
    for (name, operation) in one {
        let function =
            lua.create_function(move |lua, args: MultiValue| signed(operation(word(lua, &args, 0, name)?)))?;
        table.raw_set(name, function)?;
    }
    let folds: [Fold; 3] = [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];
    for (name, operation) in folds {
        let function = lua.create_function(move |lua, args: MultiValue| {
            let mut bits = word(lua, &args, 0, name)?;
            for place in 1..args.len() {
                bits = operation(bits, word(lua, &args, place, name)?);
            }
            signed(bits)
        })?;
        table.raw_set(name, function)?;
    }
    let shifts: [Fold; 5] = [
        ("lshift", |bits, count| bits << count),
        ("rshift", |bits, count| bits >> count),
        ("arshift", |bits, count| ((bits as i32) >> count) as u32),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ];
    for (name, operation) in shifts {
        let function = lua.create_function(move |lua, args: MultiValue| {
            let count = word(lua, &args, 1, name)? & 31;
            signed(operation(word(lua, &args, 0, name)?, count))
        })?;
        table.raw_set(name, function)?;
    }
    table.raw_set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}

fn to_hex(lua: &Lua, args: MultiValue) -> mlua::Result<String> {
    let bits = word(lua, &args, 0, "tohex")?;
    let digits = if args.len() < 2 { 8 } else { word(lua, &args, 1, "tohex")? as i32 };
    let count = digits.unsigned_abs().min(8) as usize;
    let text = if digits < 0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    Ok(text[8 - count..].to_string())
}

/// An argument as LuaBitOp reads it: rounded to the nearest even, modulo 2^32.
fn word(lua: &Lua, args: &MultiValue, place: usize, function: &str) -> mlua::Result<u32> {
    let value = number(lua, args, place, function)?;
    Ok((value + 6_755_399_441_055_744.0).to_bits() as u32)
}

fn signed(bits: u32) -> mlua::Result<f64> {
    Ok(f64::from(bits as i32))
}

//! `cmsgpack`: MessagePack (<https://github.com/msgpack/msgpack/blob/master/spec.md>) as lua-cmsgpack 0.4.0 writes and reads it.

use mlua::{Lua, MultiValue, Table, Value};

use super::convert::ordered;
use super::sandbox::{Host, bad_argument, fail, number, optional, string};

const NESTING_MAX: usize = 16;
/// Reading nests only as deep as this; the original goes on until its C stack ends.
const READ_NESTING_MAX: usize = 200;
const RESULTS_MAX: usize = 7000;

/// A way to unpack: its name, and how it reads its limit and offset.
type Mode = (&'static str, fn(&Lua, &MultiValue) -> mlua::Result<(f64, f64)>);

/// The library's table.
pub(super) fn library(lua: &Lua, host: &Host) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let packer = host.clone();
    table.raw_set("pack", lua.create_function(move |lua, args: MultiValue| pack(lua, &packer, &args))?)?;
    let modes: [Mode; 3] = [
        ("unpack", |_, _| Ok((0.0, 0.0))),
        ("unpack_one", |lua, args| Ok((1.0, optional(lua, args, 1, "unpack_one")?.unwrap_or(0.0)))),
        ("unpack_limit", |lua, args| {
            Ok((number(lua, args, 1, "unpack_limit")?, optional(lua, args, 2, "unpack_limit")?.unwrap_or(0.0)))
        }),
    ];
    for (name, mode) in modes {
        let host = host.clone();
        let function = lua.create_function(move |lua, args: MultiValue| {
            let text = string(lua, &args, 0, name)?;
            let (limit, offset) = mode(lua, &args)?;
            host.meter.charge_bytes(text.as_bytes().len() * 8)?;
            host.meter.absorb(lua)?;
            let values = unpack(lua, &text.as_bytes(), limit, offset)?;
            host.meter.absorb(lua)?;
            Ok(values)
        })?;
        table.raw_set(name, function)?;
    }
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.raw_set("_COPYRIGHT", "Copyright (C) 2012, Redis Ltd.")?;
    table.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(table)
}

fn pack(lua: &Lua, host: &Host, args: &MultiValue) -> mlua::Result<mlua::LuaString> {
    if args.is_empty() {
        return Err(bad_argument(lua, 0, "pack", "MessagePack pack needs input."));
    }
    let mut out = Vec::new();
    for value in args {
        write(host, value, 0, &mut out)?;
    }
    lua.create_string(out)
}

fn write(host: &Host, value: &Value, level: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    host.meter.charge(4)?;
    if out.len() > host.bytes_max {
        return Err(mlua::Error::MemoryError("not enough memory".into()));
    }
    match value {
        Value::String(text) => {
            let text = text.as_bytes();
            host.meter.charge_bytes(text.len())?;
            match text.len() {
                len @ 0..32 => out.push(0xa0 | len as u8),
                len @ 32..=0xff => out.extend([0xd9, len as u8]),
                len => head(out, len, 0xda, 0xdb),
            }
            out.extend_from_slice(&text);
        }
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(value) => write_integer(out, *value),
        Value::Number(value) if value.trunc() == *value && value.abs() < 9.2e18 => write_integer(out, *value as i64),
        Value::Number(value) => {
            let single = *value as f32;
            if f64::from(single) == *value {
                out.push(0xca);
                out.extend_from_slice(&single.to_be_bytes());
            } else {
                out.push(0xcb);
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
        Value::Table(table) if level < NESTING_MAX => write_table(host, table, level, out)?,
        _ => out.push(0xc0),
    }
    Ok(())
}

fn write_table(host: &Host, table: &Table, level: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    let (mut count, mut largest, mut list) = (0usize, 0.0f64, true);
    table.for_each(|key: Value, _: Value| {
        count += 1;
        match key {
            Value::Integer(key) if key > 0 => largest = largest.max(key as f64),
            Value::Number(key) if key > 0.0 && key.trunc() == key => largest = largest.max(key),
            _ => list = false,
        }
        Ok(())
    })?;
    host.meter.charge(count as u64)?;
    if list && largest == count as f64 {
        short_head(out, count, 0x90, 0xdc, 0xdd);
        for place in 1..=count {
            write(host, &table.raw_get(place)?, level + 1, out)?;
        }
        return Ok(());
    }
    let pairs = ordered(table)?;
    short_head(out, pairs.len(), 0x80, 0xde, 0xdf);
    for (key, value) in &pairs {
        write(host, key, level + 1, out)?;
        write(host, value, level + 1, out)?;
    }
    Ok(())
}

fn short_head(out: &mut Vec<u8>, len: usize, short: u8, medium: u8, long: u8) {
    if len <= 15 { out.push(short | len as u8) } else { head(out, len, medium, long) }
}

fn head(out: &mut Vec<u8>, len: usize, medium: u8, long: u8) {
    if len <= 0xffff {
        out.push(medium);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(long);
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
}

fn write_integer(out: &mut Vec<u8>, value: i64) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => out.extend([0xcc, value as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
        -32..0 => out.push(value as i8 as u8),
        -0x80..-32 => out.extend([0xd0, value as i8 as u8]),
        -0x8000..-0x80 => {
            out.push(0xd1);
            out.extend_from_slice(&(value as i16).to_be_bytes());
        }
        -0x8000_0000..-0x8000 => {
            out.push(0xd2);
            out.extend_from_slice(&(value as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn unpack(lua: &Lua, text: &[u8], limit: f64, offset: f64) -> mlua::Result<MultiValue> {
    let len = text.len();
    if offset < 0.0 || limit < 0.0 {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {len}.");
        return Err(fail(lua, text));
    }
    if offset > len as f64 {
        return Err(fail(lua, format!("Start offset {offset} greater than input length {len}.")));
    }
    let all = limit == 0.0 && offset == 0.0;
    let mut reader = Reader { lua, rest: &text[offset as usize..] };
    let mut results = Vec::new();
    while !reader.rest.is_empty() && (all || (results.len() as f64) < limit) {
        if results.len() >= RESULTS_MAX {
            return Err(fail(lua, "too many return values at once; use unpack_one or unpack_limit instead."));
        }
        results.push(reader.value(0)?);
    }
    if !all {
        let next = if reader.rest.is_empty() { -1.0 } else { (len - reader.rest.len()) as f64 };
        results.insert(0, Value::Number(next));
    }
    Ok(MultiValue::from_vec(results))
}

struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> mlua::Result<&'a [u8]> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| fail(self.lua, "Missing bytes in input."))?;
        self.rest = rest;
        Ok(head)
    }

    fn unsigned(&mut self, count: usize) -> mlua::Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn signed(&mut self, count: usize) -> mlua::Result<f64> {
        let unused = 64 - 8 * count;
        Ok((((self.unsigned(count)? << unused) as i64) >> unused) as f64)
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        if depth > READ_NESTING_MAX {
            return Err(fail(self.lua, "Bad data format in input."));
        }
        let mark = self.take(1)?[0];
        Ok(match mark {
            0x00..=0x7f => Value::Number(f64::from(mark)),
            0xe0..=0xff => Value::Number(f64::from(mark as i8)),
            0x80..=0x8f => self.map(usize::from(mark & 15), depth)?,
            0x90..=0x9f => self.list(usize::from(mark & 15), depth)?,
            0xa0..=0xbf => self.text(usize::from(mark & 31))?,
            0xc0 => Value::Nil,
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xca => Value::Number(f64::from(f32::from_bits(self.unsigned(4)? as u32))),
            0xcb => Value::Number(f64::from_bits(self.unsigned(8)?)),
            0xcc..=0xcf => Value::Number(self.unsigned(1 << (mark - 0xcc))? as f64),
            0xd0..=0xd3 => Value::Number(self.signed(1 << (mark - 0xd0))?),
            0xd9..=0xdb => {
                let len = self.unsigned(1 << (mark - 0xd9))? as usize;
                self.text(len)?
            }
            0xdc | 0xdd => {
                let len = self.unsigned(2 << (mark - 0xdc))? as usize;
                self.list(len, depth)?
            }
            0xde | 0xdf => {
                let len = self.unsigned(2 << (mark - 0xde))? as usize;
                self.map(len, depth)?
            }
            _ => return Err(fail(self.lua, "Bad data format in input.")),
        })
    }

    fn text(&mut self, len: usize) -> mlua::Result<Value> {
        let text = self.take(len)?;
        Ok(Value::String(self.lua.create_string(text)?))
    }

    fn list(&mut self, len: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for place in 1..=len {
            table.raw_set(place, self.value(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, len: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for _ in 0..len {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            if matches!(&key, Value::Nil) || matches!(&key, Value::Number(number) if number.is_nan()) {
                return Err(fail(self.lua, "table index is nil"));
            }
            table.raw_set(key, value)?;
        }
        Ok(Value::Table(table))
    }
}

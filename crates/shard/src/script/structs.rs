//! `struct`: packing of values into bytes (<http://www.inf.puc-rio.br/~roberto/struct/>, version 0.2 as Redis has it).

use mlua::{Lua, MultiValue, Table, Value};

use super::sandbox::{Host, bad_argument, fail, number, optional, string};

const MAX_INT_BYTES: usize = 32;
const MAX_ALIGN: usize = 8;

/// The library's table.
pub(super) fn library(lua: &Lua, host: &Host) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let bytes_max = host.bytes_max;
    table.raw_set("pack", lua.create_function(move |lua, args: MultiValue| pack(lua, &args, bytes_max))?)?;
    let meter = host.meter.clone();
    table.raw_set(
        "unpack",
        lua.create_function(move |lua, args: MultiValue| {
            meter.charge_bytes(string(lua, &args, 0, "unpack")?.as_bytes().len() * 16)?;
            unpack(lua, &args)
        })?,
    )?;
    table.raw_set("size", lua.create_function(|lua, args: MultiValue| size(lua, &args))?)?;
    Ok(table)
}

/// Reads a format, letter by letter.
struct Format<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
    big: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, text: &'a [u8]) -> Format<'a> {
        // A C string: it ends at the first NUL.
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Format { lua, rest: &text[..end], big: false, align: 1 }
    }

    fn number(&mut self, default: usize) -> mlua::Result<usize> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(default);
        }
        let (text, rest) = self.rest.split_at(digits);
        self.rest = rest;
        match base::parse_i64(strip_zeros(text)) {
            Some(value) if value <= i64::from(i32::MAX) => Ok(value as usize),
            _ => Err(fail(self.lua, "integral size overflow")),
        }
    }

    /// The next letter, with the bytes it takes and the padding before it at `place`.
    fn next(&mut self, place: usize) -> mlua::Result<Option<(u8, usize, usize)>> {
        let Some((letter, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let size = match letter {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number(1)?,
            b'i' | b'I' => match self.number(4)? {
                size if size > MAX_INT_BYTES => {
                    let text = format!("integral size {size} is larger than limit of {MAX_INT_BYTES}");
                    return Err(fail(self.lua, text));
                }
                size => size,
            },
            _ => 0,
        };
        let unit = size.min(self.align);
        let padding = if size == 0 || *letter == b'c' || unit == 0 {
            0
        } else {
            unit.wrapping_sub(place & (unit - 1)) & (unit - 1)
        };
        Ok(Some((*letter, size, padding)))
    }

    fn control(&mut self, letter: u8, function: &str) -> mlua::Result<()> {
        match letter {
            b' ' => {}
            b'>' => self.big = true,
            b'<' => self.big = false,
            b'!' => match self.number(MAX_ALIGN)? {
                align if align.is_power_of_two() => self.align = align,
                align => return Err(fail(self.lua, format!("alignment {align} is not a power of 2"))),
            },
            other => {
                let text = format!("invalid format option '{}'", other as char);
                return Err(bad_argument(self.lua, 1, function, text));
            }
        }
        Ok(())
    }
}

fn strip_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros.min(digits.len() - 1)..]
}

fn pack(lua: &Lua, args: &MultiValue, bytes_max: usize) -> mlua::Result<mlua::LuaString> {
    let format = string(lua, args, 0, "pack")?;
    let format = format.as_bytes();
    let mut format = Format::new(lua, &format);
    let mut out: Vec<u8> = Vec::new();
    let mut argument = 1;
    while let Some((letter, size, padding)) = format.next(out.len())? {
        if out.len() + size + padding > bytes_max {
            return Err(fail(lua, "result too large"));
        }
        out.resize(out.len() + padding, 0);
        match letter {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let value = number(lua, args, argument, "pack")?;
                let bits = if value < 0.0 { value as i64 as u64 } else { value as u64 };
                let byte = |place: usize| if place < 8 { (bits >> (8 * place)) as u8 } else { 0 };
                if format.big {
                    out.extend((0..size).rev().map(byte));
                } else {
                    out.extend((0..size).map(byte));
                }
                argument += 1;
            }
            b'x' => out.push(0),
            b'f' | b'd' => {
                let value = number(lua, args, argument, "pack")?;
                let mut bytes =
                    if letter == b'f' { (value as f32).to_le_bytes().to_vec() } else { value.to_le_bytes().to_vec() };
                if format.big {
                    bytes.reverse();
                }
                out.extend_from_slice(&bytes);
                argument += 1;
            }
            b'c' | b's' => {
                let text = string(lua, args, argument, "pack")?;
                let text = text.as_bytes();
                let size = if size == 0 { text.len() } else { size };
                argument += 1;
                if text.len() < size {
                    return Err(bad_argument(lua, argument + 1, "pack", "string too short"));
                }
                if out.len() + size > bytes_max {
                    return Err(fail(lua, "result too large"));
                }
                out.extend_from_slice(&text[..size]);
                if letter == b's' {
                    out.push(0);
                }
            }
            other => format.control(other, "pack")?,
        }
    }
    lua.create_string(out)
}

fn unpack(lua: &Lua, args: &MultiValue) -> mlua::Result<MultiValue> {
    let format = string(lua, args, 0, "unpack")?;
    let format = format.as_bytes();
    let data = string(lua, args, 1, "unpack")?;
    let data = data.as_bytes();
    let start = optional(lua, args, 2, "unpack")?.unwrap_or(1.0);
    if start < 1.0 {
        return Err(bad_argument(lua, 3, "unpack", "offset must be 1 or greater"));
    }
    let mut place = start.min(1e15) as usize - 1;
    let short = || bad_argument(lua, 2, "unpack", "data string too short");
    let mut format = Format::new(lua, &format);
    let mut results: Vec<Value> = Vec::new();
    while let Some((letter, size, padding)) = format.next(place)? {
        place += padding;
        let field = place.checked_add(size).and_then(|end| data.get(place..end)).ok_or_else(short)?;
        if results.len() > 7000 {
            return Err(fail(lua, "stack overflow (too many results)"));
        }
        let mut taken = size;
        match letter {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                results.push(Value::Number(integer(field, format.big, letter.is_ascii_lowercase())));
            }
            b'x' => {}
            b'f' | b'd' => {
                let mut bytes = field.to_vec();
                if format.big {
                    bytes.reverse();
                }
                let value = match letter {
                    b'f' => f64::from(f32::from_le_bytes(bytes.try_into().expect("a float is four bytes"))),
                    _ => f64::from_le_bytes(bytes.try_into().expect("a double is eight bytes")),
                };
                results.push(Value::Number(value));
            }
            b'c' => {
                let mut text = field;
                if size == 0 {
                    let Some(Value::Number(count)) = results.pop() else {
                        return Err(fail(lua, "format 'c0' needs a previous size"));
                    };
                    taken = count.max(0.0) as usize;
                    text = place.checked_add(taken).and_then(|end| data.get(place..end)).ok_or_else(short)?;
                }
                results.push(Value::String(lua.create_string(text)?));
            }
            b's' => {
                let Some(len) = data[place..].iter().position(|byte| *byte == 0) else {
                    return Err(fail(lua, "unfinished string in data"));
                };
                results.push(Value::String(lua.create_string(&data[place..place + len])?));
                taken = len + 1;
            }
            other => format.control(other, "unpack")?,
        }
        place += taken;
    }
    results.push(Value::Number((place + 1) as f64));
    Ok(MultiValue::from_vec(results))
}

fn integer(field: &[u8], big: bool, signed: bool) -> f64 {
    let fold = |bits: u64, byte: &u8| (bits << 8) | u64::from(*byte);
    let bits = if big { field.iter().fold(0, fold) } else { field.iter().rev().fold(0, fold) };
    if !signed {
        return bits as f64;
    }
    let unused = 64usize.saturating_sub(8 * field.len()).min(63);
    (((bits << unused) as i64) >> unused) as f64
}

fn size(lua: &Lua, args: &MultiValue) -> mlua::Result<f64> {
    let format = string(lua, args, 0, "size")?;
    let format = format.as_bytes();
    let mut format = Format::new(lua, &format);
    let mut place = 0usize;
    while let Some((letter, size, padding)) = format.next(place)? {
        match letter {
            b's' => return Err(bad_argument(lua, 1, "size", "option 's' has no fixed size")),
            b'c' if size == 0 => return Err(bad_argument(lua, 1, "size", "option 'c0' has no fixed size")),
            letter if !letter.is_ascii_alphanumeric() => format.control(letter, "size")?,
            _ => {}
        }
        place = place.saturating_add(padding + size);
    }
    Ok(place as f64)
}

//! Lua 5.1's patterns (`string.find`, `match`, `gmatch`, `gsub`), matched in Rust: a pattern with nested quantifiers takes
//! time beyond all bounds, and a count hook never runs inside a C function. Here every step is paid for.

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use super::meter::Meter;
use super::sandbox::{Host, bad_argument, fail, number, optional, string};

const CAPTURES_MAX: usize = 32;
const DEPTH_MAX: usize = 200;
const ESCAPE: u8 = b'%';

/// A match that cannot go on: what is wrong with the pattern.
type Step = Result<Option<usize>, String>;

#[derive(Clone, Copy)]
enum Capture {
    /// From here; still open.
    Open(usize),
    /// A piece of the subject.
    Closed(usize, usize),
    /// `()`.
    Position(usize),
}

struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: Vec<Capture>,
    depth: usize,
    meter: &'a Meter,
}

impl<'a> Matcher<'a> {
    fn new(subject: &'a [u8], pattern: &'a [u8], meter: &'a Meter) -> Matcher<'a> {
        Matcher { subject, pattern, captures: Vec::new(), depth: 0, meter }
    }

    /// The first match that starts at or after `start`: its start and end.
    fn search(&mut self, mut start: usize, anchored: bool) -> Result<Option<(usize, usize)>, String> {
        loop {
            self.captures.clear();
            self.depth = 0;
            if let Some(end) = self.at(start, 0)? {
                return Ok(Some((start, end)));
            }
            start += 1;
            if anchored || start > self.subject.len() {
                return Ok(None);
            }
        }
    }

    /// Matches the pattern from `p` at `s`.
    fn at(&mut self, s: usize, p: usize) -> Step {
        if self.depth >= DEPTH_MAX {
            return Err("pattern too complex".into());
        }
        self.depth += 1;
        let result = self.steps(s, p);
        self.depth -= 1;
        result
    }

    fn steps(&mut self, mut s: usize, mut p: usize) -> Step {
        loop {
            self.meter.charge(1).map_err(|_| self.meter.text())?;
            let Some(letter) = self.pattern.get(p).copied() else {
                return Ok(Some(s));
            };
            match (letter, self.pattern.get(p + 1).copied()) {
                (b'(', Some(b')')) => return self.opened(Capture::Position(s), s, p + 2),
                (b'(', _) => return self.opened(Capture::Open(s), s, p + 1),
                (b')', _) => return self.closed(s, p + 1),
                (b'$', None) => return Ok((s == self.subject.len()).then_some(s)),
                (ESCAPE, Some(b'b')) => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (ESCAPE, Some(b'f')) => {
                    p += 2;
                    if self.pattern.get(p) != Some(&b'[') {
                        return Err("missing '[' after '%f' in pattern".into());
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                (ESCAPE, Some(digit)) if digit.is_ascii_digit() => match self.again(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => return Ok(None),
                },
                _ => {
                    let end = self.class_end(p)?;
                    let here = s < self.subject.len() && self.single(self.subject[s], p, end);
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if here && let Some(found) = self.at(s + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.most(s, p, end),
                        Some(b'+') => return if here { self.most(s + 1, p, end) } else { Ok(None) },
                        Some(b'-') => return self.least(s, p, end),
                        _ if here => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn most(&mut self, s: usize, p: usize, end: usize) -> Step {
        let fits = self.subject[s..].iter().take_while(|byte| self.single(**byte, p, end)).count();
        self.meter.charge_bytes(fits * 8).map_err(|_| self.meter.text())?;
        for count in (0..=fits).rev() {
            if let Some(found) = self.at(s + count, end + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Step {
        loop {
            if let Some(found) = self.at(s, end + 1)? {
                return Ok(Some(found));
            }
            if s >= self.subject.len() || !self.single(self.subject[s], p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn opened(&mut self, capture: Capture, s: usize, p: usize) -> Step {
        if self.captures.len() >= CAPTURES_MAX {
            return Err("too many captures".into());
        }
        self.captures.push(capture);
        let found = self.at(s, p)?;
        if found.is_none() {
            self.captures.pop();
        }
        Ok(found)
    }

    fn closed(&mut self, s: usize, p: usize) -> Step {
        let open = self.captures.iter().rposition(|capture| matches!(capture, Capture::Open(_)));
        let Some(place) = open else {
            return Err("invalid pattern capture".into());
        };
        let Capture::Open(start) = self.captures[place] else { unreachable!("it was found open") };
        self.captures[place] = Capture::Closed(start, s);
        let found = self.at(s, p)?;
        if found.is_none() {
            self.captures[place] = Capture::Open(start);
        }
        Ok(found)
    }

    fn balance(&mut self, s: usize, p: usize) -> Step {
        let (Some(open), Some(close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err("unbalanced pattern".into());
        };
        if self.subject.get(s) != Some(open) {
            return Ok(None);
        }
        let mut depth = 1usize;
        for (offset, byte) in self.subject[s + 1..].iter().enumerate() {
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    self.meter.charge_bytes(offset * 8).map_err(|_| self.meter.text())?;
                    return Ok(Some(s + offset + 2));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        self.meter.charge_bytes((self.subject.len() - s) * 8).map_err(|_| self.meter.text())?;
        Ok(None)
    }

    /// `%1`: the same text as a capture.
    fn again(&mut self, s: usize, digit: u8) -> Step {
        let place = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let Some(Capture::Closed(start, end)) = self.captures.get(place).copied() else {
            return Err("invalid capture index".into());
        };
        self.meter.charge_bytes(end - start).map_err(|_| self.meter.text())?;
        let text = &self.subject[start..end];
        Ok(self.subject[s..].starts_with(text).then_some(s + text.len()))
    }

    /// Where a single character class ends.
    fn class_end(&self, p: usize) -> Result<usize, String> {
        match self.pattern[p] {
            ESCAPE if p + 1 >= self.pattern.len() => Err("malformed pattern (ends with '%')".into()),
            ESCAPE => Ok(p + 2),
            b'[' => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                let first = at;
                loop {
                    match self.pattern.get(at) {
                        None => return Err("malformed pattern (missing ']')".into()),
                        Some(b']') if at > first => return Ok(at + 1),
                        Some(&ESCAPE) => at += 2,
                        Some(_) => at += 1,
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn single(&self, byte: u8, p: usize, end: usize) -> bool {
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => in_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            letter => letter == byte,
        }
    }

    /// `p` is at the `[`, `last` at the `]`.
    fn in_set(&self, byte: u8, p: usize, last: usize) -> bool {
        let mut at = p + 1;
        let mut inside = true;
        if self.pattern[at] == b'^' {
            inside = false;
            at += 1;
        }
        while at < last {
            if self.pattern[at] == ESCAPE {
                if self.pattern.get(at + 1).is_some_and(|class| in_class(byte, *class)) {
                    return inside;
                }
                at += 2;
            } else if self.pattern[at + 1] == b'-' && at + 2 < last {
                if (self.pattern[at]..=self.pattern[at + 2]).contains(&byte) {
                    return inside;
                }
                at += 3;
            } else {
                if self.pattern[at] == byte {
                    return inside;
                }
                at += 1;
            }
        }
        !inside
    }

    /// Capture number `place`, or the whole match where there are no captures and it is the first.
    fn capture(&self, lua: &Lua, place: usize, whole: (usize, usize)) -> mlua::Result<Value> {
        match self.captures.get(place) {
            None if place == 0 => Ok(Value::String(lua.create_string(&self.subject[whole.0..whole.1])?)),
            None => Err(fail(lua, "invalid capture index")),
            Some(Capture::Closed(start, end)) => Ok(Value::String(lua.create_string(&self.subject[*start..*end])?)),
            Some(Capture::Position(at)) => Ok(Value::Number((at + 1) as f64)),
            Some(Capture::Open(_)) => Err(fail(lua, "unfinished capture")),
        }
    }

    fn push_captures(&self, lua: &Lua, whole: Option<(usize, usize)>, out: &mut Vec<Value>) -> mlua::Result<()> {
        let least = usize::from(whole.is_some());
        for place in 0..self.captures.len().max(least) {
            out.push(self.capture(lua, place, whole.unwrap_or_default())?);
        }
        Ok(())
    }
}

fn in_class(byte: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    inside != class.is_ascii_uppercase()
}

/// The place where a search starts, from an argument that counts from 1, or from the end where negative.
fn start(init: Option<f64>, len: usize) -> usize {
    let init = init.unwrap_or(1.0) as i64;
    let place = if init < 0 { (init + len as i64).max(0) } else { (init - 1).max(0) };
    (place as usize).min(len)
}

fn find(lua: &Lua, meter: &Meter, args: &MultiValue, positions: bool) -> mlua::Result<MultiValue> {
    let name = if positions { "find" } else { "match" };
    let (subject, pattern) = (string(lua, args, 0, name)?, string(lua, args, 1, name)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let init = start(optional(lua, args, 2, name)?, subject.len());
    meter.charge_bytes(pattern.len())?;
    let plain = positions
        && (args.get(3).is_some_and(|value| !matches!(value, Value::Nil | Value::Boolean(false)))
            || !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte)));
    let mut out = Vec::new();
    if plain {
        let found = plain_find(&subject[init..], &pattern, meter)?.map(|at| at + init);
        match found {
            Some(at) => out.extend([Value::Number((at + 1) as f64), Value::Number((at + pattern.len()) as f64)]),
            None => out.push(Value::Nil),
        }
        return Ok(MultiValue::from_vec(out));
    }
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern[usize::from(anchored)..], meter);
    match matcher.search(init, anchored).map_err(|text| fail(lua, text))? {
        None => out.push(Value::Nil),
        Some((from, to)) => {
            if positions {
                out.extend([Value::Number((from + 1) as f64), Value::Number(to as f64)]);
            }
            matcher.push_captures(lua, (!positions).then_some((from, to)), &mut out)?;
        }
    }
    Ok(MultiValue::from_vec(out))
}

fn plain_find(subject: &[u8], wanted: &[u8], meter: &Meter) -> mlua::Result<Option<usize>> {
    let Some(first) = wanted.first() else {
        return Ok(Some(0));
    };
    let mut from = 0;
    while from + wanted.len() <= subject.len() {
        let room = subject.len() - wanted.len() + 1;
        let Some(at) = subject[from..room].iter().position(|byte| byte == first).map(|at| at + from) else {
            break;
        };
        let same = subject[at..].iter().zip(wanted).take_while(|(one, other)| one == other).count();
        meter.charge_bytes(at - from + same)?;
        if same == wanted.len() {
            return Ok(Some(at));
        }
        from = at + 1;
    }
    meter.charge_bytes(subject.len().saturating_sub(from))?;
    Ok(None)
}

/// One step of gmatch and gsub: first and last place, then the captures (or the whole match); nothing where none is left.
fn matched(lua: &Lua, meter: &Meter, args: (LuaString, LuaString, usize, bool)) -> mlua::Result<MultiValue> {
    let (subject, pattern, at, anchors) = args;
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    if at > subject.len() + 1 {
        return Ok(MultiValue::new());
    }
    let anchored = anchors && pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern[usize::from(anchored)..], meter);
    let mut out = Vec::new();
    if let Some((from, to)) = matcher.search(at - 1, anchored).map_err(|text| fail(lua, text))? {
        out.extend([Value::Number((from + 1) as f64), Value::Number(to as f64)]);
        matcher.push_captures(lua, Some((from, to)), &mut out)?;
    }
    Ok(MultiValue::from_vec(out))
}

/// gsub with a replacement that is a string.
fn substitute(lua: &Lua, host: &Host, args: &MultiValue) -> mlua::Result<(LuaString, f64)> {
    let (subject, pattern) = (string(lua, args, 0, "gsub")?, string(lua, args, 1, "gsub")?);
    if !matches!(args.get(2), Some(Value::String(_) | Value::Integer(_) | Value::Number(_))) {
        return Err(bad_argument(lua, 3, "gsub", "string/function/table expected"));
    }
    let replacement = string(lua, args, 2, "gsub")?;
    let (subject, pattern, replacement) = (subject.as_bytes(), pattern.as_bytes(), replacement.as_bytes());
    let limit = match args.get(3) {
        None | Some(Value::Nil) => subject.len() as f64 + 1.0,
        Some(_) => number(lua, args, 3, "gsub")?,
    };
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern[usize::from(anchored)..], &host.meter);
    let (mut out, mut at, mut count) = (Vec::new(), 0, 0.0);
    while count < limit && at <= subject.len() {
        let Some((from, to)) = matcher.search(at, anchored).map_err(|text| fail(lua, text))? else {
            break;
        };
        count += 1.0;
        out.extend_from_slice(&subject[at..from]);
        expand(lua, &matcher, &replacement, (from, to), &mut out)?;
        at = to;
        if from == to {
            out.extend(subject.get(from));
            at += 1;
        }
        host.meter.charge_bytes(replacement.len())?;
        if out.len() > host.bytes_max {
            return Err(mlua::Error::MemoryError("not enough memory".into()));
        }
        if anchored {
            break;
        }
    }
    out.extend_from_slice(subject.get(at..).unwrap_or_default());
    Ok((lua.create_string(out)?, count))
}

fn repeat(lua: &Lua, host: &Host, args: &MultiValue) -> mlua::Result<LuaString> {
    let text = string(lua, args, 0, "rep")?;
    let count = number(lua, args, 1, "rep")?.max(0.0) as usize;
    let text = text.as_bytes();
    let bytes = text.len().saturating_mul(count);
    if bytes > host.bytes_max {
        return Err(mlua::Error::MemoryError("not enough memory".into()));
    }
    host.meter.charge_bytes(bytes)?;
    lua.create_string(if text.is_empty() { Vec::new() } else { text.repeat(count) })
}

fn expand(
    lua: &Lua,
    matcher: &Matcher<'_>,
    replacement: &[u8],
    whole: (usize, usize),
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    let mut letters = replacement.iter();
    while let Some(letter) = letters.next() {
        match (*letter, letter == &ESCAPE) {
            (_, false) => out.push(*letter),
            _ => match letters.next() {
                Some(b'0') => out.extend_from_slice(&matcher.subject[whole.0..whole.1]),
                Some(digit) if digit.is_ascii_digit() => {
                    match matcher.capture(lua, usize::from(digit - b'1'), whole)? {
                        Value::String(text) => out.extend_from_slice(&text.as_bytes()),
                        Value::Number(place) => out.extend_from_slice(format!("{place}").as_bytes()),
                        _ => {}
                    }
                }
                Some(other) => out.push(*other),
                None => out.push(0),
            },
        }
    }
    Ok(())
}

/// What the prelude builds `string` from.
pub(super) fn natives(lua: &Lua, host: &Host, native: &Table) -> mlua::Result<()> {
    for (name, positions) in [("find", true), ("match", false)] {
        let meter = host.meter.clone();
        let function = lua.create_function(move |lua, args: MultiValue| find(lua, &meter, &args, positions))?;
        native.raw_set(name, function)?;
    }
    let meter = host.meter.clone();
    native.raw_set("matched", lua.create_function(move |lua, args| matched(lua, &meter, args))?)?;
    type Map = fn(&[u8]) -> Vec<u8>;
    let maps: [(&'static str, Map); 3] = [
        ("upper", <[u8]>::to_ascii_uppercase),
        ("lower", <[u8]>::to_ascii_lowercase),
        ("reverse", |text| text.iter().rev().copied().collect()),
    ];
    for (name, map) in maps {
        let meter = host.meter.clone();
        let function = lua.create_function(move |lua, args: MultiValue| {
            let text = string(lua, &args, 0, name)?;
            meter.charge_bytes(text.as_bytes().len())?;
            lua.create_string(map(&text.as_bytes()))
        })?;
        native.raw_set(name, function)?;
    }
    let own = host.clone();
    native.raw_set("rep", lua.create_function(move |lua, args: MultiValue| repeat(lua, &own, &args))?)?;
    let host = host.clone();
    native.raw_set("gsub", lua.create_function(move |lua, args: MultiValue| substitute(lua, &host, &args))?)
}

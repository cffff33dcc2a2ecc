//! JSON schemas, as much of them as configuration needs: a subset of draft 2020-12, in which an unknown word is an error and never overlooked.
//!
//! Written by hand because a check is part of what an entry does: it must come out the same on every replica, take a bounded number of steps, and
//! never follow a reference to somewhere else.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Bytes of a schema.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Schemas within schemas.
const DEPTH_MAX: usize = 32;
/// Steps of one check: schemas times values, roughly.
const STEPS_MAX: u32 = 200_000;

/// Words that say something to people only.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];
/// For the error about any other.
const WORDS: &str = "type, enum, const, properties, required, additionalProperties, minProperties, maxProperties, items, minItems, maxItems, \
    uniqueItems, minLength, maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, allOf, anyOf, oneOf, not";

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

/// A schema that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    /// `true` or `false`: anything, or nothing.
    Always(bool),
    /// What is wanted of a value.
    Of(Box<Wanted>),
}

/// The words of a schema; what is not there wants nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    types: Vec<&'static str>,
    any_of_values: Option<Vec<Value>>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    additional: Option<Schema>,
    properties_count: Bounds,
    items: Option<Schema>,
    items_count: Bounds,
    is_unique: bool,
    length: Bounds,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<u64>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Schema>,
}

/// At least, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

impl Bounds {
    fn check(self, count: usize, what: &str) -> Result<(), String> {
        let count = count as u64;
        match (self.least, self.most) {
            (Some(least), _) if count < least => Err(format!("{count} {what} are fewer than {least}")),
            (_, Some(most)) if count > most => Err(format!("{count} {what} are more than {most}")),
            _ => Ok(()),
        }
    }
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// Where it is not one, or has a word that is not known here; a sentence.
    pub fn parse(text: &str) -> Result<Schema, String> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("the schema is {} bytes long, at most {SCHEMA_BYTES_MAX} are taken", text.len()));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("the schema is no JSON: {error}"))?;
        read(&value, "", 0)
    }

    /// Whether a value, as it is stored, fits.
    ///
    /// # Errors
    /// It does not; a sentence that says where and why.
    pub fn check(&self, value: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(value).map_err(|error| format!("it is no JSON: {error}"))?;
        fits(self, &value, &mut String::new(), &mut 0).map_err(|wrong| match wrong {
            Wrong::Costly => "it takes too many steps to hold it against its schema".to_owned(),
            Wrong::Value(why) => why,
        })
    }
}

fn read(value: &Value, at: &str, depth: usize) -> Result<Schema, String> {
    let wrong =
        |why: String| Err(format!("schema{}: {why}", if at.is_empty() { String::new() } else { format!(" at {at}") }));
    if depth > DEPTH_MAX {
        return wrong(format!("more than {DEPTH_MAX} schemas within each other"));
    }
    let words = match value {
        Value::Bool(always) => return Ok(Schema::Always(*always)),
        Value::Object(words) => words,
        _ => return wrong("a schema is an object, true or false".into()),
    };
    let mut wanted = Wanted::default();
    let inner = |value: &Value, word: &str| read(value, &format!("{at}/{word}"), depth + 1);
    let list = |value: &Value, word: &str| match value.as_array().filter(|all| !all.is_empty()) {
        Some(all) => all.iter().enumerate().map(|(number, one)| inner(one, &format!("{word}/{number}"))).collect(),
        None => Err(format!("schema at {at}/{word}: a list of schemas is wanted")),
    };
    for (word, value) in words {
        let count = || value.as_u64().ok_or_else(|| format!("schema at {at}/{word}: a number of 0 or more is wanted"));
        let number = || value.as_f64().ok_or_else(|| format!("schema at {at}/{word}: a number is wanted"));
        match word.as_str() {
            "type" => wanted.types = types(value).map_err(|why| format!("schema at {at}/type: {why}"))?,
            "enum" => match value.as_array() {
                Some(all) => wanted.any_of_values = Some(all.clone()),
                None => return wrong("enum wants a list".into()),
            },
            "const" => wanted.any_of_values = Some(vec![value.clone()]),
            "properties" => match value {
                Value::Object(all) => {
                    let one = |(name, value): (&String, &Value)| {
                        Ok::<_, String>((name.clone(), inner(value, &format!("properties/{name}"))?))
                    };
                    wanted.properties = all.iter().map(one).collect::<Result<_, _>>()?;
                }
                _ => return wrong("properties wants an object".into()),
            },
            "required" => {
                let names =
                    value.as_array().map(|all| all.iter().map(|name| name.as_str().map(str::to_owned)).collect());
                match names.flatten() {
                    Some(names) => wanted.required = names,
                    None => return wrong("required wants a list of names".into()),
                }
            }
            "additionalProperties" => wanted.additional = Some(inner(value, word)?),
            "minProperties" => wanted.properties_count.least = Some(count()?),
            "maxProperties" => wanted.properties_count.most = Some(count()?),
            "items" => wanted.items = Some(inner(value, word)?),
            "minItems" => wanted.items_count.least = Some(count()?),
            "maxItems" => wanted.items_count.most = Some(count()?),
            "uniqueItems" => wanted.is_unique = value.as_bool().unwrap_or(false),
            "minLength" => wanted.length.least = Some(count()?),
            "maxLength" => wanted.length.most = Some(count()?),
            "minimum" => wanted.minimum = tighter(wanted.minimum, (number()?, false), |new, old| new > old),
            "exclusiveMinimum" => wanted.minimum = tighter(wanted.minimum, (number()?, true), |new, old| new >= old),
            "maximum" => wanted.maximum = tighter(wanted.maximum, (number()?, false), |new, old| new < old),
            "exclusiveMaximum" => wanted.maximum = tighter(wanted.maximum, (number()?, true), |new, old| new <= old),
            "multipleOf" => match value.as_u64().filter(|of| *of > 0) {
                Some(of) => wanted.multiple_of = Some(of),
                None => return wrong("multipleOf wants a whole number above 0 here".into()),
            },
            "allOf" => wanted.all_of = list(value, word)?,
            "anyOf" => wanted.any_of = list(value, word)?,
            "oneOf" => wanted.one_of = list(value, word)?,
            "not" => wanted.not = Some(inner(value, word)?),
            word if ANNOTATIONS.contains(&word) => {}
            _ => return wrong(format!("{word:?} is not available; there are {WORDS}, and what only describes")),
        }
    }
    Ok(Schema::Of(Box::new(wanted)))
}

/// The narrower of two bounds, one of which may be exclusive.
fn tighter(old: Option<(f64, bool)>, new: (f64, bool), is_tighter: fn(f64, f64) -> bool) -> Option<(f64, bool)> {
    Some(old.filter(|old| !is_tighter(new.0, old.0)).unwrap_or(new))
}

fn types(value: &Value) -> Result<Vec<&'static str>, String> {
    let one = |value: &Value| {
        let known = value.as_str().and_then(|word| TYPES.iter().find(|known| **known == word));
        known.copied().ok_or_else(|| format!("{value} is no type; there are {}", TYPES.join(", ")))
    };
    match value {
        Value::Array(all) if !all.is_empty() => all.iter().map(one).collect(),
        one_alone => Ok(vec![one(one_alone)?]),
    }
}

enum Wrong {
    Value(String),
    Costly,
}

fn fits(schema: &Schema, value: &Value, at: &mut String, steps: &mut u32) -> Result<(), Wrong> {
    *steps += 1;
    if *steps > STEPS_MAX {
        return Err(Wrong::Costly);
    }
    let place = if at.is_empty() { "the value".to_owned() } else { format!("at {at}") };
    let wrong = |why: String| Err(Wrong::Value(format!("{place}: {why}")));
    let wanted = match schema {
        Schema::Always(true) => return Ok(()),
        Schema::Always(false) => return wrong("nothing may stand here".into()),
        Schema::Of(wanted) => wanted,
    };
    if !wanted.types.is_empty() && !wanted.types.iter().any(|kind| is_of(value, kind)) {
        return wrong(format!("{} is wanted, this is {}", wanted.types.join(" or "), shown(value)));
    }
    if let Some(values) = &wanted.any_of_values {
        *steps += values.len() as u32;
        if !values.iter().any(|one| same(one, value)) {
            let all: Vec<String> = values.iter().map(shown).collect();
            return wrong(format!("one of {} is wanted, this is {}", all.join(", "), shown(value)));
        }
    }
    match value {
        Value::Object(members) => object(wanted, members, at, steps)?,
        Value::Array(items) => {
            if let Err(why) = wanted.items_count.check(items.len(), "items") {
                return wrong(why);
            }
            if wanted.is_unique {
                *steps = steps.saturating_add((items.len() * items.len() / 2) as u32);
                if *steps > STEPS_MAX {
                    return Err(Wrong::Costly);
                }
                let twice =
                    items.iter().enumerate().find(|(number, one)| items[..*number].iter().any(|own| same(own, one)));
                if let Some((_, twice)) = twice {
                    return wrong(format!("{} stands there twice", shown(twice)));
                }
            }
            for (number, item) in items.iter().enumerate().filter(|_| wanted.items.is_some()) {
                within(at, &number.to_string(), |at| {
                    fits(wanted.items.as_ref().unwrap_or(&Schema::Always(true)), item, at, steps)
                })?;
            }
        }
        Value::String(text) => {
            if let Err(why) = wanted.length.check(text.chars().count(), "characters") {
                return wrong(why);
            }
        }
        Value::Number(number) => {
            if let Err(why) = bounds(wanted, number) {
                return wrong(why);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    for schema in &wanted.all_of {
        fits(schema, value, at, steps)?;
    }
    if let Some(schema) = &wanted.not
        && passes(schema, value, at, steps)?
    {
        return wrong("it fits what it must not fit".into());
    }
    if !wanted.any_of.is_empty() && count(&wanted.any_of, value, at, steps)? == 0 {
        return wrong("it fits none of what anyOf lists".into());
    }
    if !wanted.one_of.is_empty() {
        let found = count(&wanted.one_of, value, at, steps)?;
        if found != 1 {
            return wrong(format!("it fits {found} of what oneOf lists, and must fit one"));
        }
    }
    Ok(())
}

fn object(wanted: &Wanted, members: &Map<String, Value>, at: &mut String, steps: &mut u32) -> Result<(), Wrong> {
    let place = if at.is_empty() { "the value".to_owned() } else { format!("at {at}") };
    let wrong = |why: String| Err(Wrong::Value(format!("{place}: {why}")));
    if let Some(name) = wanted.required.iter().find(|name| !members.contains_key(name.as_str())) {
        return wrong(format!("{name:?} is missing"));
    }
    if let Err(why) = wanted.properties_count.check(members.len(), "properties") {
        return wrong(why);
    }
    for (name, member) in members {
        let schema = wanted.properties.get(name).or(wanted.additional.as_ref());
        match schema {
            None => *steps += 1,
            Some(Schema::Always(false)) if !wanted.properties.contains_key(name) => {
                let known: Vec<&str> = wanted.properties.keys().map(String::as_str).collect();
                return wrong(format!("{name:?} is not known; there are {}", known.join(", ")));
            }
            Some(schema) => within(at, name, |at| fits(schema, member, at, steps))?,
        }
    }
    Ok(())
}

fn bounds(wanted: &Wanted, number: &Number) -> Result<(), String> {
    let size = number.as_f64().unwrap_or(f64::NAN);
    match wanted.minimum {
        Some((least, true)) if size <= least => return Err(format!("{number} must be more than {least}")),
        Some((least, false)) if size < least => return Err(format!("{number} is less than {least}")),
        _ => {}
    }
    match wanted.maximum {
        Some((most, true)) if size >= most => return Err(format!("{number} must be less than {most}")),
        Some((most, false)) if size > most => return Err(format!("{number} is more than {most}")),
        _ => {}
    }
    let is_multiple = |of: u64| match (number.as_u64(), number.as_i64()) {
        (Some(whole), _) => whole.is_multiple_of(of),
        (_, Some(whole)) => whole.unsigned_abs().is_multiple_of(of),
        _ => size % of as f64 == 0.0,
    };
    match wanted.multiple_of {
        Some(of) if !is_multiple(of) => Err(format!("{number} is no multiple of {of}")),
        _ => Ok(()),
    }
}

fn within<T>(at: &mut String, name: &str, job: impl FnOnce(&mut String) -> T) -> T {
    let before = at.len();
    at.push('/');
    // A JSON pointer (RFC 6901), but for its escapes: people read it. A long name would be repeated at every depth.
    at.push_str(&name[..name.floor_char_boundary(64)]);
    let done = job(at);
    at.truncate(before);
    done
}

fn passes(schema: &Schema, value: &Value, at: &mut String, steps: &mut u32) -> Result<bool, Wrong> {
    match fits(schema, value, at, steps) {
        Ok(()) => Ok(true),
        Err(Wrong::Value(_)) => Ok(false),
        Err(Wrong::Costly) => Err(Wrong::Costly),
    }
}

fn count(schemas: &[Schema], value: &Value, at: &mut String, steps: &mut u32) -> Result<usize, Wrong> {
    let mut found = 0;
    for schema in schemas {
        found += usize::from(passes(schema, value, at, steps)?);
    }
    Ok(found)
}

fn is_of(value: &Value, kind: &str) -> bool {
    match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Object(_) => kind == "object",
        Value::Array(_) => kind == "array",
        Value::String(_) => kind == "string",
        Value::Number(number) => {
            let is_whole =
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|size| size.fract() == 0.0);
            kind == "number" || kind == "integer" && is_whole
        }
    }
}

/// Equal as JSON values: 1 and 1.0 are one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64() && one.is_f64() != other.is_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|own| same(value, own)))
        }
        _ => one == other,
    }
}

/// A value for people, cut where it is long.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 60 {
        text.truncate(text.floor_char_boundary(57));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &str, value: &str) -> Result<(), String> {
        Schema::parse(schema).expect(schema).check(value.as_bytes())
    }

    #[test]
    fn each_word_takes_and_refuses() {
        // Schema, what fits, what does not.
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("true", &["1", "null"], &["{"]),
            ("false", &[], &["1"]),
            (r#"{"type":"boolean"}"#, &["true"], &["1", "\"true\"", ""]),
            (r#"{"type":"integer"}"#, &["1", "1.0", "-7", "18446744073709551615"], &["1.5", "\"1\""]),
            (r#"{"type":["string","null"]}"#, &["\"a\"", "null"], &["1"]),
            (r#"{"enum":["a",1]}"#, &["\"a\"", "1", "1.0"], &["2", "\"b\""]),
            (r#"{"const":{"a":[1]}}"#, &[r#"{"a":[1.0]}"#], &[r#"{"a":[1],"b":2}"#, r#"{"a":[2]}"#]),
            (
                r#"{"properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#,
                &[r#"{"a":"x"}"#, "[]"],
                &["{}", r#"{"a":1}"#, r#"{"a":"x","b":1}"#],
            ),
            (r#"{"additionalProperties":{"type":"number"}}"#, &[r#"{"a":1}"#, "{}"], &[r#"{"a":"x"}"#]),
            (r#"{"minProperties":1,"maxProperties":2}"#, &[r#"{"a":1}"#], &["{}", r#"{"a":1,"b":2,"c":3}"#]),
            (
                r#"{"items":{"type":"string"},"minItems":1,"maxItems":2}"#,
                &[r#"["a"]"#],
                &["[]", "[1]", r#"["a","b","c"]"#],
            ),
            (r#"{"uniqueItems":true}"#, &["[1,2]"], &["[1,1.0]"]),
            (r#"{"minLength":2,"maxLength":3}"#, &["\"ää\"", "\"abc\""], &["\"a\"", "\"abcd\""]),
            (r#"{"minimum":0,"exclusiveMaximum":10}"#, &["0", "9.9"], &["-1", "10"]),
            (r#"{"minimum":0,"exclusiveMinimum":0,"maximum":10}"#, &["1", "10"], &["0", "11"]),
            (r#"{"multipleOf":5}"#, &["0", "-10", "15.0"], &["7", "5.5"]),
            (r#"{"allOf":[{"minimum":1},{"maximum":3}]}"#, &["2"], &["0", "4"]),
            (r#"{"anyOf":[{"minimum":5},{"maximum":3}]}"#, &["2", "6"], &["4"]),
            (r#"{"oneOf":[{"minimum":3},{"maximum":5}]}"#, &["2", "6"], &["4"]),
            (r#"{"not":{"type":"null"}}"#, &["1"], &["null"]),
            (r#"{"title":"t","description":"d","$schema":"s","default":1}"#, &["1"], &[]),
        ];
        for (schema, good, bad) in cases {
            for value in *good {
                assert_eq!(check(schema, value), Ok(()), "{schema} {value}");
            }
            for value in *bad {
                assert!(check(schema, value).is_err(), "{schema} {value}");
            }
        }
    }

    #[test]
    fn errors_say_where_and_why() {
        let schema = r#"{"properties":{"retry":{"properties":{"times":{"type":"integer","maximum":5}}}}}"#;
        assert_eq!(check(schema, r#"{"retry":{"times":9}}"#), Err("at /retry/times: 9 is more than 5".into()));
        assert_eq!(
            check(schema, r#"{"retry":{"times":"x"}}"#),
            Err("at /retry/times: integer is wanted, this is \"x\"".into())
        );
        for (schema, part) in [
            ("{", "no JSON"),
            ("3", "a schema is an object"),
            (r##"{"$ref":"#/a"}"##, "\"$ref\" is not available"),
            (r#"{"properties":{"a":{"pattern":"x"}}}"#, "at /properties/a: \"pattern\" is not available"),
            (r#"{"type":"int"}"#, "\"int\" is no type"),
            (r#"{"multipleOf":0.1}"#, "whole number"),
            (r#"{"anyOf":[]}"#, "a list of schemas"),
            (r#"{"minLength":-1}"#, "0 or more"),
        ] {
            let why = Schema::parse(schema).expect_err(schema);
            assert!(why.contains(part), "{schema}: {why}");
        }
    }

    #[test]
    fn a_check_ends() {
        let deep = "{\"not\":".repeat(40) + "true" + &"}".repeat(40);
        assert!(Schema::parse(&deep).expect_err("too deep").contains("within each other"));
        let mut wide = String::from("true");
        for _ in 0..6 {
            wide = format!(r#"{{"anyOf":[{wide},{wide},{wide},{wide}]}}"#);
        }
        let schema = Schema::parse(&format!(r#"{{"items":{wide}}}"#)).expect("a schema");
        let value = format!("[{}]", vec!["1"; 1000].join(","));
        assert!(schema.check(value.as_bytes()).expect_err("too many steps").contains("too many steps"));
        let unique = Schema::parse(r#"{"uniqueItems":true}"#).expect("a schema");
        assert!(unique.check(value.as_bytes()).is_err());
        // What nests deeper than the reader goes is no JSON to it.
        assert!(Schema::Always(true).check(&[b'['; 10_000]).is_err());
    }
}

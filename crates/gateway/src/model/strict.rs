//! Reads what a person wrote, and says what is wrong with it: the place, the key, and the key that was probably meant.
//!
//! A [`Node`] is a value with its line, made from TOML or JSON; a [`Node`] is a serde deserializer that, unlike those of
//! the formats, refuses unknown keys everywhere and knows two shorthands:
//!
//! * a single value where a list is wanted is a list of one: `methods = "GET"`;
//! * a text or number where a table is wanted is that table's first key: `to = "shop"` is `to = { upstream = "shop" }`.
//!
//! What is stored is read by serde_json instead, which tolerates unknown keys (see [`super::stored`]).

use std::fmt::{self, Display};
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use toml::de::{DeTable, DeValue};

use super::text::meant;

/// How deep values may be nested; deeper ones are refused.
pub const DEPTH_MAX: usize = 16;

/// A value as a person wrote it, with its line (0 where it has none).
#[derive(Clone, Debug)]
pub struct Node {
    line: u32,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// What has no place in a document, by its name.
    Other(&'static str),
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The line in the text, 0 if it has none.
    pub line: u32,
    /// The key, with the tables that it is in: `route.shop.timeouts.total`.
    pub path: String,
    /// What is wrong, and what is wanted instead.
    pub what: String,
}

impl Wrong {
    /// Something wrong at a key.
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Wrong {
        Wrong { line: 0, path: path.into(), what: what.into() }
    }

    /// The same, seen from the table that the key is in.
    #[must_use]
    pub fn under(mut self, key: &str) -> Wrong {
        self.path = match self.path.as_str() {
            path if key.is_empty() => path.to_owned(),
            "" => key.to_owned(),
            path if path.starts_with('[') => format!("{key}{path}"),
            path => format!("{key}.{path}"),
        };
        self
    }

    fn at(mut self, line: u32) -> Wrong {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "line {}: ", self.line)?;
        }
        if self.path.is_empty() { out.write_str(&self.what) } else { write!(out, "{}: {}", self.path, self.what) }
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: Display>(message: T) -> Wrong {
        Wrong::new("", message.to_string())
    }

    fn missing_field(field: &'static str) -> Wrong {
        Wrong::new("", format!("{field} is missing"))
    }
}

impl Node {
    /// An empty table: a document with nothing but defaults.
    pub fn empty() -> Node {
        Node { line: 0, value: Value::Table(Vec::new()) }
    }

    /// A value of a TOML text; `line` tells the line of a place in it.
    pub fn from_toml(value: &DeValue<'_>, span: Range<usize>, line: &dyn Fn(usize) -> u32) -> Node {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("a number out of range"), Value::Int),
            DeValue::Float(number) => {
                number.as_str().parse().map_or(Value::Other("a number out of range"), Value::Float)
            }
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(list) => {
                Value::List(list.iter().map(|item| Node::from_toml(item.get_ref(), item.span(), line)).collect())
            }
            DeValue::Table(table) => return Node::from_toml_table(table, span, line),
        };
        Node { line: line(span.start), value }
    }

    /// A table of a TOML text.
    pub fn from_toml_table(table: &DeTable<'_>, span: Range<usize>, line: &dyn Fn(usize) -> u32) -> Node {
        let entries = table.iter().map(|(key, value)| {
            let mut node = Node::from_toml(value.get_ref(), value.span(), line);
            // A table's own span is its header's; a key's line is what a reader looks for.
            node.line = line(key.span().start);
            (key.get_ref().to_string(), node)
        });
        Node { line: line(span.start), value: Value::Table(entries.collect()) }
    }

    /// A value of a JSON text.
    pub fn from_json(value: &serde_json::Value) -> Node {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(truth) => Value::Bool(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Value::Int(number),
                (None, Some(number)) => Value::Float(number),
                (None, None) => Value::Other("a number out of range"),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(list) => Value::List(list.iter().map(Node::from_json).collect()),
            Json::Object(table) => {
                Value::Table(table.iter().map(|(key, value)| (key.clone(), Node::from_json(value))).collect())
            }
        };
        Node { line: 0, value }
    }

    /// The entries, if it is a table.
    pub fn entries(&self) -> Option<&[(String, Node)]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// A table with only those of its entries that have these names.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Node {
        let mut node = self.clone();
        if let Value::Table(entries) = &mut node.value {
            entries.retain(|(name, _)| names.contains(&name.as_str()));
        }
        node
    }

    /// The line, 0 if it has none.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Reads a document or a part of one.
    pub fn read<T: de::DeserializeOwned>(&self) -> Result<T, Wrong> {
        T::deserialize(Reader { node: self, depth: 0 })
    }

    fn shown(&self) -> String {
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(truth) => truth.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Text(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            Value::Other(what) => (*what).into(),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn inner(self, node: &'a Node) -> Result<Reader<'a>, Wrong> {
        if self.depth >= DEPTH_MAX {
            return Err(Wrong::new("", format!("nested deeper than {DEPTH_MAX} levels")).at(node.line));
        }
        Ok(Reader { node, depth: self.depth + 1 })
    }

    fn wants(self, what: &str) -> Wrong {
        Wrong::new("", format!("{}: wants {what}", self.node.shown())).at(self.node.line)
    }
}

/// Numbers and texts that a type reads by itself; what it does not want is said in our words.
macro_rules! scalars {
    ($($method:ident $what:literal),+ $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match &self.node.value {
                Value::List(_) | Value::Table(_) | Value::Null | Value::Other(_) => Err(self.wants($what)),
                _ => self.deserialize_any(visitor).map_err(|error| match error.what.starts_with("invalid ") {
                    true => self.wants($what),
                    false => error,
                }),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let line = self.node.line;
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Table(_) => self.deserialize_map(visitor),
            Value::Other(_) => Err(self.wants("something else")),
        }
        .map_err(|error: Wrong| error.at(line))
    }

    scalars! {
        deserialize_bool "true or false",
        deserialize_i8 "a whole number from -128 to 127",
        deserialize_i16 "a whole number from -32768 to 32767",
        deserialize_i32 "a whole number",
        deserialize_i64 "a whole number",
        deserialize_u8 "a whole number from 0 to 255",
        deserialize_u16 "a whole number from 0 to 65535",
        deserialize_u32 "a whole number from 0 to 4294967295",
        deserialize_u64 "a whole number, not below 0",
        deserialize_f32 "a number",
        deserialize_f64 "a number",
        deserialize_char "a letter",
        deserialize_str "a text in quotes",
        deserialize_string "a text in quotes",
        deserialize_bytes "a text in quotes",
        deserialize_byte_buf "a text in quotes",
        deserialize_identifier "a name",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::List(list) => visitor.visit_seq(Items { list, at: 0, reader: self }),
            // One value stands for a list of one.
            _ => visitor.visit_seq(Items { list: std::slice::from_ref(self.node), at: 0, reader: self }),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::Table(entries) => visitor.visit_map(Entries { entries, at: 0, reader: self, first: None }),
            _ => Err(self.wants("a table")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let line = self.node.line;
        match &self.node.value {
            Value::Table(entries) => {
                if let Some((key, node)) = entries.iter().find(|(key, _)| !fields.contains(&key.as_str())) {
                    let what = format!("no such key; {}", meant(key, fields.iter().copied()));
                    return Err(Wrong::new(key.as_str(), what).at(node.line));
                }
                visitor.visit_map(Entries { entries, at: 0, reader: self, first: None })
            }
            // A bare value stands for the first key.
            Value::Text(_) | Value::Int(_) | Value::List(_) if !fields.is_empty() => {
                visitor.visit_map(Entries { entries: &[], at: 0, reader: self, first: Some(fields[0]) })
            }
            _ => return Err(self.wants(&format!("a table with the keys {}", fields.join(", ")))),
        }
        .map_err(|error| error.at(line))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::Text(text) if variants.contains(&text.as_str()) => {
                let word: StrDeserializer<'_, Wrong> = text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            Value::Text(text) => {
                let what = format!("{text:?} is no choice; {}", meant(text, variants.iter().copied()));
                Err(Wrong::new("", what).at(self.node.line))
            }
            _ => Err(self.wants(&format!("one of {}", variants.join(", ")))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }
}

struct Items<'a> {
    list: &'a [Node],
    at: usize,
    reader: Reader<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some(node) = self.list.get(self.at) else { return Ok(None) };
        self.at += 1;
        let several = self.list.len() > 1;
        let name = if several { format!("[{}]", self.at) } else { String::new() };
        seed.deserialize(self.reader.inner(node)?).map(Some).map_err(|error| error.under(&name))
    }
}

struct Entries<'a> {
    entries: &'a [(String, Node)],
    at: usize,
    reader: Reader<'a>,
    /// The one key that the reader's whole value stands for.
    first: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let key = match self.first {
            Some(key) if self.at == 0 => key,
            Some(_) => return Ok(None),
            None => match self.entries.get(self.at) {
                Some((key, _)) => key.as_str(),
                None => return Ok(None),
            },
        };
        let word: StrDeserializer<'_, Wrong> = key.into_deserializer();
        seed.deserialize(word).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, node) = match self.first {
            Some(key) => (key, self.reader.node),
            None => {
                let (key, node) = &self.entries[self.at];
                (key.as_str(), node)
            }
        };
        self.at += 1;
        seed.deserialize(self.reader.inner(node)?).map_err(|error| match self.first {
            Some(_) => error,
            None => error.under(key).at(node.line),
        })
    }
}

//! `[[service]]`: services that this node registers at its start, with the fields of Consul's agent.

use std::collections::BTreeSet;
use std::ops::Range;

use doors::consul::{Declared, declared_service};
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeValue};

/// Reads them; an error names the line of its service.
pub fn read(items: &DeArray<'_>, at: &dyn Fn(Range<usize>) -> String) -> Result<Vec<Declared>, String> {
    let mut all = Vec::new();
    let mut ids = BTreeSet::new();
    for item in items.iter() {
        let named = |why: String| format!("{}: service: {why}", at(item.span()));
        let declared = json(item).and_then(|value| declared_service(&value)).map_err(named)?;
        if !ids.insert(declared.service.id.clone()) {
            return Err(named(format!("the id {:?} stands twice", declared.service.id)));
        }
        all.push(declared);
    }
    Ok(all)
}

fn json(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.map_err(|_| "a number out of range".to_owned())?.into()
        }
        DeValue::Array(items) => Value::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(fields) => {
            let field = |(key, value)| -> Result<_, String> {
                let key: &Spanned<std::borrow::Cow<'_, str>> = key;
                Ok((key.get_ref().to_string(), json(value)?))
            };
            Value::Object(fields.iter().map(field).collect::<Result<Map<_, _>, _>>()?)
        }
        other => return Err(format!("a {} is not wanted here", other.type_str())),
    })
}

//! Query parameters, percent-encoding and Go's durations.

use base::Duration;

use super::filter::Filter;
use super::{Refused, bad};

/// Parameters of one request.
const PARAMETERS_MAX: usize = 64;

/// The parameters of a request, in order.
#[derive(Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn new(text: &str) -> Result<Query, String> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        let mut pairs = Vec::new();
        for part in parts {
            if pairs.len() == PARAMETERS_MAX {
                return Err(format!("more than {PARAMETERS_MAX} parameters"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |text| decode(text, true).ok_or_else(|| "a parameter is not UTF-8".to_owned());
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Query { pairs })
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// `?passing`, `?passing=true`, but not `?passing=false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refused> {
        match self.get(name) {
            None => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(bad(format!("Invalid value for ?{name}"))),
        }
    }

    pub(super) fn is_pretty(&self) -> bool {
        self.get("pretty").is_some_and(|value| value != "false" && value != "0")
    }

    pub(super) fn filter(&self) -> Result<Option<Filter>, Refused> {
        match self.get("filter") {
            None | Some("") => Ok(None),
            Some(text) => Filter::parse(text)
                .map(Some)
                .map_err(|why| bad(format!("Failed to create boolean expression evaluator: {why}"))),
        }
    }

    /// `node-meta=key:value`, all of which a node must have.
    pub(super) fn node_meta(&self) -> Vec<(String, String)> {
        let pair = |text: &str| {
            let (key, value) = text.split_once(':').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        self.all("node-meta").map(pair).collect()
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let number = |text: &str| text.parse().map_err(|_| bad(format!("Invalid value for ?{name}: {text:?}")));
        self.get(name).map(number).transpose()
    }
}

/// Decodes percent-encoding; with `plus`, `+` is a space. `None` where the outcome is not UTF-8. What is no escape stays.
pub(super) fn decode(text: &str, plus: bool) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)),
            _ => None,
        };
        match (bytes[at], escape) {
            (_, Some((high, low))) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

/// One segment of a path, decoded.
pub(super) fn segment(text: &str) -> Result<String, Refused> {
    decode(text, false).ok_or_else(|| bad("the path is not UTF-8"))
}

/// A span as Go writes it: `10s`, `1m30s`, `1.5h`, `500ms`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.').ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = unit.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = next;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A span as Consul shows it.
pub(super) fn show_span(milliseconds: u64) -> String {
    if milliseconds == 0 {
        return String::new();
    }
    let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
    let seconds = (milliseconds % 60_000) as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) if milliseconds < 1000 => format!("{milliseconds}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

//! Filter expressions: a subset of Consul's (go-bexpr).
//!
//! ```text
//!   or    := and ("or" and)*          and := not ("and" not)*        not := "not" not | "(" or ")" | match
//!   match := selector ("==" | "!=") value | selector ["not"] ("contains" | "matches") value
//!          | value ["not"] "in" selector  | selector "is" ["not"] "empty"
//!   selector := name ("." name | "[" string "]")*      value := "…" | `…` | word
//! ```
//!
//! `matches` takes regular expressions as Go's and ours have them in common (no look-around, no backreferences: a match takes
//! linear time). `all` and `any` are refused with an error.

use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;

/// Bytes of an expression.
const BYTES_MAX: usize = 4 << 10;
/// Parentheses and negations inside each other.
const DEPTH_MAX: usize = 32;

/// Bytes of a compiled regular expression.
const REGEX_BYTES_MAX: usize = 64 << 10;

/// A filter.
#[derive(Clone, Debug)]
pub(super) enum Filter {
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Equal(Vec<String>, String),
    /// The value is in what is selected.
    In(Vec<String>, String),
    Empty(Vec<String>),
    Matches(Vec<String>, Regex),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Filter, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("the expression is {} bytes long, at most {BYTES_MAX} are taken", text.len()));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let filter = parser.or()?;
        match parser.peek() {
            None => Ok(filter),
            Some(token) => {
                Err(format!("no match found, expected: \"and\", \"or\" or the end, got {}", show(Some(token))))
            }
        }
    }

    /// Whether an item stays.
    pub(super) fn keeps(&self, item: &Value) -> Result<bool, String> {
        Ok(match self {
            Filter::And(one, other) => one.keeps(item)? && other.keeps(item)?,
            Filter::Or(one, other) => one.keeps(item)? || other.keeps(item)?,
            Filter::Not(inner) => !inner.keeps(item)?,
            Filter::Equal(selector, value) => scalar(select(item, selector)?).is_some_and(|own| own == *value),
            Filter::In(selector, value) => match select(item, selector)? {
                Some(Value::Array(items)) => items.iter().any(|own| scalar(Some(own)).is_some_and(|own| own == *value)),
                Some(Value::Object(fields)) => fields.contains_key(value),
                Some(Value::String(own)) => own.contains(value.as_str()),
                _ => false,
            },
            Filter::Empty(selector) => match select(item, selector)? {
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(fields)) => fields.is_empty(),
                Some(Value::String(own)) => own.is_empty(),
                other => other.is_none(),
            },
            Filter::Matches(selector, regex) => {
                select(item, selector)?.and_then(Value::as_str).is_some_and(|own| regex.is_match(own))
            }
        })
    }
}

/// What a selector names; `None` for a key of a map that is not there, or a field that is left out when empty.
fn select<'a>(item: &'a Value, selector: &[String]) -> Result<Option<&'a Value>, String> {
    let mut here = item;
    for (depth, name) in selector.iter().enumerate() {
        match here.get(name) {
            Some(next) => here = next,
            // Left out where empty, or a key of a map: only the first name is surely a field of all.
            None if depth == 0 && !name.ends_with("TaggedAddresses") => {
                return Err(format!("Selector {:?} is not valid", selector.join(".")));
            }
            None => return Ok(None),
        }
    }
    Ok(Some(here))
}

fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SIGNS: &[&str] = &["==", "!=", "(", ")", "[", "]", "."];
    let mut rest = text.trim_start();
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '`' {
            let (token, after) = quoted(rest, first)?;
            tokens.push(Token::Text(token));
            rest = after;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let is_word = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '/' | ':');
            let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("unexpected {first:?}"));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, next)) => out.push(next),
                None => break,
            },
            char if char == quote => return Ok((out, &text[at + char.len_utf8()..])),
            char => out.push(char),
        }
    }
    Err("a string without its end".into())
}

fn show(token: Option<&Token>) -> String {
    match token {
        None => "the end".into(),
        Some(Token::Word(word)) => format!("{word:?}"),
        Some(Token::Text(text)) => format!("the string {text:?}"),
        Some(Token::Sign(sign)) => format!("{sign:?}"),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Word(own)) if own.eq_ignore_ascii_case(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Sign(own)) if *own == sign);
        self.at += usize::from(is_it);
        is_it
    }

    fn or(&mut self) -> Result<Filter, String> {
        let mut filter = self.and()?;
        while self.take_word("or") {
            filter = Filter::Or(Box::new(filter), Box::new(self.and()?));
        }
        Ok(filter)
    }

    fn and(&mut self) -> Result<Filter, String> {
        let mut filter = self.not()?;
        while self.take_word("and") {
            filter = Filter::And(Box::new(filter), Box::new(self.not()?));
        }
        Ok(filter)
    }

    fn not(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} parentheses or negations inside each other"));
        }
        let filter = if self.take_word("not") {
            Filter::Not(Box::new(self.not()?))
        } else if self.take_sign("(") {
            let inner = self.or()?;
            if !self.take_sign(")") {
                return Err(format!("expected \")\", got {}", show(self.peek())));
            }
            inner
        } else {
            self.one()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn one(&mut self) -> Result<Filter, String> {
        // A value comes first only before `in`.
        let from = self.at;
        if let Ok(value) = self.value()
            && let Some(is_not) = self.negated("in")
        {
            let filter = Filter::In(self.selector()?, value);
            return Ok(if is_not { Filter::Not(Box::new(filter)) } else { filter });
        }
        self.at = from;
        let selector = self.selector()?;
        if self.take_sign("==") {
            return Ok(Filter::Equal(selector, self.value()?));
        }
        if self.take_sign("!=") {
            return Ok(Filter::Not(Box::new(Filter::Equal(selector, self.value()?))));
        }
        if self.take_word("is") {
            let is_not = self.take_word("not");
            if !self.take_word("empty") {
                return Err(format!("expected \"empty\", got {}", show(self.peek())));
            }
            let filter = Filter::Empty(selector);
            return Ok(if is_not { Filter::Not(Box::new(filter)) } else { filter });
        }
        if let Some(is_not) = self.negated("contains") {
            let filter = Filter::In(selector, self.value()?);
            return Ok(if is_not { Filter::Not(Box::new(filter)) } else { filter });
        }
        if let Some(is_not) = self.negated("matches") {
            let text = self.value()?;
            let regex = RegexBuilder::new(&text).size_limit(REGEX_BYTES_MAX).build();
            let regex = regex.map_err(|error| format!("failed to compile regular expression {text:?}: {error}"))?;
            let filter = Filter::Matches(selector, regex);
            return Ok(if is_not { Filter::Not(Box::new(filter)) } else { filter });
        }
        Err(format!("expected an operator, got {}", show(self.peek())))
    }

    /// `word` or `not word`: whether it was negated; `None` where it is neither.
    fn negated(&mut self, word: &str) -> Option<bool> {
        let from = self.at;
        let is_not = self.take_word("not");
        if self.take_word(word) {
            return Some(is_not);
        }
        self.at = from;
        None
    }

    fn value(&mut self) -> Result<String, String> {
        let value = match self.peek() {
            Some(Token::Text(text)) => text.clone(),
            Some(Token::Word(word)) => {
                let mut value = word.clone();
                // 10.0.0.1 and 1.5 are one value.
                let mut rest = self.tokens[self.at + 1..].chunks(2);
                while let Some([Token::Sign("."), Token::Word(next)]) = rest.next() {
                    value = format!("{value}.{next}");
                    self.at += 2;
                }
                value
            }
            other => return Err(format!("expected a value, got {}", show(other))),
        };
        self.at += 1;
        Ok(value)
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        loop {
            match self.peek() {
                Some(Token::Word(word)) => names.push(word.clone()),
                other => return Err(format!("expected a selector, got {}", show(other))),
            }
            self.at += 1;
            while self.take_sign("[") {
                match self.peek() {
                    Some(Token::Text(text)) => names.push(text.clone()),
                    other => return Err(format!("expected a string, got {}", show(other))),
                }
                self.at += 1;
                if !self.take_sign("]") {
                    return Err(format!("expected \"]\", got {}", show(self.peek())));
                }
            }
            if !self.take_sign(".") {
                return Ok(names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_of_consuls_documentation() {
        let item = json!({
            "Node": {"Node": "n1", "Meta": {"env": "qa", "instance type": "t2"}},
            "Service": {"Service": "web", "Port": 80, "Tags": ["primary", "v1.2"], "Meta": {}},
            "ServiceID": "redis",
        });
        for (text, wanted) in [
            ("Service.Service == web", true),
            ("Service.Service == \"web\" and Service.Port == 80", true),
            ("Service.Port != 80", false),
            ("\"primary\" in Service.Tags", true),
            ("primary in Service.Tags", true),
            ("`secondary` not in Service.Tags", true),
            ("Service.Tags contains \"v1.2\"", true),
            ("Service.Tags not contains v1.2", false),
            ("Node.Meta.env == qa", true),
            ("Node.Meta[\"instance type\"] == t2", true),
            ("Node.Meta.absent == qa", false),
            ("Node.Meta.absent != qa", true),
            ("env in Node.Meta", true),
            ("Service.Meta is empty", true),
            ("Service.Tags is not empty", true),
            ("not Service.Meta is empty or ServiceID == redis", true),
            ("not (Service.Meta is empty or ServiceID == redis)", false),
            ("ServiceID == a or ServiceID == b and ServiceID == redis", false),
            ("edi in ServiceID", true),
            ("Service.Service matches \"^w.b$\"", true),
            ("Service.Service not matches `^(web|shop)$`", false),
            ("Node.Meta.absent matches `.*`", false),
            ("Service.Tags[\"x\"] is empty", true),
        ] {
            let filter = Filter::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(filter.keeps(&item), Ok(wanted), "{text}");
        }
        assert!(Filter::parse("Absent == 1").is_ok_and(|filter| filter.keeps(&item).is_err()));
        for wrong in [
            "",
            "a",
            "a ==",
            "a == \"b",
            "(a == b",
            "a == b c",
            "a matches \"(\"",
            "a matches `(x{1000}){1000}`",
            "and",
            "a[b] == c",
            "== a",
            "ü€",
        ] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Filter::parse(&"(".repeat(4000)).is_err());
        assert!(Filter::parse(&"not ".repeat(1000)).is_err());
    }
}

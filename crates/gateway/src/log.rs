//! Lines of the access log. Whatever a client sent is escaped, so that a line is a line; secrets are not in it: no header but
//! User-Agent and Referer is logged at all, and the values of query parameters whose names sound like secrets are `***`.

use std::fmt::Write;
use std::net::IpAddr;

use base::{Duration, Millis};

use crate::headers::TraceId;
use crate::model::AccessLog;
use crate::request::Head;

/// Longest piece of a client's text in a line, bytes; what is longer ends in `…`.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A parameter whose decoded name, in small letters, has one of these in it is a secret.
const SECRET_PARTS: [&str; 13] = [
    "token",
    "passw",
    "passphrase",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "auth",
    "signature",
    "credential",
    "session",
    "private",
    "otp",
];
/// … or is one of these.
const SECRET_NAMES: [&str; 8] = ["key", "sig", "code", "pwd", "pass", "sid", "jwt", "pin"];

/// What a line says beside what the head does.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When the request came, by the wall clock.
    pub at: Millis,
    /// The listener.
    pub listener: &'a str,
    /// The route; empty: none.
    pub route: &'a str,
    /// The upstream; empty: none.
    pub upstream: &'a str,
    /// The endpoint of the last attempt; empty: none.
    pub endpoint: &'a str,
    /// Who asked, behind trusted proxies.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// `HTTP/1.1` and the like.
    pub version: &'a str,
    /// What the client got; 0: nothing.
    pub status: u16,
    /// Attempts at endpoints.
    pub attempts: u32,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the head to the end.
    pub took: Duration,
    /// From the head to the answer's head.
    pub until_answer: Duration,
    /// The trace, if the request was forwarded.
    pub trace: Option<TraceId>,
    /// Why it was refused or how it broke off; empty where it went well.
    pub why: &'a str,
}

fn is_secret(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    SECRET_NAMES.contains(&name.as_str()) || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// A query with the values of secrets taken out. What cannot be decoded stays as it was, a secret's value never does.
pub fn redacted(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    for (at, pair) in query.split('&').enumerate() {
        if at > 0 {
            out.push('&');
        }
        // Some servers divide parameters at `;` too.
        for (at, part) in pair.split(';').enumerate() {
            if at > 0 {
                out.push(';');
            }
            let secret = crate::request::parameters(part).next().is_some_and(|(name, _)| is_secret(&name));
            match part.split_once('=') {
                Some((name, _)) if secret => {
                    out.push_str(name);
                    out.push_str("=***");
                }
                _ => out.push_str(part),
            }
        }
    }
    out
}

/// A Referer without user information and fragment, its query redacted.
fn referer(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let text = text.split('#').next().unwrap_or_default();
    let (place, query) = text.split_once('?').map_or((text, None), |(place, query)| (place, Some(query)));
    let mut out = match place.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => place.to_owned(),
    };
    if let Some(query) = query {
        out.push('?');
        out.push_str(&redacted(query));
    }
    out
}

fn shortened(text: &str) -> (&str, &str) {
    if text.len() <= TEXT_BYTES_MAX { (text, "") } else { (&text[..text.floor_char_boundary(TEXT_BYTES_MAX)], "…") }
}

/// The digits of `0001-01-01T00:00:00.000Z` (civil from days: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn push_time(out: &mut String, at: Millis) {
    let (days, millis) = ((at / 86_400_000) as i64, at % 86_400_000);
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// Lines as they are being made.
trait Line {
    fn word(&mut self, name: &str, value: std::fmt::Arguments<'_>);
    fn text(&mut self, name: &str, value: &str);
}

struct Json<'a>(&'a mut String);

impl Line for Json<'_> {
    fn word(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        let _ = write!(self.0, ",\"{name}\":{value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        let _ = write!(self.0, ",\"{name}\":\"");
        let (text, end) = shortened(value);
        for c in text.chars() {
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                // Also what ends lines for some readers, and what changes the direction of writing on a terminal.
                c if c.is_control()
                    || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    let _ = write!(self.0, "\\u{:04x}", c as u32);
                }
                c => self.0.push(c),
            }
        }
        self.0.push_str(end);
        self.0.push('"');
    }
}

struct Text<'a>(&'a mut String);

impl Line for Text<'_> {
    fn word(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        let _ = write!(self.0, " {name}={value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        let (text, end) = shortened(value);
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        if end.is_empty() && !text.is_empty() && text.chars().all(plain) {
            let _ = write!(self.0, " {name}={text}");
            return;
        }
        let _ = write!(self.0, " {name}=\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(c);
                }
                ' '..='~' => self.0.push(c),
                c => {
                    let _ = write!(self.0, "\\u{{{:x}}}", c as u32);
                }
            }
        }
        self.0.push_str(if end.is_empty() { "" } else { "..." });
        self.0.push('"');
    }
}

/// Appends the line of a request, without its end of line. Nothing for [`AccessLog::Off`].
pub fn write_line(style: AccessLog, entry: &Entry<'_>, head: &impl Head, out: &mut String) {
    match style {
        AccessLog::Off => {}
        AccessLog::Json => {
            out.push_str("{\"time\":\"");
            push_time(out, entry.at);
            out.push('"');
            write_fields(&mut Json(out), entry, head);
            out.push('}');
        }
        AccessLog::Text => {
            push_time(out, entry.at);
            write_fields(&mut Text(out), entry, head);
        }
    }
}

fn write_fields(line: &mut impl Line, entry: &Entry<'_>, head: &impl Head) {
    line.word("status", format_args!("{}", entry.status));
    line.text("method", head.method());
    line.text("scheme", if entry.tls { "https" } else { "http" });
    line.text("host", head.authority());
    line.text("path", head.path());
    if let Some(query) = head.query() {
        line.text("query", &redacted(query));
    }
    line.text("version", entry.version);
    line.text("client", &entry.client.to_string());
    line.text("listener", entry.listener);
    for (name, value) in [("route", entry.route), ("upstream", entry.upstream), ("endpoint", entry.endpoint)] {
        if !value.is_empty() {
            line.text(name, value);
        }
    }
    if entry.attempts > 0 {
        line.word("attempts", format_args!("{}", entry.attempts));
    }
    line.word("bytes_in", format_args!("{}", entry.bytes_in));
    line.word("bytes_out", format_args!("{}", entry.bytes_out));
    let millis = |span: Duration| span.as_micros() as f64 / 1000.0;
    line.word("answer_ms", format_args!("{:.3}", millis(entry.until_answer)));
    line.word("total_ms", format_args!("{:.3}", millis(entry.took)));
    if let Some(trace) = entry.trace {
        line.text("trace", &trace.to_string());
    }
    if !entry.why.is_empty() {
        line.text("why", entry.why);
    }
    if let Some(agent) = head.values("user-agent").next() {
        line.text("user_agent", &String::from_utf8_lossy(agent));
    }
    if let Some(value) = head.values("referer").next() {
        line.text("referer", &referer(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PlainHead;
    use proptest::prelude::*;

    fn entry() -> Entry<'static> {
        Entry {
            at: 1_795_347_296_789,
            listener: "web",
            route: "shop",
            upstream: "shop",
            endpoint: "127.0.0.1:9001",
            client: "9.9.9.9".parse().expect("an address"),
            tls: true,
            version: "HTTP/1.1",
            status: 200,
            attempts: 2,
            bytes_in: 0,
            bytes_out: 1024,
            took: Duration::from_micros(1500),
            until_answer: Duration::from_micros(1250),
            trace: Some(TraceId(0x4bf92f3577b34da6a3ce929d0e0e4736)),
            why: "",
        }
    }

    fn line(style: AccessLog, head: &PlainHead<'_>) -> String {
        let mut out = String::new();
        write_line(style, &entry(), head, &mut out);
        out
    }

    #[test]
    fn golden() {
        let head = PlainHead {
            method: "GET",
            authority: "shop.example",
            target: "/a%20b?page=2&access_token=abc&x;PassWord=1",
            fields: &[
                ("Authorization", "Bearer very-secret"),
                ("Cookie", "sid=very-secret"),
                ("X-Api-Key", "very-secret"),
                ("User-Agent", "curl/8 \"quoted\"\u{e9}"),
                ("Referer", "https://me:very-secret@other.example/x?code=very-secret&y=1#very-secret"),
            ],
        };
        assert_eq!(
            line(AccessLog::Json, &head),
            concat!(
                r#"{"time":"2026-11-22T11:34:56.789Z","status":200,"method":"GET","scheme":"https","host":"shop.example","path":"/a%20b","#,
                r#""query":"page=2&access_token=***&x;PassWord=***","version":"HTTP/1.1","client":"9.9.9.9","listener":"web","route":"shop","#,
                r#""upstream":"shop","endpoint":"127.0.0.1:9001","attempts":2,"bytes_in":0,"bytes_out":1024,"answer_ms":1.250,"total_ms":1.500,"#,
                r#""trace":"4bf92f3577b34da6a3ce929d0e0e4736","user_agent":"curl/8 \"quoted\"é","referer":"https://other.example/x?code=***&y=1"}"#
            )
        );
        assert_eq!(
            line(AccessLog::Text, &head),
            concat!(
                "2026-11-22T11:34:56.789Z status=200 method=GET scheme=https host=shop.example path=/a%20b ",
                "query=page=2&access_token=***&x;PassWord=*** version=HTTP/1.1 client=9.9.9.9 listener=web route=shop upstream=shop ",
                "endpoint=127.0.0.1:9001 attempts=2 bytes_in=0 bytes_out=1024 answer_ms=1.250 total_ms=1.500 ",
                "trace=4bf92f3577b34da6a3ce929d0e0e4736 user_agent=\"curl/8 \\\"quoted\\\"\\u{e9}\" ",
                "referer=https://other.example/x?code=***&y=1"
            )
        );
        assert_eq!(line(AccessLog::Off, &head), "");
    }

    #[test]
    fn secrets_are_found_by_name_however_it_is_written() {
        for (query, wanted) in [
            ("a=1", "a=1"),
            ("token=x", "token=***"),
            ("my%54oken=x&b=2", "my%54oken=***&b=2"),
            ("X-Amz-Signature=x", "X-Amz-Signature=***"),
            ("key=a&keyboard=b", "key=***&keyboard=b"),
            ("password", "password"),
            ("password=a=b", "password=***"),
            ("", ""),
        ] {
            assert_eq!(redacted(query), wanted, "{query}");
        }
    }

    #[test]
    fn dates() {
        for (at, wanted) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            let mut out = String::new();
            push_time(&mut out, at);
            assert_eq!(out, wanted);
        }
    }

    proptest! {
        #[test]
        fn a_line_is_a_line_and_json_is_json(agent in "\\PC{0,40}|[\\x00-\\x1f\u{7f}-\u{a0}\u{2028}\u{202e}\"\\\\]{0,20}", query in "\\PC{0,40}") {
            let target = format!("/?{query}");
            let fields = [("user-agent", agent.as_str()), ("referer", agent.as_str())];
            let head = PlainHead { method: "GET", authority: "a", target: &target, fields: &fields };
            let json = line(AccessLog::Json, &head);
            let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(value["user_agent"].as_str(), Some(agent.as_str()));
            prop_assert!(!json.chars().any(char::is_control));
            let text = line(AccessLog::Text, &head);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", text);
        }
    }
}

//! Text with `{places}` that a request fills: the new path of a rewrite, the target of a redirect.

use crate::model::PathPattern;
use crate::request::Asked;
use crate::table::Captures;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(usize),
    Rest,
    Path,
    Host,
    Scheme,
    Query,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a template for requests that match `pattern`. In a path only parameters, `{rest}` and `{path}` make sense.
    pub fn parse(text: &str, pattern: &PathPattern, in_path: bool) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('{') {
            let (name, after) = from.split_once('}').ok_or("a { without its }")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "rest" if !pattern.below => return Err("{rest} is what lies below a /*, which the route's path does not end in".into()),
                "rest" => Part::Rest,
                "path" => Part::Path,
                "host" if !in_path => Part::Host,
                "scheme" if !in_path => Part::Scheme,
                "query" if !in_path => Part::Query,
                name => match pattern.parameters().position(|parameter| parameter == name) {
                    Some(at) => Part::Parameter(at),
                    None => {
                        let more = if in_path { "" } else { ", {host}, {scheme}, {query}" };
                        return Err(format!(
                            "{{{name}}} is nothing that a request has; there are {{path}}, {{rest}}{more} and the parameters of the route's path"
                        ));
                    }
                },
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err("a } without its {".into());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template(parts))
    }

    /// The text for a request. An empty rest takes the slash before it along where the request's path had none there either.
    pub fn fill(&self, asked: &Asked<'_>, tls: bool, captures: &Captures) -> String {
        let path: &str = &asked.path;
        let mut out = String::with_capacity(path.len() + 16);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Parameter(at) => out.push_str(captures.parameter(path, *at)),
                Part::Rest => match captures.rest(path) {
                    Some(rest) => out.push_str(rest),
                    None if out.len() > 1 && out.ends_with('/') => {
                        out.pop();
                    }
                    None => {}
                },
                Part::Path => out.push_str(path),
                Part::Host => {
                    out.push_str(&asked.host);
                }
                Part::Scheme => out.push_str(if tls { "https" } else { "http" }),
                Part::Query => {
                    if let Some(query) = asked.query {
                        out.push('?');
                        out.push_str(query);
                    }
                }
            }
        }
        out
    }

    /// The text with every place filled with `p`, for checks of what lies around the places.
    pub(crate) fn example(&self) -> String {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Path => "/p",
            Part::Query => "",
            _ => "p",
        });
        texts.collect()
    }

    /// Whether it begins with the request's whole path.
    pub(crate) fn begins_with_path(&self) -> bool {
        self.0.first() == Some(&Part::Path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn golden() {
        let pattern: PathPattern = "/users/{id}/*".parse().expect("a pattern");
        let fill = |text: &str, path: &'static str, rest: Option<u32>| {
            let asked = Asked {
                host: Cow::Borrowed("a.example"),
                port: Some(80),
                path: Cow::Borrowed(path),
                query: Some("q=1"),
                server_wide: false,
            };
            let captures = Captures { parameters: [(7, 9)].into_iter().collect(), rest };
            Template::parse(text, &pattern, false)
                .map_or_else(|why| format!("error: {why}"), |it| it.fill(&asked, true, &captures))
        };
        for (text, wanted) in [
            ("/v2/{rest}", "/v2/a/b"),
            ("/{id}", "/17"),
            ("/x{path}", "/x/users/17/a/b"),
            ("{scheme}://{host}{path}{query}", "https://a.example/users/17/a/b?q=1"),
            ("plain", "plain"),
            (
                "{nobody}",
                "error: {nobody} is nothing that a request has; there are {path}, {rest}, {host}, {scheme}, {query} and the parameters of the route's path",
            ),
            ("{id", "error: a { without its }"),
            ("id}", "error: a } without its {"),
        ] {
            assert_eq!(fill(text, "/users/17/a/b", Some(10)), wanted, "{text}");
        }
        assert_eq!(fill("/v2/{rest}", "/users/17", None), "/v2", "no slash below, none made");
        assert_eq!(fill("/v2/{rest}", "/users/17/", Some(10)), "/v2/");
        assert_eq!(fill("/{rest}", "/users/17", None), "/", "a path is never empty");
        let exact: PathPattern = "/a".parse().expect("a pattern");
        assert!(Template::parse("/{rest}", &exact, true).is_err_and(|why| why.contains("does not end in")));
        assert!(Template::parse("{host}", &exact, true).is_err());
    }
}

//! A route ready to be followed: names looked up, header edits parsed, templates read.

use std::sync::Arc;

use crate::balance::HashKey;
use crate::headers::{CONNECTION_FIELDS, is_token, is_value};
use crate::model::{HeaderEdits, Route, ValueMatch, Wrong};
use crate::request;
use crate::template::Template;

/// Most edits of a route's request, and of its answer.
pub const HEADER_EDITS_MAX: usize = 64;
/// Largest body of a direct response.
pub const RESPOND_BYTES_MAX: usize = 64 << 10;

/// The host that the upstream is told.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// What the client asked for.
    Keep,
    /// This one.
    Fixed(String),
    /// The endpoint's own address.
    Endpoint,
}

/// An upstream and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Relative to the others'.
    pub weight: u32,
    /// The hash of its name.
    pub(crate) salt: u64,
}

impl Share {
    /// A share of an upstream.
    pub fn new(upstream: &str, weight: u32) -> Share {
        Share { upstream: upstream.into(), weight, salt: HashKey::SHARED.hash(upstream.as_bytes()) }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// An upstream gets it.
    Proxy {
        /// Which, by weight.
        shares: Vec<Share>,
        /// Its new path.
        path: Option<Template>,
        /// Its new host.
        host: HostRewrite,
    },
    /// The client is sent elsewhere.
    Redirect {
        /// 301 to 308.
        status: u16,
        /// Where.
        to: Template,
    },
    /// It is answered here.
    Respond {
        /// The status.
        status: u16,
        /// The Content-Type.
        content_type: String,
        /// The body.
        body: Arc<str>,
    },
}

/// See the module's head.
#[derive(Debug)]
pub struct Compiled {
    /// Its name.
    pub name: Arc<str>,
    /// Its place among the routes of its configuration.
    pub index: usize,
    /// What it was made from.
    pub document: Route,
    /// Its header conditions, names in small letters and in order.
    pub headers: Vec<(String, ValueMatch)>,
    /// What becomes of requests.
    pub action: RouteAction,
}

fn header_name(text: &str) -> Result<String, String> {
    if is_token(text) { Ok(text.to_ascii_lowercase()) } else { Err(format!("{text:?} is no name of a header")) }
}

fn header_value(text: &str) -> Result<String, String> {
    if is_value(text) {
        Ok(text.to_owned())
    } else {
        Err("a header's value has no line breaks or control characters".into())
    }
}

fn check_edits(edits: &HeaderEdits, key: &str, wrongs: &mut Vec<Wrong>) {
    let sets = edits.set.iter().map(|(name, value)| ("set", name, value.as_str()));
    let adds = edits.add.iter().map(|(name, value)| ("add", name, value.as_str()));
    let removes = edits.remove.iter().map(|name| ("remove", name, ""));
    let mut count = 0;
    for (what, name, value) in sets.chain(adds).chain(removes) {
        count += 1;
        // Fields that frame messages, or that we make ourselves: an edit would contradict what is sent.
        let wrong = match header_name(name) {
            Err(why) => why,
            Ok(name) if name == "host" => "the host is rewritten by rewrite.host".into(),
            Ok(name) if CONNECTION_FIELDS.contains(&name.as_str()) => {
                format!("{name} belongs to the connection, not to the route")
            }
            Ok(_) => match header_value(value) {
                Err(why) => why,
                Ok(_) => continue,
            },
        };
        wrongs.push(Wrong::new(format!("{key}.{what}.{name}"), wrong));
    }
    if count > HEADER_EDITS_MAX {
        wrongs.push(Wrong::new(key, format!("{count} edits; at most {HEADER_EDITS_MAX}")));
    }
}

impl Compiled {
    /// Reads the parts of a route that are text to the model. What is wrong is told with its key within the route.
    pub fn new(name: &str, index: usize, route: &Route) -> Result<Compiled, Vec<Wrong>> {
        let mut wrongs = Vec::new();
        let mut headers = Vec::new();
        for (name, wanted) in &route.headers {
            match header_name(name) {
                Ok(name) => headers.push((name, wanted.clone())),
                Err(why) => wrongs.push(Wrong::new("headers", why)),
            }
        }
        headers.sort();
        check_edits(&route.request_headers, "request_headers", &mut wrongs);
        check_edits(&route.response_headers, "response_headers", &mut wrongs);
        let action = action(route).map_err(|wrong| wrongs.push(wrong));
        match action {
            Ok(action) if wrongs.is_empty() => {
                Ok(Compiled { name: name.into(), index, document: route.clone(), headers, action })
            }
            _ => Err(wrongs),
        }
    }
}

fn action(route: &Route) -> Result<RouteAction, Wrong> {
    match (route.to.is_empty(), &route.redirect, &route.respond) {
        (false, None, None) => proxy(route),
        (true, Some(redirect), None) => {
            let at = |what: String| Wrong::new("redirect.to", what);
            if ![301, 302, 303, 307, 308].contains(&redirect.status) {
                let what = format!("{}: wants 301, 302, 303, 307 or 308", redirect.status);
                return Err(Wrong::new("redirect.status", what));
            }
            let to = Template::parse(&redirect.to, &route.path, false).map_err(at)?;
            let example = to.example();
            if !(example.starts_with('/') || example.contains("://")) || !is_value(&example) || !example.is_ascii() {
                return Err(at(format!("{:?}: wants a path (\"/new\") or a URL (\"https://…\")", redirect.to)));
            }
            Ok(RouteAction::Redirect { status: redirect.status, to })
        }
        (true, None, Some(respond)) => {
            if !(200..=599).contains(&respond.status) {
                return Err(Wrong::new("respond.status", format!("{}: wants 200 to 599", respond.status)));
            }
            if matches!(respond.status, 204 | 304) && !respond.body.is_empty() {
                return Err(Wrong::new("respond.body", format!("an answer of {} has no body", respond.status)));
            }
            if respond.body.len() > RESPOND_BYTES_MAX {
                return Err(Wrong::new("respond.body", format!("at most {RESPOND_BYTES_MAX} bytes")));
            }
            let content_type =
                header_value(&respond.content_type).map_err(|why| Wrong::new("respond.content_type", why))?;
            Ok(RouteAction::Respond { status: respond.status, content_type, body: respond.body.as_str().into() })
        }
        (true, None, None) => {
            Err(Wrong::new("", "says nothing to do: give it to = \"UPSTREAM\", redirect = \"URL\" or respond = { … }"))
        }
        _ => Err(Wrong::new("", "says two things to do: keep one of to, redirect and respond")),
    }
}

fn proxy(route: &Route) -> Result<RouteAction, Wrong> {
    if route.to.iter().all(|target| target.weight == 0) {
        return Err(Wrong::new("to", "all weights are 0: give at least one target a weight"));
    }
    let shares: Vec<Share> = route.to.iter().map(|target| Share::new(&target.upstream, target.weight)).collect();
    let path = match &route.rewrite.path {
        None => None,
        Some(text) => {
            let at = |what: String| Wrong::new("rewrite.path", what);
            let template = Template::parse(text, &route.path, true).map_err(at)?;
            // Places are filled with what is normal, so it is enough that the text around them is.
            let example = template.example();
            match request::normal_path(&example) {
                Ok(normal) if normal == example && (text.starts_with('/') || template.begins_with_path()) => {}
                Ok(_) if !text.starts_with('/') => return Err(at(format!("{text:?}: a path starts with /"))),
                Ok(_) => return Err(at(format!("{text:?}: has //, dots or letters that paths do not have"))),
                Err(error) => return Err(at(format!("{text:?}: {error}"))),
            }
            Some(template)
        }
    };
    let host = match route.rewrite.host.as_deref() {
        None => HostRewrite::Keep,
        Some("upstream") => HostRewrite::Endpoint,
        Some(text) => {
            let at = |why: String| Wrong::new("rewrite.host", format!("{text:?}: {why}"));
            request::host_and_port(text).map_err(|error| at(format!("wants a host or \"upstream\" ({error})")))?;
            HostRewrite::Fixed(header_value(text).map_err(at)?)
        }
    };
    Ok(RouteAction::Proxy { shares, path, host })
}

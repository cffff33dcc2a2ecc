//! Which route a request takes.
//!
//! **Precedence**, the first difference decides:
//!
//! 1. `priority`, the higher first;
//! 2. the host: exact, then `*.` with the longest name, then any;
//! 3. the path, segment by segment from the left: a text before a `{parameter}` before the end in `/*` (so the longest prefix wins,
//!    and exact before all);
//! 4. routes that name methods before those that do not;
//! 5. more header conditions before fewer; 6. more query conditions before fewer; 7. the name, in order of the alphabet.
//!
//! A route whose conditions do not hold gives way to the next in this order: also to one of a less specific path or host.
//!
//! **Cost.** A hash for the host (and one for each of its dots if there are `*.` routes), a hash for each segment of the path, each of them one
//! cache line ([`compact`]). What was found is read only where it has conditions beside host and path.
//! Routes that share host and path are looked at one by one: at most [`ROUTES_PER_PATH_MAX`]. Each priority in use is a table of
//! its own: at most [`PRIORITIES_MAX`].

mod compact;
mod paths;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::model::HostPattern;
use crate::request::{Asked, Head, parameters};
use crate::route::Compiled;
use compact::{Forest, Planter};
use paths::Paths;

pub use paths::Captures;

/// Most routes of one listener that have the same priority, host and path.
pub const ROUTES_PER_PATH_MAX: usize = 64;
/// Most different priorities on one listener.
pub const PRIORITIES_MAX: usize = 16;

/// The routes of one priority, while they come.
#[derive(Debug, Default)]
struct Growing {
    exact: HashMap<Box<str>, Paths, FixedState>,
    below: HashMap<Box<str>, Paths, FixedState>,
    any: Option<Paths>,
}

/// The routes of one priority: nodes of the forest.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Whose edges are the names of hosts.
    exact: Option<u32>,
    /// Whose edges are names of which hosts below are meant.
    below: Option<u32>,
    /// The root of the paths of every host.
    any: Option<u32>,
}

/// The routes of one listener, ready to be asked.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Compiled>>,
    forest: Forest,
    /// The highest priority first.
    levels: Vec<Level>,
}

/// What [`RouteTable::build`] found wrong: two routes that one request could take with nothing to decide between them, or too many of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The route that cannot be put in.
    pub route: String,
    /// Why, with the name of the other.
    pub what: String,
}

impl RouteTable {
    /// The table of these routes.
    pub fn build(routes: &[Arc<Compiled>]) -> Result<RouteTable, Vec<Conflict>> {
        let mut ordered: Vec<Arc<Compiled>> = routes.to_vec();
        // Points 4 to 7: the trees keep the order in which routes come.
        ordered.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut levels: BTreeMap<i32, Growing> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for (at, route) in ordered.iter().enumerate() {
            let level = levels.entry(-route.document.priority).or_default();
            let any = [HostPattern::Any];
            let hosts = if route.document.hosts.is_empty() { &any } else { route.document.hosts.as_slice() };
            for host in hosts {
                let paths = match host {
                    HostPattern::Any => level.any.get_or_insert_default(),
                    HostPattern::Below(name) => level.below.entry(name.as_str().into()).or_default(),
                    HostPattern::Exact(name) => level.exact.entry(name.as_str().into()).or_default(),
                };
                let same = paths.insert(&route.document.path, at as u32);
                if same.len() > ROUTES_PER_PATH_MAX {
                    let what = format!("more than {ROUTES_PER_PATH_MAX} routes for {host} {}", route.document.path);
                    conflicts.push(Conflict { route: route.name.to_string(), what });
                } else if let Some(other) =
                    same.iter().find(|other| **other != at as u32 && ordered[**other as usize].ambiguous_with(route))
                {
                    let other = &ordered[*other as usize].name;
                    let what = format!(
                        "asks for the same as route.{other} ({host} {}): give one of them a higher priority, or other methods, headers or query",
                        route.document.path
                    );
                    conflicts.push(Conflict { route: route.name.to_string(), what });
                }
            }
        }
        if levels.len() > PRIORITIES_MAX
            && let Some(route) = ordered.last()
        {
            let what = format!("{} different priorities; at most {PRIORITIES_MAX} on one listener", levels.len());
            conflicts.push(Conflict { route: route.name.to_string(), what });
        }
        if !conflicts.is_empty() {
            conflicts.dedup();
            return Err(conflicts);
        }
        let mut planter = Planter::default();
        let plain = |at: u32| ordered[at as usize].has_no_conditions();
        let hosts = |planter: &mut Planter, trees: HashMap<Box<str>, Paths, FixedState>| {
            let mut trees: Vec<_> = trees.into_iter().collect();
            trees.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let hosts = (!trees.is_empty()).then(|| planter.hosts())?;
            for (name, paths) in trees {
                let root = planter.plant(paths, &plain);
                planter.host(hosts, name, root);
            }
            Some(hosts)
        };
        let level = |growing: Growing| Level {
            exact: hosts(&mut planter, growing.exact),
            below: hosts(&mut planter, growing.below),
            any: growing.any.map(|paths| planter.plant(paths, &plain)),
        };
        let mut levels: Vec<Level> = levels.into_values().map(level).collect();
        let (forest, name) = planter.finish();
        levels.iter_mut().for_each(|level| level.any = level.any.map(&name));
        Ok(RouteTable { routes: ordered, forest, levels })
    }

    /// The route that a request takes. `captures` is told where the parameters of its path are.
    pub fn find(&self, asked: &Asked<'_>, head: &impl Head, captures: &mut Captures) -> Option<&Arc<Compiled>> {
        self.find_for(&asked.host, &asked.path, captures, &mut |route| route.accepts(head))
    }

    /// The route of a TLS or TCP connection, by the server name that it asks for.
    pub fn find_connection(&self, server_name: &str) -> Option<&Arc<Compiled>> {
        self.find_for(server_name, "/", &mut Captures::default(), &mut |_| true)
    }

    fn find_for(
        &self,
        host: &str,
        path: &str,
        captures: &mut Captures,
        accepts: &mut dyn FnMut(&Compiled) -> bool,
    ) -> Option<&Arc<Compiled>> {
        let accepts = &mut |at: u32| accepts(&self.routes[at as usize]);
        for level in &self.levels {
            let exact = level.exact.and_then(|hosts| self.forest.step(hosts, host));
            let found = exact
                .and_then(|root| self.forest.find(root, path, captures, accepts))
                .or_else(|| self.find_below(level.below?, host, path, captures, accepts))
                .or_else(|| self.forest.find(level.any?, path, captures, accepts));
            if let Some(at) = found {
                return Some(&self.routes[at as usize]);
            }
        }
        None
    }

    fn find_below(
        &self,
        hosts: u32,
        host: &str,
        path: &str,
        captures: &mut Captures,
        accepts: &mut dyn FnMut(u32) -> bool,
    ) -> Option<u32> {
        if host.starts_with('[') {
            return None;
        }
        let mut rest = host;
        while let Some((_, below)) = rest.split_once('.') {
            let root = self.forest.step(hosts, below);
            if let Some(found) = root.and_then(|root| self.forest.find(root, path, captures, accepts)) {
                return Some(found);
            }
            rest = below;
        }
        None
    }

    /// How many routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

impl Compiled {
    /// Points 4 to 7 of the precedence; the lower first.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>, &str) {
        let document = &self.document;
        let (headers, query) = (document.headers.len(), document.query.len());
        (document.methods.is_empty(), std::cmp::Reverse(headers), std::cmp::Reverse(query), &self.name)
    }

    /// Whether one request could take either, with nothing but the name between them.
    fn ambiguous_with(&self, other: &Compiled) -> bool {
        let (a, b) = (&self.document, &other.document);
        let methods = match (a.methods.is_empty(), b.methods.is_empty()) {
            (true, true) => true,
            (false, false) => a.methods.iter().any(|method| b.methods.contains(method)),
            _ => false,
        };
        methods && self.headers == other.headers && a.query == b.query
    }

    /// Whether host and path are all that it asks for.
    fn has_no_conditions(&self) -> bool {
        self.document.methods.is_empty() && self.headers.is_empty() && self.document.query.is_empty()
    }

    /// Whether the conditions beside host and path hold.
    pub fn accepts(&self, head: &impl Head) -> bool {
        let methods = &self.document.methods;
        let method = head.method();
        let head_as_get = |wanted: &str| wanted == "GET" && method == "HEAD";
        if !methods.is_empty() && !methods.iter().any(|wanted| wanted.0 == method || head_as_get(&wanted.0)) {
            return false;
        }
        let header_holds = self.headers.iter().all(|(name, wanted)| wanted.accepts(head.values(name)));
        header_holds
            && self.document.query.iter().all(|(name, wanted)| {
                let values: Vec<_> = parameters(head.query().unwrap_or(""))
                    .filter(|(key, _)| **key == *name.as_bytes())
                    .map(|(_, value)| value)
                    .collect();
                wanted.accepts(values.iter().map(|value| &**value))
            })
    }
}

//! The paths of one host as a tree by segments. A look costs a hash for each segment of the request's path (and may try a
//! parameter where a text led nowhere); how many routes there are does not matter.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::model::{PARAMETERS_MAX, PathPattern, Segment};

/// Where the matched pattern's parameters and its rest lie in the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    /// Begin and end of each parameter, in order.
    pub parameters: SmallVec<[(u32, u32); 4]>,
    /// Where the part below a `/*` begins; `None` where the path is exactly what stands before it.
    pub rest: Option<u32>,
}

impl Captures {
    /// The text of a parameter.
    pub fn parameter<'p>(&self, path: &'p str, at: usize) -> &'p str {
        self.parameters.get(at).map_or("", |(begin, end)| &path[*begin as usize..*end as usize])
    }

    /// The part below a `/*`.
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        self.rest.map(|begin| &path[begin as usize..])
    }
}

#[derive(Debug, Default)]
struct Node {
    texts: HashMap<Box<str>, u32, FixedState>,
    parameter: Option<u32>,
    /// Routes whose pattern ends here, in order of precedence.
    exact: Vec<u32>,
    /// Routes whose pattern ends here with `/*`.
    below: Vec<u32>,
}

/// See the module's head. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths { nodes: vec![Node::default()] }
    }
}

impl Paths {
    /// Puts a route behind those that are at the same pattern already; gives them all.
    pub fn insert(&mut self, pattern: &PathPattern, route: u32) -> &[u32] {
        let mut at = 0usize;
        for segment in &pattern.segments {
            let next = self.nodes.len() as u32;
            let node = &mut self.nodes[at];
            let child = match segment {
                Segment::Text(text) => *node.texts.entry(text.as_str().into()).or_insert(next),
                Segment::Parameter(_) => *node.parameter.get_or_insert(next),
            };
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child as usize;
        }
        let node = &mut self.nodes[at];
        let routes = if pattern.below { &mut node.below } else { &mut node.exact };
        routes.push(route);
        routes
    }

    /// The most specific route for which `accepts`: segment by segment a text goes before a parameter, and both before `/*`.
    pub fn find(&self, path: &str, captures: &mut Captures, accepts: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        debug_assert!(path.starts_with('/'), "the path is normal");
        captures.parameters.clear();
        captures.rest = None;
        self.walk(0, path, 0, captures, accepts)
    }

    /// `end` is where the slash before the next segment stands, or the path's length where there is none. The depth of the recursion is
    /// bounded by the deepest pattern.
    fn walk(
        &self,
        node: u32,
        path: &str,
        end: usize,
        captures: &mut Captures,
        accepts: &mut dyn FnMut(u32) -> bool,
    ) -> Option<u32> {
        let node = &self.nodes[node as usize];
        if end < path.len() {
            let begin = end + 1;
            let next = path[begin..].find('/').map_or(path.len(), |at| begin + at);
            let segment = &path[begin..next];
            if !node.texts.is_empty()
                && let Some(child) = node.texts.get(segment)
                && let Some(found) = self.walk(*child, path, next, captures, accepts)
            {
                return Some(found);
            }
            if let Some(child) = node.parameter.filter(|_| !segment.is_empty()) {
                debug_assert!(captures.parameters.len() < PARAMETERS_MAX, "patterns have at most so many");
                captures.parameters.push((begin as u32, next as u32));
                if let Some(found) = self.walk(child, path, next, captures, accepts) {
                    return Some(found);
                }
                captures.parameters.pop();
            }
            captures.rest = Some(begin as u32);
        } else {
            captures.rest = None;
            if let Some(route) = node.exact.iter().find(|route| accepts(**route)) {
                return Some(*route);
            }
        }
        node.below.iter().find(|route| accepts(**route)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths(patterns: &[&str]) -> Paths {
        let mut paths = Paths::default();
        for (at, pattern) in patterns.iter().enumerate() {
            paths.insert(&pattern.parse().unwrap_or_else(|why| panic!("{pattern}: {why}")), at as u32);
        }
        paths
    }

    const PATTERNS: [&str; 10] = [
        "/*",
        "/",
        "/api/*",
        "/api/health",
        "/api/{version}/users/*",
        "/api/v1/*",
        "/users/{id}",
        "/users/{id}/orders/{order}",
        "/users/me/*",
        "/a/",
    ];

    #[test]
    fn golden() {
        let paths = paths(&PATTERNS);
        for (path, wanted, parameters, rest) in [
            ("/", "/", "", None),
            ("/x", "/*", "", Some("x")),
            ("/apix", "/*", "", Some("apix")),
            ("/api", "/api/*", "", None),
            ("/api/", "/api/*", "", Some("")),
            ("/api/health", "/api/health", "", None),
            ("/api/health/x", "/api/*", "", Some("health/x")),
            ("/api/v1/users/7", "/api/v1/*", "", Some("users/7")),
            ("/api/v2/users/7", "/api/{version}/users/*", "v2", Some("7")),
            ("/api/v2/users", "/api/{version}/users/*", "v2", None),
            ("/api/v2/orders", "/api/*", "", Some("v2/orders")),
            ("/users/7", "/users/{id}", "7", None),
            ("/users/7/", "/*", "", Some("users/7/")),
            ("/users/", "/*", "", Some("users/")),
            ("/users/7/orders/8", "/users/{id}/orders/{order}", "7 8", None),
            ("/users/me/orders/8", "/users/me/*", "", Some("orders/8")),
            ("/users/me", "/users/me/*", "", None),
            ("/a/", "/a/", "", None),
            ("/a", "/*", "", Some("a")),
        ] {
            let mut captures = Captures::default();
            let found = paths.find(path, &mut captures, &mut |_| true).map(|at| PATTERNS[at as usize]);
            assert_eq!(found, Some(wanted), "{path}");
            let texts: Vec<&str> = (0..captures.parameters.len()).map(|at| captures.parameter(path, at)).collect();
            assert_eq!((texts.join(" ").as_str(), captures.rest(path)), (parameters, rest), "{path}");
        }
    }

    #[test]
    fn a_route_whose_conditions_fail_gives_way_to_the_next_most_specific() {
        let paths = paths(&PATTERNS);
        let mut seen = Vec::new();
        let found = paths.find("/api/v1/users/7", &mut Captures::default(), &mut |at| {
            seen.push(PATTERNS[at as usize]);
            false
        });
        assert_eq!(found, None);
        assert_eq!(seen, ["/api/v1/*", "/api/{version}/users/*", "/api/*", "/*"]);
    }

    /// What the tree must do, said without a tree.
    fn naive(patterns: &[PathPattern], path: &str) -> Option<usize> {
        let parts: Vec<&str> = path[1..].split('/').collect();
        let matches = |pattern: &PathPattern| {
            let enough = if pattern.below {
                parts.len() >= pattern.segments.len()
            } else {
                parts.len() == pattern.segments.len()
            };
            enough
                && pattern.segments.iter().zip(&parts).all(|(segment, part)| match segment {
                    Segment::Text(text) => text == part,
                    Segment::Parameter(_) => !part.is_empty(),
                })
        };
        // Ranks compare segment by segment: text 0, parameter 1, what ends in `/*` 2; an exact end comes before all.
        let rank = |pattern: &PathPattern| {
            let mut rank: Vec<u8> =
                pattern.segments.iter().map(|segment| u8::from(matches!(segment, Segment::Parameter(_)))).collect();
            if pattern.below {
                rank.push(2);
            }
            rank
        };
        (0..patterns.len()).filter(|at| matches(&patterns[*at])).min_by_key(|at| rank(&patterns[*at]))
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_look_at_every_pattern_finds(
            patterns in proptest::collection::btree_set("(/(a|b|\\{p\\}|\\{q\\})){1,4}(/\\*)?", 1..20),
            path in "(/(a|b|c)){1,5}/?",
        ) {
            let mut parsed: Vec<PathPattern> = patterns.iter().filter_map(|pattern| pattern.parse().ok()).collect();
            // Patterns that differ by their parameters' names alone are the same to the tree.
            let shape = |pattern: &PathPattern| {
                let segments: Vec<Option<String>> = pattern.segments.iter().map(|segment| match segment {
                    Segment::Text(text) => Some(text.clone()),
                    Segment::Parameter(_) => None,
                }).collect();
                (segments, pattern.below)
            };
            parsed.sort_by_key(shape);
            parsed.dedup_by_key(|pattern| shape(pattern));
            let mut paths = Paths::default();
            for (at, pattern) in parsed.iter().enumerate() {
                prop_assert_eq!(paths.insert(pattern, at as u32).len(), 1);
            }
            let found = paths.find(&path, &mut Captures::default(), &mut |_| true);
            prop_assert_eq!(found.map(|at| at as usize), naive(&parsed, &path), "{} in {:?}", path, parsed);
        }
    }
}

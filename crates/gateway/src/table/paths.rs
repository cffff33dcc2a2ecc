//! The paths of one host as a tree by segments, while it grows; [`super::compact`] is what it is looked up in.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::model::{PathPattern, Segment};

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
pub(super) struct Node {
    pub texts: HashMap<Box<str>, u32, FixedState>,
    pub parameter: Option<u32>,
    /// Routes whose pattern ends here, in order of precedence.
    pub exact: Vec<u32>,
    /// Routes whose pattern ends here with `/*`.
    pub below: Vec<u32>,
}

/// See the module's head. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Paths {
    pub nodes: Vec<Node>,
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
}

#[cfg(test)]
mod tests {
    use super::super::compact::{Forest, Planter};
    use super::*;
    use proptest::prelude::*;

    /// A forest of one tree.
    struct Tree(Forest, u32);

    impl Tree {
        fn new(paths: Paths) -> Tree {
            let mut planter = Planter::default();
            let root = planter.plant(paths, &|_| false);
            let (forest, name) = planter.finish();
            let root = name(root);
            Tree(forest, root)
        }

        fn find(&self, path: &str, captures: &mut Captures, accepts: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
            self.0.find(self.1, path, captures, accepts)
        }
    }

    fn paths(patterns: &[&str]) -> Tree {
        let mut paths = Paths::default();
        for (at, pattern) in patterns.iter().enumerate() {
            paths.insert(&pattern.parse().unwrap_or_else(|why| panic!("{pattern}: {why}")), at as u32);
        }
        Tree::new(paths)
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
            patterns in proptest::collection::btree_set("(/(a|a-segment-longer-than-an-edge|\\{p\\}|\\{q\\})){1,4}(/\\*)?", 1..20),
            path in "(/(a|a-segment-longer-than-an-edge|a-segment-longer-than-an-egde|c)){1,5}/?",
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
            let found = Tree::new(paths).find(&path, &mut Captures::default(), &mut |_| true);
            prop_assert_eq!(found.map(|at| at as usize), naive(&parsed, &path), "{} in {:?}", path, parsed);
        }
    }
}

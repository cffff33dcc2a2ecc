//! All hosts and paths of one listener, frozen for looking up: what a look touches lies in few cache lines, since with thousands of routes each
//! of them is a miss.
//!
//! Every step from a node to the one below it, by a segment of the path or by a host, is one [`Edge`] of 32 bytes in one hash table, keyed by
//! node and text; texts of up to [`INLINE`] bytes lie in it. Hosts are the edges of nodes of their own. A node is 12 bytes, and is read only where
//! no text leads on. A route without conditions beside host and path is known by a bit of its number: nothing of it is read.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::Captures;
use super::paths::Paths;
use crate::model::PARAMETERS_MAX;

/// Longest text that lies in its edge.
const INLINE: usize = 22;
/// No node, no route.
const NONE: u32 = u32::MAX;
/// Of a node's number: no text leads on from it, so that nobody looks for one.
const LEAF: u32 = 1 << 31;
/// Of an entry of a node: it is a place in `lists`, where several stand, the last of them with [`LAST`].
const LIST: u32 = 1 << 31;
/// Of a route's number: it takes every request that comes so far.
const PLAIN: u32 = 1 << 30;
/// Of an entry of a list: the last one.
const LAST: u32 = 1 << 29;
/// What is left for the number of a route.
const NUMBER: u32 = LAST - 1;

/// From a node by a text to another.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
struct Edge {
    from: u32,
    /// [`NONE`] in an empty place.
    to: u32,
    length: u16,
    /// The text; of a longer one its place in `texts` and its hash.
    text: [u8; INLINE],
}

const EMPTY: Edge = Edge { from: NONE, to: NONE, length: 0, text: [0; INLINE] };

#[derive(Clone, Copy, Debug)]
struct Node {
    parameter: u32,
    exact: u32,
    below: u32,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Forest {
    /// A power of two of them (or none), at most three quarters in use.
    edges: Box<[Edge]>,
    nodes: Vec<Node>,
    lists: Vec<u32>,
    texts: Vec<u8>,
}

fn hash_of(from: u32, text: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u32(from);
    hasher.write(text);
    hasher.finish()
}

/// What stands in a long text's edge instead of the text.
fn long(place: u32, hash: u64) -> [u8; INLINE] {
    let mut text = [0; INLINE];
    text[..4].copy_from_slice(&place.to_le_bytes());
    text[4..12].copy_from_slice(&hash.to_le_bytes());
    text
}

/// Puts trees together; see [`Planter::finish`].
#[derive(Debug, Default)]
pub(super) struct Planter {
    forest: Forest,
    edges: Vec<(u32, Box<str>, u32)>,
}

impl Planter {
    /// A node without anything: for the names of hosts.
    pub fn hosts(&mut self) -> u32 {
        self.forest.nodes.push(Node { parameter: NONE, exact: NONE, below: NONE });
        self.forest.nodes.len() as u32 - 1
    }

    /// Puts a tree in; gives its root. `plain` says whether a route has no conditions of its own.
    pub fn plant(&mut self, paths: Paths, plain: &dyn Fn(u32) -> bool) -> u32 {
        let base = self.forest.nodes.len() as u32;
        for (at, node) in paths.nodes.into_iter().enumerate() {
            let mut entry = |routes: &[u32]| -> u32 {
                let lists = &mut self.forest.lists;
                let place = lists.len() as u32;
                match routes {
                    [] => NONE,
                    [one] => *one | if plain(*one) { PLAIN } else { 0 },
                    many => {
                        lists.extend(many.iter().map(|one| *one | if plain(*one) { PLAIN } else { 0 }));
                        lists[place as usize + many.len() - 1] |= LAST;
                        place | LIST
                    }
                }
            };
            let (exact, below) = (entry(&node.exact), entry(&node.below));
            let parameter = node.parameter.map_or(NONE, |child| base + child);
            self.forest.nodes.push(Node { parameter, exact, below });
            // In an order that does not depend on a hash.
            let mut texts: Vec<_> = node.texts.into_iter().collect();
            texts.sort_unstable_by_key(|(_, child)| *child);
            self.edges.extend(texts.into_iter().map(|(text, child)| (base + at as u32, text, base + child)));
        }
        base
    }

    /// Puts a host above a tree.
    pub fn host(&mut self, hosts: u32, name: Box<str>, root: u32) {
        self.edges.push((hosts, name, root));
    }

    /// The forest; and how the numbers of roots that were given are written in it.
    pub fn finish(self) -> (Forest, impl Fn(u32) -> u32) {
        let Planter { mut forest, edges } = self;
        let mut inner = vec![false; forest.nodes.len()];
        edges.iter().for_each(|(from, ..)| inner[*from as usize] = true);
        let name = move |node: u32| if node == NONE || inner[node as usize] { node } else { node | LEAF };
        forest.nodes.iter_mut().for_each(|node| node.parameter = name(node.parameter));
        if !edges.is_empty() {
            forest.edges = vec![EMPTY; (edges.len() * 4 / 3 + 1).next_power_of_two()].into();
        }
        for (from, text, to) in edges {
            let bytes = text.as_bytes();
            let hash = hash_of(from, bytes);
            let mut edge = Edge { from, to: name(to), length: bytes.len() as u16, text: [0; INLINE] };
            if bytes.len() <= INLINE {
                edge.text[..bytes.len()].copy_from_slice(bytes);
            } else {
                edge.text = long(forest.texts.len() as u32, hash);
                forest.texts.extend_from_slice(bytes);
            }
            let mask = forest.edges.len() - 1;
            let mut at = hash as usize & mask;
            while forest.edges[at].to != NONE {
                at = (at + 1) & mask;
            }
            forest.edges[at] = edge;
        }
        (forest, name)
    }
}

impl Forest {
    /// Where a text leads from a node (whose number has no [`LEAF`]).
    pub fn step(&self, from: u32, text: &str) -> Option<u32> {
        if from & LEAF != 0 || self.edges.is_empty() || text.len() > usize::from(u16::MAX) {
            return None;
        }
        let bytes = text.as_bytes();
        let hash = hash_of(from, bytes);
        let mask = self.edges.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let edge = &self.edges[at];
            if edge.to == NONE {
                return None;
            }
            if edge.from == from && usize::from(edge.length) == bytes.len() && self.is(edge, bytes, hash) {
                return Some(edge.to);
            }
            at = (at + 1) & mask;
        }
    }

    fn is(&self, edge: &Edge, bytes: &[u8], hash: u64) -> bool {
        if bytes.len() <= INLINE {
            return &edge.text[..bytes.len()] == bytes;
        }
        let place = u32::from_le_bytes([edge.text[0], edge.text[1], edge.text[2], edge.text[3]]);
        edge.text[4..12] == hash.to_le_bytes() && &self.texts[place as usize..place as usize + bytes.len()] == bytes
    }

    /// The most specific route below `root` for which `accepts`: segment by segment a text goes before a parameter, and both before `/*`.
    pub fn find(
        &self,
        root: u32,
        path: &str,
        captures: &mut Captures,
        accepts: &mut dyn FnMut(u32) -> bool,
    ) -> Option<u32> {
        debug_assert!(path.starts_with('/'), "the path is normal");
        captures.parameters.clear();
        captures.rest = None;
        self.walk(root, path, 0, captures, accepts)
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
        if end == path.len() {
            captures.rest = None;
            let node = &self.nodes[(node & !LEAF) as usize];
            return self.first(node.exact, accepts).or_else(|| self.first(node.below, accepts));
        }
        let begin = end + 1;
        let next = path[begin..].find('/').map_or(path.len(), |at| begin + at);
        let segment = &path[begin..next];
        if let Some(child) = self.step(node, segment)
            && let Some(found) = self.walk(child, path, next, captures, accepts)
        {
            return Some(found);
        }
        let node = &self.nodes[(node & !LEAF) as usize];
        if node.parameter != NONE && !segment.is_empty() {
            debug_assert!(captures.parameters.len() < PARAMETERS_MAX, "patterns have at most so many");
            captures.parameters.push((begin as u32, next as u32));
            if let Some(found) = self.walk(node.parameter, path, next, captures, accepts) {
                return Some(found);
            }
            captures.parameters.pop();
        }
        captures.rest = Some(begin as u32);
        self.first(node.below, accepts)
    }

    /// The first route of an entry that takes the request.
    fn first(&self, entry: u32, accepts: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        if entry == NONE {
            return None;
        }
        let mut takes = |route: u32| route & PLAIN != 0 || accepts(route & NUMBER);
        if entry & LIST == 0 {
            return takes(entry).then_some(entry & NUMBER);
        }
        for route in &self.lists[(entry & !LIST) as usize..] {
            if takes(*route) {
                return Some(route & NUMBER);
            }
            if route & LAST != 0 {
                break;
            }
        }
        None
    }
}

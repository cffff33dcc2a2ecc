//! Which keys a request means: one, those of a range, or all from one on.

use std::ops::Bound;

/// Keys, as etcd's `key` and `range_end` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The key, or the first of a range.
    pub key: &'a [u8],
    /// What it ends before.
    pub end: End<'a>,
}

/// Where a span ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It is one key.
    Single,
    /// Before this key.
    Before(&'a [u8]),
    /// Nowhere.
    Never,
}

impl<'a> Span<'a> {
    /// What a request says.
    pub fn of(key: &'a [u8], range_end: &'a [u8]) -> Span<'a> {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Never,
            end => End::Before(end),
        };
        Span { key, end }
    }

    /// Whether this key is meant.
    #[inline]
    pub fn has(&self, key: &[u8]) -> bool {
        match self.end {
            End::Single => key == self.key,
            End::Before(end) => key >= self.key && key < end,
            End::Never => key >= self.key,
        }
    }

    /// The same for a map; `None` where it can hold nothing.
    #[allow(clippy::type_complexity)]
    pub fn bounds(&self) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
        match self.end {
            End::Single => Some((Bound::Included(self.key), Bound::Included(self.key))),
            End::Before(end) if end <= self.key => None,
            End::Before(end) => Some((Bound::Included(self.key), Bound::Excluded(end))),
            End::Never => Some((Bound::Included(self.key), Bound::Unbounded)),
        }
    }
}

//! What happened to keys, for whoever wants to hear of it (keyspace notifications). Nothing here is replicated state.

use super::Tables;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was absent and holds something now.
    Came,
    /// It holds something else.
    Changed,
    /// It got a moment of expiry, or another one.
    Expires,
    /// It had a moment of expiry and has none now.
    Persists,
    /// It was removed.
    Went,
    /// It was removed because its time was over.
    Expired,
}

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The key's database.
    pub db: u8,
    /// The key.
    pub key: Vec<u8>,
    /// What happened.
    pub what: What,
}

impl Tables {
    /// From now on notes what happens to keys, or does not.
    pub fn set_noting(&mut self, noting: bool) {
        self.books.noted = noting.then(Vec::new);
    }

    /// Whether anything has been noted: what most writes ask.
    #[inline]
    pub fn has_noted(&self) -> bool {
        self.books.noted.as_ref().is_some_and(|noted| !noted.is_empty())
    }

    /// What happened since the last call, in order. Whole databases that were cleared or swapped are not among it.
    pub fn take_noted(&mut self) -> Vec<Noted> {
        self.books.noted.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Noted, What};
    use crate::keyspace::Keyspaces;
    use crate::table::{Expiry, Tables};

    #[test]
    fn all_that_happens_to_a_key_is_noted_once() {
        let mut tables = Tables::new(Arc::new(Keyspaces::default()));
        tables.set_string(0, b"before", b"v", Expiry::Clear, 1);
        assert!(!tables.has_noted());
        tables.set_noting(true);
        let mut whats = |act: &mut dyn FnMut(&mut Tables)| {
            act(&mut tables);
            let noted = tables.take_noted();
            assert!(noted.iter().all(|Noted { db, key, .. }| *db == 0 && key == b"k"));
            noted.into_iter().map(|noted| noted.what).collect::<Vec<_>>()
        };
        assert_eq!(whats(&mut |t| t.set_string(0, b"k", b"v", Expiry::Clear, 1)), [What::Came]);
        assert_eq!(whats(&mut |t| t.set_string(0, b"k", b"w", Expiry::Clear, 1)), [What::Changed]);
        assert_eq!(whats(&mut |t| t.set_string(0, b"k", b"x", Expiry::At(9), 1)), [What::Changed, What::Expires]);
        assert_eq!(
            whats(&mut |t| {
                let _ = t.set_expire(0, b"k", 0, 1);
            }),
            [What::Persists]
        );
        assert_eq!(
            whats(&mut |t| {
                let _ = t.set_expire(0, b"k", 5, 1);
            }),
            [What::Expires]
        );
        assert_eq!(
            whats(&mut |t| {
                let _ = t.edit_text(0, b"k", 2, |text| (false, text.clear()));
            }),
            []
        );
        assert_eq!(
            whats(&mut |t| {
                let _ = t.edit_text(0, b"k", 2, |text| (true, text.push(b'y')));
            }),
            [What::Changed]
        );
        assert_eq!(whats(&mut |t| t.set_string(0, b"k", b"z", Expiry::Clear, 6)), [What::Expired, What::Came]);
        assert_eq!(
            whats(&mut |t| {
                let _ = t.remove(0, b"k", 6);
            }),
            [What::Went]
        );
        assert_eq!(
            whats(&mut |t| {
                let _ = t.remove(0, b"k", 6);
            }),
            []
        );
    }
}

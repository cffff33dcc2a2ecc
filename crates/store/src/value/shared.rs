//! A part of a collection that a snapshot may hold on to while the collection changes.
//!
//! Owned plainly until a snapshot asks for it, so that commands pay nothing; shared from then on, and copied by the first
//! change that meets it still held. So a collection of any size is frozen by sharing its parts, each of which is small.

use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) enum Shared<T> {
    Own(T),
    Held(Arc<T>),
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared::Own(T::default())
    }
}

impl<T> std::ops::Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            Shared::Own(part) => part,
            Shared::Held(part) => part,
        }
    }
}

impl<T: Clone + Default> Shared<T> {
    /// The part, to be changed: a copy where a snapshot still holds it.
    #[inline]
    pub(super) fn own(&mut self) -> &mut T {
        if let Shared::Held(_) = self {
            self.reclaim();
        }
        match self {
            Shared::Own(part) => part,
            Shared::Held(_) => unreachable!("it has just been reclaimed"),
        }
    }

    #[cold]
    fn reclaim(&mut self) {
        if let Shared::Held(part) = std::mem::take(self) {
            *self = Shared::Own(Arc::unwrap_or_clone(part));
        }
    }

    /// The part as it is now, for a snapshot.
    pub(super) fn hold(&mut self) -> Arc<T> {
        if let Shared::Own(part) = self {
            *self = Shared::Held(Arc::new(std::mem::take(part)));
        }
        match self {
            Shared::Held(part) => part.clone(),
            Shared::Own(_) => unreachable!("it has just been shared"),
        }
    }
}

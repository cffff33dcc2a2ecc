//! Fences in a MULTI ([`crate::command::fence`]): all are looked at before anything of it is done.

use base::Millis;

use super::State;
use crate::command::{self, fence, is};
use crate::entry::{Multi, Part};
use crate::error::CommandError;

impl State {
    /// Why a MULTI must not be run: a number that it shows is stale.
    pub(super) fn fenced(&self, multi: &Multi<'_>, now: Millis) -> Option<CommandError> {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.fences_ignored {
            return None;
        }
        let mut rest = multi.clone();
        for _ in 0..multi.count {
            let Ok(part) = rest.next_part() else { break };
            let Part::Command(db, words) = part else { continue };
            if !is(words[0], "q.fence") {
                continue;
            }
            let Some(spec) = command::find(words[0]) else { continue };
            let Ok(class) = command::check(spec, &words).and_then(|()| self.class_of(spec, &words)) else { continue };
            if let Err(error) = fence::shown(self.tables(class), db, &words, now) {
                return Some(error);
            }
        }
        None
    }
}

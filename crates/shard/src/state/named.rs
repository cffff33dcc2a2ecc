//! A MULTI whose commit has a name ([`crate::command::named`]): whether it has been done.

use base::Millis;
use store::keyspace::Durability;
use store::table::Expiry;

use super::State;
use crate::command::named::{ANSWER_MAX, Kept, until};
use crate::command::{self, is};
use crate::entry::{Multi, Part};
use crate::error::{CommandError, WRONG_TYPE};
use crate::pending::Place;
use crate::reply::Reply;

/// A name under which a commit's answer is to be kept.
pub(super) struct Named {
    class: Durability,
    db: u8,
    key: Vec<u8>,
    until: Millis,
}

/// Whether a MULTI has a name.
pub(crate) fn is_named(multi: &Multi<'_>) -> bool {
    multi.count > 0 && matches!(multi.clone().next_part(), Ok(Part::Command(_, words)) if is(words[0], "q.txid"))
}

impl State {
    /// The name of a MULTI that is to be run, if it has one. False where it has been answered: it was done before, or cannot be.
    pub(super) fn named(
        &mut self,
        multi: &Multi<'_>,
        place: Place,
        now: Millis,
        reply: &mut Reply,
    ) -> Result<Option<Named>, ()> {
        if multi.count == 0 {
            return Ok(None);
        }
        let Ok(Part::Command(db, words)) = multi.clone().next_part() else { return Ok(None) };
        if !is(words[0], "q.txid") {
            return Ok(None);
        }
        let found = || -> Result<Named, CommandError> {
            let spec = command::find(words[0]).ok_or(CommandError::new("ERR unknown command"))?;
            command::check(spec, &words)?;
            let class = self.checked_class(spec, &words, place)?;
            Ok(Named { class, db, key: words[1].to_vec(), until: until(&words, now)? })
        };
        let refuse = |error: CommandError, reply: &mut Reply| {
            reply.error(&format!("EXECABORT Transaction discarded because of: {}", error.0));
            Err(())
        };
        let named = match found() {
            Ok(named) => named,
            Err(error) => return refuse(error, reply),
        };
        #[cfg(any(test, feature = "planted"))]
        if self.planted.names_ignored {
            return Ok(Some(named));
        }
        match self.tables(named.class).text(db, &named.key, now) {
            Err(_) => return refuse(WRONG_TYPE, reply),
            Ok(None) => {}
            Ok(Some(bytes)) => {
                match Kept::read(bytes) {
                    Err(error) => return refuse(error, reply),
                    Ok(kept) => kept.tell(reply),
                }
                return Err(());
            }
        }
        let spec = command::find(words[0]).expect("it was found a moment ago");
        match self.make_room(spec, named.class, &words, now) {
            Ok(()) => Ok(Some(named)),
            Err(error) => refuse(error, reply),
        }
    }

    /// Keeps what it was answered.
    pub(super) fn keep_named(&mut self, named: &Named, answer: &[u8], reply: &Reply, now: Millis) {
        let kept = if answer.len() > ANSWER_MAX { Kept::Long } else { Kept::Done(reply.protocol, answer) };
        let text = kept.bytes();
        self.half_mut(named.class).tables.set_string(named.db, &named.key, &text, Expiry::At(named.until), now);
    }
}

//! Commits that have a name: `Q.TXID` as the first command of a MULTI, `Q.TXRESULT` and `Q.TXABORT`.
//!
//! A name is a key. Under it stands what EXEC has answered, for as long as was asked for; so it is replicated, moves with its
//! slot, expires, counts in its keyspace, and is a part of the transaction like any other key, over several shards too. What looks at it
//! before a MULTI runs is `state::named`.

use base::Millis;
use store::table::Expiry;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, SYNTAX, WRONG_TYPE};
use crate::reply::{Protocol, Reply};

family!("transactions");

/// A name is kept for so long where nobody says, seconds.
pub const SECONDS: i64 = 3_600;
/// And at most for so long.
pub const SECONDS_MAX: i64 = 7 * 86_400;
/// Bytes of an answer that are kept with it; of a longer one only that it was given.
pub const ANSWER_MAX: usize = 64 << 10;

const KEY: Keys = Keys::Range(1, 1, 1);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("q.txid", -2, Flags::GROWS, KEY, Run::Write(txid), "7.2.0", "Names the commit that it begins: however often it is sent, it happens once."),
    spec("q.txresult", 2, Flags::FAST, KEY, Run::Read(txresult), "7.2.0", "Tells what the commit of this name was answered, or null."),
    spec("q.txabort", -2, Flags::GROWS, KEY, Run::Write(txabort), "7.2.0", "Tells the same; where there is no such commit, there will be none."),
];

/// How a kept outcome begins.
const MAGIC: &[u8] = b"QTX1";
const NO_NAME: CommandError = CommandError::new("ERR this key holds no outcome of a commit");
const FIRST: CommandError = CommandError::new("ERR Q.TXID must be the first command of a MULTI");
const SPAN: CommandError = CommandError::new("ERR a name is kept for 1 to 604800 seconds");

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept<'a> {
    /// It was done; the answer, and in which protocol.
    Done(Protocol, &'a [u8]),
    /// It was done, and its answer was too long.
    Long,
    /// It will not be done.
    Aborted,
}

impl<'a> Kept<'a> {
    /// The stored form.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        match self {
            Kept::Done(protocol, answer) => {
                out.push(if *protocol == Protocol::Resp3 { b'3' } else { b'2' });
                out.extend_from_slice(answer);
            }
            Kept::Long => out.push(b'L'),
            Kept::Aborted => out.push(b'A'),
        }
        out
    }

    pub(crate) fn read(bytes: &'a [u8]) -> Result<Kept<'a>, CommandError> {
        match bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first) {
            Some((b'2', answer)) => Ok(Kept::Done(Protocol::Resp2, answer)),
            Some((b'3', answer)) => Ok(Kept::Done(Protocol::Resp3, answer)),
            Some((b'L', [])) => Ok(Kept::Long),
            Some((b'A', [])) => Ok(Kept::Aborted),
            _ => Err(NO_NAME),
        }
    }

    /// What whoever asks again is told.
    pub(crate) fn tell(&self, reply: &mut Reply) {
        match self {
            Kept::Done(protocol, answer) if *protocol == reply.protocol => reply.bytes.extend_from_slice(answer),
            Kept::Done(..) => {
                reply.error("TXDONE the commit of this name was done; its answer was in the other version of RESP")
            }
            Kept::Long => reply.error("TXDONE the commit of this name was done; its answer was too long to be kept"),
            Kept::Aborted => reply
                .error("TXABORTED the commit of this name was given up by Q.TXABORT; nothing was done, nor will it be"),
        }
    }
}

/// For how long a name is to be kept: until when.
pub(crate) fn until(args: Args<'_>, now: Millis) -> Result<Millis, CommandError> {
    let seconds = match args {
        [_, _] => SECONDS,
        [_, _, word, seconds] if is(word, "ex") => integer(seconds)?,
        _ => return Err(SYNTAX),
    };
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(SPAN);
    }
    Ok(now + seconds as Millis * 1000)
}

/// Where it is not the first of a MULTI.
fn txid(_: &mut Writing<'_>, _: Args<'_>, _: &mut Reply) -> Outcome {
    Err(FIRST)
}

fn txresult(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    match reading.tables.text(reading.db, args[1], reading.now).map_err(|_| WRONG_TYPE)? {
        None => reply.null(),
        Some(bytes) => Kept::read(bytes)?.tell(reply),
    }
    Ok(())
}

fn txabort(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let until = until(args, writing.now)?;
    match writing.tables.text(writing.db, args[1], writing.now).map_err(|_| WRONG_TYPE)? {
        None => {
            let text = Kept::Aborted.bytes();
            writing.tables.set_string(writing.db, args[1], &text, Expiry::At(until), writing.now);
            reply.null();
        }
        Some(bytes) => match Kept::read(bytes)? {
            Kept::Aborted => reply.null(),
            kept => kept.tell(reply),
        },
    }
    Ok(())
}

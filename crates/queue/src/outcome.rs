//! What came of a command: the answer's bytes, which a door reads back.

use store::codec::{Corrupt, Input, put_varint};

use crate::code::Code;
use crate::words::{end, int, int16, put_bool, put_int, put_text, text, truth, version};

const VERSION: u8 = 1;

/// What came of a [`Command`](crate::Command).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or as it was already.
    Done,
    /// Batches have their offsets.
    Produced {
        /// The first one's.
        base: u64,
        /// The time of append where readers see it, milliseconds; else -1.
        stamp: i64,
        /// Where the partition begins.
        start: u64,
        /// Whether they had been stored before: nothing was done now.
        again: bool,
    },
    /// Where the partition begins now.
    Trimmed {
        /// Its first offset.
        start: u64,
    },
    /// A producer's id and epoch from now on.
    Producer {
        /// The id.
        id: i64,
        /// The epoch.
        epoch: i16,
    },
    /// The transaction that the targets are in.
    Enlisted {
        /// Its number, for [`Entered`](crate::command::Entered) and [`Within`](crate::command::Within).
        number: u64,
    },
    /// Nothing was done, but what the words say.
    Refused {
        /// Kafka's code.
        code: Code,
        /// For people.
        why: String,
    },
}

impl Outcome {
    /// A refusal.
    pub fn refused(code: Code, why: impl Into<String>) -> Outcome {
        Outcome::Refused { code, why: why.into() }
    }

    /// Its code; NONE where nothing was refused.
    pub fn code(&self) -> Code {
        match self {
            Outcome::Refused { code, .. } => *code,
            _ => Code::NONE,
        }
    }

    /// The form in which it is answered.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the form in which it is answered.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Outcome::Done => out.push(0),
            Outcome::Produced { base, stamp, start, again } => {
                out.push(1);
                put_varint(out, *base);
                put_int(out, *stamp);
                put_varint(out, *start);
                put_bool(out, *again);
            }
            Outcome::Trimmed { start } => {
                out.push(2);
                put_varint(out, *start);
            }
            Outcome::Producer { id, epoch } => {
                out.push(3);
                put_int(out, *id);
                put_int(out, i64::from(*epoch));
            }
            Outcome::Enlisted { number } => {
                out.push(4);
                put_varint(out, *number);
            }
            Outcome::Refused { code, why } => {
                out.push(5);
                put_int(out, i64::from(code.0));
                put_text(out, why);
            }
        }
    }

    /// Reads what [`Outcome::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, Corrupt> {
        let mut input = Input::new(bytes);
        let input = &mut input;
        version(input, VERSION)?;
        let outcome = match input.u8()? {
            0 => Outcome::Done,
            1 => Outcome::Produced {
                base: input.varint()?,
                stamp: int(input)?,
                start: input.varint()?,
                again: truth(input)?,
            },
            2 => Outcome::Trimmed { start: input.varint()? },
            3 => Outcome::Producer { id: int(input)?, epoch: int16(input)? },
            4 => Outcome::Enlisted { number: input.varint()? },
            5 => Outcome::Refused { code: Code(int16(input)?), why: text(input)?.to_owned() },
            _ => return Err(Corrupt("unknown outcome")),
        };
        end(input)?;
        Ok(outcome)
    }
}

//! Lua scripts: which ones are known (replicated state), and how one runs.
//!
//! ```text
//!   EVAL ── Scripts (SHA-1 → source, bytecode) ── Interpreter (PUC Lua 5.1) ── Session ── commands over Writing
//!                                                   prelude.lua, libraries in Rust, Meter
//! ```
//!
//! **Deterministic.** A script is executed on every replica, so it must do the same everywhere: what it would do in an
//! interpreter of its own, built the same way each time from bytecode, where what it allocates, and so where it meets a
//! limit, follows from the script and the data alone. Most runs need not pay for one: see [`interpreter`]. There is no clock but shard time, no randomness but a seeded one, no address in any
//! text, and no walk over a table that is keyed by tables or functions (their order would follow addresses).
//!
//! **Bounded.** A budget of instructions ([`meter`]) pays for Lua's instructions, bytes allocated, bytes scanned and
//! commands called; memory has a limit of its own. A script that meets a limit ends with an error that it cannot catch
//! (memory: that it can); what it has written stays, as with any other error of a script in Redis.
//!
//! Functions ([`library`]) are the same but for where their source stands.
//!
//! **Kept.** Unlike Redis, scripts survive a restart and are the same on every replica: EVALSHA works after a failover.
//!
//! Caveats chosen: comparing (`<`) or adding huge strings costs one instruction however long they are; a table with
//! both holes and address-typed keys may have another `#` on another machine.

mod bit;
mod cjson;
mod cmsgpack;
mod convert;
mod interpreter;
mod library;
mod meter;
mod natives;
mod number;
mod pattern;
mod sandbox;
mod session;
mod sha1;
mod shebang;
mod structs;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use base::{Limit, Limits};
use store::codec::{Corrupt, Input, Stored, put_bytes, put_varint};

use crate::command::Writing;
use crate::error::CommandError;
use crate::reply::Reply;
pub use library::{FLAGS as FUNCTION_FLAGS, Libraries, Policy};
pub use shebang::Header;

/// A script's SHA-1.
pub type Digest = [u8; 20];

/// All known sources together, bytes.
const SOURCES_BYTES_MAX: usize = 64 << 20;

/// A script that can run.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name.
    pub digest: Digest,
    /// Its first line.
    pub header: Header,
    bytecode: Arc<[u8]>,
    /// The function to call of those that it registers, where it is a library's body.
    function: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Kept {
    source: Arc<[u8]>,
    /// SCRIPT LOADed: goes only when no EVALed one is left.
    loaded: bool,
    /// Value of the clock at its last logged use.
    used: u64,
    /// Derived from the source at first need; no part of the state.
    script: OnceLock<Script>,
}

/// Scripts by their SHA-1: replicated state, changed only by logged commands.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    kept: BTreeMap<Digest, Kept>,
    bytes: usize,
    /// Counts logged uses.
    clock: u64,
}

impl Scripts {
    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes of all sources.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether EVALSHA would find this one. Hexadecimal, any case.
    pub fn has(&self, hex: &[u8]) -> bool {
        sha1::parse(hex).is_some_and(|digest| self.kept.contains_key(&digest))
    }

    /// To be called when a script's run was cut short by a panic. A run takes its thread's interpreter and gives it back
    /// at its end, so none that could be half-changed outlives it.
    pub fn forget_interpreter(&mut self) {}

    /// Their sources, and whether each was loaded by SCRIPT LOAD.
    pub fn sources(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.kept.values().map(|kept| (&*kept.source, kept.loaded))
    }

    /// Forgets all.
    pub fn flush(&mut self) {
        *self = Scripts { clock: self.clock, ..Scripts::default() };
    }

    /// The script with this source, for an unlogged command: keeps nothing.
    pub fn peek(&self, source: &[u8], limits: &Limits) -> Result<Script, CommandError> {
        let digest = sha1::digest(source);
        match self.kept.get(&digest) {
            Some(kept) => kept.script(digest, limits),
            None => compile(digest, source, limits),
        }
    }

    /// The script with this name, if it is known, for an unlogged command.
    pub fn peek_digest(&self, hex: &[u8], limits: &Limits) -> Result<Script, CommandError> {
        let digest = sha1::parse(hex).ok_or(NO_SCRIPT)?;
        self.kept.get(&digest).ok_or(NO_SCRIPT)?.script(digest, limits)
    }

    /// The script with this name, if it is known. Counts as use.
    pub fn find(&mut self, hex: &[u8], limits: &Limits) -> Result<Script, CommandError> {
        let digest = sha1::parse(hex).ok_or(NO_SCRIPT)?;
        let kept = self.kept.get_mut(&digest).ok_or(NO_SCRIPT)?;
        self.clock += 1;
        kept.used = self.clock;
        kept.script(digest, limits)
    }

    /// Keeps a script that compiles; where there is no room, others go: those of EVAL first, used longest ago first.
    pub fn keep(&mut self, source: &[u8], loaded: bool, limits: &Limits) -> Result<Script, CommandError> {
        let digest = sha1::digest(source);
        self.clock += 1;
        if let Some(kept) = self.kept.get_mut(&digest) {
            kept.used = self.clock;
            kept.loaded |= loaded;
            return kept.script(digest, limits);
        }
        let script = compile(digest, source, limits)?;
        while !self.kept.is_empty()
            && (self.kept.len() >= limits.scripts_max || self.bytes + source.len() > SOURCES_BYTES_MAX)
        {
            limits.hit(Limit::scripts_max);
            self.drop_oldest();
        }
        self.bytes += source.len();
        let kept = Kept { source: source.into(), loaded, used: self.clock, script: OnceLock::from(script.clone()) };
        self.kept.insert(digest, kept);
        Ok(script)
    }

    fn drop_oldest(&mut self) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| (kept.loaded, kept.used)).map(|(digest, _)| *digest);
        if let Some(kept) = oldest.and_then(|digest| self.kept.remove(&digest)) {
            self.bytes -= kept.source.len();
        }
    }
}

/// EVALSHA of a script that nobody loaded.
pub const NO_SCRIPT: CommandError = CommandError::new("NOSCRIPT No matching script. Please use EVAL.");

impl Kept {
    fn script(&self, digest: Digest, limits: &Limits) -> Result<Script, CommandError> {
        if let Some(script) = self.script.get() {
            return Ok(script.clone());
        }
        let script = compile(digest, &self.source, limits)?;
        Ok(self.script.get_or_init(|| script).clone())
    }
}

impl Script {
    /// What errors call it: a function's name, or a script's digits.
    fn shown(&self) -> String {
        self.function.as_ref().map_or_else(|| self.hex(), |name| name.to_string())
    }

    /// The forty digits that EVALSHA takes.
    pub fn hex(&self) -> String {
        sha1::hex(&self.digest)
    }

    /// Runs it as one atomic unit. `read_only` is EVAL_RO.
    pub fn run(
        &self,
        writing: &mut Writing<'_>,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        read_only: bool,
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        if read_only && self.header.declared && !self.header.no_writes {
            return Err(CommandError::new("ERR Can not execute a script with write flag using *_ro command."));
        }
        interpreter::run(self, writing, keys, arguments, read_only || self.header.no_writes, reply)
    }
}

fn compile(digest: Digest, source: &[u8], limits: &Limits) -> Result<Script, CommandError> {
    if source.len() > limits.script_bytes_max {
        limits.hit(Limit::script_bytes_max);
        let limit = limits.script_bytes_max;
        return Err(format!("ERR Script exceeds the limit of {limit} bytes (limit script_bytes_max)").into());
    }
    let header = shebang::parse(source)?;
    let bytecode = sandbox::compile(&source[header.len..], sandbox::USER, limits)
        .map_err(|text| CommandError::from(format!("ERR Error compiling script (new function): {text}")))?;
    Ok(Script { digest, header, bytecode: bytecode.into(), function: None })
}

/// The stored form: count, then per script in digest order its source, whether it was loaded, its last use; the clock.
impl Stored for Scripts {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.kept.len() as u64);
        for kept in self.kept.values() {
            put_bytes(out, &kept.source);
            out.push(u8::from(kept.loaded));
            put_varint(out, kept.used);
        }
        put_varint(out, self.clock);
    }

    fn decode(input: &mut Input<'_>) -> Result<Scripts, Corrupt> {
        let mut scripts = Scripts::default();
        for _ in 0..input.count()? {
            let source: Arc<[u8]> = input.bytes()?.into();
            let loaded = match input.u8()? {
                0 => false,
                1 => true,
                _ => return Err(Corrupt("unknown kind of script")),
            };
            let used = input.varint()?;
            scripts.bytes += source.len();
            let digest = sha1::digest(&source);
            scripts.kept.insert(digest, Kept { source, loaded, used, script: OnceLock::new() });
        }
        scripts.clock = input.varint()?;
        Ok(scripts)
    }
}

#[cfg(test)]
pub use interpreter::testing;

#[cfg(test)]
mod tests;

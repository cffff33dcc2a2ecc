//! Libraries of functions (FUNCTION, FCALL): replicated state, changed only by logged commands.
//!
//! ```text
//!   FUNCTION LOAD ── the body runs once, cold ── names, descriptions, flags ──► Libraries (in snapshots, in imports)
//!   FCALL name    ── the body runs again, then the function it registered under that name ──► the answer
//! ```
//!
//! Redis keeps one interpreter in which what a body left in its local variables lives on, on one server, until it restarts.
//! Here the body runs anew for each call: so a function does the same on every replica, and after every restart.
//! Bodies mostly register closures, which costs microseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use base::{Limit, Limits};
use store::codec::{Corrupt, Input, Stored, put_bytes, put_varint};

use super::{Digest, Header, SOURCES_BYTES_MAX, Script, interpreter, sandbox, sha1};
use crate::error::{CommandError, shown};
use crate::rdb;

/// Functions that one library may register.
const FUNCTIONS_MAX: usize = 1024;
/// Bytes of all names and descriptions that one library may register.
const WORDS_BYTES_MAX: usize = 1 << 20;

/// What a function may do, in the order in which FUNCTION LIST names it.
pub const FLAGS: [&str; 5] = ["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"];
const NO_WRITES: u8 = 1;
const ALLOW_OOM: u8 = 2;

/// What is known of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// As it was registered.
    pub description: Option<Vec<u8>>,
    /// A bit for each of [`FLAGS`].
    pub flags: u8,
}

/// A library.
#[derive(Clone, Debug)]
pub struct Library {
    code: Arc<[u8]>,
    digest: Digest,
    functions: BTreeMap<String, Function>,
    /// Derived from the code at first need; no part of the state.
    bytecode: OnceLock<Arc<[u8]>>,
}

/// All libraries of a shard.
#[derive(Clone, Debug, Default)]
pub struct Libraries {
    libraries: BTreeMap<String, Library>,
    /// Of a function, in lower case: its library, and its name as registered.
    functions: BTreeMap<String, (String, String)>,
    bytes: usize,
}

/// What FUNCTION RESTORE does with the libraries that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They stay; a name that is taken is an error.
    Append,
    /// Those of the same names go.
    Replace,
    /// All go.
    Flush,
}

/// RDB's mark before a library.
const RDB_FUNCTION: u8 = 245;
/// The one before Redis 7.0 was released.
const RDB_FUNCTION_EARLY: u8 = 246;

impl Library {
    /// Its source, with the first line.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Its functions by name.
    pub fn functions(&self) -> &BTreeMap<String, Function> {
        &self.functions
    }

    fn cost(&self) -> usize {
        let words =
            |(name, function): (&String, &Function)| name.len() + function.description.as_ref().map_or(0, Vec::len);
        self.code.len() + self.functions.iter().map(words).sum::<usize>()
    }

    fn bytecode(&self, limits: &Limits) -> Result<Arc<[u8]>, CommandError> {
        if let Some(bytecode) = self.bytecode.get() {
            return Ok(bytecode.clone());
        }
        let bytecode: Arc<[u8]> = compile(&self.code, limits)?.into();
        Ok(self.bytecode.get_or_init(|| bytecode).clone())
    }
}

impl Libraries {
    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Library)> {
        self.libraries.iter().map(|(name, library)| (name.as_str(), library))
    }

    /// How many libraries, and how many functions in all.
    pub fn counts(&self) -> (usize, usize) {
        (self.libraries.len(), self.functions.len())
    }

    /// Bytes of all sources, names and descriptions.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.libraries.is_empty()
    }

    /// The function of that name, in any case, ready to run.
    pub fn find(&self, name: &[u8], limits: &Limits) -> Result<Script, CommandError> {
        const NOT_FOUND: CommandError = CommandError::new("ERR Function not found");
        let name = std::str::from_utf8(name).map_err(|_| NOT_FOUND)?.to_ascii_lowercase();
        let (library, name) = self.functions.get(&name).ok_or(NOT_FOUND)?;
        let library = &self.libraries[library];
        let flags = library.functions[name].flags;
        Ok(Script {
            digest: library.digest,
            header: Header {
                declared: true,
                no_writes: flags & NO_WRITES != 0,
                allow_oom: flags & ALLOW_OOM != 0,
                len: 0,
            },
            bytecode: library.bytecode(limits)?,
            function: Some(name.as_str().into()),
        })
    }

    /// Takes a library in and returns its name. Nothing changes where that fails.
    pub fn load(&mut self, code: &[u8], replace: bool, limits: &Limits) -> Result<String, CommandError> {
        self.load_within(code, replace, limits).map(|(name, _)| name)
    }

    /// The same; says also how many instructions the body took.
    fn load_within(&mut self, code: &[u8], replace: bool, limits: &Limits) -> Result<(String, u64), CommandError> {
        if code.len() > limits.script_bytes_max {
            limits.hit(Limit::script_bytes_max);
            let limit = limits.script_bytes_max;
            return Err(format!("ERR Library exceeds the limit of {limit} bytes (limit script_bytes_max)").into());
        }
        let name = metadata(code)?;
        let old = self.libraries.get(&name);
        if old.is_some() && !replace {
            return Err(format!("ERR Library '{name}' already exists").into());
        }
        let bytecode: Arc<[u8]> = compile(code, limits)?.into();
        let digest = sha1::digest(code);
        let (functions, used) = interpreter::register(&bytecode, limits)?;
        let words: usize =
            functions.iter().map(|(name, of)| name.len() + of.description.as_ref().map_or(0, Vec::len)).sum();
        if functions.len() > FUNCTIONS_MAX || words > WORDS_BYTES_MAX {
            return Err(format!(
                "ERR Library registers more than {FUNCTIONS_MAX} functions or {WORDS_BYTES_MAX} bytes of names and descriptions"
            )
            .into());
        }
        let taken = |function: &str| self.functions.get(&function.to_ascii_lowercase()).filter(|(of, _)| *of != name);
        if let Some(function) = functions.keys().find(|function| taken(function).is_some()) {
            return Err(format!("ERR Function {function} already exists").into());
        }
        let library = Library { code: code.into(), digest, functions, bytecode: OnceLock::from(bytecode) };
        let gone = old.map_or(0, Library::cost);
        let is_full = old.is_none() && self.libraries.len() >= limits.scripts_max;
        if is_full || self.bytes - gone + library.cost() > SOURCES_BYTES_MAX {
            limits.hit(Limit::scripts_max);
            let limit = limits.scripts_max;
            return Err(format!(
                "ERR Too many libraries: at most {limit} (limit scripts_max) and {SOURCES_BYTES_MAX} bytes; FUNCTION DELETE makes room"
            )
            .into());
        }
        self.delete(&name);
        self.put(name.clone(), library);
        Ok((name, used))
    }

    fn put(&mut self, name: String, library: Library) {
        self.bytes += library.cost();
        for function in library.functions.keys() {
            self.functions.insert(function.to_ascii_lowercase(), (name.clone(), function.clone()));
        }
        self.libraries.insert(name, library);
    }

    /// Removes a library. False where there is none of that name.
    pub fn delete(&mut self, name: &str) -> bool {
        let Some(library) = self.libraries.remove(name) else {
            return false;
        };
        self.bytes -= library.cost();
        self.functions.retain(|_, (of, _)| of != name);
        true
    }

    /// Removes all.
    pub fn flush(&mut self) {
        *self = Libraries::default();
    }

    /// What FUNCTION DUMP answers: each library as it stands in Redis's files, version and checksum behind them.
    pub fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for library in self.libraries.values() {
            out.push(RDB_FUNCTION);
            rdb::put_string(&library.code, &mut out);
        }
        rdb::seal(&mut out);
        out
    }

    /// Takes in what [`Libraries::dump`], or a Redis, gave: all of it or, with an error, nothing. All bodies share one budget.
    pub fn restore(&mut self, payload: &[u8], policy: Policy, limits: &Limits) -> Result<(), CommandError> {
        if !rdb::is_whole(payload) {
            return Err(CommandError::new("ERR DUMP payload version or checksum are wrong"));
        }
        const BROKEN: CommandError = CommandError::new("ERR failed loading the given functions payload");
        let mut source = rdb::Source::new(&payload[..payload.len() - 10], rdb::Bounds::of(limits));
        let mut arriving = Libraries::default();
        let mut budget = Limits { hits: limits.hits.clone(), ..*limits };
        while source.left() > 0 {
            match source.u8() {
                Ok(RDB_FUNCTION) => {}
                Ok(RDB_FUNCTION_EARLY) => return Err(CommandError::new("ERR Pre-GA function format not supported")),
                _ => return Err(CommandError::new("ERR given type is not a function")),
            }
            let code = source.string().map_err(|_| BROKEN)?;
            let (_, used) = arriving.load_within(&code, false, &budget)?;
            budget.script_instructions_max = budget.script_instructions_max.saturating_sub(used);
        }
        if policy == Policy::Flush {
            *self = arriving;
            return Ok(());
        }
        let mut joined = self.clone();
        for name in arriving.libraries.keys() {
            if joined.delete(name) && policy == Policy::Append {
                return Err(format!("ERR Library {name} already exists").into());
            }
        }
        for (name, library) in arriving.libraries {
            if let Some(function) =
                library.functions.keys().find(|name| joined.functions.contains_key(&name.to_ascii_lowercase()))
            {
                return Err(format!("ERR Function {function} already exists").into());
            }
            joined.put(name, library);
        }
        if joined.libraries.len() > limits.scripts_max || joined.bytes > SOURCES_BYTES_MAX {
            limits.hit(Limit::scripts_max);
            return Err(CommandError::new("ERR Too many libraries (limit scripts_max)"));
        }
        *self = joined;
        Ok(())
    }
}

fn compile(code: &[u8], limits: &Limits) -> Result<Vec<u8>, CommandError> {
    // The first line stays as an empty one, so that line numbers are the user's.
    let body = code.iter().position(|byte| *byte == b'\n').map_or(&[][..], |end| &code[end..]);
    sandbox::compile(body, sandbox::USER_FUNCTION, limits)
        .map_err(|text| CommandError::from(format!("ERR Error compiling function: {text}")))
}

/// The name in a library's first line (`#!lua name=mylib`).
fn metadata(code: &[u8]) -> Result<String, CommandError> {
    let line = code.strip_prefix(b"#!").ok_or(CommandError::new("ERR Missing library metadata"))?;
    const INVALID: CommandError = CommandError::new("ERR Invalid library metadata");
    let end = line.iter().position(|byte| *byte == b'\n').ok_or(INVALID)?;
    // The engine's name may be empty, but then the words must not move up.
    let words = words(&[b"!", &line[..end]].concat()).ok_or(INVALID)?;
    let (engine, rest) = words.split_first().ok_or(INVALID)?;
    let mut name: Option<&[u8]> = None;
    for word in rest {
        match word.split_at_checked(5) {
            Some((key, value)) if key.eq_ignore_ascii_case(b"name=") => {
                if name.is_some() {
                    return Err(CommandError::new(
                        "ERR Invalid metadata value, name argument was given multiple times",
                    ));
                }
                name = Some(value);
            }
            _ => return Err(format!("ERR Invalid metadata value given: {}", shown(word)).into()),
        }
    }
    let name = name.ok_or(CommandError::new("ERR Library name was not given"))?;
    let is_fine = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let Some(name) = std::str::from_utf8(name).ok().filter(|_| is_fine) else {
        return Err(CommandError::new(
            "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ));
    };
    if !engine[1..].eq_ignore_ascii_case(b"lua") {
        return Err(format!("ERR Engine '{}' not found", shown(&engine[1..])).into());
    }
    Ok(name.to_owned())
}

/// A line's words, with quotes as redis-cli takes them. `None` where a quote does not end.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        let mut word = Vec::new();
        while let Some((first, behind)) = rest.split_first().filter(|(first, _)| !first.is_ascii_whitespace()) {
            rest = behind;
            if !matches!(first, b'"' | b'\'') {
                word.push(*first);
                continue;
            }
            loop {
                let (byte, behind) = rest.split_first()?;
                rest = behind;
                match byte {
                    b'\\' if !rest.is_empty() => {
                        word.push(rest[0]);
                        rest = &rest[1..];
                    }
                    byte if byte == first => break,
                    byte => word.push(*byte),
                }
            }
            if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                return None;
            }
        }
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Some(words)
}

/// The stored form: count, then per library in order of names its code, the count of its functions, and of each name,
/// flags, and the description behind a byte that says whether there is one.
impl Stored for Libraries {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.libraries.len() as u64);
        for (name, library) in &self.libraries {
            put_bytes(out, name.as_bytes());
            put_bytes(out, &library.code);
            put_varint(out, library.functions.len() as u64);
            for (name, function) in &library.functions {
                put_bytes(out, name.as_bytes());
                out.extend_from_slice(&[function.flags, u8::from(function.description.is_some())]);
                if let Some(description) = &function.description {
                    put_bytes(out, description);
                }
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Libraries, Corrupt> {
        let text =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Corrupt("a function's name is no text"));
        let mut libraries = Libraries::default();
        for _ in 0..input.count()? {
            let name = text(input.bytes()?)?;
            let code: Arc<[u8]> = input.bytes()?.into();
            let mut functions = BTreeMap::new();
            for _ in 0..input.count()? {
                let name = text(input.bytes()?)?;
                let (flags, has_description) = (input.u8()?, input.u8()?);
                let description = if has_description == 0 { None } else { Some(input.bytes()?.to_vec()) };
                functions.insert(name, Function { description, flags });
            }
            let digest = sha1::digest(&code);
            libraries.put(name, Library { code, digest, functions, bytecode: OnceLock::new() });
        }
        Ok(libraries)
    }
}

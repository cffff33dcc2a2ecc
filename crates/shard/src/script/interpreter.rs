//! An interpreter, and one run of a script in it.
//!
//! ```text
//!   script ──► warm: this thread's interpreter, which has run others ──ends within its allowance──► the answer
//!                │ gives up, its session remembers what commands answered
//!                └► cold: a new interpreter, told those answers, then running on ────────────────► the answer
//! ```
//!
//! What a script does is what a cold run of it does. A warm one, some hundred microseconds cheaper, is a guess that cannot
//! be wrong: nothing that a script can see differs between an interpreter that has run others and a new one, but how much
//! memory is in use; before that could show, it gives up. Giving up costs time and changes nothing, so it need not
//! happen at the same place on every replica, and the interpreter is no part of the state.
//!
//! So a script must leave no trace. Its globals are sealed tables (prelude.lua); what libraries keep is set anew for each
//! run ([`Host`], the prelude's serials) or ends the warm run where it is touched (cjson's settings, a walk over `_G`, whose
//! libraries come as they are used).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::OnceLock;

use base::{Limit, Limits};
use mlua::chunk::ChunkMode;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value};

use super::library::Function as Registered;
use super::meter::{Meter, TICK, WARM_HEAP_BYTES};
use super::natives::{RANDOM_START, clean_globals, natives};
use super::sandbox::{
    Host, PRELUDE, USER, USER_FUNCTION, answer_line, as_number, error_text, is_of_memory, load, position, type_name,
    without_prelude,
};
use super::session::Session;
use super::{Digest, Script, convert, number};
use crate::command::Writing;
use crate::error::CommandError;
use crate::reply::{Protocol, Reply};

/// Where more than this is left after a collection, for compiled scripts, the interpreter goes.
const KEPT_BYTES_MAX: usize = WARM_HEAP_BYTES * 3 / 4;
/// Runs of a script that go to a cold interpreter at once after its warm run gave up.
const COLD_RUNS: u32 = 15;
/// Scripts whose warm runs gave up that are remembered.
const COLD_SCRIPTS_MAX: usize = 256;

thread_local! {
    /// What this thread's scripts share. A run takes it and puts it back, so that a panic ends it.
    static WARM: Cell<Option<Interpreter>> = const { Cell::new(None) };
    /// Scripts that had better start cold, and for how many runs yet.
    static COLD: RefCell<BTreeMap<Digest, u32>> = const { RefCell::new(BTreeMap::new()) };
}

fn prelude() -> &'static [u8] {
    static BYTECODE: OnceLock<Vec<u8>> = OnceLock::new();
    BYTECODE.get_or_init(|| {
        let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).expect("an interpreter without libraries opens");
        load(&lua, include_bytes!("prelude.lua"), PRELUDE).expect("the prelude is Lua").dump(false)
    })
}

/// How a script that failed did so.
#[derive(Default)]
struct Failure {
    text: Vec<u8>,
    place: Option<(String, usize)>,
    /// The bound that it met, if it was one.
    limit: Option<Limit>,
}

/// What one run of a script is given.
struct Task<'a, 's, 'w> {
    script: &'a Script,
    session: &'a RefCell<Session<'s, 'w>>,
    limits: &'a Limits,
    keys: &'a [&'a [u8]],
    arguments: &'a [&'a [u8]],
}

/// Runs a script and writes its answer.
pub(super) fn run(
    script: &Script,
    writing: &mut Writing<'_>,
    keys: &[&[u8]],
    arguments: &[&[u8]],
    read_only: bool,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let limits = writing.limits;
    let begun = reply.bytes.len();
    let session = RefCell::new(Session::new(writing, keys, read_only));
    let task = Task { script, session: &session, limits, keys, arguments };
    let ended = match warm(&task, reply) {
        Some(ended) => Ok(ended),
        None => {
            reply.bytes.truncate(begun);
            Interpreter::new(limits.script_memory_bytes_max)
                .and_then(|interpreter| interpreter.run(&task, false, reply))
        }
    };
    match ended {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => {
            reply.bytes.truncate(begun);
            let mut text = failure.text;
            // Counted here, as a warm run that met a bound may have been run again.
            if let Some(limit) = failure.limit {
                limits.hit(limit);
            }
            if let Some((source, line)) = failure.place {
                text.extend_from_slice(format!(" script: {}, on {source}:{line}.", script.shown()).as_bytes());
            }
            convert::error_line(reply, &text);
            Ok(())
        }
        Err(error) => {
            reply.bytes.truncate(begun);
            let text = error_text(&error);
            Err(if text.contains("not enough memory") {
                limits.hit(Limit::script_memory_bytes_max);
                out_of_memory(limits)
            } else {
                format!("ERR {text}").into()
            })
        }
    }
}

/// Runs a library's body, to see which functions it registers, and says how many instructions that took. Always cold: it is
/// done once for each library, and what it comes to is replicated.
pub(super) fn register(bytecode: &[u8], limits: &Limits) -> Result<(BTreeMap<String, Registered>, u64), CommandError> {
    let failed = |error: mlua::Error| {
        let text = error_text(&error);
        if text.contains("not enough memory") {
            limits.hit(Limit::script_memory_bytes_max);
            return out_of_memory(limits);
        }
        CommandError::from(format!("ERR Error registering functions: {text}"))
    };
    let interpreter = Interpreter::new(limits.script_memory_bytes_max).map_err(failed)?;
    let found = interpreter.register(bytecode, limits).map_err(failed)?;
    let found = found.map_err(|failure| {
        if let Some(limit) = failure.limit {
            limits.hit(limit);
        }
        CommandError::from(format!("ERR Error registering functions: {}", String::from_utf8_lossy(&failure.text)))
    })?;
    if found.is_empty() {
        return Err(CommandError::new("ERR No functions registered"));
    }
    Ok((found, interpreter.host.meter.used()))
}

/// The end of a warm run, unless none is tried, or it gives up.
fn warm(task: &Task<'_, '_, '_>, reply: &mut Reply) -> Option<Option<Failure>> {
    #[cfg(test)]
    if testing::ONLY_COLD.get() {
        return None;
    }
    let bytes_max = task.limits.script_memory_bytes_max;
    if !Meter::allows_warm(task.limits) || starts_cold(&task.script.digest) {
        return None;
    }
    let kept = WARM.take().filter(|interpreter| interpreter.host.bytes_max == bytes_max);
    let interpreter = match kept {
        Some(interpreter) => interpreter,
        None => Interpreter::new(bytes_max).ok()?,
    };
    match interpreter.run(task, true, reply) {
        Ok(ended) if !interpreter.host.meter.gave_up() => {
            #[cfg(test)]
            testing::count(0);
            if interpreter.tidy() {
                WARM.set(Some(interpreter));
            }
            Some(ended)
        }
        _ => {
            #[cfg(test)]
            testing::count(1);
            start_cold_from_now_on(task.script.digest);
            None
        }
    }
}

fn starts_cold(digest: &Digest) -> bool {
    COLD.with_borrow_mut(|cold| {
        let Some(runs) = cold.get_mut(digest) else { return false };
        *runs -= 1;
        if *runs == 0 {
            cold.remove(digest);
        }
        true
    })
}

fn start_cold_from_now_on(digest: Digest) {
    COLD.with_borrow_mut(|cold| {
        if cold.len() >= COLD_SCRIPTS_MAX {
            cold.clear();
        }
        cold.insert(digest, COLD_RUNS);
    });
}

fn out_of_memory(limits: &Limits) -> CommandError {
    let limit = limits.script_memory_bytes_max;
    format!("ERR Script exceeded the limit of {limit} bytes of memory (limit script_memory_bytes_max)").into()
}

struct Interpreter {
    lua: Lua,
    host: Host,
    /// The prelude's: runs a script; forgets what the last one was given.
    start: Function,
    forget: Function,
    /// Runs a function, and a library's body to see what it registers; and the globals of both.
    start_function: Function,
    open_library: Function,
    library_globals: Table,
    /// xpcall's, and what it saw.
    handler: Function,
    failure: Rc<RefCell<Option<Failure>>>,
    scripts: RefCell<BTreeMap<Digest, Function>>,
}

impl Interpreter {
    /// As every one begins.
    fn new(bytes_max: usize) -> mlua::Result<Interpreter> {
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, options)?;
        lua.gc_stop();
        let host = Host {
            meter: Rc::new(Meter::default()),
            bytes_max,
            protocol: Rc::new(Cell::new(Protocol::Resp2)),
            random: Rc::new(Cell::new(RANDOM_START)),
        };
        let raw = clean_globals(&lua)?;
        let native = natives(&lua, &host)?;
        let prelude = lua.load(prelude()).set_name(PRELUDE).set_mode(ChunkMode::Binary).into_function()?;
        type Entrances = (Table, Function, Function, Table, Function, Function);
        let (globals, start, forget, library_globals, start_function, open_library): Entrances =
            prelude.call((native, raw))?;
        lua.set_globals(globals)?;
        let failure: Rc<RefCell<Option<Failure>>> = Rc::default();
        let seen = failure.clone();
        let handler = lua.create_function(move |lua, args: MultiValue| {
            *seen.borrow_mut() = Some(describe(lua, args.front()));
            Ok(())
        })?;
        let meter = host.meter.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(TICK), move |lua, _| meter.tick(lua))?;
        let scripts = RefCell::default();
        Ok(Interpreter {
            lua,
            host,
            start,
            forget,
            start_function,
            open_library,
            library_globals,
            handler,
            failure,
            scripts,
        })
    }

    fn function(&self, script: &Script) -> mlua::Result<Function> {
        if let Some(function) = self.scripts.borrow().get(&script.digest) {
            return Ok(function.clone());
        }
        let chunk = self.lua.load(&script.bytecode[..]).set_name(USER).set_mode(ChunkMode::Binary);
        let function = chunk.into_function()?;
        if script.function.is_some() {
            function.set_environment(self.library_globals.clone())?;
        }
        self.scripts.borrow_mut().insert(script.digest, function.clone());
        Ok(function)
    }

    /// One run. Where it fails, says how; an error is one of this machinery, or a lack of memory for its words. What a
    /// warm run says holds only if it did not give up.
    fn run(&self, task: &Task<'_, '_, '_>, warm: bool, reply: &mut Reply) -> mlua::Result<Option<Failure>> {
        let Interpreter { lua, host, failure, .. } = self;
        let meter = &host.meter;
        let words = || task.keys.iter().chain(task.arguments);
        let held = lua.used_memory();
        // Unlimited: what is done before and after the script takes little, and with a limit mlua guards every step of it.
        lua.set_memory_limit(0)?;
        host.protocol.set(Protocol::Resp2);
        host.random.set(RANDOM_START);
        failure.take();
        task.session.borrow_mut().start(warm);
        let main = self.function(task.script)?;
        let strings = |words: &[&[u8]]| {
            let words = words.iter().map(|word| lua.create_string(word)).collect::<Result<Vec<_>, _>>()?;
            lua.create_sequence_from(words)
        };
        let (keys, arguments) = (strings(task.keys)?, strings(task.arguments)?);
        if warm {
            meter.start_warm(lua);
        } else {
            meter.start_cold(lua, task.limits);
        }
        // The script's own memory; what its keys and arguments take is paid for by the limits of a command.
        let given: usize = words().map(|word| word.len() + 64).sum();
        let limit = held + given + task.limits.script_memory_bytes_max;
        meter.note_string(words().map(|word| word.len()).max().unwrap_or(0));
        let mut results: MultiValue = lua.scope(|scope| {
            let call = scope.create_function(|lua, args: MultiValue| {
                convert::call(lua, host, &mut task.session.borrow_mut(), &args)
            })?;
            let protected = scope.create_function(|lua, args: MultiValue| {
                convert::protected(lua, host, &mut task.session.borrow_mut(), &args)
            })?;
            lua.set_memory_limit(limit)?;
            let results = match &task.script.function {
                None => self.start.call((main, &self.handler, keys, arguments, call, protected)),
                Some(name) => {
                    let name = &**name;
                    self.start_function.call((main, &self.handler, keys, arguments, call, protected, name))
                }
            };
            lua.set_memory_limit(0)?;
            results
        })?;
        // Its error says no more than that a warm run has given up.
        let _ = meter.check(lua);
        let fine = matches!(results.pop_front(), Some(Value::Boolean(true)));
        let value = results.pop_front().unwrap_or(Value::Nil);
        if fine {
            let resp3 = host.protocol.get() == Protocol::Resp3;
            return match convert::answer(host, &value, resp3, reply) {
                Ok(()) => Ok(None),
                Err(text) => Ok(Some(Failure { text: text.into(), ..Failure::default() })),
            };
        }
        if meter.is_exhausted() {
            let place = failure.take().and_then(|failure| failure.place);
            let limit = Some(Limit::script_instructions_max);
            return Ok(Some(Failure { text: format!("ERR {}", meter.text()).into(), place, limit }));
        }
        let described = failure.take().unwrap_or_else(|| describe(lua, Some(&value)));
        if is_of_memory(&described.text) {
            let _ = meter.only_cold();
        }
        if described.text.ends_with(b"not enough memory") {
            return Ok(Some(Failure {
                text: out_of_memory(task.limits).0.into_owned().into(),
                place: described.place,
                limit: Some(Limit::script_memory_bytes_max),
            }));
        }
        Ok(Some(described))
    }

    /// What a library's body registers, or how it failed. For an interpreter that has run nothing.
    fn register(
        &self,
        bytecode: &[u8],
        limits: &Limits,
    ) -> mlua::Result<Result<BTreeMap<String, Registered>, Failure>> {
        let Interpreter { lua, host, failure, .. } = self;
        host.protocol.set(Protocol::Resp2);
        host.random.set(RANDOM_START);
        let main = lua.load(bytecode).set_name(USER_FUNCTION).set_mode(ChunkMode::Binary).into_function()?;
        main.set_environment(self.library_globals.clone())?;
        host.meter.start_cold(lua, limits);
        lua.set_memory_limit(lua.used_memory() + limits.script_memory_bytes_max)?;
        let results: mlua::Result<(bool, Value)> = self.open_library.call((main, &self.handler));
        lua.set_memory_limit(0)?;
        let (fine, value) = results?;
        if host.meter.is_exhausted() {
            let text = format!("ERR FUNCTION LOAD timeout: {}", host.meter.text()).into();
            return Ok(Err(Failure { text, place: None, limit: Some(Limit::script_instructions_max) }));
        }
        let Value::Table(found) = value else {
            return Ok(Err(failure.take().unwrap_or_default()));
        };
        assert!(fine, "what failed has found nothing");
        let mut functions = BTreeMap::new();
        for entry in found.sequence_values::<Table>() {
            let entry = entry?;
            let name: String = entry.raw_get("name")?;
            let description = match entry.raw_get::<Value>("description")? {
                Value::String(text) => Some(text.as_bytes().to_vec()),
                _ => None,
            };
            functions.insert(name, Registered { description, flags: entry.raw_get("flags")? });
        }
        Ok(Ok(functions))
    }

    /// After a run: collects what much garbage there is. Whether what is left is little enough for another run.
    fn tidy(&self) -> bool {
        if self.lua.used_memory() <= WARM_HEAP_BYTES {
            return true;
        }
        let collected = self.forget.call::<()>(()).and_then(|()| self.lua.gc_collect());
        self.lua.gc_stop();
        collected.is_ok() && self.lua.used_memory() <= KEPT_BYTES_MAX
    }
}

/// What goes on top of an error: its text, and where the user's code was. Runs as xpcall's handler.
fn describe(lua: &Lua, value: Option<&Value>) -> Failure {
    let place = position(lua, false);
    let text = match value {
        Some(Value::Table(table)) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => text.as_bytes().to_vec(),
            Ok(value) => {
                as_number(Some(&value)).map_or(b"ERR unknown error".to_vec(), |value| number::text(value).into())
            }
            Err(_) => b"ERR unknown error".to_vec(),
        },
        Some(Value::String(text)) => {
            let text = text.as_bytes();
            match (without_prelude(&text), position(lua, true)) {
                (Some(rest), Some((source, line))) => [format!("ERR {source}:{line}: ").as_bytes(), rest].concat(),
                (Some(rest), None) => [b"ERR ", rest].concat(),
                (None, _) => [b"ERR ", &*text].concat(),
            }
        }
        Some(Value::Error(error)) => match answer_line(error) {
            Some(line) => line.text().to_vec(),
            None => format!("ERR {}", error_text(error)).into_bytes(),
        },
        Some(Value::Boolean(value)) => format!("ERR {value}").into_bytes(),
        Some(Value::Nil) | None => b"ERR nil".to_vec(),
        Some(value) => match as_number(Some(value)) {
            Some(value) => format!("ERR {}", number::text(value)).into_bytes(),
            None => format!("ERR {}", type_name(Some(value))).into_bytes(),
        },
    };
    Failure { text, place, limit: None }
}

/// What tests may turn and count.
#[cfg(test)]
pub mod testing {
    use std::cell::Cell;

    thread_local! {
        /// Whether this thread tries no warm runs.
        pub static ONLY_COLD: Cell<bool> = const { Cell::new(false) };
        /// Warm runs of this thread: how many ended, how many gave up.
        pub static WARM_RUNS: Cell<[u64; 2]> = const { Cell::new([0; 2]) };
    }

    pub(super) fn count(place: usize) {
        let mut runs = WARM_RUNS.get();
        runs[place] += 1;
        WARM_RUNS.set(runs);
    }
}

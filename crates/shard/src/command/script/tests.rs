//! Scripts as clients send them: what Redis answers, what stops them, what they may not see.

use std::sync::Arc;

use base::Limits;
use store::codec::Stored;
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};
use store::table::Tables;

use super::super::Served;
use super::super::testing::{World, golden, run, run_words};

#[test]
fn scripts_answer_as_redis_does() {
    golden(include_str!("../golden/script.txt"));
}

#[test]
fn libraries_of_scripts_answer_as_redis_does() {
    golden(include_str!("../golden/script_libraries.txt"));
}

#[test]
fn resp3_answers() {
    golden(include_str!("../golden/script_resp3.txt"));
}

#[test]
fn scripts_of_libraries_that_people_use() {
    golden(include_str!("../golden/script_recipes.txt"));
}

fn eval(world: &mut World, source: &str, words: &[&str]) -> String {
    let mut all = vec![b"EVAL".to_vec(), source.into(), words.len().to_string().into()];
    all.extend(words.iter().map(|word| word.as_bytes().to_vec()));
    run_words(world, &all, Served::First)
}

fn bounded() -> World {
    let mut world = World::new();
    world.limits = Limits { script_instructions_max: 300_000, script_memory_bytes_max: 4 << 20, ..Limits::default() };
    world
}

const INSTRUCTIONS: &str = "-ERR Script exceeded the limit of 300000 instructions (limit script_instructions_max)";
const MEMORY: &str = "-ERR Script exceeded the limit of 4194304 bytes of memory (limit script_memory_bytes_max)";

#[test]
fn a_script_without_end_is_stopped_whatever_it_catches() {
    for source in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "while true do xpcall(error, function() error('again') end) end",
        "while true do redis.pcall('get', 'k') end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local function f() while true do end end while true do pcall(coroutine.wrap(f)) end",
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) while true do pcall(function() return t[1] end) end",
        "while true do local s = ('x'):rep(100000) end",
        "local s = ('x'):rep(100000) while true do s:find('y', 1, true) end",
        "local s = ('x'):rep(100000) while true do s:upper() end",
        "local s = ('x'):rep(100000) while true do s:sub(2) end",
        "local s = ('x'):rep(100000) while true do local t = s .. s end",
        "local s, t = ('x'):rep(100000) .. 'a', ('x'):rep(100000) .. 'b' while true do local u = s < t end",
        "local s = ('x'):rep(100000) while true do redis.sha1hex(s) end",
        "local s = ('x'):rep(1000) while true do loadstring('local x = \"' .. s .. '\"') end",
        "return ('a'):rep(300):find(('a?'):rep(30) .. ('a'):rep(300) .. 'b')",
        "return ('a'):rep(1000):find('.-.-.-.-.-.-.-b')",
        "return ('a'):rep(1000):find('(.*)(.*)(.*)(.*)(.*)b')",
        "return ('a'):rep(1000):gsub('.-.-.-.-b', 'x')",
        "return ('a'):rep(1000):gsub('.-.-.-.-b', function() end)",
        "for x in ('a'):rep(1000):gmatch('.-.-.-.-.-b') do end",
        "local t = {} for i = 1, 1000 do t[i] = i end while true do table.sort(t) end",
        "local t = {} for i = 1, 1000 do t[i] = i end while true do table.concat(t) end",
        "local t = {} for i = 1, 1000 do t[i] = i end while true do table.remove(t, 1) table.insert(t, 1, 1) end",
        "local t = {} for i = 1, 1000 do t[i] = i end while true do next(t) end",
        "local t = {} for i = 1, 1000 do t[i] = i end while true do cjson.encode(t) end",
        "local s = cjson.encode({('x'):rep(1000)}) while true do cjson.decode(s) end",
        "local s = cmsgpack.pack({('x'):rep(1000)}) while true do cmsgpack.unpack(s) end",
    ] {
        let answer = eval(&mut bounded(), source, &[]);
        assert!(answer.starts_with(INSTRUCTIONS), "{source}\n  answers {answer}");
    }
}

#[test]
fn a_script_that_takes_too_much_memory_is_stopped() {
    for source in [
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(1e9)",
        "return ('x'):rep(100):rep(1e9)",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end return cjson.encode(t)",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end return cmsgpack.pack(t)",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end return table.concat(t)",
        "local s = ('x'):rep(1e6) return (s:gsub('x', s))",
    ] {
        let mut world = bounded();
        world.limits.script_instructions_max = 100_000_000;
        let answer = eval(&mut world, source, &[]);
        assert!(answer.starts_with(MEMORY), "{source}\n  answers {answer}");
    }
}

#[test]
fn nesting_and_sizes_have_ends() {
    for (source, expected) in [
        ("local t = {} for i = 1, 5000 do t = {t} end return t", "-ERR reached lua stack limit"),
        ("local t = {} t[1] = t return t", "-ERR reached lua stack limit"),
        ("local t = {'x'} for i = 1, 60 do t = {t, t} end return t", "-ERR Script's answer is too large"),
        ("return cjson.decode(('['):rep(100000))", "-ERR user_script:1: Found too many nested data structures (1001)"),
        ("return cmsgpack.unpack(('\\145'):rep(100000))", "-ERR user_script:1: Bad data format in input."),
        ("return cmsgpack.unpack('\\221\\255\\255\\255\\255')", "-ERR user_script:1: Missing bytes in input."),
        ("local x = unpack({}, 0, 2^31) return x", "-ERR user_script:1: too many results to unpack"),
        ("local x = unpack({}, -2^31, 2^31) return x", "-ERR user_script:1: too many results to unpack"),
        ("local x = unpack({}, 1, 0/0) return x", "nil"),
        ("return ('a'):rep(1e5):match(('a?'):rep(1e4))", "-ERR user_script:1: pattern too complex"),
        ("local function f() return f() + 1 end return f()", "-ERR user_script:1: stack overflow"),
        ("local s = ('('):rep(1e5) .. ('return 1') return loadstring(s) == nil and 1", "1"),
        ("return loadstring(string.rep('(', 300) .. '1' .. string.rep(')', 300)) == nil and 1", "1"),
        ("return #string.rep('', 1e15)", "0"),
        ("return redis.call('get', ('x'):rep(3e6), ('x'):rep(3e6)) ", "-ERR Wrong number of args"),
    ] {
        let mut world = bounded();
        world.limits.script_instructions_max = 100_000_000;
        let answer = eval(&mut world, source, &[]);
        assert!(answer.starts_with(expected), "{source}\n  answers {answer}");
    }
}

#[test]
fn writes_before_an_error_stay() {
    let mut world = bounded();
    let answer = eval(&mut world, "redis.call('set', 'k', 1) while true do end", &["k"]);
    assert!(answer.starts_with(INSTRUCTIONS));
    assert_eq!(run(&mut world, "GET k"), r#""1""#);
}

#[test]
fn nothing_reaches_outside() {
    for name in [
        "io",
        "debug",
        "package",
        "require",
        "module",
        "dofile",
        "loadfile",
        "print",
        "newproxy",
        "getfenv",
        "setfenv",
        "os.execute",
        "os.getenv",
        "os.time",
        "string.dump",
        "native",
        "raw",
    ] {
        let source = format!("local ok, v = pcall(function() return {name} end) return tostring(ok and v)");
        let answer = eval(&mut World::new(), &source, &[]);
        assert!(answer == r#""false""# || answer == r#""nil""#, "{name} is {answer}");
    }
    for source in [
        "return loadstring('\\27Lua')",
        "local n = 0 return load(function() n = n + 1 return n == 1 and '\\27Lua' or nil end)",
        "return (getmetatable('').__index.dump)",
        "return (getmetatable(_G).__index)",
        "return rawget(_G, 'load') == nil and 1 or nil",
    ] {
        assert_eq!(eval(&mut World::new(), source, &[]), "nil", "{source}");
    }
}

#[test]
fn a_script_leaves_nothing_behind_for_the_next() {
    let mut world = World::new();
    for source in [
        "getmetatable('').__index.upper = nil",
        "string.upper = nil",
        "rawset(string, 'upper', nil)",
        "_G.string = nil",
        "cjson.encode_number_precision(1)",
        "cjson.encode_sparse_array(true)",
        "math.randomseed(99)",
        "redis.setresp(3)",
        "redis.call('select', 3)",
        "tostring({})",
    ] {
        eval(&mut world, source, &[]);
    }
    let source = "return {('a'):upper(), cjson.encode(3.14159), math.random(1000), redis.call('dbsize'), tostring({})}";
    assert_eq!(eval(&mut world, source, &[]), eval(&mut World::new(), source, &[]));
}

/// Run on two shards that share nothing, every one of these gives the same bytes and the same tables.
#[test]
fn the_same_script_does_the_same_everywhere() {
    const SOURCES: [&str; 12] = [
        "return {tostring({}), tostring(function() end), tostring(print), tostring(coroutine.create(function() end))}",
        "return {math.random(1000), math.random(1000), tostring(math.random())}",
        "local t = {} for i = 1, 200 do t['key' .. i] = i end local o = {} for k in pairs(t) do o[#o + 1] = k end return o",
        "local t = {} for i = 1, 50 do t['k' .. i] = i end return {cjson.encode(t), cmsgpack.pack(t)}",
        "local t = {a = 1, [1.5] = 2, [true] = 3, [false] = 4, [7] = 5} local o = {} for k in pairs(t) do o[#o + 1] = tostring(k) end return o",
        "for i = 1, 20 do redis.call('sadd', 's', i) end return {redis.call('srandmember', 's'), redis.call('spop', 's')}",
        "return redis.call('time')",
        "return {os.clock() >= 0, collectgarbage('count')}",
        "local n = 0 pcall(function() local t = {} while true do n = n + 1 redis.call('rpush', 'l', n) t[n] = ('x'):rep(1000) .. n end end) return n",
        "local n = 0 local s = '' while true do n = n + 1 redis.call('set', 'n', n) s = s .. tostring({}) end",
        "local t = {} t[{}] = 1 t[print or 1] = 2 local o = {} for k in pairs(t) do o[#o + 1] = 1 end return o",
        "error({})",
    ];
    let mut seen = Vec::new();
    for round in 0..3 {
        let mut world = bounded();
        // What ran before must not matter: another history of scripts, more memory touched.
        for i in 0..round * 3 {
            run_words(
                &mut world,
                &[b"EVAL_RO".to_vec(), format!("return ('x'):rep({i}00)").into(), b"0".to_vec()],
                Served::First,
            );
        }
        let answers: Vec<String> = SOURCES.iter().map(|source| eval(&mut world, source, &[])).collect();
        let mut stored = Vec::new();
        world.scripts.encode(&mut stored);
        seen.push((answers, world.tables.sequence(), stored));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[test]
fn tables_that_are_keyed_by_tables_have_no_order() {
    let text = "Script attempted to iterate over a table whose keys are tables or functions";
    for source in [
        "local t = {[{}] = 1} for k in pairs(t) do end",
        "local t = {[{}] = 1, a = 1} local k = next(t) return k",
        "local t = {[function() end] = 1} for k in next, t do end",
        "local t = {[{}] = 1} table.foreach(t, function() end)",
    ] {
        let answer = eval(&mut World::new(), source, &[]);
        assert!(answer.contains(text), "{source}\n  answers {answer}");
    }
    assert_eq!(eval(&mut World::new(), "local k = {} local t = {[k] = 5} return t[k]", &[]), "5");
}

#[test]
fn messages_wait_until_the_whole_script_is_done() {
    let mut world = World::new();
    assert_eq!(
        eval(&mut world, "redis.call('publish', 'c', 'one') return redis.call('spublish', 'd', 'two')", &[]),
        "0"
    );
    assert_eq!(world.published, [(b"c".to_vec(), b"one".to_vec()), (b"d".to_vec(), b"two".to_vec())]);
}

#[test]
fn a_script_keeps_to_keyspaces_of_one_durability() {
    let cache = Keyspace {
        prefix: b"cache:".to_vec(),
        durability: Durability::Memory,
        max_bytes: 0,
        eviction: Eviction::Refuse,
        default_expiry: 0,
    };
    let keyspaces = Arc::new(Keyspaces::new(vec![cache]).unwrap());
    let mut world = World::new();
    world.tables = Tables::new(keyspaces.clone());
    world.other = Tables::new(keyspaces);
    let mixed = "-ERR Script attempted to access a key of another durability than its own";
    let source = "return redis.call('set', ARGV[1] or KEYS[1], 1)";
    assert_eq!(eval(&mut world, source, &["k"]), "OK");
    assert_eq!(eval(&mut world, source, &["cache:k"]), "OK");
    let mut words = vec![b"EVAL".to_vec(), source.into(), b"1".to_vec(), b"k".to_vec(), b"cache:k".to_vec()];
    assert!(run_words(&mut world, &words, Served::First).starts_with(mixed));
    words.swap(3, 4);
    assert!(run_words(&mut world, &words, Served::First).starts_with(mixed));
    assert!(eval(&mut world, "return redis.call('get', 'cache:k')", &[]).starts_with(mixed));
    assert!(eval(&mut world, "return redis.call('flushall')", &["cache:k"]).starts_with(mixed));
}

//! A script does the same in an interpreter that has run others as in a new one, byte for byte: its answers, its errors,
//! what it leaves in the tables. This thread's interpreter lives through all cases, so each case has a history.

use base::Limits;
use proptest::collection::vec;
use proptest::prelude::*;
use store::codec::Stored;

use super::super::Served;
use super::super::testing::{World, run, run_words};
use crate::script::testing::{ONLY_COLD, WARM_RUNS};

/// Pieces of scripts; `N` is a number, `out` notes what was seen.
const PIECES: &[&str] = &[
    // What people do.
    "out(redis.call('incrby', 'n', N))",
    "out(redis.call('get', KEYS[1])) redis.call('set', KEYS[1], ARGV[1] .. N)",
    "out(redis.call('rpush', 'l', N, ARGV[1], 'x')) out(redis.call('lrange', 'l', -3, -1))",
    "redis.call('hset', 'h', 'f' .. N % 9, N) out(redis.call('hgetall', 'h'))",
    "redis.call('sadd', 's', N % 30) out(redis.call('srandmember', 's')) out(redis.call('spop', 's'))",
    "redis.call('zadd', 'z', N % 7, 'm' .. N % 11) out(redis.call('zrange', 'z', 0, -1, 'withscores'))",
    "out(redis.pcall('lpush', 'h', 1)) out(redis.pcall('nonsense')) out(redis.pcall('get'))",
    "redis.call('lpush', 'h', 1)",
    "redis.call('set', 'k', N) redis.call('nonsense')",
    "redis.call('select', N % 4) redis.call('set', 'other', N) out(redis.call('dbsize'))",
    "redis.call('publish', 'c', N)",
    "redis.setresp(3) out(redis.call('hgetall', 'h')) out(redis.call('zscore', 'z', 'm1'))",
    "redis.setresp(3) return redis.call('hgetall', 'h')",
    "out(cjson.encode({N, {a = N}, 'x'})) out(cjson.decode('[1, {\"a\": [N]}, null]')[2].a[1])",
    "out(cmsgpack.unpack(cmsgpack.pack({N, 'x', {y = 1}}))[1]) out(bit.bxor(N, 255)) out(struct.pack('>I4', N))",
    "out(redis.sha1hex('N')) out(math.random(1000)) out(math.random())",
    "local t = {} for i = 1, N % 60 do t['key' .. i] = i end for k in pairs(t) do out(k) end",
    "local t = {} for i = 1, N % 60 do t[i] = N * i % 17 end table.sort(t) out(table.concat(t, ','))",
    "out(('aXbXc' .. N):gsub('X', {X = 'N'})) for w in ('one two N'):gmatch('%w+') do out(w) end",
    "out(string.format('%5.2f %d %s', N / 7, N, 'x')) out(('x'):rep(N % 50)) out(('abcN'):find('b(.)'))",
    "return N",
    "return {N, 'x', {ok = 'fine'}, false, 1.5}",
    "return redis.error_reply('MY error N')",
    "return redis.status_reply('N')",
    "error('N')",
    "error({err = 'MY N'})",
    "error({})",
    "error(nil)",
    "local x = nil; x.y = N",
    "return undefined_N",
    // What would stay, could it.
    "leak_N = 1",
    "_G.leak = N",
    "rawset(_G, 'leak', N)",
    "setmetatable(_G, nil)",
    "getmetatable(_G).__index = N",
    "getmetatable('').__index = N",
    "getmetatable('').__index.upper = nil",
    "getmetatable(getmetatable('')).x = N",
    "string.upper = function() return 'N' end",
    "rawset(string, 'x', N)",
    "table.insert(string, 1, N) out(rawget(string, 1))",
    "table.insert(_G, N) table.insert(redis, 1, N)",
    "table.remove(redis) table.sort(_G) out(#string) out(table.getn(redis)) out(table.maxn(_G))",
    "table.setn(redis, N)",
    "redis.call = nil",
    "KEYS[1] = 'k' KEYS.x = N ARGV[5] = N out(#ARGV)",
    "KEYS = nil",
    "out(string[1]) out(rawget(string, 1)) out(rawget(redis, 1)) out(rawget(_G, 'leak')) out(redis.leak)",
    "out(('x'):upper()) out(string.upper('x')) out(#KEYS) out(ARGV[5]) out(KEYS.x)",
    "cjson.encode_number_precision(1 + N % 14) out(cjson.encode(1 / 3))",
    "cjson.encode_sparse_array(true) out(cjson.encode({[1000] = 1}))",
    "out(cjson.encode(1 / 3)) out(pcall(cjson.encode, {[1000] = 1})) out(pcall(cjson.encode, 0 / 0))",
    "cjson.encode_invalid_numbers('null') cjson.decode_invalid_numbers(false)",
    "local c = cjson.new() c.encode_number_precision(3) out(c.encode(1 / 3)) out(cjson.encode(1 / 3))",
    "local n = 0 for k, v in pairs(_G) do n = n + 1 out(k) end",
    "out(next(_G)) out(rawget(_G, 'cjson') == nil) out(rawget(_G, 'bit') == nil)",
    "for k in pairs(redis) do out(k) end for k in pairs(string) do out(k) end",
    "math.randomseed(N) out(math.random(1000))",
    "out(tostring({})) out(tostring(print)) out(tostring(redis.call)) out(tostring(cjson)) out(tostring(out))",
    "local t = {} out(tostring(t)) out(tostring(t)) out(tostring(function() end) .. tostring(coroutine.create(out)))",
    // What asks how much is used, or uses much.
    "out(collectgarbage('count'))",
    "out(gcinfo())",
    "out(os.clock())",
    "collectgarbage() out(collectgarbage('step'))",
    "local t = setmetatable({}, {__mode = 'kv'}) for i = 1, N do t[i] = {} end local n = 0 for i = 1, N do n = n + (t[i] and 1 or 0) end out(n)",
    "local t = {} for i = 1, N do t[i] = 'text' .. i end out(#t)",
    "local s = '' for i = 1, N % 3000 do s = s .. i end out(#s)",
    "for i = 1, N do redis.call('incr', 'n') end",
    "for i = 1, N % 2000 do redis.call('append', 'long', i) out(#redis.call('get', 'long')) end",
    "local n = 0 for i = 1, N do n = n + i end out(n)",
    "local s = ('x'):rep(N * 10) redis.call('set', 'k', s) out(#redis.call('get', 'k'))",
    "local s = ('ab'):rep(N) out(#s:gsub('a', 'ccc')) out(s:find('bb'))",
    "local s = ('x'):rep(1000) for i = 1, 40 do redis.call('incr', 'n') s = s .. s end",
    "local t = {} for i = 1, N do t[i] = {} end redis.call('set', 'made', N) out(pcall(cjson.encode, t))",
    "out(pcall(string.rep, 'x', 1e9))",
    "out(loadstring('return ' .. ('('):rep(N % 300) .. 'N' .. (')'):rep(N % 300)))",
    "out(loadstring('return N')()) out(loadstring('return ')) out(load(function() return nil end))",
    "local n = 0 pcall(function() local t = {} while true do n = n + 1 t[n] = ('x'):rep(5000) .. n if n % 100 == 0 then redis.call('rpush', 'l', n) end end end) out(n)",
    // What goes deep, and what goes on.
    "local d = 0 local function f() d = d + 1 return 1 + f() end out(pcall(f)) out(d)",
    "local d = 0 local function f() d = d + 1 redis.call('incr', 'n') pcall(f) end f() out(d)",
    "local function f(d) if d > 0 then return 1 + f(d - 1) end return 0 end out(f(N))",
    "local function f(d) return d == 0 and 0 or coroutine.wrap(f)(d - 1) end out(pcall(f, N % 250))",
    "local c = coroutine.wrap(function(a) while true do a = coroutine.yield(a + 1) end end) for i = 1, N % 200 do c(i) end out(c(N))",
    "kept = coroutine.create(function() redis.call('set', 'k', 'never') end)",
    "local c = coroutine.create(function() coroutine.yield(N) error('inside') end) out(coroutine.resume(c)) out(coroutine.resume(c)) out(coroutine.resume(c)) out(coroutine.status(c))",
    "local t = setmetatable({}, {__index = function(t, k) return k * 2 end, __newindex = function(t, k, v) redis.call('set', 'k', v) end, __call = function() return N end, __tostring = function() return 'me' end}) out(t[N]) t.x = N out(t()) out(tostring(t))",
    "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) out(pcall(function() return t[1] end))",
    "out(xpcall(function() error('N') end, function(e) return 'handled ' .. tostring(e) end))",
    "out(xpcall(function() error({}) end, function(e) error('again') end))",
    "local t = {[{}] = 1} for k in pairs(t) do out('never') end",
    "out(pcall(table.sort, {3, 1, 2, 5, 4}, function(a, b) return true end))",
    "out(select('#', unpack({}, 1, N % 9000)))",
    "out(pcall(unpack, {}, 1, 1e8))",
];

/// Pieces that use the whole budget: rare, as each costs a moment.
const ENDLESS: &[&str] = &[
    "while true do end",
    "while true do pcall(function() while true do redis.pcall('incr', 'n') end end) end",
    "local s = ('x'):rep(10000) while true do s:upper() end",
    "while true do coroutine.wrap(function() while true do end end)() end",
    "local t = {} while true do t[#t + 1] = {} end",
];

const OUT: &str = "local seen = {} local function out(...) for i = 1, select('#', ...) do local v = select(i, ...) \
    if type(v) == 'table' then local t = {} for j = 1, #v do t[j] = tostring(v[j]) end v = '{' .. table.concat(t, ' ') .. '}' .. tostring(v.err or v.map and 'map') end \
    seen[#seen + 1] = tostring(v) end end\n";

fn number() -> impl Strategy<Value = u32> {
    // As often small as large: what matters is where an allowance or a limit is passed.
    (0u32..15, any::<u32>()).prop_map(|(bits, random)| random & ((2 << bits) - 1))
}

fn piece() -> impl Strategy<Value = String> {
    let text = prop_oneof![60 => prop::sample::select(PIECES), 1 => prop::sample::select(ENDLESS)];
    (text, number(), 0..6u8).prop_map(|(text, n, how)| {
        // N stands alone or ends a name, as no other capital does.
        let text = text.replace("_N", &format!("_{n}")).replace('N', &n.to_string());
        match how {
            0 | 1 => format!("do {text} end\n"),
            2 | 3 => format!("out(pcall(function() {text} end))\n"),
            4 => format!("out(xpcall(function() {text} end, function(e) out('handler') return e end))\n"),
            _ => format!("out(coroutine.resume(coroutine.create(function() {text} end)))\n"),
        }
    })
}

fn script() -> impl Strategy<Value = String> {
    vec(piece(), 1..5).prop_map(|pieces| format!("{OUT}{}return seen", pieces.concat()))
}

fn world() -> World {
    let mut world = World::new();
    // The least limits that leave room for warm runs: large ones are far away.
    world.limits = Limits { script_instructions_max: 8_000_000, script_memory_bytes_max: 1 << 20, ..Limits::default() };
    world
}

/// Everything that the scripts did.
fn history(scripts: &[(String, bool)]) -> (Vec<String>, World) {
    let mut world = world();
    let answers = scripts
        .iter()
        .map(|(source, read_only)| {
            let name: &[u8] = if *read_only { b"EVAL_RO" } else { b"EVAL" };
            let words = [name, source.as_bytes(), b"1", b"k", b"value"].map(<[u8]>::to_vec);
            run_words(&mut world, &words, Served::First)
        })
        .collect();
    (answers, world)
}

fn check(scripts: &[(String, bool)]) {
    ONLY_COLD.set(true);
    let (expected, mut cold) = history(scripts);
    ONLY_COLD.set(false);
    let (answers, mut warm) = history(scripts);
    for ((source, _), (answer, expected)) in scripts.iter().zip(answers.iter().zip(&expected)) {
        assert_eq!(answer, expected, "{source}");
    }
    for line in [
        "GET k",
        "GET n",
        "GET long",
        "GET made",
        "LRANGE l 0 -1",
        "HGETALL h",
        "SMEMBERS s",
        "ZRANGE z 0 -1 WITHSCORES",
    ] {
        assert_eq!(run(&mut warm, line), run(&mut cold, line), "{line}");
    }
    for db in 0..4 {
        assert_eq!(warm.tables.len(db), cold.tables.len(db));
    }
    assert_eq!(warm.tables.sequence(), cold.tables.sequence());
    assert_eq!(warm.published, cold.published);
    assert_eq!(warm.rng.next_u64(), cold.rng.next_u64());
    let stored = |world: &World| {
        let mut bytes = Vec::new();
        world.scripts.encode(&mut bytes);
        bytes
    };
    assert_eq!(stored(&warm), stored(&cold));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_script_does_the_same_whatever_ran_before(scripts in vec((script(), prop::bool::weighted(0.1)), 1..12)) {
        check(&scripts);
    }
}

#[test]
fn every_piece_alone_twice_and_after_all_others() {
    let alone = |text: &&str| {
        [7, 1234].map(|n: u32| {
            let text = text.replace("_N", &format!("_{n}")).replace('N', &n.to_string());
            (format!("{OUT}do {text} end return seen"), false)
        })
    };
    let scripts: Vec<_> = PIECES.iter().flat_map(alone).collect();
    let before = WARM_RUNS.get();
    check(&scripts);
    check(&scripts);
    let [ended, gave_up] = WARM_RUNS.get();
    let (ended, gave_up) = (ended - before[0], gave_up - before[1]);
    assert!(ended > gave_up && gave_up > 10, "both ways are tried: {ended} warm runs ended, {gave_up} gave up");
    for text in ENDLESS {
        check(&[(text.to_string(), false)]);
    }
}

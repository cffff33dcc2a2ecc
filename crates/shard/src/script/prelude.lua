-- What scripts see instead of PUC Lua's globals. Runs first in every interpreter; `native` are functions in Rust,
-- `raw` the interpreter's own globals, of which nothing that could reach outside is left.
--
-- Scripts get `G`, a proxy: reading finds what is listed here, writing fails, as in Redis. Whatever catches errors is
-- wrapped, so that a script out of budget ends, and so that errors from Rust are plain strings.

local native, raw = ...
local assert, error, getmetatable, setmetatable, select, type = raw.assert, raw.error, raw.getmetatable, raw.setmetatable, raw.select, raw.type
local rawget, rawset, rawnext, rawpcall, rawtostring, rawunpack = raw.rawget, raw.rawset, raw.next, raw.pcall, raw.tostring, raw.unpack
local tonumber, ipairs = raw.tonumber, raw.ipairs
local string, table, math, coroutine = raw.string, raw.table, raw.math, raw.coroutine
local sub, len, find, byte, format = string.sub, string.len, native.find, string.byte, string.format
local charge = native.charge

-- Sealed tables -------------------------------------------------------------------------------------------------------

local behind = {} -- proxy -> the table it shows

local function readonly()
  error("Attempt to modify a readonly table", 2)
end

local function seal(shown, missing)
  local proxy, meta = {}, {}
  behind[proxy], behind[meta] = shown, shown
  setmetatable(meta, { __newindex = readonly, __metatable = false })
  return setmetatable(proxy, { __index = shown, __newindex = readonly, __metatable = meta })
end

local G

-- Errors --------------------------------------------------------------------------------------------------------------

-- Errors from Rust are objects of its own; scripts see a string, or the table that redis.call raises.
local function plain(e)
  local kind = type(e)
  if kind == "userdata" or kind == "string" then e = native.text(e) end
  return e
end

local function settle(ok, ...)
  if ok then return true, ... end
  if native.exhausted() then error(native.exhausted(), 0) end
  return false, plain((...))
end

local function redis_settle(ok, ...)
  if ok then return true, ... end
  if native.exhausted() then error(native.exhausted(), 0) end
  local e = plain((...))
  if type(e) == "table" then
    local text = e.err
    if type(text) == "string" or type(text) == "number" then e = text end
  end
  return false, e
end

local base = {
  _VERSION = raw._VERSION, assert = assert, error = error, ipairs = ipairs, rawequal = raw.rawequal, select = select,
  tonumber = tonumber, type = type,
}

function base.pcall(...)
  if select("#", ...) == 0 then error("bad argument #1 to 'pcall' (value expected)", 2) end
  return redis_settle(rawpcall(...))
end

-- The handler runs after the error has unwound: never from within a hook, where no budget would be kept.
local function handled(handler, ok, ...)
  if ok then return true, ... end
  if native.exhausted() then error(native.exhausted(), 0) end
  return false, select(2, settle(rawpcall(handler, plain((...)))))
end

function base.xpcall(f, handler)
  return handled(handler, rawpcall(f))
end

-- Tables --------------------------------------------------------------------------------------------------------------

local null = native.null

-- The order of keys that are objects follows their addresses, which differ between replicas.
local function ordered(t)
  if native.unordered(t) then
    error("Script attempted to iterate over a table whose keys are tables or functions: they have no order that is the same on every replica", 3)
  end
end

-- What a walk over the globals finds depends on which libraries have been used.
local function shown(t)
  local table = behind[t]
  if table == nil then return t end
  if table == base then native.only_cold() end
  return table
end

local function next(t, k)
  t = shown(t)
  if k == nil then
    if type(t) ~= "table" then error("bad argument #1 to 'next' (table expected, got " .. (t == nil and "no value" or type(t)) .. ")", 2) end
    ordered(t)
  end
  return rawnext(t, k)
end
base.next = next

function base.pairs(t)
  if type(t) ~= "table" then error("bad argument #1 to 'pairs' (table expected, got " .. (t == nil and "no value" or type(t)) .. ")", 2) end
  return next, t, nil
end

function base.rawget(t, k) return rawget(shown(t), k) end

function base.rawset(t, k, v)
  if behind[t] then error("Attempt to modify a readonly table", 0) end
  return rawset(t, k, v)
end

function base.setmetatable(t, m)
  if behind[t] then error("Attempt to modify a readonly table", 0) end
  return setmetatable(t, m)
end

base.getmetatable = getmetatable

local function unpack(t, i, j)
  i = i == nil and 1 or i
  j = j == nil and #t or j
  i, j = tonumber(i), tonumber(j)
  if i and j and (j - i >= 7900 or i < -2147483648 or j > 2147483647) then error("too many results to unpack", 2) end
  return rawunpack(t, i, j)
end
base.unpack = unpack

local table_lib = {
  getn = table.getn, setn = table.setn,
}

function table_lib.concat(t, separator, i, j)
  local last = j or #t
  charge(last - (i or 1) < #t and last - (i or 1) or #t)
  return table.concat(t, separator, i, j)
end

function table_lib.insert(...)
  local t, at, value = ...
  local count = select("#", ...)
  if behind[t] then error("Attempt to modify a readonly table", 0) end
  if count == 2 then
    t[#t + 1] = at
  elseif count == 3 and type(t) == "table" and type(at) == "number" and at <= #t and at >= 1 then
    for i = #t, at, -1 do t[i + 1] = t[i] end
    t[at] = value
  else
    return table.insert(...)
  end
end

function table_lib.remove(t, at)
  if type(t) ~= "table" then return table.remove(t, at) end
  local last = #t
  charge(at == nil and 0 or last - (tonumber(at) or last))
  if at == nil then return table.remove(t) end
  return table.remove(t, at)
end

function table_lib.sort(t, less)
  local count = type(t) == "table" and #t or 0
  charge(count * 20)
  return table.sort(t, less)
end

function table_lib.maxn(t)
  local largest = 0
  for k in rawnext, t do
    if type(k) == "number" and k > largest then largest = k end
  end
  return largest
end

function table_lib.foreach(t, f)
  for k, v in next, t do
    local result = f(k, v)
    if result ~= nil then return result end
  end
end

function table_lib.foreachi(t, f)
  for i = 1, #t do
    local result = f(i, t[i])
    if result ~= nil then return result end
  end
end

-- Strings -------------------------------------------------------------------------------------------------------------

local string_lib = {
  byte = string.byte, char = string.char, find = find, format = format, len = len, lower = native.lower,
  match = native.match, rep = native.rep, reverse = native.reverse, sub = sub, upper = native.upper,
}

function string_lib.gmatch(s, pattern)
  s, pattern = native.strings("gmatch", s, pattern)
  local at = 1
  local function step(first, last, ...)
    if not first then return nil end
    at = last >= first and last + 1 or last + 2
    return ...
  end
  return function() return step(native.matched(s, pattern, at, false)) end
end
string_lib.gfind = string_lib.gmatch

local function replaced(kind, replacement, whole, ...)
  local value
  if kind == "table" then value = replacement[(...)] else value = replacement(...) end
  if not value then return whole end
  if type(value) ~= "string" and type(value) ~= "number" then
    error("invalid replacement value (a " .. type(value) .. ")", 3)
  end
  return value
end

function string_lib.gsub(s, pattern, replacement, limit)
  local kind = type(replacement)
  if kind ~= "table" and kind ~= "function" then return native.gsub(s, pattern, replacement, limit) end
  s, pattern = native.strings("gsub", s, pattern)
  local anchored = byte(pattern) == 94
  limit = limit and tonumber(limit) or len(s) + 1
  local at, count, pieces, used = 1, 0, {}, 0
  local function step(first, last, ...)
    if not first then return false end
    count = count + 1
    if first > at then
      used = used + 1
      pieces[used] = sub(s, at, first - 1)
    end
    used = used + 1
    pieces[used] = replaced(kind, replacement, sub(s, first, last), ...)
    if last >= first then
      at = last + 1
    else
      if first <= len(s) then
        used = used + 1
        pieces[used] = sub(s, first, first)
      end
      at = first + 1
    end
    return at <= len(s) + 1
  end
  while count < limit and step(native.matched(s, pattern, at, true)) do
    if anchored then break end
  end
  used = used + 1
  pieces[used] = sub(s, at)
  return table.concat(pieces), count
end

-- Text that must not show addresses -----------------------------------------------------------------------------------

local serials, serial = {}, 0

function base.tostring(...)
  if select("#", ...) == 0 then error("bad argument #1 to 'tostring' (value expected)", 2) end
  local value = ...
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" or kind == "boolean" or kind == "nil" then return rawtostring(value) end
  if value == null then return "userdata: (nil)" end
  local text = rawtostring(value)
  local head = kind .. ": "
  if type(text) == "string" and sub(text, 1, len(head)) == head then
    if not serials[value] then
      serial = serial + 1
      serials[value] = serial
    end
    return format("%s0x%08x", head, serials[value])
  end
  return text
end

-- Code ----------------------------------------------------------------------------------------------------------------

function base.loadstring(source, name)
  source, name = native.strings("loadstring", source, name == nil and source or name)
  return native.compile(source, name)
end

function base.load(f, name)
  if type(f) ~= "function" then error("bad argument #1 to 'load' (function expected, got " .. type(f) .. ")", 2) end
  local pieces = {}
  while true do
    local piece = f()
    if piece == nil or piece == "" then break end
    if type(piece) ~= "string" then return nil, "reader function must return a string" end
    pieces[#pieces + 1] = piece
  end
  return native.compile(table.concat(pieces), name or "=(load)")
end

function base.collectgarbage(option)
  if option == "count" then return native.memory() end
  return 0
end

function base.gcinfo() return native.memory() end

-- Libraries -----------------------------------------------------------------------------------------------------------

local function settle_resume(ok, ...)
  if ok then return true, ... end
  if native.exhausted() then error(native.exhausted(), 0) end
  return false, plain((...))
end

local coroutine_lib = {
  create = coroutine.create, running = coroutine.running, status = coroutine.status, wrap = coroutine.wrap,
  yield = coroutine.yield,
}
function coroutine_lib.resume(...) return settle_resume(coroutine.resume(...)) end

local math_lib = {}
for name, f in rawnext, math do math_lib[name] = f end
math_lib.random, math_lib.randomseed = native.random, native.randomseed

local redis = {
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
  REDIS_VERSION = "7.2.0", REDIS_VERSION_NUM = 0x00070200,
}

local function single(field, what)
  return function(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
    return { [field] = what and what(text) or text }
  end
end

redis.status_reply = single("ok")
redis.error_reply = single("err", native.error_text)

redis.sha1hex, redis.log, redis.setresp, redis.set_repl = native.sha1hex, native.log, native.setresp, native.set_repl
redis.acl_check_cmd = native.known
function redis.replicate_commands() return true end
function redis.breakpoint() return false end
function redis.debug() end

base.redis = seal(redis)
base.string, base.table, base.math = seal(string_lib), seal(table_lib), seal(math_lib)
base.coroutine = seal(coroutine_lib)
base.os = seal({ clock = native.clock })

-- Built when first used: most scripts need none of them.
local lazy = { cjson = true, cmsgpack = true, bit = true, struct = true }
local function nonexistent(name)
  if type(name) ~= "string" and type(name) ~= "number" then name = type(name) end
  error("Script attempted to access nonexistent global variable '" .. name .. "'", 3)
end
local function missing(_, name) nonexistent(name) end
setmetatable(base, {
  __index = function(_, name)
    if lazy[name] then
      local library = seal(native.library(name))
      rawset(base, name, library)
      return library
    end
    nonexistent(name)
  end,
})

-- ("x"):rep(3) finds the same functions; the metatable shows only a proxy.
local text_meta = getmetatable("")
text_meta.__index = string_lib
text_meta.__metatable = seal({ __index = base.string })

G = seal(base)
base._G = G

-- Both are part of every run; `redis.call` and `redis.pcall` belong to one.
base.KEYS, base.ARGV, redis.call, redis.pcall = false, false, false, false

local function start(script, handler, keys, arguments, call, pcall)
  base.KEYS, base.ARGV, redis.call, redis.pcall = keys, arguments, call, pcall
  serials, serial = {}, 0
  return raw.xpcall(script, handler)
end

-- Functions: a library's body runs anew before each call, as nothing may outlive a run. While it runs it sees `opening`
-- instead of the globals, and what it registers is noted here.
local registered
local flags = { ["no-writes"] = 1, ["allow-oom"] = 2, ["allow-stale"] = 4, ["no-cluster"] = 8, ["allow-cross-slot-keys"] = 16 }
local raise, lower = native.raise, native.lower

local function text_of(value)
  if type(value) == "number" then return rawtostring(value) end
  return type(value) == "string" and value or nil
end

local function flags_of(list)
  if type(list) ~= "table" then raise("flags argument to redis.register_function must be a table representing function flags") end
  local seen, sum, at = {}, 0, 1
  while list[at] ~= nil do
    local name = text_of(list[at])
    local bit = name and flags[lower(name)]
    if not bit then raise("unknown flag given") end
    if not seen[bit] then sum = sum + bit end
    seen[bit], at = true, at + 1
  end
  return sum
end

local function named(given)
  if type(given) ~= "table" then
    raise("calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).")
  end
  local name, callback, description, sum
  for key, value in rawnext, given do
    key = text_of(key)
    if not key then raise("named argument key given to redis.register_function is not a string") end
    key = lower(key)
    if key == "function_name" then
      name = text_of(value)
      if not name then raise("function_name argument given to redis.register_function must be a string") end
    elseif key == "description" then
      description = text_of(value)
      if not description then raise("description argument given to redis.register_function must be a string") end
    elseif key == "callback" then
      if type(value) ~= "function" then raise("callback argument given to redis.register_function must be a function") end
      callback = value
    elseif key == "flags" then
      sum = flags_of(value)
    else
      raise("unknown argument given to redis.register_function")
    end
  end
  if not name then raise("redis.register_function must get a function name argument") end
  if not callback then raise("redis.register_function must get a callback argument") end
  return name, callback, description, sum or 0
end

local function positional(name, callback)
  name = text_of(name)
  if not name then raise("first argument to redis.register_function must be a string") end
  if type(callback) ~= "function" then raise("second argument to redis.register_function must be a function") end
  return name, callback, nil, 0
end

local function register(...)
  if not registered then raise("redis.register_function can only be called on FUNCTION LOAD command") end
  local count = select("#", ...)
  if count < 1 or count > 2 then raise("wrong number of arguments to redis.register_function") end
  local name, callback, description, sum
  if count == 1 then
    name, callback, description, sum = named(...)
  else
    name, callback, description, sum = positional(...)
  end
  if not find(name, "^[a-zA-Z0-9_]+$") then
    raise("Library names can only contain letters, numbers, or underscores(_) and must be at least one character long")
  end
  local place = lower(name)
  if registered.by_name[place] then raise("Function already exists in the library") end
  registered.by_name[place] = callback
  registered.list[#registered.list + 1] = { name = name, description = description, flags = sum }
end

local opening_redis = { register_function = register, log = native.log, REDIS_VERSION = redis.REDIS_VERSION, REDIS_VERSION_NUM = redis.REDIS_VERSION_NUM }
for level in rawnext, { LOG_DEBUG = 0, LOG_VERBOSE = 0, LOG_NOTICE = 0, LOG_WARNING = 0 } do opening_redis[level] = redis[level] end
local opening = setmetatable({ redis = seal(setmetatable(opening_redis, { __index = missing })) }, { __index = missing })
local front = { __index = base, __newindex = readonly, __metatable = false }
local library_globals = setmetatable({}, front)
behind[library_globals] = base

local function open(body, handler)
  serials, serial = {}, 0
  registered = { list = {}, by_name = {} }
  front.__index = opening
  local ok, failed = raw.xpcall(body, handler)
  front.__index = base
  local found = registered
  registered = nil
  return ok, ok and found or failed
end

local function open_library(body, handler)
  local ok, found = open(body, handler)
  return ok, ok and found.list or false
end

local function start_function(body, handler, keys, arguments, call, pcall, name)
  base.KEYS, base.ARGV, redis.call, redis.pcall = nil, nil, call, pcall
  local ok, found = open(body, handler)
  if not ok then return ok, found end
  local callback = found.by_name[lower(name)]
  return raw.xpcall(function() return callback(keys, arguments) end, handler)
end

local function forget()
  base.KEYS, base.ARGV, redis.call, redis.pcall = false, false, false, false
  serials = {}
end

return G, start, forget, library_globals, start_function, open_library

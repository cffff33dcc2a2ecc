// ioredis against a running server: node ioredis.mjs HOST PORT
import assert from "node:assert/strict";
import Redis from "ioredis";

const [host, port] = [process.argv[2], Number(process.argv[3])];
const opened = [];

function open(options = {}) {
  const client = new Redis({ host, port, maxRetriesPerRequest: 1, ...options });
  client.on("error", (error) => (client.lastError = error));
  opened.push(client);
  return client;
}

async function until(condition, what, milliseconds = 10_000) {
  const end = Date.now() + milliseconds;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${milliseconds} ms: ${what}`);
    await new Promise((wake) => setTimeout(wake, 5));
  }
}

async function blocked(client) {
  return Number(/blocked_clients:(\d+)/.exec(await client.info("clients"))[1]);
}

const parts = {
  async connect(r) {
    await until(() => r.status === "ready", "the ready check passes");
    assert.equal(await r.ping(), "PONG");
    const lazy = open({ lazyConnect: true, connectionName: "lazy", db: 2 });
    await lazy.connect();
    assert.equal(await lazy.client("GETNAME"), "lazy");
    await lazy.set("in", "two");
    assert.equal(await r.get("in"), null);
    await lazy.quit();
    await until(() => lazy.status === "end", "QUIT ends the connection");
    await assert.rejects(r.call("NOSUCHCOMMAND"), /unknown command/);
  },

  async types(r) {
    assert.equal(await r.set("a", "1", "EX", 100, "NX"), "OK");
    assert.equal(await r.set("a", "1", "EX", 100, "NX"), null);
    assert.deepEqual(await r.mget("a", "none"), ["1", null]);
    assert.deepEqual(await r.getBuffer("a"), Buffer.from("1"));
    const bytes = Buffer.from([0, 255, 13, 10, 0]);
    await r.set(bytes, bytes);
    assert.deepEqual(await r.getBuffer(bytes), bytes);
    assert.equal(await r.hset("h", { a: 1, b: 2 }), 2);
    assert.deepEqual(await r.hgetall("h"), { a: "1", b: "2" });
    assert.equal(await r.rpush("l", 1, 2, 3), 3);
    assert.deepEqual(await r.lrange("l", 0, -1), ["1", "2", "3"]);
    assert.equal(await r.sadd("s", "x", "y"), 2);
    assert.deepEqual((await r.smembers("s")).sort(), ["x", "y"]);
    assert.equal(await r.zadd("z", 1, "one", 2.5, "two"), 2);
    assert.equal(Number(await r.zscore("z", "two")), 2.5);
    assert.deepEqual((await r.zrange("z", 0, -1, "WITHSCORES")).flat().map(String), ["one", "1", "two", "2.5"]);
    await assert.rejects(r.incr("h"), /WRONGTYPE/);
  },

  async pipeline(r) {
    const pipe = r.pipeline();
    for (let n = 0; n < 2000; n++) pipe.set(`p:${n}`, n);
    for (let n = 0; n < 2000; n++) pipe.get(`p:${n}`);
    const replies = await pipe.exec();
    assert.equal(replies.length, 4000);
    replies.slice(2000).forEach(([error, value], n) => assert.deepEqual([error, value], [null, String(n)]));
    const mixed = await r.pipeline().set("t", "text").incr("t").get("t").exec();
    assert.match(mixed[1][0].message, /not an integer/);
    assert.equal(mixed[2][1], "text");
    const auto = open({ enableAutoPipelining: true });
    const values = await Promise.all(Array.from({ length: 500 }, (_, n) => auto.incrby("auto", n)));
    assert.equal(values.at(-1), (499 * 500) / 2);
  },

  async multi(r) {
    const replies = await r.multi().set("m", 1).incr("m").lpush("m", "x").exec();
    assert.equal(replies[1][1], 2);
    assert.match(replies[2][0].message, /WRONGTYPE/);
    const other = open();
    await r.watch("m");
    await other.set("m", "changed");
    assert.equal(await r.multi().set("m", "lost").exec(), null);
    assert.equal(await r.get("m"), "changed");
    await assert.rejects(r.multi().set("m", "x").call("NOSUCHCOMMAND").exec(), /EXECABORT|unknown command/);
    await r.multi({ pipeline: false });
    assert.equal(await r.set("m", "in"), "QUEUED");
    assert.deepEqual(await r.exec(), [[null, "OK"]]);
  },

  async pubsub(r) {
    const sub = open();
    const heard = [];
    sub.on("message", (channel, message) => heard.push(`${channel}=${message}`));
    sub.on("pmessage", (pattern, channel, message) => heard.push(`${pattern}:${channel}=${message}`));
    assert.equal(await sub.subscribe("news", "other"), 2);
    assert.equal(await sub.psubscribe("n*"), 3);
    assert.equal(await r.publish("news", "hello"), 2);
    await until(() => heard.length === 2, "both messages");
    assert.deepEqual(heard.sort(), ["n*:news=hello", "news=hello"]);
    assert.equal(await sub.unsubscribe("news"), 2);
    assert.equal(await r.publish("news", "again"), 1);
    await until(() => heard.length === 3, "the pattern's message");
    const sharded = open();
    sharded.on("smessage", (channel, message) => heard.push(`shard:${channel}=${message}`));
    await sharded.ssubscribe("orders");
    assert.equal(await r.spublish("orders", "one"), 1);
    await until(() => heard.includes("shard:orders=one"), "the sharded message");
  },

  async blocking(r) {
    const waiter = open();
    const popped = waiter.blpop("q", 8);
    await until(async () => (await blocked(r)) === 1, "BLPOP waits");
    await r.rpush("q", "x");
    assert.deepEqual(await popped, ["q", "x"]);
    assert.equal(await waiter.blpop("q", 0.05), null);
    const moved = waiter.blmove("a", "b", "LEFT", "RIGHT", 8);
    await until(async () => (await blocked(r)) === 1, "BLMOVE waits");
    await r.multi().rpush("a", "1").rpush("a", "2").exec();
    assert.equal(await moved, "1");
    assert.deepEqual(await r.lrange("b", 0, -1), ["1"]);
  },

  async lua(r) {
    r.defineCommand("addall", { numberOfKeys: 1, lua: "local n = 0 for _, v in ipairs(ARGV) do n = redis.call('INCRBY', KEYS[1], v) end return n" });
    assert.equal(await r.addall("sum", 1, 2, 3), 6);
    await r.script("FLUSH");
    assert.equal(await r.addall("sum", 4), 10, "loaded again after NOSCRIPT");
    const replies = await r.pipeline().addall("sum", 1).addall("sum", 1).exec();
    assert.deepEqual(replies.map(([, value]) => value), [11, 12]);
    assert.deepEqual(await r.eval("return {KEYS[1], ARGV[1], 3.9}", 1, "k", "v"), ["k", "v", 3]);
  },

  async streams(r) {
    const ids = [];
    for (let n = 0; n < 5; n++) ids.push(await r.xadd("s", "*", "n", n));
    assert.equal(await r.xlen("s"), 5);
    assert.deepEqual((await r.xrange("s", "-", "+")).map(([id]) => id), ids);
    await r.xgroup("CREATE", "s", "g", "0");
    // RESP3 answers a map: ioredis hands it on as an object or as pairs.
    const entries = (reply) => (Array.isArray(reply) ? reply[0][1] ?? reply[1] : Object.values(reply)[0]);
    const got = entries(await r.xreadgroup("GROUP", "g", "one", "COUNT", 3, "STREAMS", "s", ">"));
    assert.deepEqual(got.map(([id]) => id), ids.slice(0, 3));
    assert.equal(await r.xack("s", "g", ids[0]), 1);
    assert.equal((await r.xpending("s", "g"))[0], 2);
    const waiter = open();
    const late = waiter.xread("BLOCK", 8000, "STREAMS", "s", "$");
    await until(async () => (await blocked(r)) === 1, "XREAD waits");
    const fresh = await r.xadd("s", "*", "n", "late");
    assert.deepEqual(entries(await late), [[fresh, ["n", "late"]]]);
  },

  async scan(r) {
    const pipe = r.pipeline();
    for (let n = 0; n < 1500; n++) pipe.set(`key:${n}`, n);
    await pipe.exec();
    const found = new Set();
    for await (const keys of r.scanStream({ match: "key:*", count: 200 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 1500);
    await r.sadd("set", ...Array.from({ length: 700 }, (_, n) => `m${n}`));
    const members = new Set();
    for await (const some of r.sscanStream("set", { count: 50 })) some.forEach((member) => members.add(member));
    assert.equal(members.size, 700);
  },

  async users(r) {
    await r.call("ACL", "SETUSER", "io", "on", ">pass", "~io:*", "+@all", "-@dangerous");
    // Its ready check asks INFO, which this user may not: ioredis goes on without.
    const own = open({ username: "io", password: "pass" });
    assert.equal(await own.set("io:a", "1"), "OK");
    await assert.rejects(own.set("a", "1"), /NOPERM/);
    await assert.rejects(own.config("GET", "x"), /NOPERM/);
    assert.deepEqual(await own.multi().incr("io:a").get("io:a").exec(), [[null, 2], [null, "2"]]);
    assert.equal(await own.eval("return redis.call('get', KEYS[1])", 1, "io:a"), "2");
    const wrong = open({ username: "io", password: "other", retryStrategy: null });
    await assert.rejects(wrong.ping());
    assert.equal(await r.call("ACL", "DELUSER", "io"), 1);
  },

  async reconnect(r) {
    const client = open({ connectionName: "doomed", maxRetriesPerRequest: 5, retryStrategy: () => 20 });
    await until(() => client.status === "ready", "ready");
    const id = await client.client("ID");
    assert.equal(Number(await r.client("KILL", "ID", id)), 1);
    assert.equal(await client.ping(), "PONG");
    await until(async () => Number(await client.client("ID")) > Number(id), "a new connection");
  },
};

const deadline = setTimeout(() => {
  console.error("not done within 55 s");
  process.exit(1);
}, 55_000);

try {
  for (const protocol of [undefined, 2, 3]) {
    const base = protocol === undefined ? {} : { protocol };
    for (const [name, part] of Object.entries(parts)) {
      const r = open(base);
      await r.flushall();
      const started = Date.now();
      await part(r);
      console.log(`  ioredis ${protocol === undefined ? "default" : `protocol ${protocol}`} ${name}: ${Date.now() - started} ms`);
      opened.splice(0).forEach((client) => client.disconnect());
    }
  }
} catch (error) {
  console.error(error);
  process.exit(1);
}
clearTimeout(deadline);

// npm's `consul` against the Consul door: registration, health, KV, and its watch, which follows blocking queries.
// Takes HOST and the Consul door's PORT.
import assert from "node:assert/strict";
import Consul from "consul";

const [host, port] = [process.argv[2], Number(process.argv[3])];
const consul = new Consul({ host, port });

await consul.agent.service.register({
  name: "node-web",
  id: "node-web-1",
  port: 9000,
  tags: ["green"],
  check: { ttl: "30s", status: "passing" },
});
const found = await consul.health.service({ service: "node-web", passing: true });
assert.equal(found.length, 1);
assert.deepEqual([found[0].Service.ID, found[0].Service.Tags], ["node-web-1", ["green"]]);
assert.deepEqual((await consul.catalog.service.list())["node-web"], ["green"]);
assert.equal((await consul.agent.service.list())["node-web-1"].Port, 9000);
await consul.agent.check.warn({ id: "service:node-web-1", note: "slow" });
assert.equal((await consul.health.checks("node-web"))[0].Status, "warning");
await consul.agent.check.pass("service:node-web-1");
console.log("registration, health");

await consul.kv.set("node/a", "hello");
const entry = await consul.kv.get("node/a");
assert.equal(entry.Value, "hello");
assert.ok(!(await consul.kv.set({ key: "node/a", value: "y", cas: "1" })), "a stale index");
assert.ok(await consul.kv.set({ key: "node/a", value: "x", cas: String(entry.ModifyIndex) }));
assert.equal((await consul.kv.get("node/a")).Value, "x");
assert.deepEqual(await consul.kv.keys("node/"), ["node/a"]);
console.log("keys");

const session = await consul.session.create({ name: "node", ttl: "10s", lockdelay: "0s" });
assert.ok(session.ID);
assert.equal(await consul.kv.set({ key: "node/lock", value: "me", acquire: session.ID }), true);
const other = await consul.session.create({ ttl: "10s" });
// The library makes undefined of false.
assert.ok(!(await consul.kv.set({ key: "node/lock", value: "you", acquire: other.ID })));
const locked = await consul.kv.get("node/lock");
assert.equal(locked.Session, session.ID);
assert.ok(locked.Fence > 0);
assert.equal((await consul.session.renew(session.ID))[0].ID, session.ID);
assert.equal(await consul.kv.set({ key: "node/lock", value: "", release: session.ID }), true);
assert.equal(await consul.kv.set({ key: "node/lock", value: "you", acquire: other.ID }), true);
assert.ok((await consul.kv.get("node/lock")).Fence > locked.Fence);
await consul.session.destroy(session.ID);
await consul.session.destroy(other.ID);
assert.deepEqual((await consul.session.list()).filter((one) => [session.ID, other.ID].includes(one.ID)), []);
console.log("sessions, locks");

const states = [];
const watch = consul.watch({
  method: consul.health.service,
  options: { service: "node-web", passing: true, wait: "10s" },
  backoffFactor: 100,
});
const ended = new Promise((resolve, reject) => {
  watch.on("change", (data) => {
    states.push(data.length);
    if (states.length === 1) {
      consul.agent.service.register({ name: "node-web", id: "node-web-2" }).catch(reject);
    } else if (data.length === 2) {
      consul.agent.service.deregister("node-web-1").catch(reject);
    } else if (data.length === 1) {
      resolve();
    }
  });
  watch.on("error", reject);
});
await ended;
watch.end();
assert.deepEqual(states, [1, 2, 1]);
await consul.agent.service.deregister("node-web-2");
await consul.kv.del({ key: "node/", recurse: true });
assert.equal(await consul.kv.get("node/a"), undefined);
console.log("watch");
process.exit(0);

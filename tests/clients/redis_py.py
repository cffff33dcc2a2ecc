"""redis-py against a running server, with RESP2 and with RESP3, with and without decoded responses."""

import time
import uuid

import redis
from redis.exceptions import (
    ConnectionError,
    ExecAbortError,
    LockError,
    LockNotOwnedError,
    NoScriptError,
    ResponseError,
    WatchError,
)

from common import Background, arguments, equal, raises, until

HOST, PORT = arguments()
PARTS = []


def part(function):
    PARTS.append(function)
    return function


def blocked(r):
    """How many clients wait, as INFO tells it."""
    return int(r.info("clients")["blocked_clients"])


@part
def handshake(r, protocol, open_client):
    equal(r.ping(), True)
    hello = r.execute_command("HELLO")
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2]))
    hello = {(k.decode() if isinstance(k, bytes) else k): v for k, v in hello.items()}
    equal(hello["proto"], protocol, "HELLO proto")
    for field in ("server", "version", "id", "mode", "role", "modules"):
        assert field in hello, f"HELLO lacks {field}"
    info = r.info()
    for field in ("redis_version", "loading", "connected_clients", "blocked_clients", "used_memory", "role", "uptime_in_seconds"):
        assert field in info, f"INFO lacks {field}"
    equal(info["loading"], 0)
    assert r.time()[0] > 1_600_000_000
    equal(r.echo("x"), r.echo("x"))
    assert isinstance(r.config_get("save"), dict)
    assert r.command_count() > 100


@part
def strings(r, protocol, open_client):
    r = open_client(decode_responses=True)
    equal(r.set("a", "1"), True)
    equal(r.set("a", "2", nx=True), None)
    equal(r.set("a", "3", xx=True, get=True), "1")
    equal(r.get("a"), "3")
    equal(r.incrby("a", 39), 42)
    equal(r.incrbyfloat("f", 1.5), 1.5)
    equal(r.append("a", "x"), 3)
    equal(r.mset({"b": "1", "c": "2"}), True)
    equal(r.mget("b", "nosuch", "c"), ["1", None, "2"])
    equal(r.msetnx({"b": "9", "d": "9"}), False)
    equal(r.getrange("a", 0, 1), "42")
    equal(r.setrange("a", 1, "z"), 3)
    equal(r.getdel("a"), "4zx")
    equal(r.getex("b", ex=1000), "1")
    assert 990 < r.ttl("b") <= 1000
    equal(r.persist("b"), True)
    equal(r.ttl("b"), -1)
    equal(r.expireat("b", 9999999999), True)
    equal(r.expiretime("b"), 9999999999)
    equal(r.expire("b", 5, nx=True), False)
    equal(r.type("b"), "string")
    equal(r.exists("b", "b", "nosuch"), 2)
    equal(r.copy("b", "e"), True)
    equal(r.rename("e", "g"), True)
    equal(r.object("encoding", "b"), "int")
    equal(r.delete("b", "c", "nosuch"), 2)
    raises(ResponseError, "WRONGTYPE", lambda: (r.lpush("l", "x"), r.get("l")))
    raises(ResponseError, "not an integer", lambda: (r.set("t", "text"), r.incr("t")))
    raises(ResponseError, "wrong number of arguments", lambda: r.execute_command("GET"))
    raises(ResponseError, "unknown command", lambda: r.execute_command("NOSUCHCOMMAND"))
    binary = open_client()
    value = bytes(range(256)) * 40
    binary.set(b"\x00\xff\r\n", value)
    equal(binary.get(b"\x00\xff\r\n"), value)
    big = b"x" * (5 << 20)
    binary.set("big", big)
    equal(binary.get("big"), big, "a value of 5 MiB")
    r.set("soon", "x", px=50)
    until(lambda: r.get("soon") is None, "a key expires")


@part
def collections(r, protocol, open_client):
    r = open_client(decode_responses=True)
    equal(r.hset("h", mapping={"a": 1, "b": 2}), 2)
    equal(r.hgetall("h"), {"a": "1", "b": "2"})
    equal(r.hincrby("h", "a", 5), 6)
    equal(r.hmget("h", "a", "nosuch"), ["6", None])
    equal(r.hsetnx("h", "a", "9"), 0)
    equal(dict(r.hscan_iter("h")), {"a": "6", "b": "2"})
    equal(r.rpush("l", *range(5)), 5)
    equal(r.lrange("l", 0, -1), list("01234"))
    equal(r.lpop("l", 2), ["0", "1"])
    equal(r.lpos("l", "3"), 1)
    equal(r.linsert("l", "before", "3", "x"), 4)
    equal(r.lmove("l", "l2", "LEFT", "RIGHT"), "2")
    equal(r.sadd("s", "a", "b", "c"), 3)
    equal(r.smembers("s"), {"a", "b", "c"})
    equal(r.smismember("s", ["a", "z"]), [1, 0])
    r.sadd("s2", "b", "c", "d")
    equal(set(r.sinter("s", "s2")), {"b", "c"})
    equal(r.sunionstore("s3", "s", "s2"), 4)
    equal(set(r.sscan_iter("s3")), {"a", "b", "c", "d"})
    equal(r.zadd("z", {"a": 1, "b": 2.5, "c": 3}), 3)
    equal(r.zadd("z", {"a": 5}, gt=True, ch=True), 1)
    equal(r.zscore("z", "b"), 2.5)
    pairs = [tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)]
    equal(pairs, [("b", 2.5), ("c", 3.0), ("a", 5.0)])
    equal(r.zrange("z", "(2.5", "+inf", byscore=True), ["c", "a"])
    equal(r.zincrby("z", 1, "b"), 3.5)
    equal(r.zrank("z", "a"), 2)
    equal(r.zrangestore("zs", "z", 0, 1), 2)
    equal([tuple(pair) for pair in r.zscan_iter("zs")], [("c", 3.0), ("b", 3.5)])
    equal(r.zunionstore("zu", {"z": 2, "zs": 1}), 3)
    r.mset({f"key:{n}": n for n in range(1000)})
    equal(len(set(r.scan_iter("key:*", count=100))), 1000)
    equal(r.dbsize(), 1009)
    r.rpush("nums", 3, 1, 2)
    equal(r.sort("nums", desc=True), ["3", "2", "1"])
    other = open_client(db=3)
    equal(other.get("key:1"), None)
    other.set("only", "here")
    equal(r.exists("only"), 0)


@part
def pipelines(r, protocol, open_client):
    r = open_client(decode_responses=True)
    with r.pipeline(transaction=False) as pipe:
        for n in range(5000):
            pipe.set(f"p:{n}", n)
        for n in range(5000):
            pipe.get(f"p:{n}")
        replies = pipe.execute()
    equal(replies[:5000], [True] * 5000)
    equal(replies[5000:], [str(n) for n in range(5000)])
    with r.pipeline(transaction=False) as pipe:
        pipe.set("t", "text").incr("t").get("t")
        replies = pipe.execute(raise_on_error=False)
    equal(replies[0], True)
    assert isinstance(replies[1], ResponseError), replies
    equal(replies[2], "text")


@part
def transactions(r, protocol, open_client):
    r = open_client(decode_responses=True)
    with r.pipeline() as pipe:
        equal(pipe.set("a", 1).incr("a").lpush("a", "x").get("a").execute(raise_on_error=False)[1], 2)
    equal(r.get("a"), "2", "an error inside EXEC undoes nothing")
    with r.pipeline() as pipe:
        pipe.watch("a")
        r.set("a", "changed")
        pipe.multi()
        pipe.set("a", "lost")
        raises(WatchError, "Watched variable changed", pipe.execute)
    equal(r.get("a"), "changed")
    with r.pipeline() as pipe:
        pipe.set("a", 1)
        pipe.execute_command("NOSUCHCOMMAND")
        try:
            pipe.execute()
            raise AssertionError("a transaction with an unknown command ran")
        except (ExecAbortError, ResponseError):
            pass
    equal(r.get("a"), "changed")

    r.set("counter", 0)

    def add():
        client = open_client(decode_responses=True)
        for _ in range(50):
            client.transaction(lambda pipe: (lambda value: (pipe.multi(), pipe.set("counter", value + 1)))(int(pipe.get("counter"))), "counter")

    for worker in [Background(add) for _ in range(4)]:
        worker.result(40)
    equal(r.get("counter"), "200", "four clients adding under WATCH")


@part
def pubsub(r, protocol, open_client):
    r = open_client(decode_responses=True)
    sub = r.pubsub()
    sub.subscribe("news", "other")
    sub.psubscribe("n*")

    def heard(count):
        messages = []

        def enough():
            while len(messages) < count and (message := sub.get_message(timeout=0.05)):
                messages.append((message["type"], message["pattern"], message["channel"], message["data"]))
            return len(messages) >= count

        until(enough, f"{count} messages")
        return messages

    equal([kind for kind, *_ in heard(3)], ["subscribe", "subscribe", "psubscribe"])
    equal(r.publish("news", "hello"), 2)
    equal(sorted(map(str, heard(2))), sorted(map(str, [("message", None, "news", "hello"), ("pmessage", "n*", "news", "hello")])))
    equal(set(r.pubsub_channels()), {"news", "other"})
    equal(r.pubsub_numsub("news", "none"), [("news", 1), ("none", 0)])
    equal(r.pubsub_numpat(), 1)
    if protocol == 2:  # in RESP3 a plain PONG comes back, which redis-py's pub/sub does not expect
        sub.ping()
        equal(heard(1)[0][0], "pong")
    sub.unsubscribe("other")
    equal(heard(1)[0][0], "unsubscribe")
    until(lambda: r.publish("other", "x") == 0, "nobody listens any more")
    for n in range(1000):
        r.publish("news", n)
    data = [message[3] for message in heard(2000) if message[0] == "message"]
    equal(data, [str(n) for n in range(1000)], "order of messages")
    sub.close()
    until(lambda: r.pubsub_numpat() == 0, "a closed subscriber is forgotten")
    # Sharded: redis-py's own class speaks it on a plain connection.
    sharded = r.pubsub()
    sharded.ssubscribe("orders")
    until(lambda: sharded.get_message(timeout=0.05), "ssubscribe answered")
    equal(r.execute_command("SPUBLISH", "orders", "one"), 1)
    message = until(lambda: sharded.get_message(timeout=0.05), "a sharded message")
    equal((message["type"], message["data"]), ("smessage", "one"))
    equal(r.publish("orders", "not sharded"), 0)
    sharded.close()


@part
def locks(r, protocol, open_client):
    lock = r.lock("lock", timeout=10)
    assert lock.acquire(blocking=False)
    other = r.lock("lock", timeout=10)
    assert not other.acquire(blocking=False)
    equal(lock.owned(), True)
    equal(lock.extend(10), True)
    assert 10_000 < r.pttl("lock") <= 20_000
    equal(lock.extend(30, replace_ttl=True), True)
    assert r.pttl("lock") > 20_000
    equal(lock.reacquire(), True)
    assert r.pttl("lock") <= 10_000
    raises(LockError, "", other.release)
    lock.release()
    equal(r.exists("lock"), 0)
    brief = r.lock("brief", timeout=0.05)
    brief.acquire()
    until(lambda: not r.exists("brief"), "a lock expires")
    raises(LockNotOwnedError, "", brief.release)
    r.set("inside", 0)

    def enter():
        client = open_client()
        for _ in range(10):
            with client.lock("section", timeout=20, sleep=0.002):
                value = int(client.get("inside"))
                client.set("inside", value + 1)

    for worker in [Background(enter) for _ in range(4)]:
        worker.result(40)
    equal(int(r.get("inside")), 40, "counted under a lock by four clients")


@part
def scripts(r, protocol, open_client):
    r = open_client(decode_responses=True)
    move = r.register_script("local v = redis.call('GET', KEYS[1]); redis.call('SET', KEYS[2], v .. ARGV[1]); return v")
    r.set("a", "1")
    equal(move(keys=["a", "b"], args=["x"]), "1")
    equal(r.get("b"), "1x")
    r.script_flush()
    equal(r.script_exists(move.sha), [False])
    raises(NoScriptError, "", lambda: r.evalsha(move.sha, 2, "a", "b", "x"))
    equal(move(keys=["a", "b"], args=["y"]), "1", "loaded again by itself")
    equal(r.script_exists(move.sha), [True])
    with r.pipeline() as pipe:
        move(keys=["a", "b"], args=["z"], client=pipe)
        pipe.get("b")
        equal(pipe.execute(), ["1", "1z"])
    equal(r.eval("return {1, 'two', {3}, false}", 0), [1, "two", [3], None])
    raises(ResponseError, "custom", lambda: r.eval("return redis.error_reply('ERR custom')", 0))
    raises(ResponseError, "WRONGTYPE", lambda: r.eval("redis.call('LPUSH', KEYS[1], 1)", 1, "a"))


@part
def streams(r, protocol, open_client):
    r = open_client(decode_responses=True)
    ids = [r.xadd("s", {"n": n}) for n in range(10)]
    equal(r.xlen("s"), 10)
    equal([fields["n"] for _, fields in r.xrange("s", count=3)], ["0", "1", "2"])
    equal(r.xrevrange("s", count=1)[0][0], ids[-1])
    equal(r.xgroup_create("s", "g", id="0"), True)
    raises(ResponseError, "BUSYGROUP", lambda: r.xgroup_create("s", "g"))

    def read(consumer, **options):
        reply = r.xreadgroup("g", consumer, {"s": ">"}, **options)
        if isinstance(reply, dict):  # RESP3: a map, each value one list of pages
            reply = [[name, pages[0]] for name, pages in reply.items()]
        return [entry for _, entries in reply for entry in entries]

    one, two = read("one", count=6), read("two", count=10)
    equal([id for id, _ in one + two], ids)
    equal(r.xack("s", "g", *[id for id, _ in one[:5]]), 5)
    pending = r.xpending("s", "g")
    equal(pending["pending"], 5)
    equal({row["name"]: row["pending"] for row in pending["consumers"]}, {"one": 1, "two": 4})
    rows = r.xpending_range("s", "g", "-", "+", 10, consumername="two")
    equal([row["times_delivered"] for row in rows], [1] * 4)
    claimed = r.xclaim("s", "g", "three", min_idle_time=0, message_ids=[two[0][0]])
    equal(claimed[0][0], two[0][0])
    cursor, entries, *_ = r.xautoclaim("s", "g", "three", min_idle_time=0, start_id="0-0", count=2)
    equal(len(entries), 2)
    equal({row["name"] for row in r.xinfo_consumers("s", "g")}, {"one", "two", "three"})
    equal(r.xinfo_groups("s")[0]["pending"], 5)
    equal(r.xinfo_stream("s")["length"], 10)
    equal(read("one"), [])
    waiter = Background(lambda: read("one", block=8000))
    until(lambda: blocked(r) == 1, "a consumer waits")
    fresh = r.xadd("s", {"n": "late"})
    equal(waiter.result(), [(fresh, {"n": "late"})])
    equal(r.xtrim("s", maxlen=3, approximate=False), 8)
    equal(r.xdel("s", fresh), 1)
    equal(r.xgroup_delconsumer("s", "g", "two"), 3)
    equal(r.xgroup_destroy("s", "g"), True)

    # A consumer group worked off by several: every entry once, none lost.
    r.xgroup_create("jobs", "workers", id="$", mkstream=True)

    def work(name):
        client, done = open_client(decode_responses=True), []
        while True:
            reply = client.xreadgroup("workers", name, {"jobs": ">"}, count=7, block=8000)
            if isinstance(reply, dict):
                reply = [[stream, pages[0]] for stream, pages in reply.items()]
            for id, fields in reply[0][1]:
                client.xack("jobs", "workers", id)
                if fields["n"] == "stop":
                    return done
                done.append(int(fields["n"]))

    workers = [Background(lambda name=name: work(name)) for name in ("a", "b", "c")]
    with r.pipeline(transaction=False) as pipe:
        for n in range(300):
            pipe.xadd("jobs", {"n": n})
        pipe.execute()
    def stop(worker):
        while worker.is_alive():
            r.xadd("jobs", {"n": "stop"})
            worker.join(0.05)
        return worker.result()

    done = sorted(n for worker in workers for n in stop(worker))
    # One that read two "stop" at once leaves the second: the numbers must be whole all the same.
    equal(done, list(range(300)), "entries of the group")


@part
def blocking(r, protocol, open_client):
    r = open_client(decode_responses=True)
    first = Background(lambda: open_client(decode_responses=True).blpop(["q", "q2"], timeout=8))
    until(lambda: blocked(r) == 1, "the first waits")
    second = Background(lambda: open_client(decode_responses=True).blpop(["q"], timeout=8))
    until(lambda: blocked(r) == 2, "the second waits")
    r.rpush("q", "one", "two")
    equal(tuple(first.result()), ("q", "one"), "who came first is served first")
    equal(tuple(second.result()), ("q", "two"))
    started = time.monotonic()
    equal(r.blpop(["empty"], timeout=0.2), None)
    assert time.monotonic() - started >= 0.15
    mover = Background(lambda: open_client(decode_responses=True).blmove("from", "to", timeout=8))
    until(lambda: blocked(r) == 1, "BLMOVE waits")
    chained = Background(lambda: open_client(decode_responses=True).brpop("to", timeout=8))
    until(lambda: blocked(r) == 2, "BRPOP waits for what BLMOVE brings")
    r.lpush("from", "x")
    equal(mover.result(), "x")
    equal(tuple(chained.result()), ("to", "x"))
    popper = Background(lambda: open_client(decode_responses=True).bzpopmin("z", timeout=8))
    until(lambda: blocked(r) == 1, "BZPOPMIN waits")
    r.zadd("z", {"m": 1.5})
    name, member, score = popper.result()
    equal((name, member, float(score)), ("z", "m", 1.5))
    reader = Background(lambda: open_client(decode_responses=True).xread({"x": "$"}, block=8000))
    until(lambda: blocked(r) == 1, "XREAD waits")
    with r.pipeline() as pipe:
        pipe.xadd("x", {"n": 1}).xadd("x", {"n": 2})
        pipe.execute()
    reply = reader.result()
    entries = reply["x"][0] if isinstance(reply, dict) else reply[0][1]
    equal([fields["n"] for _, fields in entries], ["1", "2"], "a reader wakes after the whole transaction")
    # A client that goes away while it waits takes nothing with it.
    gone = open_client()
    connection = gone.connection_pool.get_connection("BLPOP") if redis.__version__ < "5.3" else gone.connection_pool.get_connection()
    connection.send_command("BLPOP", "gone", 0)
    until(lambda: blocked(r) == 1, "one more waits")
    connection.disconnect()
    until(lambda: blocked(r) == 0, "the server notices that it left")
    r.rpush("gone", "kept")
    equal(r.lrange("gone", 0, -1), ["kept"])


@part
def clients(r, protocol, open_client):
    r = open_client(decode_responses=True)
    name = "name-" + uuid.uuid4().hex
    named = open_client(decode_responses=True, client_name=name, max_connections=1)
    equal(named.client_getname(), name)
    info = named.client_info()
    equal(info["name"], name)
    equal(str(info["resp"]), str(protocol))
    ids = {row["name"]: row["id"] for row in r.client_list()}
    equal(str(ids[name]), str(named.client_id()))
    equal(named.client_setname("other"), True)
    equal(r.client_kill_filter(_id=named.client_id()), 1)
    equal(named.ping(), True, "redis-py comes back after its connection was killed")
    pool = redis.ConnectionPool(host=HOST, port=PORT, protocol=protocol, max_connections=3)
    shared = redis.Redis(connection_pool=pool)
    workers = [Background(lambda: [shared.incr("pool") for _ in range(100)]) for _ in range(3)]
    for worker in workers:
        worker.result()
    equal(int(shared.get("pool")), 300)
    held = [pool.get_connection("PING") if redis.__version__ < "5.3" else pool.get_connection() for _ in range(3)]
    raises(ConnectionError, "oo many connections" if redis.__version__ < "6" else "", shared.ping)
    for connection in held:
        pool.release(connection)
    pool.disconnect()
    single = redis.Redis(connection_pool=redis.BlockingConnectionPool(host=HOST, port=PORT, protocol=protocol, max_connections=1))
    equal(single.ping(), True)
    single.connection_pool.disconnect()


def main():
    opened = []
    for protocol in (2, 3):

        def open_client(**options):
            client = redis.Redis(host=HOST, port=PORT, protocol=protocol, socket_timeout=20, **options)
            opened.append(client)
            return client

        for test in PARTS:
            r = open_client()
            r.flushall()
            started = time.monotonic()
            test(r, protocol, open_client)
            print(f"  redis-py {redis.__version__} RESP{protocol} {test.__name__}: {time.monotonic() - started:.2f} s", flush=True)
            for client in opened:
                client.close()
                client.connection_pool.disconnect()
            opened.clear()


main()

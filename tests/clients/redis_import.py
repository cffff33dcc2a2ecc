#!/usr/bin/env python3
"""quorate import and export with Debian's redis-server: a loaded server with every type is taken over while it is written to, every key is
compared, all is written out again, and a redis-server and an empty node load that.

    redis_import.py [PORT] [--keys N]      (the node is its own; the port is not used)
"""
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

warnings.simplefilter("ignore", DeprecationWarning)

QUORATE = pathlib.Path(__file__).resolve().parents[2] / "target" / "release" / "quorate"
KEYS = int(sys.argv[sys.argv.index("--keys") + 1]) if "--keys" in sys.argv else 1200
PASSWORD = "s3cret"


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


class Redis:
    def __init__(self, directory, *flags):
        self.port = free_port()
        command = ["redis-server", "--port", str(self.port), "--dir", str(directory), "--save", "", "--daemonize", "no", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        password = flags[flags.index("--requirepass") + 1] if "--requirepass" in flags else None
        self.client = redis.Redis(port=self.port, password=password)
        until(lambda: is_up(self.client), "redis-server answers")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Node:
    def __init__(self, directory):
        doors = [word for door in ("redis", "admin", "gateway", "kafka", "etcd", "consul", "dns") for word in (f"--{door}-port", "0")]
        self.process = subprocess.Popen(
            [QUORATE, "up", *doors, "--print-ready", "--data", directory, "--set", "cluster.bind=127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for line in self.process.stdout:
            found = re.search(r"^ready .*redis=(\S+)", line)
            if found:
                self.address = found.group(1)
                break
        else:
            raise SystemExit("the node did not start")
        self.client = redis.Redis(port=int(self.address.rsplit(":", 1)[1]))

    def stop(self):
        self.process.kill()
        self.process.wait()


def is_up(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def until(holds, what, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def fill(client, rng, keys):
    """Every type in every form: short and long, numbers, text that can be compressed and text that cannot."""
    word = lambda size: bytes(rng.randrange(256) for _ in range(size))
    for db in (0, 3):
        own = redis.Redis(port=client.connection_pool.connection_kwargs["port"], password=PASSWORD, db=db)
        pipe = own.pipeline(transaction=False)
        for nth in range(keys // 2):
            key = f"k{db}:{nth}"
            kind = nth % 12
            size = rng.choice((1, 3, 20, 200, 600))
            if kind == 0:
                pipe.set(key, rng.choice((b"", b"12", b"-70000", b"12345678901", b"a" * 3000, word(40), word(5000))))
            elif kind == 1:
                pipe.rpush(key, *[rng.choice((b"7", b"-129", b"70000", word(9), b"z" * 300)) for _ in range(size)])
            elif kind == 2:
                pipe.sadd(key, *[rng.randrange(-10**rng.choice((2, 5, 12)), 10**9) for _ in range(size)])
            elif kind == 3:
                pipe.sadd(key, *[word(rng.choice((1, 8, 80))) for _ in range(size)])
            elif kind == 4:
                pipe.hset(key, mapping={f"f{n}": rng.choice((n, word(10), "v" * 100)) for n in range(size)})
            elif kind == 5:
                pipe.zadd(key, {word(6): rng.choice((1, -2.5, 1e300, float("inf"), n / 3)) for n in range(size)})
            elif kind == 6:
                for n in range(min(size, 60)):
                    pipe.xadd(key, {"a": n, "b": word(4)}, id=f"{n + 1}-1")
                pipe.xgroup_create(key, "g", id="0")
                pipe.xreadgroup("g", "one", {key: ">"}, count=5)
                pipe.xack(key, "g", "1-1")
                pipe.xdel(key, "2-1")
                pipe.xgroup_create(key, "h", id="$")
            elif kind == 7:
                pipe.set(key, "goes", px=3_600_000 + nth)
            elif kind == 8:
                pipe.pfadd(key, *range(size))
            elif kind == 9:
                pipe.geoadd(key, [13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"])
            elif kind == 10:
                pipe.setbit(key, rng.randrange(100_000), 1)
            else:
                pipe.set(key, "soon gone", px=1)
        pipe.execute()
    client.execute_command("FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nredis.register_function('f', function() return 7 end)")


class Writer(threading.Thread):
    """Changes keys of every type until it is told to stop; what it was answered is what must be found. A source that holds writers back is the end."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = redis.Redis(port=port, password=PASSWORD, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        self.done = 0

    def run(self):
        rng = random.Random(3)
        try:
            while True:
                key = f"k0:{rng.randrange(KEYS // 2)}"
                n = self.done
                pipe = self.client.pipeline()
                pipe.incr("w:count")
                pipe.rpush("w:list", n)
                if n % 7 == 0:
                    pipe.delete(key)
                elif n % 5 == 0:
                    pipe.copy(key, f"w:{n % 50}", replace=True)
                pipe.zadd("w:zset", {f"m{n % 100}": n})
                pipe.xadd("w:stream", {"n": n}, maxlen=100, approximate=False)
                pipe.execute()
                self.client.eval("redis.call('set', KEYS[1], ARGV[1]); redis.call('expire', KEYS[1], 5000)", 1, f"w:e{n % 9}", n)
                self.client.set(f"w:t{n % 9}", n, px=1 if n % 2 else 60_000)
                self.done += 1
        except (redis.TimeoutError, redis.ConnectionError, redis.BusyLoadingError):
            pass


def contents(client):
    """All keys with what they hold."""
    found = {}
    for db in (0, 3):
        own = redis.Redis(port=client.connection_pool.connection_kwargs["port"], password=client.connection_pool.connection_kwargs.get("password"), db=db)
        keys = sorted(set(own.scan_iter(count=1000)))
        kinds = dict(zip(keys, pipelined(own, [("TYPE", key) for key in keys])))
        asks = {
            b"string": lambda key: [("GET", key)],
            b"list": lambda key: [("LRANGE", key, 0, -1)],
            b"set": lambda key: [("SMEMBERS", key)],
            b"hash": lambda key: [("HGETALL", key)],
            b"zset": lambda key: [("ZRANGE", key, 0, -1, "WITHSCORES")],
            b"stream": lambda key: [("XRANGE", key, "-", "+"), ("XINFO", "GROUPS", key), ("XINFO", "STREAM", key)],
        }
        for key, kind in kinds.items():
            if kind == b"none":
                continue
            answers = pipelined(own, asks[kind](key) + [("PEXPIRETIME", key)])
            if kind == b"set":
                answers[0] = sorted(answers[0])
            if kind == b"hash":
                pairs = answers[0].items() if isinstance(answers[0], dict) else zip(answers[0][::2], answers[0][1::2])
                answers[0] = sorted(pairs)
            if kind == b"stream":
                answers[2] = stream_facts(answers[2])
            found[db, key] = (kind, *[plain(answer) for answer in answers])
    return found


def stream_facts(full):
    facts = dict(zip(full[::2], full[1::2])) if isinstance(full, list) else {k if isinstance(k, bytes) else k.encode(): v for k, v in full.items()}
    left = (b"radix-tree-keys", b"radix-tree-nodes")
    return {key: value for key, value in facts.items() if key not in left}


def pipelined(client, commands):
    connection = client.connection_pool.get_connection("x")
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [connection.read_response() for _ in commands]
    finally:
        client.connection_pool.release(connection)


def plain(value):
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return sorted((str(key), str(plain(one))) for key, one in value.items())
    return value


# When consumers were seen is told in milliseconds since then.
VOLATILE = re.compile(r"b'(seen-time|active-time|idle|inactive|seen|pel-time)', \d+")


def compare(what, right, wrong_side):
    seen, got = contents(right), contents(wrong_side)
    for key in sorted(set(seen) | set(got), key=str):
        a, b = VOLATILE.sub("", repr(seen.get(key))), VOLATILE.sub("", repr(got.get(key)))
        if a != b:
            raise SystemExit(f"{what}: {key} differs\n  {a[:2000]}\n  {b[:2000]}")
    return len(seen)


def run(*words, stdin=None, fails=False):
    environment = {**os.environ, "QUORATE_SOURCE_PASSWORD": PASSWORD}
    done = subprocess.run([QUORATE, *map(str, words)], capture_output=True, text=True, env=environment, timeout=120)
    if (done.returncode != 0) != fails:
        raise SystemExit(f"quorate {' '.join(map(str, words))} came to {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def step(what, begun=[time.monotonic()]):
    now = time.monotonic()
    print(f"  {what}: {now - begun[0]:.1f} s")
    begun[0] = now


def main():
    place = pathlib.Path(tempfile.mkdtemp(prefix="quorate-import-"))
    running = []

    def begin(server):
        running.append(server)
        return server

    try:
        source = begin(Redis(place, "--requirepass", PASSWORD, "--dbfilename", "source.rdb", "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"))
        fill(source.client, random.Random(1), KEYS)
        node = begin(Node(place / "node"))

        step("filled")
        # Under writes, to a cut-over while they go on.
        writer = Writer(source.port)
        writer.start()
        until(lambda: writer.done > 20, "the writer writes")
        said = run("import", "redis", f"127.0.0.1:{source.port}", "--to", node.address, "--cut-over")
        writer.join(30)
        live = int(re.search(r"(\d+) commands since", said).group(1))
        keys = compare("import redis", source.client, node.client)
        assert int(node.client.get("w:count")) in (writer.done, writer.done + 1), "what was answered is there"
        source.client.execute_command("CLIENT", "UNPAUSE")

        step("imported under writes")
        # What is there is not touched unasked.
        said = run("import", "redis", f"127.0.0.1:{source.port}", "--to", node.address, "--cut-over", fails=True)
        assert "--replace" in said and "--flush" in said, said

        step("refused")
        # Cut over by Ctrl-C; the link is lost in between, and found again.
        source.client.set("late", 1)
        words = ["import", "redis", f"127.0.0.1:{source.port}", "--to", node.address, "--flush"]
        environment = {**os.environ, "QUORATE_SOURCE_PASSWORD": PASSWORD}
        going = subprocess.Popen([QUORATE, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for line in going.stderr:
            if line.startswith("the snapshot is in"):
                break
        source.client.set("late", 2)
        until(lambda: node.client.get("late") == b"2", "the live stream")
        source.client.client_kill_filter(_type="slave")
        source.client.set("late", 3)
        until(lambda: node.client.get("late") == b"3", "the stream after a lost link")
        going.send_signal(signal.SIGINT)
        out, err = going.communicate(timeout=60)
        assert going.returncode == 0 and "point your clients" in out, out + err
        compare("import redis, cut over by hand", source.client, node.client)
        source.client.execute_command("CLIENT", "UNPAUSE")

        step("cut over by hand")
        # Out again: a redis-server loads it, and so does an empty node, by the file of either.
        out = place / "export.rdb"
        run("export", out, "--from", node.address)
        copy = begin(Redis(place, "--dbfilename", out.name))
        compare("export", node.client, copy.client)
        source.client.save()
        other = begin(Node(place / "other"))
        for file in (out, place / "source.rdb"):
            run("import", "rdb", file, "--to", other.address, "--flush")
            compare(f"import rdb {file.name}", source.client, other.client)

        step("exported and loaded")
        # Old forms: everything in its largest encoding, and compressed.
        for name, value in (("list-max-listpack-size", 1), ("hash-max-listpack-entries", 0), ("zset-max-listpack-entries", 0), ("set-max-intset-entries", 0)):
            source.client.config_set(name, value)
        source.client.execute_command("DEBUG", "RELOAD")
        source.client.save()
        run("import", "rdb", place / "source.rdb", "--to", other.address, "--flush")
        compare("import rdb in large forms", source.client, other.client)

        step("large forms")
        # A file that breaks off, and one that is none.
        whole = out.read_bytes()
        (place / "cut.rdb").write_bytes(whole[: len(whole) // 2])
        said = run("import", "rdb", place / "cut.rdb", "--to", other.address, "--flush", fails=True)
        assert "in the middle of a record" in said, said
        (place / "none.rdb").write_bytes(b"PK\x03\x04 no database at all")
        said = run("import", "rdb", place / "none.rdb", "--to", other.address, "--flush", fails=True)
        assert "at byte 0: this is no RDB file" in said, said
        print(f"{keys} keys taken over under {writer.done} rounds of writes, {live} commands live; out and in again")
    finally:
        for server in running:
            server.stop()
        shutil.rmtree(place, ignore_errors=True)


main()

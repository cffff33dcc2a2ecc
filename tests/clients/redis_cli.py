"""A scripted session of redis-cli against a running server: what a person at a prompt would do."""

import shutil
import socket
import subprocess
import sys

from common import arguments, equal, until

HOST, PORT = arguments()
if not shutil.which("redis-cli"):
    print("skipped: redis-cli is not installed")
    sys.exit(77)


def cli(*args, stdin=None, raw=False):
    """What redis-cli prints for these arguments."""
    command = ["redis-cli", "-h", HOST, "-p", str(PORT), *args]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=30)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout if raw else done.stdout.decode().strip()


def session(script, *args):
    """What redis-cli prints when these lines are typed."""
    return cli(*args, stdin=script.encode()).splitlines()


def bulk(*args):
    """One command as redis-cli --pipe wants it."""
    parts = [f"*{len(args)}\r\n".encode()]
    for arg in args:
        arg = str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(parts)


def main():
    equal(cli("FLUSHALL"), "OK")
    equal(cli("PING"), "PONG")
    equal(session("SET a 1\nINCR a\nGET none\nGET a\n"), ["OK", "2", "", "2"])
    equal(cli("--no-raw", "LRANGE", "none", "0", "-1"), "(empty array)")
    equal(session("MULTI\nSET m 1\nINCR m\nEXEC\n"), ["OK", "QUEUED", "QUEUED", "OK", "2"])
    equal(session("MULTI\nSET m 9\nDISCARD\nGET m\n"), ["OK", "QUEUED", "OK", "2"])
    print("  redis-cli session: ok")

    equal(cli("-3", "HSET", "h", "f", "v"), "1")
    equal(cli("-3", "--no-raw", "HGETALL", "h"), '1# "f" => "v"')
    equal(cli("--json", "HGETALL", "h"), '{"f":"v"}')
    equal(cli("-n", "5", "SET", "elsewhere", "x"), "OK")
    equal(cli("EXISTS", "elsewhere"), "0")
    print("  redis-cli -3, --json, -n: ok")

    info = cli("INFO")
    for field in ("redis_version:", "connected_clients:", "used_memory:", "role:master", "tcp_port:", "db0:keys="):
        assert field in info, f"INFO lacks {field}"
    assert "# Server" in cli("INFO", "server")
    assert "WRONGTYPE" in cli("INCR", "h")
    assert "unknown command" in cli("NOSUCHCOMMAND")
    print("  redis-cli INFO, errors: ok")

    with socket.create_connection((HOST, PORT), 10) as inline:
        inline.sendall(b"PING\r\nSET inline \"two words\"\r\nGET inline\nQUIT\r\n")
        got = b""
        while chunk := inline.recv(4096):
            got += chunk
    equal(got, b"+PONG\r\n+OK\r\n$9\r\ntwo words\r\n+OK\r\n", "inline commands")
    print("  inline: ok")

    cli("FLUSHALL")
    mass = b"".join(bulk("SET", f"key:{n}", n) for n in range(20_000))
    mass += bulk("INCR", "key:wrong:args", "x")
    done = subprocess.run(["redis-cli", "-h", HOST, "-p", str(PORT), "--pipe"], input=mass, capture_output=True, timeout=50)
    text = done.stdout.decode() + done.stderr.decode()
    assert "errors: 1, replies: 20001" in text, text
    equal(cli("DBSIZE"), "20000")
    print("  redis-cli --pipe: ok")

    keys = cli("--scan", "--pattern", "key:1999*").split()
    equal(sorted(keys), sorted(f"key:{n}" for n in range(20_000) if str(n).startswith("1999")))
    cli("RPUSH", "thelist", *map(str, range(100)))
    big = cli("--bigkeys")
    assert "thelist" in big and "100 items" in big, big
    print("  redis-cli --scan, --bigkeys: ok")

    listener = subprocess.Popen(["redis-cli", "-h", HOST, "-p", str(PORT), "SUBSCRIBE", "ch"], stdout=subprocess.PIPE)
    try:
        until(lambda: cli("PUBLISH", "ch", "hello") == "1", "somebody listens")
        lines = [listener.stdout.readline().strip() for _ in range(6)]
        equal(lines, [b"subscribe", b"ch", b"1", b"message", b"ch", b"hello"])
    finally:
        listener.kill()
        listener.wait()
    equal(cli("EVAL", "return {KEYS[1],ARGV[1]}", "1", "k", "v"), "k\nv")
    equal(cli("-x", "SET", "fromstdin", stdin=b"bytes\x00\xff"), "OK")
    equal(cli("GET", "fromstdin", raw=True), b"bytes\x00\xff\n")
    equal(cli("-r", "3", "INCR", "again"), "1\n2\n3")
    print("  redis-cli SUBSCRIBE, EVAL, -x, -r: ok")


main()

"""TLS in front of the Redis, admin and Consul doors: redis-cli, curl and Python's ssl on them; certificates of clients; files exchanged while
connections stand; starts that are refused."""
import os
import shutil
import socket
import ssl
import subprocess
import time

from certs import Authority, at
from common import BIN, DIR, Node, check, run, skip, wait_until


def port_of(node, door):
    return int(node.at[door].rsplit(":", 1)[1])


class Resp:
    """A client of Python's ssl."""

    def __init__(self, port, authority, pair=None):
        context = ssl.create_default_context(cafile=authority.pem)
        if pair:
            context.load_cert_chain(*pair)
        self.stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="localhost")
        self.shown = self.stream.getpeercert()["issuer"][0][0][1]

    def ask(self, text, length):
        self.stream.sendall(text)
        got = b""
        while len(got) < length:
            more = self.stream.recv(1 << 16)
            check(more, "closed after", got[:100])
            got += more
        return got


def refused(what):
    try:
        what()
    except (OSError, ssl.SSLError):
        return True
    return False


def output(*words, code=0, **more):
    done = subprocess.run(words, capture_output=True, timeout=30, **more)
    check((done.returncode == 0) == (code == 0), words, done.returncode, done.stdout[-300:], done.stderr[-300:])
    return done.stdout


def plain(port, text):
    """What is answered to this without TLS."""
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        stream.sendall(text)
        try:
            return stream.recv(1000)
        except ConnectionResetError:
            return b""


def settings(pair, client_ca=None):
    keys = f'tls_cert = "{pair[0]}"\ntls_key = "{pair[1]}"\n' + (f'tls_client_ca = "{client_ca}"\n' if client_ca else "")
    return "".join(f"[{door}]\n{keys}" for door in ("redis", "admin", "consul"))


def programs(ours):
    node = Node(settings(ours.sign("door", "localhost", "127.0.0.1")), "doors")
    redis, admin, consul = (port_of(node, door) for door in ("redis", "admin", "consul"))
    cli = ["redis-cli", "--tls", "--cacert", ours.pem, "-p", str(redis)]
    check(output(*cli, "SET", "a", "b") == b"OK\n" and output(*cli, "GET", "a") == b"b\n", "redis-cli")
    mass = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$1\r\nx\r\n" % (len(name), name) for name in (b"key:%d" % at for at in range(20_000)))
    check(b"errors: 0, replies: 20000" in output(*cli, "--pipe", input=mass), "redis-cli --pipe")
    for path, port, wanted in (("/readyz", admin, b"ready\n"), ("/v1/status/leader", consul, b'"')):
        got = output("curl", "-sS", "--cacert", ours.pem, f"https://localhost:{port}{path}")
        check(got.startswith(wanted), path, got)
        output("curl", "-sS", f"https://localhost:{port}{path}", code=1)
    status = [BIN, "status", "--admin", f"127.0.0.1:{admin}"]
    check(b"ready" in output(*status, env=os.environ | {"QUORATE_ADMIN_CA": ours.pem}), "quorate status")
    done = subprocess.run(status, capture_output=True, text=True, timeout=30)
    check(done.returncode == 1 and "QUORATE_ADMIN_CA" in done.stderr, "quorate status without TLS", done.stderr)
    client = Resp(redis, ours)
    count = 10_000
    check(client.ask(b"INCR n\r\n" * count, len(b"".join(b":%d\r\n" % at for at in range(1, count + 1)))).endswith(b":%d\r\n" % count), "a pipeline")
    value = os.urandom(8 << 20)
    check(client.ask(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n%s\r\n" % (len(value), value), 5) == b"+OK\r\n", "8 MiB in")
    head = b"$%d\r\n" % len(value)
    check(client.ask(b"GET big\r\n", len(head) + len(value) + 2) == head + value + b"\r\n", "8 MiB out")
    check(client.ask(b"QUIT\r\n", 5) == b"+OK\r\n" and client.stream.recv(10) == b"", "a proper end")
    # Who speaks without TLS learns nothing, and stands in nobody's way; nor does who says nothing.
    silent = socket.create_connection(("127.0.0.1", redis), 10)
    check(b"PONG" not in plain(redis, b"PING\r\n") and b"200" not in plain(admin, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), "without TLS")
    check(output(*cli, "PING") == b"PONG\n", "afterwards")
    silent.close()


def files(ours, other):
    """Another certificate for those who come, the same connection for those who are there; what is broken changes nothing."""
    pair = ours.sign("changing", "localhost", "127.0.0.1")
    node = Node(settings(pair), "doors-files")
    port = port_of(node, "redis")
    stands = Resp(port, ours)
    for file in pair:
        with open(file, "w") as text:
            text.write("nonsense")
    wait_until(lambda: "is still shown" in open(node.log).read(), 10, "a word about the files")
    check(Resp(port, ours).ask(b"PING\r\n", 7) == b"+PONG\r\n", "with the certificate that was there")
    fresh = other.sign("fresh", "localhost", "127.0.0.1")
    for file, new in zip(reversed(pair), reversed(fresh)):
        shutil.copy(new, file + ".new")
        os.replace(file + ".new", file)

    def changed():
        return not refused(lambda: Resp(port, other))

    wait_until(changed, 10, "the new certificate")
    check(refused(lambda: Resp(port, ours)) and Resp(port, other).shown == "other", "the old one is gone")
    check(stands.ask(b"PING\r\n", 7) == b"+PONG\r\n", "the connection that stood")


def clients(ours, theirs):
    """Nobody without a certificate of the clients' authority."""
    node = Node(settings(ours.sign("asking", "localhost", "127.0.0.1"), theirs.pem), "doors-clients")
    redis, admin = port_of(node, "redis"), port_of(node, "admin")
    pair, wrong = theirs.sign("client"), ours.sign("stranger")
    check(Resp(redis, ours, pair).ask(b"PING\r\n", 7) == b"+PONG\r\n", "with a certificate")
    for who in (None, wrong):
        def ask():
            got = Resp(redis, ours, who).stream
            got.sendall(b"PING\r\n")
            if not got.recv(10):
                raise OSError("closed")
        check(refused(ask), "let in with", who)
    url = f"https://localhost:{admin}/healthz"
    output("curl", "-sS", "--cacert", ours.pem, "--cert", pair[0], "--key", pair[1], url)
    output("curl", "-sS", "--cacert", ours.pem, url, code=1)


def starts(ours):
    pair = ours.sign("start", "localhost")
    for words, wanted in [
        (["--set", f"redis.tls_cert={pair[0]}"], ["redis.tls_key"]),
        (["--set", f"admin.tls_key={pair[1]}"], ["admin.tls_cert"]),
        (["--set", f"consul.tls_client_ca={ours.pem}"], ["consul.tls_cert"]),
        (["--set", f"redis.tls_cert={pair[0]}", "--set", f"redis.tls_key={at('none.key')}"], ["none.key"]),
        (["--set", f"redis.tls_cert={pair[1]}", "--set", f"redis.tls_key={pair[1]}"], [pair[1], "certificate"]),
        (["--redis-bind", "0.0.0.0:0", "--password", "x"], ["redis.tls_cert", "insecure_bind"]),
        (["--admin-bind", "0.0.0.0:0", "--admin-password", "x"], ["admin.tls_cert", "insecure_bind"]),
        (["--redis-bind", "0.0.0.0:0", "--set", f"redis.tls_cert={pair[0]}", "--set", f"redis.tls_key={pair[1]}"], ["no password", "redis.password_file"]),
    ]:
        command = [BIN, "up", "--data", os.path.join(DIR, "refused"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        check(done.returncode == 1 and all(word in done.stderr for word in wanted), words, done.returncode, done.stderr)


def main():
    missing = [name for name in ("redis-cli", "curl") if not shutil.which(name)]
    if missing:
        skip("no " + ", ".join(missing))
    begun = time.monotonic()
    ours, other = Authority("ours"), Authority("other")
    programs(ours)
    files(ours, other)
    clients(ours, other)
    starts(ours)
    return f"redis-cli, curl, Python's ssl; certificates of clients; files exchanged under connections; {time.monotonic() - begun:.0f} s"


run(main)

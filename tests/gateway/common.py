"""What the cases share: a node with a configuration, backends that come and go, a client that says exactly what became of a request."""
import asyncio
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN, DIR = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
REQUESTS = int(sys.argv[3]) if len(sys.argv) > 3 else 20_000
# Parts of a case that are wanted; none named: all.
ONLY = sys.argv[4].split(",") if len(sys.argv) > 4 and sys.argv[4] else []
processes = []


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def check(good, *what):
    if not good:
        raise AssertionError(" ".join(str(word) for word in what))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until(done, seconds=20, what="a condition"):
    limit = time.monotonic() + seconds
    while not done():
        check(time.monotonic() < limit, f"{what}: not within {seconds} s")
        time.sleep(0.01)


def listens(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False


class Backend:
    """`backend.py` or another script in a process of its own."""

    def __init__(self, name, port=None, script="backend.py", log=True, program=None, host="127.0.0.1"):
        self.name, self.port, self.script, self.host = name, port or free_port(), script, host
        self.program = program or sys.executable
        self.log = os.path.join(DIR, f"{name}.requests") if log else None
        if self.log:
            open(self.log, "w").close()
        self.start()

    def start(self):
        words = [self.program, os.path.join(HERE, self.script), str(self.port), self.name] + ([self.log] if self.log else [])
        self.process = subprocess.Popen(words, env=os.environ | {"BACKEND_HOST": self.host})
        processes.append(self.process)
        wait_until(lambda: self.process.poll() is None and listens(self.port, self.host), what=f"backend {self.name}")

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def requests(self):
        with open(self.log) as lines:
            return [line.split() for line in lines]

    @property
    def address(self):
        return f"{self.host}:{self.port}"


class Node:
    """`quorate up` with the gateway told by a TOML text."""

    def __init__(self, toml, name="node", files_max=None, flags=(), env=None):
        home = os.path.join(DIR, name)
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        with open(os.path.join(home, "quorate.toml"), "w") as file:
            file.write(toml)
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))) if files_max else None
        self.log = os.path.join(home, "log")
        words = "up --redis-port 0 --admin-port 0 --gateway-port 0 --consul-port 0 --dns-port 0 --kafka-port 0 --print-ready".split()
        words += ["--data", os.path.join(home, "data"), "--config", os.path.join(home, "quorate.toml"), *flags]
        self.process = subprocess.Popen([BIN, *words], stdout=open(self.log, "w"), stderr=subprocess.STDOUT, preexec_fn=limit, env=os.environ | (env or {}))
        processes.append(self.process)
        self.at = {}

        def ready():
            check(self.process.poll() is None, "the node ended:", open(self.log).read()[-2000:])
            for line in open(self.log).read().splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    self.at = dict(word.split("=") for word in line.split()[1:])
            return self.at

        wait_until(ready, 30, "the node")
        self.port = int(self.at["gateway"].rsplit(":", 1)[1])

    def cpu_seconds(self):
        """What the process has used."""
        words = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def admin(self, method, path, body=None):
        return ask(self.at["admin"], method, path, body)

    def consul(self, method, path, body=None):
        return ask(self.at["consul"], method, path, body)


def ask(address, method, path, body=None, headers=None, timeout=40):
    """One request on a connection of its own: status, body."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def upstream(name, backends, more=""):
    listed = ", ".join(f'"{one.address}"' for one in backends)
    return f"[upstream.{name}]\nendpoints = [{listed}]\n{more}\n"


class Broken(AssertionError):
    """A request that got no answer, or half of one."""


class Late(AssertionError):
    """A request that got no answer in time."""


class Client:
    """A keep-alive connection that opens again when the server has said that it closes, and never otherwise."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, method="GET", path="/", body=b"", ident="-", timeout=40):
        try:
            return await asyncio.wait_for(self.ask_now(method, path, body, ident), timeout)
        except TimeoutError:
            self.close()
            raise Late(f"no answer to {method} {path} within {timeout} s") from None

    async def ask_now(self, method, path, body, ident):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nX-Id: {ident}\r\n"
        head += f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
        self.writer.write(head.encode() + b"\r\n" + body)
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "content-length" in fields:
                text = await self.reader.readexactly(int(fields["content-length"]))
            else:
                text = b""
                while size := int(await self.reader.readline(), 16):
                    text += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            self.close()
            raise Broken(repr(error)) from None
        if fields.get("connection", "").lower() == "close":
            self.close()
        return int(lines[0].split()[1]), fields, text

    def close(self):
        if self.writer:
            self.writer.close()
        self.writer = None


LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
BACKEND = re.compile(rb"\r\nx-backend: *(\S+)", re.IGNORECASE)


class Caller(asyncio.Protocol):
    """A keep-alive connection that asks again as soon as it is answered, in few steps, so that many requests cost little. `turn()` gives the next
    request as (bytes, tag), or None at the end; `told(tag, status, backend, body)` hears the answer, of status 0 where the connection broke. Opens
    a connection again when the server has said that it closes, and where it broke."""

    @staticmethod
    async def play(port, count, turn, told):
        loop = asyncio.get_running_loop()
        callers = [Caller(port, turn, told) for _ in range(count)]
        for one in callers:
            await loop.create_connection(lambda one=one: one, "127.0.0.1", port)
        await asyncio.gather(*(one.done for one in callers))

    def __init__(self, port, turn, told):
        self.port, self.turn, self.told = port, turn, told
        self.done, self.asked, self.closing = asyncio.get_running_loop().create_future(), None, False

    def connection_made(self, transport):
        self.transport, self.buffer, self.closing = transport, b"", False
        self.ask()

    def ask(self):
        self.asked = self.turn()
        if self.asked is None:
            self.done.set_result(None)
            return self.transport.close()
        self.transport.write(self.asked[0])

    def data_received(self, data):
        self.buffer = buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[: end + 2]
        length = LENGTH.search(head)
        # Whoever sends these answers always says their length.
        end += 4 + int(length[1])
        if len(buffer) < end:
            return
        tag, self.asked, self.buffer = self.asked[1], None, b""
        backend = BACKEND.search(head)
        self.closing = CLOSE.search(head) is not None
        self.told(tag, int(head[9:12]), backend[1].decode() if backend else "", buffer[len(head) + 2 : end])
        if self.closing:
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error):
        if self.asked is not None:
            tag, self.asked = self.asked[1], None
            self.told(tag, 0, "", repr(error).encode() + b" after " + self.buffer[:100])
        if not self.done.done():
            loop = asyncio.get_running_loop()
            self.again = loop.create_task(loop.create_connection(lambda: self, "127.0.0.1", self.port))


def request(method="GET", path="/", ident="-", body=b""):
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\nX-Id: {ident}\r\n{length}\r\n".encode() + body


async def parts(*cases):
    """Plays the parts of a case that are wanted, one after the other."""
    for case in cases:
        if not ONLY or case.__name__ in ONLY:
            try:
                await case()
            except AssertionError as error:
                raise AssertionError(f"{case.__name__}: {error}") from None
            except Exception as error:
                # What a library says that it did not get is what it was promised.
                raise AssertionError(f"{case.__name__}: {' '.join(repr(error).split())}") from error


def run(case):
    """Runs a case, a function or a coroutine function; ends what was started, whatever happens."""
    os.makedirs(DIR, exist_ok=True)
    try:
        said = asyncio.run(case()) if asyncio.iscoroutinefunction(case) else case()
        print(said)
    finally:
        for one in processes:
            if one.poll() is None:
                one.kill()
            one.wait()

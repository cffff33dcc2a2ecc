"""What the cases share: a node with a configuration, backends that come and go, a client that says exactly what became of a request."""
import asyncio
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN, DIR = sys.argv[1], sys.argv[2]
REQUESTS = int(sys.argv[3]) if len(sys.argv) > 3 else 20_000
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


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Backend:
    """`backend.py` or another script in a process of its own."""

    def __init__(self, name, port=None, script="backend.py", log=True):
        self.name, self.port, self.script = name, port or free_port(), script
        self.log = os.path.join(DIR, f"{name}.requests") if log else None
        if self.log:
            open(self.log, "w").close()
        self.start()

    def start(self):
        words = [sys.executable, os.path.join(HERE, self.script), str(self.port), self.name] + ([self.log] if self.log else [])
        self.process = subprocess.Popen(words)
        processes.append(self.process)
        wait_until(lambda: self.process.poll() is None and listens(self.port), what=f"backend {self.name}")

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
        return f"127.0.0.1:{self.port}"


class Node:
    """`quorate up` with the gateway told by a TOML text."""

    def __init__(self, toml, name="node", files_max=None, flags=()):
        home = os.path.join(DIR, name)
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        with open(os.path.join(home, "quorate.toml"), "w") as file:
            file.write(toml)
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))) if files_max else None
        self.log = os.path.join(home, "log")
        words = "up --redis-port 0 --admin-port 0 --gateway-port 0 --consul-port 0 --print-ready".split()
        words += ["--data", os.path.join(home, "data"), "--config", os.path.join(home, "quorate.toml"), *flags]
        self.process = subprocess.Popen([BIN, *words], stdout=open(self.log, "w"), stderr=subprocess.STDOUT, preexec_fn=limit)
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


class Broken(Exception):
    """A request that got no answer, or half of one."""


class Client:
    """A keep-alive connection that opens again when the server has said that it closes, and never otherwise."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, method="GET", path="/", body=b"", ident="-", timeout=40):
        return await asyncio.wait_for(self.ask_now(method, path, body, ident), timeout)

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

"""What the examples share: pinned clients, and nodes of their own on free ports, which end with the example.

`with_clients()` first: it makes a Python environment with the clients of tests/clients/requirements-topics.txt under .tools/ once,
and goes on in it. Only Python's own library is needed before.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
READY_SECONDS = 120


def with_clients():
    """Goes on in the environment that has the pinned clients; makes it, the first time."""
    venv, pinned = ROOT / ".tools/topics", ROOT / "tests/clients/requirements-topics.txt"
    python, stamp = venv / "bin/python", venv / "pinned.txt"
    if not stamp.exists() or stamp.read_bytes() != pinned.read_bytes():
        print("making a Python environment with the clients ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", pinned]
        subprocess.run(pip, check=True)
        stamp.write_bytes(pinned.read_bytes())
    if pathlib.Path(sys.prefix) != venv:
        os.execv(python, [str(python), *sys.argv])


def program(given=None):
    """The quorate to run: what was given, what was built last, or what PATH has."""
    built = [ROOT / "target" / profile / "quorate" for profile in ("release", "debug")]
    built = sorted((path for path in built if path.exists()), key=lambda path: -path.stat().st_mtime)
    found = given or os.environ.get("QUORATE") or (built and str(built[0])) or shutil.which("quorate")
    return found or sys.exit("no quorate: build one (cargo build --release -p quorate) or name one (--quorate FILE)")


class Nodes:
    """One node or three, on free ports, their data in a temporary directory. Ends them all with the `with` block."""

    def __init__(self, count, quorate):
        self.count, self.quorate = count, quorate
        self.processes, self.redis, self.kafka, self.admin, self.consul = [], [], [], [], []

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="quorate-example-"))
        try:
            join = []
            for number in range(self.count):
                self._start(number, join)
                if self.count > 1 and not join:
                    join = ["--token", self._ask("POST", "/cluster/token")["token"]]
                    join += ["--join", self._ask("GET", "/cluster")["nodes"][0]["peer"]]
            self._wait_for_replicas()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, number, join):
        data, log = self.directory / f"node{number}", self.directory / f"node{number}.log"
        doors = ["redis", "admin", "gateway", "kafka", "consul", "etcd", "dns"] + (["peer"] if self.count > 1 else [])
        words = [self.quorate, "up", "--print-ready", "--data", data, *join]
        words += [word for door in doors for word in (f"--{door}-port", "0")]
        with open(log, "wb") as out:
            self.processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.processes[-1].poll() is None:
            said = log.read_text().split("\n")[:-1]
            ready = next((line for line in said if line.startswith("ready ")), None)
            if ready:
                at = dict(word.split("=", 1) for word in ready.split()[1:])
                self.redis.append(at["redis"]), self.kafka.append(at["kafka"]), self.admin.append(at["admin"])
                self.consul.append(at["consul"])
                return
            time.sleep(0.02)
        raise SystemExit(f"{self.quorate} does not serve; it said:\n{log.read_text()[-2000:]}")

    def _ask(self, method, path):
        request = urllib.request.Request(f"http://{self.admin[0]}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def _wait_for_replicas(self):
        end = time.monotonic() + READY_SECONDS
        while self.count > 1 and time.monotonic() < end:
            groups = self._ask("GET", "/cluster")["groups"]
            if all(len(group["voters"]) == self.count and group["leader"] for group in groups):
                return
            time.sleep(0.05)

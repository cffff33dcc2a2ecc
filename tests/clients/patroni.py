#!/usr/bin/env python3
"""Patroni (Debian's package) electing a leader for a real PostgreSQL through the Consul doors of three nodes.

    tests/clients/patroni.py --quorate FILE

Two PostgreSQL servers, a Patroni beside each, which hold their leader's lock by a session of Consul's at different nodes. A node that
serves neither of them is killed (kill -9): the primary stays. The primary and its Patroni are killed: the other server is promoted and has
all that was replicated. The first one comes back and follows. Takes two minutes, mostly sessions that have to end. Exit code 77 where
programs are missing.
"""

import argparse
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "examples"))
import nodes

PATIENCE = 120
USER = "postgres"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def until(what, condition):
    """Waits until it is so; gives back what was so. Who cannot be asked says no."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            found = condition()
        except (OSError, urllib.error.URLError, subprocess.SubprocessError):
            found = None
        if found:
            print(f"  {what}", flush=True)
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE} s in vain: {what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A PostgreSQL and its Patroni."""

    def __init__(self, name, home, bin_dir, consul):
        self.name, self.home, self.bin_dir = name, home / name, bin_dir
        self.port, self.rest, self.process = free_port(), free_port(), None
        self.home.mkdir()
        sockets = self.home / "sockets"
        sockets.mkdir()
        config = {
            "scope": "demo",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}"},
            "consul": {"host": consul, "register_service": True},
            "bootstrap": {
                "dcs": {"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "postgresql": {"use_pg_rewind": True}},
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.home / "data"),
                "bin_dir": str(bin_dir),
                "pgpass": str(self.home / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "pw"},
                    "replication": {"username": "replicator", "password": "pw"},
                    "rewind": {"username": "rewinder", "password": "pw"},
                },
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": str(sockets), "wal_log_hints": "on", "shared_buffers": "16MB"},
            },
        }
        # YAML reads JSON.
        (self.home / "patroni.yml").write_text(json.dumps(config))
        if os.getuid() == 0:
            for path in (self.home, sockets, self.home / "patroni.yml"):
                shutil.chown(path, USER)

    def start(self):
        identity = {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        with open(self.home.parent / f"{self.name}.log", "ab") as out:
            words = [shutil.which("patroni"), str(self.home / "patroni.yml")]
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.home, start_new_session=True, **identity
            )

    def kill(self):
        """Patroni first, so that it can do nothing about the death of its server."""
        if self.process:
            self.process.kill()
            self.process.wait()
        postmaster = self.home / "data/postmaster.pid"
        if postmaster.exists():
            pid = int(postmaster.read_text().split()[0])
            # SIGQUIT takes the backends with it; nothing is flushed.
            try:
                os.kill(pid, signal.SIGQUIT)
            except ProcessLookupError:
                pass

    def is_primary(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/primary", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False

    def sql(self, text):
        words = [self.bin_dir / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-XAtqc", text]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20, env={**os.environ, "PGPASSWORD": "pw"}).stdout.strip()

    def rows(self):
        return self.sql("select string_agg(n::text, ',' order by n) from t")


def play(cluster, home, bin_dir):
    servers = [Server(name, home, bin_dir, consul) for name, consul in zip("ab", cluster.consul[1:])]
    try:
        for server in servers:
            server.start()
        primary = until("a primary is elected", lambda: next((own for own in servers if own.is_primary()), None))
        replica = next(own for own in servers if own is not primary)
        until("it takes writes", lambda: primary.sql("create table if not exists t (n int)") == "" and primary.is_primary())
        primary.sql("insert into t values (1)")
        until("the other one follows", lambda: replica.rows() == "1")

        cluster.processes[0].kill()
        cluster.processes[0].wait()
        primary.sql("insert into t values (2)")
        until("a node is killed, and the rows still arrive", lambda: replica.rows() == "1,2")
        assert primary.is_primary() and not replica.is_primary()

        primary.kill()
        began = time.monotonic()
        until("the primary is killed, and the other one is promoted", replica.is_primary)
        print(f"  after {time.monotonic() - began:.1f} s; a session of 10 s ends after 20 at the latest")
        until("it takes writes", lambda: replica.sql("insert into t values (3)") == "")
        assert replica.rows() == "1,2,3", replica.rows()

        primary.start()
        until("the first one comes back and follows", lambda: primary.rows() == "1,2,3" and not primary.is_primary())
        assert replica.is_primary()
    except BaseException:
        for log in sorted(home.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        raise
    finally:
        for server in servers:
            server.kill()
        until("all have ended", lambda: not any((own.home / "data/postmaster.pid").exists() for own in servers))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quorate", help="the program; else what was built last")
    asked = parser.parse_args()
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not shutil.which("patroni"):
        skip("no patroni (Debian: patroni python3-consul)")
    if not installed:
        skip("no PostgreSQL (Debian: postgresql)")
    # Patroni is of the system's Python, which need not be this one.
    python = open(shutil.which("patroni")).readline().removeprefix("#!").split() or [sys.executable]
    if subprocess.run([*python, "-c", "import consul"], capture_output=True).returncode:
        skip("Patroni has no client of Consul's (Debian: python3-consul)")
    home = pathlib.Path(tempfile.mkdtemp(prefix="quorate-patroni-"))
    home.chmod(0o755)
    try:
        with nodes.Nodes(3, nodes.program(asked.quorate)) as cluster:
            play(cluster, home, installed[-1].parent)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("Patroni elects, survives a killed node and a killed primary, and takes the old one back")


main()

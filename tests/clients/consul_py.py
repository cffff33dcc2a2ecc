"""py-consul and python-consul against the Consul door: agent, catalog, health, blocking queries, KV, transactions.

Takes HOST and the Consul door's PORT; leaves nothing behind that it made. Takes a good minute: that is the shortest time
after which Consul's API lets a dead instance be deregistered.
"""

import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import consul

from common import Background, arguments, equal, until

HOST, PORT = arguments()


def client():
    return consul.Consul(host=HOST, port=PORT)


def ask(method, path, body=None):
    """What the libraries have no word for: status, headers and JSON (or text)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{HOST}:{PORT}/v1/{path}", data=data, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    text = answer.read().decode()
    try:
        return answer.status, answer.headers, json.loads(text)
    except ValueError:
        return answer.status, answer.headers, text


def registration(c):
    ttl = consul.Check.ttl("30s")
    assert c.agent.service.register(
        "web", service_id="web-1", address="127.0.0.1", port=8081, tags=["blue"], check=ttl
    )
    services = c.agent.services()
    equal((services["web-1"]["Service"], services["web-1"]["Port"], services["web-1"]["Tags"]), ("web", 8081, ["blue"]))
    equal(c.catalog.services()[1]["web"], ["blue"])
    index, nodes = c.health.service("web", passing=True)
    equal(nodes, [], "critical before the first word")
    assert int(index) >= 1
    assert c.agent.check.ttl_pass("service:web-1", "fine")
    nodes = c.health.service("web", passing=True)[1]
    equal([(n["Service"]["ID"], n["Service"]["Address"]) for n in nodes], [("web-1", "127.0.0.1")])
    equal({k["Status"] for k in nodes[0]["Checks"]}, {"passing"})
    equal(c.health.service("web", tag="green")[1], [])
    equal(c.health.checks("web")[1][0]["Output"], "fine")
    assert c.agent.check.ttl_fail("service:web-1", "broken")
    equal(c.health.service("web", passing=True)[1], [])
    assert "service:web-1" in [k["CheckID"] for k in c.health.state("critical")[1]]
    assert c.agent.check.ttl_pass("service:web-1")
    assert c.agent.service.maintenance("web-1", True, "upgrade")
    equal(c.health.service("web", passing=True)[1], [], "in maintenance")
    assert c.agent.service.maintenance("web-1", False)
    equal(len(c.health.service("web", passing=True)[1]), 1)
    equal(c.catalog.service("web")[1][0]["ServiceID"], "web-1")
    node = c.agent.self()["Config"]["NodeName"]
    equal(c.catalog.node(node)[1]["Services"]["web-1"]["Port"], 8081)
    equal([n["Node"] for n in c.catalog.nodes()[1]], [node])
    equal(c.catalog.datacenters(), ["dc1"])
    equal([m["Name"] for m in c.agent.members()], [node])
    assert c.status.leader() and c.status.peers()
    print("registration, TTL, maintenance")


def blocking(c):
    index, _ = c.health.service("web", passing=True)
    waiting = Background(lambda: client().health.service("web", index=index, wait="20s", passing=True))
    client().kv.put("test/unrelated", "1")
    time.sleep(0.3)
    assert waiting.is_alive(), "a change of something else ends no wait"
    begun = time.monotonic()
    assert c.agent.service.register("web", service_id="web-2", port=8082)
    later, nodes = waiting.result()
    assert int(later) > int(index) and time.monotonic() - begun < 5
    equal(sorted(n["Service"]["ID"] for n in nodes), ["web-1", "web-2"])
    begun = time.monotonic()
    same, _ = c.health.service("web", index=later, wait="1s")
    took = time.monotonic() - begun
    assert 0.9 < took < 5, took
    equal(same, later, "the index of a wait without a change")
    assert c.agent.service.deregister("web-2")
    print("blocking queries")


def loop(c):
    """What consul-template and proxies do: follow a service through changes, missing none."""
    seen, index = [], None
    stop = threading.Event()

    def follow():
        nonlocal index
        own = client()
        while not stop.is_set():
            index, nodes = own.health.service("rolling", index=index, wait="10s", passing=True)
            ids = sorted(n["Service"]["ID"] for n in nodes)
            if not seen or seen[-1] != ids:
                seen.append(ids)
            if ids == ["end"]:
                return

    following = Background(follow)
    for number in range(20):
        assert c.agent.service.register("rolling", service_id=f"r{number}", port=1000 + number)
        if number >= 2:
            assert c.agent.service.deregister(f"r{number - 2}")
    for number in (18, 19):
        assert c.agent.service.deregister(f"r{number}")
    assert c.agent.service.register("rolling", service_id="end")
    following.result()
    stop.set()
    equal(seen[-1], ["end"])
    assert c.agent.service.deregister("end")
    print(f"a loop over a rolling service saw {len(seen)} states")


def checks(c):
    class Answer(http.server.BaseHTTPRequestHandler):
        code, location = 200, None

        def do_GET(self):
            self.send_response(Answer.code)
            if Answer.location:
                self.send_header("Location", Answer.location)
            self.end_headers()
            self.wfile.write(b"here I am")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    assert c.agent.service.register("checked", port=port, check=consul.Check.http(f"http://127.0.0.1:{port}/", "1s", timeout="2s"))
    assert c.agent.check.register("port", consul.Check.tcp("127.0.0.1", port, "1s"), service_id="checked")
    passing = lambda: len(c.health.service("checked", passing=True)[1])
    until(lambda: passing() == 1, "both checks pass")
    output = {k["CheckID"]: k["Output"] for k in c.health.checks("checked")[1]}
    assert "here I am" in output["service:checked"] and "Success" in output["port"], output
    Answer.code = 500
    until(lambda: passing() == 0, "a 500 is critical")
    Answer.code = 200
    until(lambda: passing() == 1, "it passes again")
    Answer.code, Answer.location = 302, "http://127.0.0.1:1/elsewhere"
    until(lambda: passing() == 0, "a redirect elsewhere is not followed")
    assert c.agent.service.deregister("checked")
    equal(c.health.service("checked")[1], [])
    server.shutdown()
    print("HTTP and TCP checks")


def keys(c):
    assert c.kv.delete("test/", recurse=True)
    assert c.kv.put("test/a", "1", flags=7)
    index, entry = c.kv.get("test/a")
    equal((entry["Value"], entry["Flags"]), (b"1", 7))
    equal(c.kv.put("test/a", "2", cas=entry["ModifyIndex"] + 1000), False)
    equal(c.kv.put("test/a", "2", cas=entry["ModifyIndex"]), True)
    equal(c.kv.put("test/b", "3", cas=0), True)
    equal(c.kv.put("test/b", "4", cas=0), False)
    equal([e["Key"] for e in c.kv.get("test/", recurse=True)[1]], ["test/a", "test/b"])
    c.kv.put("test/c/d", "5")
    equal(c.kv.get("test/", keys=True, separator="/")[1], ["test/a", "test/b", "test/c/"])
    index, absent = c.kv.get("test/none")
    equal(absent, None)
    waiting = Background(lambda: client().kv.get("test/none", index=index, wait="20s"))
    time.sleep(0.2)
    c.kv.put("test/none", "now")
    equal(waiting.result()[1]["Value"], b"now")
    ops = [{"KV": {"Verb": "set", "Key": "test/t", "Value": "eA=="}}, {"KV": {"Verb": "get", "Key": "test/a"}}]
    equal([r["KV"]["Key"] for r in c.txn.put(ops)["Results"]], ["test/t", "test/a"])
    assert c.kv.delete("test/", recurse=True)
    equal(c.kv.get("test/", recurse=True)[1], None)
    print("keys, compare-and-set, transactions")


def locks(c):
    """Sessions and what they hold, as the libraries' users write it."""
    name = "test/lock"
    first = c.session.create(name="one", behavior="release", ttl=10, lock_delay=0)
    second = c.session.create(name="two", behavior="delete", ttl=10, lock_delay=1)
    equal({s["Name"] for s in c.session.list()[1]} >= {"one", "two"}, True)
    index, info = c.session.info(first)
    equal((info["ID"], info["Behavior"], info["TTL"], info["LockDelay"]), (first, "release", "10s", 0))
    equal(c.session.renew(first)["ID"], first)
    assert c.kv.put(name, "one", acquire=first)
    equal(c.kv.put(name, "two", acquire=second), False)
    held = c.kv.get(name)[1]
    equal((held["Session"], held["LockIndex"], held["Value"]), (first, 1, b"one"))
    status, headers, done = ask("PUT", f"kv/{name}?acquire={first}")
    equal((status, done, int(headers["X-Quorate-Fence"])), (200, True, held["Fence"]))
    # Whoever waits hears of it the moment that the holder's session ends, and takes the key.
    index = c.kv.get(name)[0]
    waiting = Background(lambda: client().kv.get(name, index=index, wait="20s"))
    assert c.session.destroy(first)
    assert "Session" not in waiting.result()[1]
    equal(c.session.info(first)[1], None)
    assert c.kv.put(name, "two", acquire=second)
    equal(c.kv.get(name)[1]["LockIndex"], 2)
    assert c.kv.get(name)[1]["Fence"] > held["Fence"]
    checked = {"KV": {"Verb": "check-session", "Key": name, "Session": second}}
    stale = {"KV": {"Verb": "check-session", "Key": name, "Session": first}}
    write = {"KV": {"Verb": "set", "Key": "test/guarded", "Value": "eA=="}}
    equal(len(c.txn.put([checked, write])["Results"]), 2)
    equal(ask("PUT", "txn", [stale, write])[0], 409)
    # A session without a TTL that hangs on a check; its key goes with it, and the delay is kept.
    assert c.session.destroy(second)
    equal(c.kv.get(name)[1], None)
    third = c.session.create(checks=["serfHealth"], lock_delay=0)
    equal(c.kv.put(name, "", acquire=third), False)
    until(lambda: c.kv.put(name, "", acquire=third), "the lock delay of a second is over")
    assert c.kv.put(name, "", release=third) and not c.kv.put(name, "", release=third)
    assert c.session.destroy(third) and c.kv.delete("test/", recurse=True)
    try:
        c.session.renew(third)
    except consul.NotFound:
        pass
    else:
        raise AssertionError("a session that is over was renewed")
    print("sessions, locks, fencing numbers")


def kinds(c):
    """HTTPS, what an HTTP check sends, aliases."""
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, self.headers["X-Probe"], self.headers["Host"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 100_000)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.handle_error = lambda *_: None
    port = server.server_address[1]
    scheme, tls = "http", {}
    if shutil.which("openssl"):
        with tempfile.TemporaryDirectory() as at:
            key, cert = os.path.join(at, "key"), os.path.join(at, "cert")
            make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=probe", "-days", "2"]
            subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme, tls = "https", {"TLSSkipVerify": True, "TLSServerName": "probe"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"{scheme}://127.0.0.1:{port}/deep?x=1"
    probe = {"HTTP": url, "Method": "POST", "Header": {"X-Probe": ["yes"]}, "Body": "ping", "Interval": "1s"}
    checks = [{**probe, **tls, "CheckID": "sent"}, {"AliasService": "web-1", "CheckID": "as-web"}]
    if tls:
        checks.append({**probe, "CheckID": "doubted"})
        checks.append({"TCP": f"127.0.0.1:{port}", "TCPUseTLS": True, "Interval": "1s", "CheckID": "handshake", **tls})
    equal(ask("PUT", "agent/service/register", {"Name": "kinds", "Checks": checks})[0], 200)
    by_id = lambda: {k["CheckID"]: k for k in c.health.checks("kinds")[1]}
    until(lambda: by_id()["sent"]["Status"] == "passing", "the answer is 200")
    equal(asked[0], ("/deep?x=1", "yes", f"127.0.0.1:{port}", b"ping"))
    assert len(by_id()["sent"]["Output"]) <= 4096, "the output is bounded"
    equal(by_id()["sent"]["Type"], "http")
    until(lambda: by_id()["as-web"]["Status"] == "passing", "as web-1 is")
    assert c.agent.check.ttl_fail("service:web-1", "broken")
    until(lambda: by_id()["as-web"]["Status"] == "critical", "as web-1 is")
    assert c.agent.check.ttl_pass("service:web-1")
    until(lambda: by_id()["as-web"]["Status"] == "passing", "as web-1 is again")
    if tls:
        until(lambda: by_id()["handshake"]["Status"] == "passing", "a TLS session comes about")
        # The status stays what it was, so only the node itself knows yet what the check said.
        until(lambda: "certificate" in c.agent.checks()["doubted"]["Output"], "nobody vouches for that certificate")
        equal(by_id()["doubted"]["Status"], "critical")
    assert c.agent.service.deregister("kinds")
    server.shutdown()
    for check, why in [
        ({"Args": ["true"], "Interval": "1s"}, "never runs programs"),
        ({"HTTP": "ftp://x", "Interval": "1s"}, "begins with http://"),
        ({"TTL": "1s", "Interval": "1s"}, "Interval and TTL cannot both be specified"),
    ]:
        status, _, text = ask("PUT", "agent/service/register", {"Name": "kinds", "Check": check})
        assert status == 400 and why in text, (status, text)
    print("kinds of checks")


def queries(c):
    """Filters, waiting by hash, and what Consul has only in its enterprise edition."""
    tagged = lambda name, port, tags: {"Name": "filtered", "ID": name, "Port": port, "Tags": tags, "Meta": {"rack": name}}
    for body in [tagged("f-1", 1, ["blue", "v1"]), tagged("f-2", 2, ["green"])]:
        equal(ask("PUT", "agent/service/register", body)[0], 200)
    for expression, wanted in [
        ("Service.Port == 2", ["f-2"]),
        ("blue in Service.Tags or Service.Port == 2", ["f-1", "f-2"]),
        ("not (\"blue\" in Service.Tags)", ["f-2"]),
        ("Service.Meta.rack matches `^f-[1]$`", ["f-1"]),
        ("Service.Meta is empty", []),
        ("Service.Tags contains v1 and Service.Port != 2", ["f-1"]),
    ]:
        found = ask("GET", f"health/service/filtered?filter={urllib.parse.quote(expression)}")[2]
        equal([n["Service"]["ID"] for n in found], wanted, expression)
    for endpoint, expression, wanted in [
        ("agent/services", "Port == 1", {"f-1"}),
        ("catalog/services", "ServiceName == filtered", {"filtered"}),
        ("agent/checks", "ServiceName == filtered", set()),
    ]:
        equal(set(ask("GET", f"{endpoint}?filter={urllib.parse.quote(expression)}")[2]), wanted, endpoint)
    equal(ask("GET", "health/service/filtered?filter=nonsense")[0], 400)
    _, headers, own = ask("GET", "agent/service/f-1")
    digest = headers["X-Consul-ContentHash"]
    equal(own["ContentHash"], digest)
    waiting = Background(lambda: ask("GET", f"agent/service/f-1?hash={digest}&wait=20s"))
    assert c.agent.service.deregister("f-2")
    time.sleep(0.2)
    assert waiting.is_alive(), "another service is not this one"
    equal(ask("PUT", "agent/service/register", tagged("f-1", 9, []))[0], 200)
    equal(waiting.result()[2]["Port"], 9)
    for query in ["cached", "stale", "consistent", "near=_agent", "cached&stale", "merge-central-config"]:
        status, headers, found = ask("GET", f"health/service/filtered?{query}")
        equal((status, len(found)), (200, 1), query)
        assert int(headers["X-Consul-Index"]) >= 1 and headers["X-Consul-KnownLeader"] == "true", query
    for query in ["ns=other", "partition=other"]:
        status, _, text = ask("GET", f"health/service/filtered?{query}")
        assert status == 400 and "Consul Enterprise feature" in text, (query, status, text)
    for path in ["event/list", "query"]:
        status, _, text = ask("GET", path)
        assert status == 501 and "not available in quorate" in text, (path, status, text)
    assert c.agent.service.deregister("f-1")
    print("filters, hashes, what is not there")


class Mortal:
    """A real backend in a process of its own, which is killed: its instance goes by itself a minute later."""

    def __init__(self, c):
        serve = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"
        with tempfile.TemporaryDirectory() as empty:
            self.process = subprocess.Popen(
                [sys.executable, "-c", serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=empty
            )
            port = int(self.process.stdout.readline())
        check = {"TCP": f"127.0.0.1:{port}", "Interval": "1s", "DeregisterCriticalServiceAfter": "1s"}
        equal(ask("PUT", "agent/service/register", {"Name": "mortal", "Port": port, "Check": check})[0], 200)
        until(lambda: len(c.health.service("mortal", passing=True)[1]) == 1, "it lives")
        self.process.kill()
        self.process.wait()
        until(lambda: c.health.service("mortal", passing=True)[1] == [], "it is dead")
        self.died = time.monotonic()

    def ends(self, c):
        equal(len(c.health.service("mortal")[1]), 1, "and still registered: Consul raises the span to a minute")
        until(lambda: c.health.service("mortal")[1] == [], "deregistered after a minute", 90)
        took = time.monotonic() - self.died
        assert 58 < took < 75, took
        equal("mortal" in c.catalog.services()[1], False)
        print(f"a killed process is deregistered after {took:.0f} s")


def main():
    c = client()
    mortal = Mortal(c)
    registration(c)
    blocking(c)
    loop(c)
    checks(c)
    kinds(c)
    queries(c)
    keys(c)
    locks(c)
    mortal.ends(c)
    assert c.agent.service.deregister("web-1")
    equal("web" in c.catalog.services()[1], False)


main()

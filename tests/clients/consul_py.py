"""py-consul and python-consul against the Consul door: agent, catalog, health, blocking queries, KV, transactions.

Takes HOST and the Consul door's PORT; leaves nothing behind that it made.
"""

import http.server
import threading
import time

import consul

from common import Background, arguments, equal, until

HOST, PORT = arguments()


def client():
    return consul.Consul(host=HOST, port=PORT)


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


def main():
    c = client()
    registration(c)
    blocking(c)
    loop(c)
    checks(c)
    keys(c)
    assert c.agent.service.deregister("web-1")
    equal("web" in c.catalog.services()[1], False)


main()

"""Instances come and go over the Consul HTTP API under load (I7): after the answer to the change not one request goes to who is deregistered or
critical, neither a new one nor one that was on its way to somebody else first, and who comes back is used at once."""
import asyncio
import collections
import socket
import threading
import time

from common import REQUESTS, Backend, Caller, Client, Node, check, parts, request, run

TURNS = 12
# Between a request's last step in the gateway and the moment that a backend in Python notes it, on a busy machine.
NOTED_S = 0.25
said = []


def shop(more="", route=""):
    return Node(f'[upstream.shop]\nservice = "shop"\n{more}\n[route.shop]\nto = "shop"\n{route}\n')


def put(node, path, body=None):
    status, text = node.consul("PUT", path, body)
    check(status == 200, path, status, text)


def register(node, name, port, check_by=None):
    body = {"ID": name, "Name": "shop", "Address": "127.0.0.1", "Port": port}
    put(node, "/v1/agent/service/register", body | ({"Check": check_by} if check_by else {}))


async def through_changes(node, backends, out, back):
    """Each backend in turn is taken out and put back, while 16 clients ask. How many asked, and how long it took to be used again."""
    bad, seen, stop = [], [], False
    # Since when an instance may get nothing, by name.
    gone = {}

    def turn():
        return None if stop else (request(), time.monotonic())

    def told(begun, status, backend, body):
        if status != 200:
            bad.append((status, body))
        seen.append((begun, backend))
        since = gone.get(backend)
        if since is not None and begun > since:
            bad.append(f"{backend} was asked {1000 * (begun - since):.2f} ms after the answer to the change")

    load = asyncio.create_task(Caller.play(node.port, 16, turn, told))
    waits, spans, turns = [], [], 0
    while turns < TURNS or len(seen) < REQUESTS // 10:
        name = "abc"[turns % 3]
        turns += 1
        await asyncio.sleep(0.15)
        await asyncio.to_thread(out, name)
        gone[name] = time.monotonic()
        await asyncio.sleep(0.15)
        spans.append((name, gone.pop(name), time.monotonic()))
        await asyncio.to_thread(back, name)
        start = time.monotonic()
        before = len(seen)
        while not any(who == name for _, who in seen[before:]):
            check(time.monotonic() < start + 5, f"{name} got nothing for 5 s after it was back")
            await asyncio.sleep(0.001)
        waits.append(min(begun for begun, who in seen[before:] if who == name) - start)
    stop = True
    await load
    check(not bad, f"{len(bad)} bad, the first:", bad[:5])
    share = collections.Counter(who for _, who in seen)
    check(set(share) == set(backends), dict(share))
    return f"{len(seen)} requests over {turns} changes, none after the answer, back in use within {1000 * max(waits):.0f} ms"


async def answered(node):
    """Waits for the first answer, so that what follows is about changes."""
    limit = time.monotonic() + 5
    while (await Client(node.port).ask())[0] != 200:
        check(time.monotonic() < limit, "no instance is used")


async def deregistered():
    backends = {name: Backend(name, log=False) for name in "abc"}
    node = shop()
    for name, one in backends.items():
        register(node, name, one.port)
    await answered(node)
    told = await through_changes(
        node,
        backends,
        lambda name: put(node, f"/v1/agent/service/deregister/{name}"),
        lambda name: register(node, name, backends[name].port),
    )
    said.append(f"deregistered: {told}")


async def critical():
    backends = {name: Backend(name, log=False) for name in "abc"}
    node = shop()
    for name, one in backends.items():
        register(node, name, one.port, {"CheckID": f"ttl-{name}", "TTL": "60s", "Status": "passing"})
    await answered(node)
    told = await through_changes(
        node,
        backends,
        lambda name: put(node, f"/v1/agent/check/fail/ttl-{name}"),
        lambda name: put(node, f"/v1/agent/check/pass/ttl-{name}"),
    )
    said.append(f"critical: {told}")


async def retries():
    """Who is taken out while a retry waits for its pause to end gets nothing of it, even where the retry was meant for it."""
    backends = {name: Backend(f"retry-{name}") for name in "ab"}
    calm = "outlier = { enabled = false }\nbreaker = { enabled = false }\nretry_budget = { percent = 100, floor = 1000 }\n"
    node = shop(calm, 'retry = { attempts = 1, backoff = "2s", backoff_max = "2s" }')
    for name, one in backends.items():
        register(node, name, one.port)
    asked = [asyncio.create_task(Client(node.port).ask(path="/status/503", ident=str(at))) for at in range(60)]
    while sum(len(one.requests()) for one in backends.values()) < 60:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(put, node, "/v1/agent/service/deregister/b")
    since = time.monotonic()
    statuses = collections.Counter([(await one)[0] for one in asked])
    check(set(statuses) == {503}, dict(statuses))
    late = [line for line in backends["b"].requests() if float(line[3]) > since + NOTED_S]
    check(not late, f"{len(late)} retries went to who was deregistered during their pause, the last {float(late[-1][3]) - since:.2f} s after it" if late else "")
    again = sum(len(one.requests()) for one in backends.values()) - 60
    check(again > 30, "only", again, "retries")
    said.append(f"{again} retries around a deregistration, none after it")


async def connecting():
    """A connection takes its time, and its endpoint is deregistered meanwhile: when it stands nothing is sent over it."""
    good, slow = Backend("connecting"), socket.socket()
    slow.bind(("127.0.0.1", 0))
    slow.listen(0)
    fillers = []
    for _ in range(3):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(slow.getsockname())
        fillers.append(one)
    node = shop('connect_timeout = "8s"\nbalance = "round_robin"')
    register(node, "slow", slow.getsockname()[1])
    register(node, "good", good.port)
    asked = [asyncio.create_task(Client(node.port).ask(ident=str(at))) for at in range(8)]
    await asyncio.sleep(0.3)
    waiting = sum(not one.done() for one in asked)
    check(waiting > 0, "no request waits for the slow connection")
    await asyncio.to_thread(put, node, "/v1/agent/service/deregister/slow")
    ours = {one.getsockname() for one in fillers}
    came, got = [], []

    def accept():
        while True:
            try:
                connection, peer = slow.accept()
            except OSError:
                return
            if peer not in ours:
                came.append(peer)
                connection.settimeout(3)
                try:
                    got.append(connection.recv(4096))
                except OSError:
                    pass

    threading.Thread(target=accept, daemon=True).start()
    # The gateway's SYNs are sent again a second after the first.
    answers = [await one for one in asked]
    check({status for status, _, _ in answers} == {200}, "answers:", [(status, text) for status, _, text in answers])
    await asyncio.sleep(0.2)
    slow.close()
    check(came, "no connection came to stand after the deregistration")
    check(not any(got), "sent to who was deregistered before its connection stood:", got[:2])
    said.append(f"{len(came)} connections stood after the deregistration, nothing was sent over them")


async def main():
    await parts(deregistered, critical, retries, connecting)
    return "; ".join(said)


run(main)

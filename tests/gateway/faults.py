"""Backends that fail (RELIABILITY rows 14 and 27): what a client gets, how fast, and that nothing is done twice."""
import asyncio
import collections
import signal
import socket
import time

from common import Backend, Broken, Client, Late, Node, check, parts, run, upstream

FAST = "timeouts = { first_byte = \"400ms\", total = \"2s\" }\n"
said = []


async def many(port, count, path="/", method="GET", clients=8):
    """Statuses of so many requests, and the longest that one took."""
    statuses, longest, left = collections.Counter(), 0.0, iter(range(count))

    async def one():
        nonlocal longest
        client = Client(port)
        for at in left:
            start = time.monotonic()
            try:
                status, _, _ = await client.ask(method, path, b"x" if method == "POST" else b"", f"{method}{at}", timeout=15)
            except Broken:
                status = "broken"
            except Late:
                status = "nothing in 15 s"
            statuses[status] += 1
            longest = max(longest, time.monotonic() - start)
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return statuses, longest


async def killed():
    backends = [Backend(f"killed-{name}") for name in "abc"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n' + FAST, "killed")
    load = asyncio.create_task(many(node.port, 6000))
    await asyncio.sleep(0.3)
    backends[0].end(signal.SIGKILL)
    statuses, longest = await load
    check(set(statuses) == {200}, "one of three killed:", dict(statuses))
    for one in backends[1:]:
        one.end(signal.SIGKILL)
    statuses, longest = await many(node.port, 200)
    check(set(statuses) <= {502, 503}, "all dead:", dict(statuses))
    check(longest < 2.5, f"all dead: an answer took {longest:.1f} s")
    for one in backends:
        one.start()
    start, client = time.monotonic(), Client(node.port)
    while (await client.ask())[0] != 200:
        check(time.monotonic() < start + 40, "the backends are back for 40 s and get nothing")
        await asyncio.sleep(0.05)
    said.append(f"all dead: {dict(statuses)}, longest {longest:.2f} s, back after {time.monotonic() - start:.1f} s")


async def silent():
    good, mute = [Backend(f"silent-{name}") for name in "ab"], socket.create_server(("127.0.0.1", 0), backlog=512)
    address = f'"127.0.0.1:{mute.getsockname()[1]}"'
    listed = ", ".join([address] + [f'"{one.address}"' for one in good])
    node = Node(f'[upstream.u]\nendpoints = [{listed}]\nbalance = "round_robin"\n[route.r]\nto = "u"\n{FAST}', "silent")
    statuses, longest = await many(node.port, 300)
    check(set(statuses) <= {200, 504}, "one accepts and is silent:", dict(statuses))
    # Eight clients at most may wait for it at once until five failures in a row have put it out.
    check(statuses[504] <= 24, "the silent one is not put out:", dict(statuses))
    check(longest < 2.5, f"the silent one held a client for {longest:.1f} s")
    alone = Node(f'[upstream.u]\nendpoints = [{address}]\n[route.r]\nto = "u"\n{FAST}', "alone")
    worst, took = await many(alone.port, 24)
    check(set(worst) <= {502, 503, 504} and took < 2.5, "only a silent one:", dict(worst), took)
    said.append(f"one of three silent: {dict(statuses)}, longest {longest:.2f} s; alone: {dict(worst)}")


async def stalled():
    """A backend that has the request and never answers: a POST goes to one backend once."""
    backends = [Backend(f"stalled-{name}") for name in "abc"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n' + FAST, "stalled")
    for method in ("POST", "GET"):
        start = time.monotonic()
        status, _, _ = await Client(node.port).ask(method, "/stall", b"x" if method == "POST" else b"", "once", timeout=5)
        took = time.monotonic() - start
        check(status == 504 and took < 2.5, f"{method}:", status, took)
    posts = [line for one in backends for line in one.requests() if line[0] == "POST"]
    check(len(posts) == 1, "the POST was sent", len(posts), "times")
    said.append("stalled: 504, a POST sent once")


async def broken_off():
    backends = [Backend(f"broken-{name}") for name in "abc"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n' + FAST, "broken")
    for path in ("/reset", "/cut"):
        client = Client(node.port)
        try:
            answer = await client.ask("GET", path)
            check(False, f"{path}: half an answer passed for a whole one:", answer[0], answer[1], len(answer[2]))
        except Broken:
            pass
        sent = [line for one in backends for line in one.requests() if line[1] == path]
        check(len(sent) == 1, f"{path}: sent {len(sent)} times after bytes of the answer went to the client")
    # Before the answer's head: a GET is tried elsewhere and ends in 502, a POST is not.
    status, _, _ = await Client(node.port).ask("POST", "/rst", b"x")
    check(status == 502, "a POST whose backend resets:", status)
    sent = [line for one in backends for line in one.requests() if line[1] == "/rst"]
    check(len(sent) == 1, "a POST was sent", len(sent), "times")
    status, _, _ = await Client(node.port).ask("GET", "/rst")
    tried = [line for one in backends for line in one.requests() if line[:2] == ["GET", "/rst"]]
    check(status == 502 and 2 <= len(tried) <= 3, "a GET that all backends reset:", status, len(tried))
    check((await Client(node.port).ask())[0] == 200, "others must not suffer")
    said.append("reset mid-body: the client sees it broken; a POST never twice")


async def blackholed():
    """An endpoint that does not even complete the handshake: its queue of connections is full."""
    good, hole = Backend("hole-good"), socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    fillers = []
    for _ in range(3):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(hole.getsockname())
        fillers.append(one)
    text = f'[upstream.u]\nendpoints = ["127.0.0.1:{hole.getsockname()[1]}", "{good.address}"]\nconnect_timeout = "300ms"\nbalance = "round_robin"\n'
    node = Node(text + '[route.r]\nto = "u"\ntimeouts = { total = "3s" }\n', "hole")
    statuses, longest = await many(node.port, 200)
    check(set(statuses) == {200}, "one endpoint is a black hole:", dict(statuses))
    check(longest < 2, f"the black hole held a client for {longest:.1f} s")
    said.append(f"black hole: no request failed, longest {longest:.2f} s")


async def ejection():
    """Endpoints that fail by some requests are put out, but never all of them: what would go well does (row 27)."""
    backends = [Backend(f"ejection-{name}") for name in "abc"]
    off = "breaker = { enabled = false }\n"
    node = Node(upstream("u", backends, off) + '[route.r]\nto = "u"\n', "ejection")
    bad, _ = await many(node.port, 300, "/status/503")
    check(set(bad) == {503}, dict(bad))
    good, longest = await many(node.port, 300)
    check(set(good) == {200}, "after endpoints have failed:", dict(good))
    # The registry's word is another matter: an upstream whose endpoints are all taken out serves nobody.
    said.append(f"all failing by some requests: others have their answers, longest {longest:.2f} s")


async def storm():
    """Half of the answers are 503: what goes upstream grows by a fifth at most (and the budget's floor of ten)."""
    backends = [Backend(f"storm-{name}") for name in "ab"]
    flaky = "outlier = { enabled = false }\nbreaker = { enabled = false }\n"
    node = Node(upstream("u", backends, flaky) + '[route.r]\nto = "u"\n', "storm")
    bad, _ = await asyncio.gather(many(node.port, 2000, "/status/503"), many(node.port, 2000, "/"))
    sent = sum(len(one.requests()) for one in backends)
    check(sent <= 4000 * 1.2 + 20, f"4000 requests became {sent} upstream")
    check(set(bad[0]) == {503}, dict(bad[0]))
    said.append(f"half 503: traffic upstream {sent / 4000:.2f}×")


async def main():
    await parts(killed, silent, stalled, broken_off, blackholed, ejection, storm)
    return "; ".join(said)


run(main)

"""What goes away goes in good order: a listener that is removed while requests are under way, and the node itself on SIGTERM."""
import asyncio
import signal
import time

from common import Backend, Broken, Caller, Client, Node, check, free_port, parts, request, run, upstream

said = []


async def slow_ones(port, count, milliseconds):
    """Requests that are under way when this returns."""
    asked = [asyncio.create_task(Client(port).ask(path=f"/slow/{milliseconds}")) for _ in range(count)]
    await asyncio.sleep(0.3)
    check(not any(one.done() for one in asked), "a slow request is over already")
    return asked


async def ended(asked):
    """What became of them, all of it: one that nobody asks for would be told at the end, after what is wrong."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [one if isinstance(one, tuple) else (repr(one), {}, b"") for one in answers]


async def listener():
    backends = [Backend(f"listener-{name}", log=False) for name in "ab"]
    port = free_port()
    text = upstream("u", backends) + f'[route.r]\nto = "u"\n[listener.second]\nbind = "127.0.0.1:{port}"\n'
    node = Node(text, "listener")
    asked = await slow_ones(port, 16, 1200)
    idle = Client(port)
    check((await idle.ask())[0] == 200, "an answer before")
    status, text = await asyncio.to_thread(node.admin, "DELETE", "/gateway/listener/second")
    check(status == 200, "removing the listener:", status, text)
    answers = await ended(asked)
    check({status for status, _, _ in answers} == {200}, "under way when the listener went:", [one[0] for one in answers])
    # Who asks over a connection that was idle meets its end; a new one is refused.
    await asyncio.sleep(0.1)
    for client in (idle, Client(port)):
        try:
            await client.ask()
            check(False, "somebody still listens")
        except (Broken, ConnectionError):
            pass
    check((await Client(node.port).ask())[0] == 200, "the other listener")
    said.append("a listener removed: 16 requests under way ended well, new connections refused")


async def changed():
    """A listener that only changes loses nobody."""
    backends = [Backend(f"changed-{name}", log=False) for name in "ab"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n', "changed")
    bad, count, stop = [], [0], False

    def told(_, status, backend, body):
        count[0] += 1
        if status != 200:
            bad.append((status, body))

    load = asyncio.create_task(Caller.play(node.port, 8, lambda: None if stop else (request(), None), told))
    for at in range(12):
        await asyncio.sleep(0.1)
        body = {"bind": f"127.0.0.1:{node.port}", "headers_max": 80 + at}
        status, text = await asyncio.to_thread(node.admin, "PUT", "/gateway/listener/main", body)
        check(status in (200, 201), "changing the listener:", status, text)
    stop = True
    await load
    check(not bad, f"{len(bad)} of {count[0]} failed while the listener changed:", bad[:3])
    said.append(f"a listener changed 12 times under {count[0]} requests, none lost")


async def node_ends():
    backends = [Backend(f"node-{name}", log=False) for name in "ab"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n', "ending")
    asked = await slow_ones(node.port, 16, 1500)
    start = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    answers = await ended(asked)
    check({status for status, _, _ in answers} == {200}, "under way when the node was told to end:", [one[0] for one in answers])
    code = await asyncio.to_thread(node.process.wait, 20)
    check(code == 0, "the node ended with", code)
    said.append(f"SIGTERM: 16 requests under way ended well, the node after {time.monotonic() - start:.1f} s")


async def main():
    await parts(listener, changed, node_ends)
    return "; ".join(said)


run(main)

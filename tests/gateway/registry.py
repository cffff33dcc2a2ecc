"""Instances come and go over the Consul HTTP API under load: after the answer to a deregistration not one request goes there (I7), and an
instance that is registered is used at once."""
import asyncio
import collections
import time

from common import Backend, Broken, Client, Node, check, run

TURNS = 12


async def main():
    backends = {name: Backend(name) for name in ("a", "b", "c")}
    node = Node('[upstream.shop]\nservice = "shop"\n[route.shop]\nto = "shop"\n')

    def register(name):
        body = {"ID": name, "Name": "shop", "Address": "127.0.0.1", "Port": backends[name].port}
        status, text = node.consul("PUT", "/v1/agent/service/register", body)
        check(status == 200, "register:", status, text)

    def deregister(name):
        status, text = node.consul("PUT", f"/v1/agent/service/deregister/{name}")
        check(status == 200, "deregister:", status, text)

    for name in backends:
        register(name)
    bad, seen, stop = [], [], False
    # Since when an instance may get nothing, by name.
    gone = {}

    async def load():
        client = Client(node.port)
        while not stop:
            begun = time.monotonic()
            try:
                status, fields, text = await client.ask()
            except Broken as error:
                bad.append(str(error))
                continue
            if status != 200:
                bad.append((status, text))
                continue
            seen.append((begun, fields["x-backend"]))
            since = gone.get(fields["x-backend"])
            if since is not None and begun > since:
                bad.append(f"{fields['x-backend']} was asked {1000 * (begun - since):.2f} ms after the answer to its deregistration")
        client.close()

    loads = [asyncio.create_task(load()) for _ in range(16)]
    waits = []
    for turn in range(TURNS):
        name = "abc"[turn % 3]
        await asyncio.sleep(0.15)
        await asyncio.to_thread(deregister, name)
        gone[name] = time.monotonic()
        await asyncio.sleep(0.15)
        del gone[name]
        await asyncio.to_thread(register, name)
        back = time.monotonic()
        before = len(seen)
        while not any(who == name for _, who in seen[before:]):
            check(time.monotonic() < back + 5, f"{name} got nothing for 5 s after it was registered")
            await asyncio.sleep(0.001)
        waits.append(min(begun for begun, who in seen[before:] if who == name) - back)
    stop = True
    await asyncio.gather(*loads)
    check(not bad, f"{len(bad)} bad, the first:", bad[:5])
    share = collections.Counter(who for _, who in seen)
    longest = 1000 * max(waits)
    return f"{len(seen)} requests over {TURNS} deregistrations, none after the answer; back in use within {longest:.0f} ms; {dict(share)}"


run(main)

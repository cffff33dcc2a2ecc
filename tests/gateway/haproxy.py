"""HAProxy's `server-template` on our SRV records: it follows a rolling change of a service by DNS alone, under load, and no request fails."""
import asyncio
import collections
import os
import shutil
import subprocess
import time

from common import DIR, REQUESTS, Backend, Caller, Node, check, free_port, listens, processes, request, run, skip, wait_until


async def main():
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not os.path.exists(program):
        skip("no haproxy")
    node, port = Node(""), free_port()
    config = f"""
global
    maxconn 512
    nbthread 1
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    retries 3
    option redispatch 1
resolvers quorate
    nameserver door {node.at["dns"]}
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 100ms
    timeout retry 200ms
    hold valid 100ms
    hold obsolete 0s
frontend front
    bind 127.0.0.1:{port}
    default_backend shop
backend shop
    balance roundrobin
    server-template shop 10 _shop._tcp.service.consul resolvers quorate resolve-opts allow-dup-ip resolve-prefer ipv4 init-addr none
"""
    path = os.path.join(DIR, "haproxy.cfg")
    with open(path, "w") as file:
        file.write(config)
    backends = collections.deque()

    def add(number):
        one = Backend(f"shop-{number}", log=False)
        body = {"ID": one.name, "Name": "shop", "Address": "127.0.0.1", "Port": one.port}
        check(node.consul("PUT", "/v1/agent/service/register", body)[0] == 200, "register")
        backends.append(one)
        return one

    for number in range(3):
        add(number)
    log = open(os.path.join(DIR, "haproxy.log"), "w")
    haproxy = subprocess.Popen([program, "-db", "-f", path], stdout=log, stderr=log)
    processes.append(haproxy)
    wait_until(lambda: haproxy.poll() is None and listens(port), what="haproxy")
    await asyncio.sleep(1)
    statuses, recent, stop, bad = collections.Counter(), {}, False, []

    def told(_, status, backend, body):
        statuses[status] += 1
        recent[backend] = time.monotonic()
        if status != 200:
            bad.append((status, body[:100]))

    load = asyncio.create_task(Caller.play(port, 8, lambda: None if stop else (request(), None), told))

    async def until(done, what):
        limit = time.monotonic() + 15
        while not done():
            check(time.monotonic() < limit and not load.done(), what, dict(recent))
            await asyncio.sleep(0.02)

    number, waits = 3, []
    # All three are replaced, twice.
    while number < 9 or sum(statuses.values()) < REQUESTS // 10:
        new, start = await asyncio.to_thread(add, number), time.monotonic()
        number += 1
        await until(lambda: new.name in recent, f"{new.name} gets nothing")
        old = backends.popleft()
        # Every second one becomes critical instead of being taken out.
        way = f"deregister/{old.name}" if number % 2 == 0 else f"maintenance/{old.name}?enable=true&reason=old"
        check((await asyncio.to_thread(node.consul, "PUT", f"/v1/agent/service/{way}"))[0] == 200, way)
        await until(lambda: recent.get(old.name, 0) < time.monotonic() - 0.5, f"{old.name} still gets requests")
        waits.append(time.monotonic() - start)
        await asyncio.to_thread(old.end)
    stop = True
    await load
    check(not bad, f"{len(bad)} of {sum(statuses.values())} failed:", bad[:5], open(log.name).read()[-800:])
    return f"{statuses[200]} requests through {number - 3} replacements of 3 instances, none failed; a replacement took {max(waits):.1f} s at most"


run(main)

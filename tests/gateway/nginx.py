"""nginx's resolver on our DNS: it follows a rolling change of a service under load, and no request fails."""
import asyncio
import collections
import os
import shutil
import subprocess
import time

from common import DIR, REQUESTS, Backend, Caller, Node, check, free_port, listens, processes, request, run, skip, wait_until


async def main():
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not os.path.exists(program):
        skip("no nginx")
    node, port, service_port = Node(""), free_port(), free_port()
    # A name has addresses and no ports here (nginx of Debian asks for no SRV), so instances differ by address.
    config = f"""
daemon off;
pid {DIR}/nginx.pid;
error_log {DIR}/nginx-error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {DIR}/nginx-body;
    proxy_temp_path {DIR}/nginx-proxy;
    fastcgi_temp_path {DIR}/nginx-fastcgi;
    uwsgi_temp_path {DIR}/nginx-uwsgi;
    scgi_temp_path {DIR}/nginx-scgi;
    resolver {node.at["dns"]} valid=1s ipv6=off;
    resolver_timeout 2s;
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        set $shop shop.service.consul;
        location / {{
            proxy_pass http://$shop:{service_port};
            proxy_connect_timeout 2s;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""
    path = os.path.join(DIR, "nginx.conf")
    with open(path, "w") as file:
        file.write(config)
    backends = collections.deque()

    def add(number):
        one = Backend(f"shop-{number}", port=service_port, log=False, host=f"127.0.9.{number + 1}")
        body = {"ID": one.name, "Name": "shop", "Address": one.host, "Port": one.port}
        check(node.consul("PUT", "/v1/agent/service/register", body)[0] == 200, "register")
        backends.append(one)
        return one

    for number in range(3):
        add(number)
    log = open(os.path.join(DIR, "nginx.log"), "w")
    nginx = subprocess.Popen([program, "-e", f"{DIR}/nginx-error.log", "-c", path], stdout=log, stderr=log)
    processes.append(nginx)
    wait_until(lambda: nginx.poll() is None and listens(port), what="nginx")
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
    # All three are replaced.
    while number < 6 or sum(statuses.values()) < REQUESTS // 10:
        new, start = await asyncio.to_thread(add, number), time.monotonic()
        number += 1
        await until(lambda: new.name in recent, f"{new.name} gets nothing")
        old = backends.popleft()
        way = f"deregister/{old.name}" if number % 2 == 0 else f"maintenance/{old.name}?enable=true&reason=old"
        check((await asyncio.to_thread(node.consul, "PUT", f"/v1/agent/service/{way}"))[0] == 200, way)
        # What nginx has resolved holds for a second.
        await until(lambda: recent.get(old.name, 0) < time.monotonic() - 1.5, f"{old.name} still gets requests")
        waits.append(time.monotonic() - start)
        await asyncio.to_thread(old.end)
    stop = True
    await load
    check(not bad, f"{len(bad)} of {sum(statuses.values())} failed:", bad[:5], open(f"{DIR}/nginx-error.log").read()[-800:])
    return f"{statuses[200]} requests through {number - 3} replacements of 3 instances, none failed; a replacement took {max(waits):.1f} s at most"


run(main)

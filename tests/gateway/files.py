"""Out of file descriptors (RELIABILITY row 20): connections that are open go on, and accepting resumes."""
import asyncio
import socket
import time

from common import Backend, Client, Node, check, run, upstream

FILES = 256


async def main():
    backends = [Backend(name) for name in "ab"]
    fresh = Backend("fresh")
    toml = upstream("u", backends) + '[route.r]\nto = "u"\n' + upstream("v", [fresh], 'health = { kind = "off" }')
    node = Node(toml + '[route.fresh]\npath = "/fresh"\nto = "v"\n', files_max=FILES)
    clients = [Client(node.port) for _ in range(4)]
    for client in clients:
        check((await client.ask())[0] == 200, "before the flood")
    redis = socket.create_connection(("127.0.0.1", int(node.at["redis"].rsplit(":", 1)[1])), 10)
    flood = []
    for _ in range(FILES * 2):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", node.port))
        flood.append(one)
    await asyncio.sleep(1)
    for _ in range(50):
        for client in clients:
            status, _, text = await client.ask(timeout=10)
            check(status == 200, "during the flood:", status, text)
    # What stands needs new connections too: files are left for them.
    answers = await asyncio.gather(*(client.ask(path="/fresh", timeout=10) for client in clients))
    check([status for status, _, _ in answers] == [200] * 4, "a first connection to an upstream during the flood:", answers)
    redis.sendall(b"PING\r\n")
    check(await asyncio.to_thread(redis.recv, 100) == b"+PONG\r\n", "the Redis door during the flood")
    refused = open(node.log).read().count("nearly all open files are in use")
    for one in flood:
        one.close()
    start = time.monotonic()
    while True:
        try:
            if (await Client(node.port).ask(timeout=2))[0] == 200:
                break
        except Exception as error:
            check(time.monotonic() < start + 15, "accepting did not resume:", error)
    check(node.process.poll() is None, "the node ended")
    check(refused > 0, "the flood did not reach the limit")
    hits = next(line for line in node.admin("GET", "/metrics")[1].decode().splitlines() if line.startswith('quorate_limit_hits_total{limit="open_files"}'))
    check(float(hits.split()[1]) > 0, "it is counted:", hits)
    return f"{FILES} files, {2 * FILES} connections: 4 connections had 200 answers meanwhile, a new one after {time.monotonic() - start:.2f} s"


run(main)

"""Clients that are slow on purpose (slowhttptest; RELIABILITY row 23): heads, bodies and reading. Others are served as if nobody were there, the
slow ones are cut by the limits, and what they cost is bounded."""
import asyncio
import os
import re
import shutil
import time

from common import Backend, Client, Node, check, free_port, listens, parts, run, skip, upstream, wait_until

SLOW = 300
said = []


def resident(node):
    with open(f"/proc/{node.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def sockets(node):
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def start(name):
    backend = Backend(name, log=False)
    port = free_port()
    listener = f'[listener.main]\nbind = "127.0.0.1:{port}"\nhead_timeout = "2s"\nidle_timeout = "5s"\n'
    route = '[route.r]\nto = "u"\ntimeouts = { idle = "2s" }\n'
    node = Node(upstream("u", [backend]) + route + listener, name)
    # The address of the listener that this one replaces is nobody's any more.
    if node.port != port:
        wait_until(lambda: not listens(node.port), 5, "the end of the listener that was replaced")
    node.port = port
    return node


async def attack(node, kind, path, *words):
    """Slow clients until the end of slowhttptest, and one in a hurry: what slowhttptest said, and the longest that the other waited."""
    url = f"http://127.0.0.1:{node.port}{path}"
    command = ["slowhttptest", kind, "-c", str(SLOW), "-r", str(SLOW), "-l", "40", "-p", "2", "-u", url, *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    begun, longest, most, memory = time.monotonic(), 0.0, 0, 0
    before = resident(node)
    client, reading = Client(node.port), asyncio.create_task(process.stdout.read())
    # While all slow ones are there, and until they are gone.
    gone = None
    # slowhttptest ends by itself after 40 s.
    seen = []
    while gone is None and not reading.done() and time.monotonic() < begun + 30:
        now = time.monotonic()
        check((await client.ask(timeout=5))[0] == 200, "one in a hurry")
        longest = max(longest, time.monotonic() - now)
        most, memory = max(most, sockets(node)), max(memory, resident(node) - before)
        # What is left then are connections to the backend that wait for other requests.
        if most > SLOW and sockets(node) < SLOW // 2 and not reading.done():
            gone = time.monotonic() - begun
        if len(seen) <= now - begun:
            seen.append(sockets(node))
        await asyncio.sleep(0.02)
    if process.returncode is None:
        process.terminate()
    text = (await reading).decode(errors="replace")
    await process.wait()
    check(most > SLOW, f"there were never {SLOW} slow clients, at most {most} sockets", text[-800:])
    check(gone is not None, f"the slow ones were not cut; sockets second by second: {seen}", re.sub(r"\x1b\[[0-9;]*m", "", text)[-1500:])
    # A machine that runs other things too.
    check(longest < 1, f"one in a hurry waited {longest:.2f} s")
    return f"cut after {gone:.1f} s, others waited {1000 * longest:.0f} ms at most, {memory / SLOW / 1024:.0f} KiB each"


async def heads():
    said.append("slow heads: " + await attack(start("heads"), "-H", "/", "-i", "1", "-x", "8"))


async def bodies():
    said.append("slow bodies: " + await attack(start("bodies"), "-B", "/", "-i", "4", "-s", "8192", "-x", "8"))


async def drips():
    """Bodies that never stop for long and never end: 40 bytes a second, where 240 are the least."""
    node = start("drips")
    begun = time.monotonic()

    async def drip():
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.create_task(reader.readline())
        while not answer.done() and time.monotonic() < begun + 20:
            writer.write(b"x" * 20)
            await asyncio.wait([answer], timeout=0.5)
        check(answer.done(), "a body that drips is not cut")
        writer.close()
        return answer.result()

    answers = await asyncio.gather(*(drip() for _ in range(SLOW // 3)))
    check(all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers), "cut otherwise:", set(answers))
    took = time.monotonic() - begun
    check(took < 12, f"cut after {took:.0f} s")
    said.append(f"{SLOW // 3} dripping bodies: cut after {took:.1f} s")


async def reading():
    # Windows of a few bytes, one byte read in five seconds, of answers of 512 KiB.
    words = ("-w", "8", "-y", "16", "-n", "5", "-z", "1", "-k", "1")
    said.append("slow reading: " + await attack(start("reading"), "-X", "/kib/512", *words))


async def main():
    if not shutil.which("slowhttptest"):
        skip("no slowhttptest")
    await parts(heads, bodies, drips, reading)
    return f"{SLOW} clients of slowhttptest each: " + "; ".join(said)


run(main)

"""More requests than a core can move: the node under test has one core and one worker, h2load offers about twice what it can do, and what is refused costs
less than what is served. Whoever is let in is served soon, the others hear 503 with Retry-After; without overload, and after it, nobody does."""
import asyncio
import os
import shutil
import subprocess
import time

from common import DIR, Client, Node, check, parts, processes, run, skip, upstream

LOADS, SECONDS, SETTLED = 8, 16, 6
# The route takes fields out of requests and answers: all its names are compared with all of theirs, which costs the gateway ten times what a refusal
# costs, and nobody else anything.
FIELDS = 24
NAME = "x-a-name-that-is-long-since-names-of-one-length-are-compared-to-"
GONE = ", ".join(f'"{NAME}{at}"' for at in range(100, 140))
said = []


def start(cores, make):
    """Starts a program that may use these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return make()
    finally:
        os.sched_setaffinity(0, before)


class Behind:
    """Where the requests end: another node, which answers by itself."""

    def __init__(self, cores):
        fields = ", ".join(f'"{NAME}{at + 200}" = "{at:032}"' for at in range(FIELDS))
        toml = f'[route.r]\nresponse_headers = {{ set = {{ {fields} }} }}\nrespond = {{ status = 200, body = "{"x" * 1000}" }}\n'
        self.node = start(cores, lambda: Node(toml, "overload-behind"))
        self.address = f"127.0.0.1:{self.node.port}"


async def load(port, cores, loads, clients, rate, seconds):
    """The requests of so many of h2load: (seconds since the begin, status, milliseconds) each. Clients of one of them ask all at once, so it takes
    several that do not begin together."""
    words = ["h2load", "--h1", "-t1", f"-c{clients}", f"--rps={rate}", f"-D{seconds}"]
    for at in range(FIELDS):
        words += ["-H", f"{NAME}{at + 200}: {at:032}"]
    running, rows = [], []
    for at in range(loads):
        log = os.path.join(DIR, f"h2load-{at}.log")
        if os.path.exists(log):
            os.remove(log)
        command = [*words, f"--log-file={log}", f"http://127.0.0.1:{port}/"]
        process = start(cores, lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        processes.append(process)
        running.append((process, log))
        await asyncio.sleep(1 / rate / loads)
    for process, log in running:
        text, _ = await asyncio.to_thread(process.communicate, timeout=seconds + 60)
        check(process.returncode == 0, text[-500:])
        with open(log) as lines:
            rows += [[int(word) for word in line.split("\t")[:3]] for line in lines]
    begin = min(row[0] for row in rows)
    return [((at - begin) / 1e6, status, took / 1e3) for at, status, took in rows]


def quantile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def delay():
    cores = sorted(os.sched_getaffinity(0))
    ours, others = {cores[0]}, set(cores[1:]) or {cores[0]}
    behind = Behind(others)
    route = f'[route.r]\nto = "u"\nbulkhead = {{ in_flight_max = 10000 }}\nrequest_headers = {{ remove = [{GONE}] }}\nresponse_headers = {{ remove = [{GONE}] }}\nretry = {{ attempts = 0 }}\n'
    node = start(ours, lambda: Node(upstream("u", [behind], "in_flight_max = 10000\nconnections_max = 10000\nidle_connections_max = 10000") + route, "overload"))
    # As many as wait for each other's answers are no overload, however busy the core is.
    easy = await load(node.port, others, 1, 20, 1000, 5)
    check({status for _, status, _ in easy} == {200}, "refused without overload:", {status for _, status, _ in easy})
    can = len([1 for at, _, _ in easy if at > 1]) / 4
    # All of them would be in flight, and each wait for all others: two seconds.
    clients = int(min(2 * can, 6000) / LOADS)
    without = 1000 * LOADS * clients / can
    begun, spent = time.monotonic(), node.cpu_seconds()
    flood, told = asyncio.create_task(load(node.port, others, LOADS, clients, 3 * can / clients / LOADS, SECONDS)), None
    client = Client(node.port)
    while not flood.done():
        status, fields, _ = await client.ask()
        if status == 503:
            check(fields.get("retry-after") == "1", "a 503 without Retry-After:", fields)
            told = True
        await asyncio.sleep(0.2)
    rows = await flood
    share = (node.cpu_seconds() - spent) / (time.monotonic() - begun)
    check(told, "nobody was refused")
    late = [row for row in rows if row[0] > SETTLED]
    let_in, refused = ([took for _, status, took in late if status == wanted] for wanted in (200, 503))
    check(len(let_in) + len(refused) == len(late), "other answers:", {status for _, status, _ in late})
    span, p99 = SECONDS - SETTLED, quantile(let_in, 0.99)
    numbers = f"{can:.0f}/s can be served, {len(late) / span:.0f} are asked for, {len(let_in) / span:.0f} served: p50 {quantile(let_in, 0.5):.0f} ms, p99 {p99:.0f} ms ({without:.0f} ms if all were let in)"
    check(len(let_in) > can * span / 12, "too few are served:", numbers)
    # On a machine that runs other things too; alone it is a tenth. A fast node is asked for less than two seconds' worth, and what it lets in waits for
    # the delay that is aimed at, whatever the rest.
    is_soon = p99 < max(without / 2, 800) and quantile(let_in, 0.5) < max(without / 6, 400)
    # Who overloads it sees to it that the node uses its core whole; one that did not get it waited for others' programs, of which nothing can be said.
    check(is_soon or share < 0.7, "who is let in waits too long:", numbers)
    if not is_soon:
        numbers += f"; not judged: others took {1 - share:.0%} of the node's core"

    async def calm():
        return all([(await client.ask())[0] == 200 for _ in range(30)])

    limit = time.monotonic() + 20
    while not await calm():
        check(time.monotonic() < limit, "refused long after the overload")
        await asyncio.sleep(0.5)
    said.append(numbers)


async def main():
    missing = [name for name in ("h2load",) if not shutil.which(name)]
    if missing:
        skip("no " + ", ".join(missing))
    await parts(delay)
    return "; ".join(said)


run(main)

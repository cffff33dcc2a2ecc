"""Three rolling restarts of three backends under load, with WebSockets and gRPC streams open all the while.

No GET may fail: no reset before an answer, no 5xx, since another backend was always there. Two rounds end backends in good order, the third
by kill -9. A POST may be answered 502 when its backend goes away under it (RFC 9110 §9.2.2: it must not be sent twice); none may be done twice.
"""
import asyncio
import collections
import signal
import time

from common import REQUESTS, Backend, Caller, Node, check, request, run, skip, upstream

CLIENTS = 16
STREAMS = 4


async def websocket(port, stop, count):
    from websockets.asyncio.client import connect

    async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
        sent = 0
        while not stop.is_set():
            await socket.send(f"message {sent}")
            check(await asyncio.wait_for(socket.recv(), 20) == f"message {sent}", "the WebSocket echoed something else")
            sent += 1
            await asyncio.sleep(0.02)
    count["ws"] += sent


async def grpc_stream(port, stop, count):
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call, sent = channel.stream_stream("/proof.Echo/Talk")(), 0
        while not stop.is_set():
            message = b"message %d" % sent
            await call.write(message)
            check(await asyncio.wait_for(call.read(), 20) == message, "the gRPC stream echoed something else")
            sent += 1
            await asyncio.sleep(0.02)
        await call.done_writing()
        check(await call.code() == grpc.StatusCode.OK, "the gRPC stream ended badly")
    count["grpc"] += sent


async def main():
    try:
        import grpc.aio  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        skip(error)
    backends = [Backend(name) for name in ("a", "b", "c")]
    toml = upstream("web", backends) + '[route.web]\nto = "web"\n'
    for kind, path, more in [("ws", "/ws", ""), ("grpc", "/proof.Echo/*", 'protocol = "http2"')]:
        one = Backend(kind, script=f"stream_{kind}.py", log=False)
        toml += upstream(kind, [one], more) + f'[route.{kind}]\nto = "{kind}"\npath = "{path}"\n'
    node = Node(toml)
    stop, restarted = asyncio.Event(), asyncio.Event()
    count, statuses, posts, bad = collections.Counter(), collections.Counter(), collections.Counter(), []
    talks = [asyncio.create_task(talk(node.port, stop, count)) for talk in (websocket, grpc_stream) for _ in range(STREAMS)]

    def turn():
        ident = count["asked"]
        if ident >= REQUESTS and restarted.is_set():
            return None
        count["asked"] += 1
        if ident % 10 == 9:
            return request("POST", "/", ident, b"body"), (ident, True)
        return request("GET", "/", ident), (ident, False)

    def told(tag, status, backend, body):
        ident, post = tag
        (posts if post else statuses)[status] += 1
        if status != 200 and not (post and status == 502):
            bad.append((ident, "POST" if post else "GET", status, body[:200]))
        if status == 200 and body != (f"{backend} body" if post else f"{backend} ").encode():
            bad.append((ident, "another's answer", backend, body[:100]))

    start = time.monotonic()
    load = asyncio.create_task(Caller.play(node.port, CLIENTS, turn, told))

    async def share(part):
        """Waits for a share of the requests."""
        target = count["asked"] + REQUESTS // part
        while count["asked"] < target:
            check(not load.done(), "the load ended early")
            await asyncio.sleep(0.01)

    for turn_of in range(3):
        for one in backends:
            await share(12)
            await asyncio.to_thread(one.end, signal.SIGKILL if turn_of == 2 else signal.SIGTERM)
            await share(50)
            await asyncio.to_thread(one.start)
    restarted.set()
    await load
    seconds = time.monotonic() - start
    stop.set()
    await asyncio.gather(*(asyncio.wait_for(talk, 30) for talk in talks))
    logged = [line for one in backends for line in one.requests()]
    done = collections.Counter(line[2] for line in logged if line[0] == "POST")
    twice = [ident for ident, times in done.items() if times > 1]
    all_of_them = sum(statuses.values()) + sum(posts.values())
    check(not bad, f"{len(bad)} of {all_of_them} requests went wrong, the first:", bad[:5], "the node's log:", open(node.log).read()[-1500:])
    check(not twice, "POSTs that were done twice:", twice[:10])
    return (
        f"{all_of_them} requests through 9 restarts in {seconds:.0f} s: {statuses[200]} GETs, none failed; {sum(posts.values())} POSTs, {posts[502]} "
        f"answered 502, none done twice; {STREAMS} WebSockets with {count['ws']} messages, {STREAMS} gRPC streams with {count['grpc']}; "
        f"upstream requests {len(logged)}"
    )


run(main)

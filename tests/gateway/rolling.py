"""Three rolling restarts of three backends under load, with a WebSocket and a gRPC stream open all the while.

No GET may fail: no reset before an answer, no 5xx, since another backend was always there. Two rounds end backends in good order, the third
by kill -9. A POST may be answered 502 when its backend goes away under it (RFC 9110 §9.2.2: it must not be sent twice); none may be done twice.
"""
import asyncio
import collections
import signal
import time

from common import DIR, REQUESTS, Backend, Broken, Client, Node, check, run, upstream

CLIENTS = 16


async def websocket(port, stop, count):
    try:
        from websockets.asyncio.client import connect
    except ImportError:
        return "no websockets"
    async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
        while not stop.is_set():
            await socket.send(f"message {count['ws']}")
            check(await asyncio.wait_for(socket.recv(), 20) == f"message {count['ws']}", "the WebSocket echoed something else")
            count["ws"] += 1
            await asyncio.sleep(0.01)
    return f"WebSocket {count['ws']} messages"


async def grpc_stream(port, stop, count):
    try:
        import grpc.aio
    except ImportError:
        return "no grpcio"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/proof.Echo/Talk")()
        while not stop.is_set():
            message = b"message %d" % count["grpc"]
            await call.write(message)
            check(await asyncio.wait_for(call.read(), 20) == message, "the gRPC stream echoed something else")
            count["grpc"] += 1
            await asyncio.sleep(0.01)
        await call.done_writing()
        check(await call.code() == grpc.StatusCode.OK, "the gRPC stream ended badly")
    return f"gRPC {count['grpc']} messages"


async def main():
    backends = [Backend(name) for name in ("a", "b", "c")]
    toml = upstream("web", backends) + '[route.web]\nto = "web"\n'
    streams = []
    for kind, module, more in [("ws", "websockets", ""), ("grpc", "grpc", 'protocol = "http2"')]:
        try:
            __import__(module)
        except ImportError:
            continue
        one = Backend(kind, script=f"stream_{kind}.py", log=False)
        path = "/ws" if kind == "ws" else "/proof.Echo/*"
        toml += upstream(kind, [one], more) + f'[route.{kind}]\nto = "{kind}"\npath = "{path}"\n'
        streams.append(websocket if kind == "ws" else grpc_stream)
    node = Node(toml)
    stop, restarted = asyncio.Event(), asyncio.Event()
    count = collections.Counter()
    statuses, bad, posts = collections.Counter(), [], collections.Counter()
    talks = [asyncio.create_task(talk(node.port, stop, count)) for talk in streams]

    async def load():
        client = Client(node.port)
        while count["asked"] < REQUESTS or not restarted.is_set():
            ident = count["asked"]
            count["asked"] += 1
            post = ident % 10 == 9
            try:
                status, fields, text = await client.ask("POST" if post else "GET", "/", b"body" if post else b"", ident)
            except Broken as error:
                bad.append((ident, "POST" if post else "GET", "no answer", str(error)))
                continue
            if post:
                posts[status] += 1
                check(status in (200, 502), "a POST was answered", status, text)
            else:
                statuses[status] += 1
                if status != 200:
                    bad.append((ident, status, text[:200], fields))
            if status == 200:
                check(text.startswith(fields["x-backend"].encode()), "an answer of two halves:", text[:100])
        client.close()

    loads = [asyncio.create_task(load()) for _ in range(CLIENTS)]
    start = time.monotonic()
    for turn in range(3):
        for one in backends:
            # A share of the load between any two, so that restarts are spread over it.
            target = count["asked"] + REQUESTS // 12
            while count["asked"] < target:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(one.end, signal.SIGKILL if turn == 2 else signal.SIGTERM)
            target = count["asked"] + REQUESTS // 50
            while count["asked"] < target:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(one.start)
    restarted.set()
    await asyncio.gather(*loads)
    stop.set()
    said = [await asyncio.wait_for(talk, 30) for talk in talks]
    done = collections.Counter(line[2] for one in backends for line in one.requests() if line[0] == "POST")
    twice = [ident for ident, times in done.items() if times > 1]
    check(not bad, f"{len(bad)} of {sum(statuses.values())} requests failed, the first:", bad[:5], "the node's log:", open(node.log).read()[-1500:])
    check(not twice, "POSTs that were done twice:", twice[:10])
    share = collections.Counter(line[0] for one in backends for line in one.requests())
    seconds = time.monotonic() - start
    return (
        f"{statuses[200]} GETs, none failed; {sum(posts.values())} POSTs, {posts[502]} answered 502, none done twice; "
        f"9 restarts in {seconds:.0f} s; {', '.join(said) or 'no streams'}; upstream requests {sum(share.values())}"
    )


run(main)

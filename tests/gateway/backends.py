"""Backends that nobody here wrote: nginx, node, grpcio, websockets; each with what it does differently from the others."""
import asyncio
import collections
import gzip
import os
import shutil
import signal
import subprocess

from common import DIR, HERE, REQUESTS, Backend, Caller, Client, Node, check, free_port, listens, parts, processes, request, run, skip, upstream, wait_until

said = []


async def load(port, requests, meanwhile, path="/hello", clients=16, post_every=0):
    """So many requests, and until what happens meanwhile is over; all must be answered 200, whichever backend closes its connections when it likes. POSTs may be answered 502 then."""
    count, statuses, bad = [0], collections.Counter(), []
    happening = asyncio.create_task(meanwhile)

    def turn():
        if count[0] >= requests and happening.done():
            return None
        count[0] += 1
        post = post_every and count[0] % post_every == 0
        return (request("POST", "/echo", count[0], b"body"), True) if post else (request(path=path), False)

    def told(post, status, backend, body):
        statuses[status] += 1
        if status != 200 and not (post and status == 502):
            bad.append((status, backend, body[:200]))
        if post and status == 200:
            check(body == b"body", "a body that came back as", body)

    await Caller.play(port, clients, turn, told)
    await happening
    check(not bad, f"{len(bad)} of {requests} failed, the first:", bad[:3])
    return statuses


def nginx_binary():
    return shutil.which("nginx") or next((path for path in ["/usr/sbin/nginx", "/sbin/nginx"] if os.path.exists(path)), None)


async def nginx():
    home, port = os.path.join(DIR, "nginx"), free_port()
    os.makedirs(os.path.join(home, "html"), exist_ok=True)
    text = os.urandom(3000).hex().encode() * 50
    with open(os.path.join(home, "html", "big.txt"), "wb") as file:
        file.write(text)
    with open(os.path.join(home, "html", "hello"), "wb") as file:
        file.write(b"hello from nginx")
    config = f"""
        daemon off; pid {home}/pid; error_log {home}/error.log warn; worker_processes 1; events {{ worker_connections 512; }}
        http {{
            access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u;
            scgi_temp_path {home}/s; keepalive_requests 40; keepalive_timeout 1s; gzip on; gzip_types text/plain; default_type text/plain;
            types {{ text/plain txt; }}
            server {{ listen 127.0.0.1:{port}; root {home}/html; add_header X-Backend nginx; location = /gone {{ return 410; }} }}
        }}"""
    with open(os.path.join(home, "nginx.conf"), "w") as file:
        file.write(config)
    process = subprocess.Popen([nginx_binary(), "-p", home, "-c", os.path.join(home, "nginx.conf")], stderr=subprocess.DEVNULL)
    processes.append(process)
    wait_until(lambda: listens(port), what="nginx")
    node = Node(f'[upstream.u]\nendpoints = ["127.0.0.1:{port}"]\n[route.r]\nto = "u"\n', "nginx-node")
    # It ends every connection after 40 requests, and all of them when it is told to read its configuration again.
    async def reload():
        for _ in range(5):
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGHUP)

    statuses = await load(node.port, REQUESTS // 10, reload())
    # Chunked, since it compresses on the way; HEAD, ranges, 304 and an error of its own.
    words = ["curl", "-sS", "--fail", f"http://127.0.0.1:{node.port}/big.txt"]
    packed = subprocess.run([*words, "-H", "Accept-Encoding: gzip", "-D", "-"], capture_output=True, timeout=30).stdout
    head, _, body = packed.partition(b"\r\n\r\n")
    check(b"chunked" in head.lower() and gzip.decompress(body) == text, "a compressed file:", head, len(body))
    check(subprocess.run([*words, "-r", "100-199"], capture_output=True, timeout=30).stdout == text[100:200], "a range")
    head = subprocess.run([*words, "-I"], capture_output=True, timeout=30).stdout.decode()
    check(f"content-length: {len(text)}" in head.lower(), "HEAD:", head)
    etag = next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("etag"))
    again = [*words, "-o", os.devnull, "-w", "%{http_code}", "-H", f"If-None-Match: {etag}"]
    check(subprocess.run(again, capture_output=True, timeout=30).stdout == b"304", "304")
    check((await Client(node.port).ask(path="/gone"))[0] == 410, "its own error")
    process.terminate()
    said.append(f"nginx: {statuses[200]} requests through 5 reloads, gzip in chunks, range, HEAD, 304")


async def node():
    backends = [Backend(f"node-{name}", script="backend_node.mjs", program=shutil.which("node"), log=False) for name in "ab"]
    front = Node(upstream("u", backends) + '[route.r]\nto = "u"\n', "node-node")

    async def restart():
        for one in backends * 2:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(one.end)
            await asyncio.to_thread(one.start)

    statuses = await load(front.port, REQUESTS // 10, restart(), post_every=10)
    # One request in 300 to 320 ms: connections that node is closing as the next request comes.
    client = Client(front.port)
    for at in range(12):
        await asyncio.sleep(0.297 + at * 0.001)
        check((await client.ask(path="/hello"))[0] == 200, "a connection that node closes after 300 ms")
    big = os.urandom(2 << 20)
    status, _, body = await Client(front.port).ask("POST", "/echo", big)
    check(status == 200 and body == big, "2 MiB there and back:", status, len(body))
    from websockets.asyncio.client import connect

    for _ in range(20):
        # What a server says right behind its 101.
        async with connect(f"ws://127.0.0.1:{front.port}/ws") as socket:
            check(await asyncio.wait_for(socket.recv(), 10) == "hello", "the greeting")
    said.append(f"node: {sum(statuses.values())} requests through 4 restarts, none failed but {statuses[502]} POSTs, its 300 ms of patience, 20 WebSockets that it greets")


async def websockets():
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    one = Backend("websockets", script="stream_ws.py", log=False)
    front = Node(upstream("u", [one]) + '[route.r]\nto = "u"\nlimits = { body_bytes_max = "1KiB" }\n', "ws-node")
    url = f"ws://127.0.0.1:{front.port}/greeting"
    for compression in ("deflate", None):
        async with connect(url, compression=compression, max_size=8 << 20) as socket:
            check(await socket.recv() == "hello", "the greeting")
            for message in ("", "text ü", b"\x00\xff" * 50, "x" * 70_000, os.urandom(4 << 20)):
                await socket.send(message)
                check(await asyncio.wait_for(socket.recv(), 20) == message, "an echo of", len(message))
            await asyncio.wait_for(await socket.ping(), 10)
            await socket.close(4000, "enough")
            check((socket.close_code, socket.close_reason) == (4000, "enough"), "the close", socket.close_code)
    async with connect(url) as socket:
        await socket.recv()
        await asyncio.to_thread(one.end, signal.SIGKILL)
        try:
            await asyncio.wait_for(socket.recv(), 5)
            check(False, "the WebSocket goes on without its backend")
        except ConnectionClosed:
            pass
    try:
        await connect(url)
        check(False, "a WebSocket without a backend")
    except InvalidStatus as error:
        check(error.response.status_code in (502, 503), error)
    said.append("websockets: 4 MiB, ping, close codes, compression; its end is seen at once")


async def grpcio():
    import grpc
    import grpc.aio

    one = Backend("grpcio", script="stream_grpc.py", log=False)
    routes = '[route.r]\nto = "u"\ntimeouts = { total = "20s" }\npath = "/proof.Echo/*"\n'
    routes += '[route.rare]\nto = "u"\npath = "/proof.Rare/*"\nrate_limit = { rate = "1/m", burst = 1 }\nrewrite = { path = "/proof.Echo/{rest}" }\n'
    routes += '[route.small]\nto = "u"\npath = "/proof.Small/*"\nlimits = { body_bytes_max = "1KiB" }\nrewrite = { path = "/proof.Echo/{rest}" }\n'
    front = Node(upstream("u", [one], 'protocol = "http2"') + routes, "grpc-node")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", options=[("grpc.max_receive_message_length", 8 << 20)]) as channel:
        call = lambda kind, name: getattr(channel, kind)(f"/proof.Echo/{name}")
        once = call("unary_unary", "Once")
        await asyncio.gather(*(once(b"%d" % at) for at in range(500)))
        big = os.urandom(3 << 20)
        check(await once(big) == big, "3 MiB")
        check([int(it) async for it in call("unary_stream", "Count")(b"1000")] == list(range(1000)), "a server's stream")

        async def messages():
            for at in range(200):
                yield b"x" * at

        check(await call("stream_unary", "Sum")(messages()) == b"%d" % sum(range(200)), "a client's stream")
        for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
            try:
                await call("unary_unary", "Refuse")(b"%d why not" % code.value[0])
                check(False, "refused and yet answered")
            except grpc.aio.AioRpcError as error:
                trailers = dict(error.trailing_metadata())
                check((error.code(), error.details(), trailers["reason-bin"]) == (code, "why not", b"\x00\x01\xff"), error)
        left = int(await call("unary_unary", "Wait")(b"0.01", timeout=5))
        check(4000 < left <= 5000, "the client's deadline upstream:", left)
        try:
            await call("unary_unary", "Wait")(b"3", timeout=0.3)
            check(False, "later than the deadline")
        except grpc.aio.AioRpcError as error:
            # The gateway has the same deadline, and says it in gRPC's words if it is first.
            check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)

        async def refused(path, message, code, text, **more):
            try:
                await channel.unary_unary(path)(message, **more)
                check(False, path, "answered")
            except grpc.aio.AioRpcError as error:
                check(error.code() == code and text in error.details(), path, error)

        # What the gateway says by itself, it says as gRPC does.
        await refused("/proof.Nowhere/Once", b"x", grpc.StatusCode.UNIMPLEMENTED, "no route")
        check(await channel.unary_unary("/proof.Rare/Once")(b"once") == b"once", "the first of a minute")
        await refused("/proof.Rare/Once", b"x", grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")
        await refused("/proof.Small/Once", bytes(5000), grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        await asyncio.to_thread(one.end, signal.SIGKILL)
        await refused("/proof.Echo/Once", b"x", grpc.StatusCode.UNAVAILABLE, "", timeout=5)
        await asyncio.to_thread(one.start)
        check(await once(b"back", timeout=20, wait_for_ready=True) == b"back", "after a restart")
    said.append("grpcio: all four kinds, 3 MiB, statuses with trailers, the deadline passed on, our own answers as statuses")


async def browser():
    """Chromium through the gateway, by HTTP/2 over TLS and by HTTP/1.1."""
    one = Backend("page", script="backend_node.mjs", program=shutil.which("node"), log=False)
    chain, key, port = os.path.join(DIR, "chain.pem"), os.path.join(DIR, "key.pem"), free_port()
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain]
    subprocess.run(words, check=True, capture_output=True)
    listener = f'[listener.tls]\nbind = "127.0.0.1:{port}"\ncertificates = [{{ chain = "{chain}", key = "{key}" }}]\n'
    front = Node(upstream("u", [one]) + '[route.r]\nto = "u"\n' + listener, "browser-node")
    for url, protocol in [(f"https://localhost:{port}/", "h2"), (f"http://127.0.0.1:{front.port}/", "http/1.1")]:
        words = ["node", os.path.join(HERE, "browser.mjs"), url, protocol]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=90)
        check(done.returncode == 0, url, done.stdout[-500:], done.stderr[-1500:])
        said.append(f"Chromium: {done.stdout.strip()}")


async def main():
    missing = [name for name in ("node", "curl", "openssl", "chromium") if not shutil.which(name)] + ([] if nginx_binary() else ["nginx"])
    try:
        import grpc  # noqa: F401
        import websockets as _  # noqa: F401
    except ImportError as error:
        missing.append(str(error))
    if not os.path.isdir(os.path.join(HERE, "node_modules", "ws")):
        missing.append("npm ci in tests/gateway")
    if missing:
        skip("no " + ", ".join(missing))
    await parts(nginx, node, websockets, grpcio, browser)
    return "; ".join(said)


run(main)

"""A backend: HTTP/1.1 on 127.0.0.1:PORT, or the address that BACKEND_HOST names, by asyncio. `backend.py PORT NAME [LOG]`

Answers with its name. SIGTERM ends it as a good server ends: it accepts nothing more, closes idle connections, finishes what is under way
with `Connection: close`. What a path asks for is done to its request: /stall is never answered, /slow/MS waits, /status/N answers so, /kib/N has N KiB, /reset
breaks off in the middle of its body, /rst before its head, /cut ends a chunked body without its end. LOG gets a line for each request: method, target, X-Id, and the moment on the clock that all processes share.
"""
import asyncio
import os
import signal
import socket
import struct
import sys
import time

PORT, NAME, HOST = int(sys.argv[1]), sys.argv[2], os.environ.get("BACKEND_HOST", "127.0.0.1")
LOG = open(sys.argv[3], "a", buffering=1) if len(sys.argv) > 3 else None
open_connections = set()
ending = False


def abort(transport):
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def whole(chunks):
    """The body of complete chunks."""
    body = []
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        size = int(size.partition(b";")[0], 16)
        body.append(chunks[:size])
        chunks = chunks[size + 2 :]
    return b"".join(body)


class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.busy = transport, b"", False
        open_connections.add(self)

    def connection_lost(self, _):
        open_connections.discard(self)
        if ending and not open_connections:
            done.set()

    def data_received(self, data):
        self.buffer += data
        self.go_on()

    def go_on(self):
        while not self.busy:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "chunked" in fields.get("transfer-encoding", ""):
                body, mark, rest = rest.partition(b"0\r\n\r\n")
                if not mark:
                    return
                body = whole(body)
            else:
                length = int(fields.get("content-length", 0))
                if len(rest) < length:
                    return
                body, rest = rest[:length], rest[length:]
            self.buffer, self.busy = rest, True
            method, target, _ = lines[0].split(" ", 2)
            if LOG:
                LOG.write(f"{method} {target} {fields.get('x-id', '-')} {time.monotonic():.6f}\n")
            self.method = method
            self.answer(method, target.partition("?")[0], body)

    def answer(self, method, path, body):
        words = path.strip("/").split("/")
        if words[0] == "stall":
            return
        if words[0] == "rst":
            return abort(self.transport)
        if words[0] == "reset":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000)
            return asyncio.get_running_loop().call_later(0.05, abort, self.transport)
        if words[0] == "cut":
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            return asyncio.get_running_loop().call_later(0.05, self.transport.close)
        if words[0] == "slow":
            return asyncio.get_running_loop().call_later(int(words[1]) / 1000, self.write, 200, body)
        if words[0] == "kib":
            body = b"x" * (int(words[1]) << 10)
        self.write(int(words[1]) if words[0] == "status" else 200, body)

    def write(self, status, body):
        text = NAME.encode() + b" " + body
        close = b"Connection: close\r\n" if ending else b""
        self.transport.write(
            b"HTTP/1.1 %d Fine\r\nX-Backend: %s\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, NAME.encode(), close, len(text), b"" if self.method == "HEAD" else text)
        )
        self.busy = False
        if ending:
            self.transport.close()
        else:
            self.go_on()


async def main():
    global done
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, HOST, PORT, reuse_address=True, backlog=1024)

    def end():
        global ending
        ending = True
        server.close()
        for one in list(open_connections):
            if not one.busy:
                one.transport.close()
        if not open_connections:
            done.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    await done.wait()


asyncio.run(main())

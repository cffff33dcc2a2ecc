"""Requests whose end can be read in two ways, through the whole binary: the backend sees nothing of them, or exactly the right bytes."""
import socket
import threading

from common import Node, check, run

HOST = b"Host: a\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST
# What is refused, and by which rule.
REFUSED = [
    ("RFC 9112 §6.1: both lengths", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 §6.3: lengths that differ", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("RFC 9112 §6.3: lengths in a list that differ", POST + b"Content-Length: 5, 6\r\n\r\nhello!"),
    ("RFC 9110 §8.6: a sign", POST + b"Content-Length: +5\r\n\r\nhello"),
    ("RFC 9110 §8.6: negative", POST + b"Content-Length: -5\r\n\r\nhello"),
    ("RFC 9110 §8.6: hexadecimal", POST + b"Content-Length: 0x5\r\n\r\nhello"),
    ("RFC 9110 §8.6: more than 64 bits", POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello"),
    ("RFC 9112 §6.1: unknown coding", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 §6.1: chunked is not last", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 §6.1: chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 §6.1: HTTP/1.0 and chunked", b"POST /x HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 §2.2: bare LF", b"GET /x HTTP/1.1\nHost: a\n\n"),
    ("RFC 9112 §2.2: one bare LF among the fields", b"GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    ("RFC 9112 §2.2: bare CR", b"GET /x HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n"),
    ("RFC 9112 §5.1: a space before the colon", POST + b"Content-Length : 5\r\n\r\nhello"),
    ("RFC 9112 §5.2: folded field", b"GET /x HTTP/1.1\r\n" + HOST + b"X: y\r\n z\r\n\r\n"),
    ("RFC 9112 §2.2: a field before the first", b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("RFC 9110 §5.5: NUL in a value", b"GET /x HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n"),
    ("RFC 9112 §3.2: no Host", b"GET /x HTTP/1.1\r\nX: y\r\n\r\n"),
    ("RFC 9112 §3.2: two Hosts", b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("RFC 9112 §3: two spaces", b"GET  /x HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("RFC 9112 §2.3: HTTP/1.9 with garbage", b"GET /x HTTP/1.1x\r\n" + HOST + b"\r\n"),
]
# Well framed, but paths that could mean two things: refused, and the connection goes on.
PATHS = [b"/a%2fb", b"/a%5Cb", b"/../../x", b"/x/..;/y", b"/x%0ay"]
# Refused within the body: the head may have been seen, the bytes after it not, and never as a request.
CHUNKS = [
    ("RFC 9112 §7.1: a size that is none", b"xyz\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 §7.1: a size beyond 64 bits", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 §7.1: a chunk longer than its size", b"3\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 §7.1: bare LF after the size", b"5\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 §7.1: a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


class Recorder:
    """A backend that keeps every byte and answers each head."""

    def __init__(self):
        self.bytes, self.socket = b"", socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        seen = b""
        while data := connection.recv(65536):
            self.bytes += data
            seen += data
            while b"\r\n\r\n" in seen:
                head, _, seen = seen.partition(b"\r\n\r\n")
                if b"chunked" in head.lower():
                    while not seen.endswith(b"\r\n\r\n"):
                        more = connection.recv(65536)
                        if not more:
                            return
                        self.bytes += more
                        seen += more
                    seen = b""
                elif b"content-length: 5" in head.lower():
                    while len(seen) < 5:
                        more = connection.recv(65536)
                        self.bytes += more
                        seen += more
                    seen = seen[5:]
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def say(port, data, answers=1):
    """All that comes back until so many answers are there or the connection ends."""
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.settimeout(15)
        one.sendall(data)
        got = b""
        while got.count(b"HTTP/1.1 ") < answers or b"\r\n\r\n" not in got or (b" 200 " in got and got.count(b"ok") < answers):
            try:
                more = one.recv(65536)
            except ConnectionResetError:
                break
            if not more:
                break
            got += more
        return got


def main():
    backend = Recorder()
    port = backend.socket.getsockname()[1]
    off = 'health = { kind = "off" }'
    node = Node(f'[upstream.u]\nendpoints = ["127.0.0.1:{port}"]\n{off}\n[route.r]\nto = "u"\n')
    wrong = []
    for rule, request in REFUSED:
        backend.bytes = b""
        got = say(node.port, request + SMUGGLED)
        if not (got.startswith(b"HTTP/1.1 4") or got.startswith(b"HTTP/1.1 50") or not got) or backend.bytes:
            wrong.append((rule, got[:120], backend.bytes[:300]))
    for rule, chunks in CHUNKS:
        backend.bytes = b""
        got = say(node.port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + SMUGGLED)
        if b" 200 " in got or b"smuggled" in backend.bytes:
            wrong.append((rule, got[:120], backend.bytes[:300]))
    for path in PATHS:
        backend.bytes = b""
        got = say(node.port, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        # The heads of the bodies above may reach the backend late; none of them is a GET.
        if not got.startswith(b"HTTP/1.1 400") or b"GET " in backend.bytes:
            wrong.append((path, got[:120], backend.bytes[:300]))
    # What is right goes through as it is: two requests in one write, bodies and trailers exactly.
    backend.bytes = b""
    got = say(node.port, POST + b"Content-Length: 5\r\n\r\nhelloGET /y HTTP/1.1\r\n" + HOST + b"\r\n", 2)
    if got.count(b"HTTP/1.1 200") != 2 or b"\r\n\r\nhelloGET /y HTTP/1.1\r\n" not in backend.bytes and backend.bytes.count(b"GET /y ") != 1:
        wrong.append(("RFC 9112 §9.3.2: pipelined", got, backend.bytes))
    backend.bytes = b""
    got = say(node.port, POST + b"Transfer-Encoding: chunked\r\n\r\n5;name=x\r\nhello\r\n0\r\n\r\n")
    if b" 200 " not in got or b"hello" not in backend.bytes or b"name=x" in backend.bytes:
        wrong.append(("RFC 9112 §7.1.1: extensions are dropped", got, backend.bytes))
    backend.bytes = b""
    got = say(node.port, b"GET /y HTTP/1.1\r\n" + HOST + b"Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n")
    if b" 200 " not in got or b"x-hop" in backend.bytes.lower() or b"keep-alive: 5" in backend.bytes.lower():
        wrong.append(("RFC 9110 §7.6.1: hop-by-hop fields", got, backend.bytes))
    backend.bytes = b""
    got = say(node.port, POST + b"TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\nHost: b\r\n\r\n")
    if b" 200 " not in got or not backend.bytes.lower().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"):
        wrong.append(("RFC 9110 §6.5.1: trailers, but none that frames or routes", got, backend.bytes))
    check(not wrong, f"{len(wrong)} wrong:\n", "\n ".join(map(str, wrong)))
    return f"{len(REFUSED)} heads, {len(CHUNKS)} bodies and {len(PATHS)} paths refused, the backend saw nothing of them; 4 passed as they must"


run(main)

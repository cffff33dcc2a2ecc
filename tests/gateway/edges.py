"""What a client is told apart by (PROXY protocol, places on Earth), the Host of a retry, and the gateway's own answers in /metrics."""
import json
import os
import socket
import struct
import threading
import time

from common import DIR, Backend, Node, ask, check, free_port, run, upstream, wait_until


class Mirror:
    """Answers with the head that it got, or breaks off before it answers as long as `breaks`."""

    def __init__(self, breaks=False):
        self.breaks, self.heads = breaks, []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        head = b""
        while True:
            got = stream.recv(65536)
            if not got:
                return
            head += got
            while b"\r\n\r\n" in head:
                one, _, head = head.partition(b"\r\n\r\n")
                self.heads.append(one.decode())
                if self.breaks:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return stream.close()
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(one), one))


def raw(port, *pieces):
    """What comes back on a connection that sends this, until nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            stream.sendall(piece)
            time.sleep(0.02)
        stream.settimeout(1)
        got = b""
        try:
            while more := stream.recv(65536):
                got += more
        except (TimeoutError, ConnectionError):
            pass
        return got.decode("latin-1")


def fields(text):
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in text.split("\r\n\r\n", 1)[-1].split("\r\n"))}


GET = b"GET /x HTTP/1.1\r\nHost: h\r\n%sConnection: close\r\n\r\n"
FIRST = b"PROXY TCP4 203.0.113.9 10.0.0.1 4242 443\r\n"


def second(command=1, client="203.0.113.9", more=b""):
    body = socket.inet_aton(client) + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 4242, 443) + more
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, 0x11]) + struct.pack(">H", len(body)) + body


def proxied():
    mirror = Mirror()
    behind, plain, tcp = free_port(), free_port(), free_port()
    node = Node(f"""
[listener.behind]
bind = "127.0.0.1:{behind}"
proxy_protocol = true
head_timeout = "500ms"
trusted_proxies = "198.51.100.0/24"
[listener.plain]
bind = "127.0.0.1:{plain}"
[listener.tcp]
bind = "127.0.0.1:{tcp}"
protocol = "tcp"
proxy_protocol = true
[upstream.u]
endpoints = "{mirror.address}"
health = {{ kind = "off" }}
[route.r]
to = "u"
[route.limited]
path = "/limited"
respond = 200
rate_limit = {{ rate = "1/m", burst = 1 }}
[route.t]
listeners = "tcp"
to = "u"
""", "proxied")
    lie = b"X-Forwarded-For: 6.6.6.6\r\n"
    for name, pieces in (
        ("version 1", [FIRST + GET % lie]),
        ("version 1 in pieces", [FIRST[:5], FIRST[5:], GET % lie]),
        ("version 2", [second() + GET % lie]),
        ("version 2 with extensions, in pieces", [second(more=b"\xea\x02\x00" + bytes(512))[:100], second(more=b"\xea\x02\x00" + bytes(512))[100:] + GET % lie]),
    ):
        got = fields(raw(behind, *pieces))
        check(got.get("x-forwarded-for") == "203.0.113.9" and 'for=203.0.113.9' in got["forwarded"], name, got)
    # Trust goes by the address in the header, not by the balancer's.
    got = fields(raw(behind, second(client="198.51.100.7") + GET % lie))
    check(got["x-forwarded-for"] == "6.6.6.6, 198.51.100.7", "a proxy that is trusted, behind the balancer", got)
    for header in (second(command=0), b"PROXY UNKNOWN\r\n"):
        check(fields(raw(behind, header + GET % b""))["x-forwarded-for"] == "127.0.0.1", "the balancer speaks for itself")
    # Without a header nothing is served; with one where none is expected neither.
    check(raw(behind, GET % b"") == "", "no header")
    check(raw(behind, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n" + GET % b"") == "", "a wrong header")
    check(raw(plain, FIRST + GET % b"").startswith("HTTP/1.1 400"), "a header on a listener that expects none")
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", behind), 5) as stream:
        stream.sendall(FIRST[:10])
        check(stream.recv(1) == b"" and time.monotonic() - start < 3, "half a header is waited for")
    got = fields(raw(tcp, FIRST + GET % b""))
    check(got.get("host") == "h" and "x-forwarded-for" not in got, "a stream: the header is taken off", got)
    # Clients are told apart by it.
    limited = b"GET /limited HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    said = [raw(behind, second(client=f"203.0.113.{last}") + limited).split()[1] for last in (1, 1, 2)]
    check(said == ["200", "429", "200"], "a limit for each client", said)
    node.process.terminate()


def hosts():
    """A retry asks another endpoint, and by that endpoint's name."""
    broken, good = Mirror(breaks=True), Mirror()
    by_name = "localhost:" + broken.address.rsplit(":")[1]
    node = Node(f"""
[upstream.u]
endpoints = ["{by_name}", "{good.address}"]
health = {{ kind = "off" }}
balance = "round_robin"
retry_budget = {{ floor = 1000 }}
[route.r]
to = "u"
rewrite = {{ host = "upstream" }}
""", "hosts")
    wait_until(lambda: ask(node.at["gateway"], "GET", "/")[0] == 200 and broken.heads, 10, "both are asked")
    for _ in range(6):
        check(ask(node.at["gateway"], "GET", "/")[0] == 200, "the retry")
    for mirror, name in ((broken, by_name), (good, good.address)):
        check({fields("\r\n\r\n" + head)["host"] for head in mirror.heads} == {name}, name, mirror.heads)
    node.process.terminate()


def counted():
    mirror = Mirror()
    log = os.path.join(DIR, "access.log")
    node = Node(f"""
[gateway]
access_log = "{log}"
[upstream.u]
endpoints = "{mirror.address}"
health = {{ kind = "off" }}
[upstream.gone]
endpoints = "127.0.0.1:{free_port()}"
[route.u]
path = "/u"
to = "u"
[route.gone]
path = "/gone"
to = "gone"
[route.own]
path = "/own"
respond = {{ status = 418, body = "short and stout" }}
[route.old]
path = "/old"
redirect = "/new"
[route.limited]
path = "/limited"
respond = 200
rate_limit = {{ rate = "1/m", burst = 1 }}
""", "counted")
    for path in ("/u", "/own", "/own", "/old", "/limited", "/limited", "/nowhere", "/%zz"):
        ask(node.at["gateway"], "GET", path)
    raw(node.port, b"NONSENSE\r\n\r\n")
    metrics = node.admin("GET", "/metrics")[1].decode()
    for route, kind, count in (("own", "4xx", 2), ("old", "3xx", 1), ("limited", "2xx", 1), ("limited", "4xx", 1), ("", "4xx", 3), ("u", "2xx", 0)):
        line = f'quorate_gateway_own_answers_total{{route="{route}",class="{kind}"}} {count}\n'
        check(line in metrics, line, [one for one in metrics.splitlines() if "own_answers" in one and not one.endswith(" 0")])
    check('quorate_gateway_answers_total{route="u",class="2xx"} 1\n' in metrics, "an upstream's answer")
    check("quorate_gateway_bad_requests_total 2\n" in metrics, "ill-formed")
    # One object a line: its line break is all that tells it from the next.
    wait_until(lambda: b"/nowhere" in open(log, "rb").read(), what="the access log")
    lines = open(log, "rb").read().decode()
    check(lines.endswith("\n"), "the last line has no end")
    paths = [json.loads(line)["path"] for line in lines.splitlines()]
    check(paths[:7] == ["/u", "/own", "/own", "/old", "/limited", "/limited", "/nowhere"], "the access log has", paths)
    node.process.terminate()


def database(cities):
    """A MaxMind DB 2.0 of IPv4 networks (24 bits): the format's description, no data of anybody's."""
    def text(word):
        return bytes([0x40 | len(word)]) + word.encode()

    def table(pairs):
        return bytes([0xE0 | len(pairs)]) + b"".join(text(key) + value for key, value in pairs.items())

    data, nodes = b"", [[None, None]]
    for network, (north, east, country) in cities.items():
        place = {"latitude": b"\x68" + struct.pack(">d", north), "longitude": b"\x68" + struct.pack(">d", east)}
        at, bits = len(data), struct.unpack(">I", socket.inet_aton(network))[0]
        data += table({"country": table({"iso_code": text(country)}), "location": table(place)})
        node = 0
        for bit in range(24):
            side = bits >> (31 - bit) & 1
            if bit == 23:
                nodes[node][side] = ("data", at)
            elif nodes[node][side] is None:
                nodes.append([None, None])
                nodes[node][side] = len(nodes) - 1
            node = nodes[node][side]
    count = len(nodes)
    value = lambda one: count if one is None else count + 16 + one[1] if isinstance(one, tuple) else one
    tree = b"".join(value(side).to_bytes(3, "big") for node in nodes for side in node)
    meta = {"binary_format_major_version": b"\xa1\x02", "binary_format_minor_version": b"\xa0", "build_epoch": b"\x04\x02" + struct.pack(">I", 1_700_000_000),
            "database_type": text("Test-City"), "description": table({}), "languages": b"\0\4", "ip_version": b"\xa1\x04", "node_count": b"\xc2" + count.to_bytes(2, "big"), "record_size": b"\xa1\x18"}
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + table(meta)


BERLIN, TOKYO, NEW_YORK = (52.5, 13.4, "DE"), (35.7, 139.7, "JP"), (40.7, -74.0, "US")


def places():
    """The nearest site serves; another file takes effect without a restart, a broken one does not."""
    path = os.path.join(DIR, "places.mmdb")

    def write(content):
        with open(path + ".tmp", "wb") as file:
            file.write(content)
        os.rename(path + ".tmp", path)

    write(database({"203.0.113.0": (48.1, 11.6, "DE"), "198.51.100.0": (42.4, -71.1, "US")}))
    sites = {name: Backend(name, log=False) for name in ("berlin", "tokyo", "york")}
    at = dict(zip(sites, (BERLIN, TOKYO, NEW_YORK)))
    listed = ", ".join(f'{{ address = "{site.address}", location = [{at[name][0]}, {at[name][1]}] }}' for name, site in sites.items())
    port = free_port()
    toml = f"""
[gateway]
locations = "{path}"
[listener.behind]
bind = "127.0.0.1:{port}"
proxy_protocol = true
[upstream.u]
endpoints = [{listed}]
locality = "geographic"
slow_start = "0s"
health = {{ interval = "200ms", unhealthy_after = 1 }}
[route.r]
to = "u"
"""
    node = Node(toml, "places")

    def served(client, times=12):
        return {raw_body(port, client) for _ in range(times)}

    check(served("203.0.113.5") == {"berlin"}, "Munich", served("203.0.113.5"))
    check(served("198.51.100.5") == {"york"}, "Boston", served("198.51.100.5"))
    check(len(served("192.0.2.1", 60)) == 3, "who is nowhere is served by all")
    sites["berlin"].end()
    wait_until(lambda: served("203.0.113.5", 4) == {"york"}, 10, "the next nearest")
    sites["berlin"].start()
    wait_until(lambda: served("203.0.113.5", 4) == {"berlin"}, 20, "and back")
    write(database({"203.0.113.0": (34.7, 135.5, "JP")}))
    wait_until(lambda: served("203.0.113.5", 4) == {"tokyo"}, 10, "another file")
    write(b"no database")
    look = lambda: {one["about"]: one["what"] for one in json.loads(node.admin("GET", "/gateway/look")[1])["troubles"]}
    wait_until(lambda: "gateway.locations" in look(), 10, "a trouble")
    check("what was read before is still used" in look()["gateway.locations"] and path in look()["gateway.locations"], look())
    check(served("203.0.113.5") == {"tokyo"}, "the file before")
    write(database({"203.0.113.0": NEW_YORK}))
    wait_until(lambda: served("203.0.113.5", 4) == {"york"} and not look(), 10, "a good one again")
    node.process.terminate()


def many():
    """Ten thousand routes in the file: once every value's line was found by counting from the begin, twelve seconds."""
    mirror = Mirror()
    routes = "".join(f'[route.r{at}]\nhosts = "h{at % 100}.example"\npath = "/svc{at}/*"\nto = "u"\n' for at in range(10_000))
    node = Node(f'[upstream.u]\nendpoints = "{mirror.address}"\nhealth = {{ kind = "off" }}\n{routes}', "many")
    spent = node.cpu_seconds()
    check(spent < 5, "a start with 10,000 routes took", spent, "s of CPU")
    check(ask(node.at["gateway"], "GET", "/svc7777/x", headers={"Host": "h77.example"})[0] == 200, "one of them")
    node.process.terminate()
    return spent


def raw_body(port, client):
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.sendall(second(client=client) + GET % b"")
        got = b""
        while more := stream.recv(65536):
            got += more
        return got.split(b"\r\n\r\n", 1)[1].decode().split()[0]


def main():
    proxied()
    hosts()
    counted()
    places()
    spent = many()
    return f"10,000 routes up in {spent:.2f} s of CPU; PROXY headers of both versions, on HTTP and streams; a retry's Host; own answers counted; the nearest site, its file exchanged"


run(main)

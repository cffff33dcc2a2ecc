"""TLS at every place: passed through by server name, ended here for HTTP and for streams, to upstreams; files exchanged while connections stand."""
import os
import shutil
import socket
import ssl
import time

from certs import Authority, TlsServer, at, client, get
from common import Backend, Node, ask, check, free_port, run, wait_until


def fails(what):
    try:
        what()
    except (OSError, ssl.SSLError):
        return True
    return False


def passed_through(ours):
    """Nothing of ours is shown: the client sees the backend's own certificate."""
    a, b = (TlsServer(name, ours.sign(f"pass-{name}", f"{name}.example", f"www.{name}.example"), echo=True) for name in "ab")
    port, plain = free_port(), free_port()
    node = Node(f"""
[listener.pass]
bind = "127.0.0.1:{port}"
protocol = "tls"
head_timeout = "500ms"
[upstream.a]
endpoints = ["{a.address}"]
[upstream.b]
endpoints = ["{b.address}"]
[route.a]
listeners = "pass"
hosts = "a.example"
to = "a"
[route.b]
listeners = "pass"
hosts = ["*.b.example", "b.example"]
to = "b"
""", "pass")
    for name, wanted in (("a.example", b"a"), ("b.example", b"b"), ("www.b.example", b"b"), ("A.Example", b"a")):
        with client(port, ours, name) as stream:
            for word in (b"one", b"two" * 5000):
                stream.sendall(word)
                got = b""
                while len(got.replace(wanted + b":", b"")) < len(word):
                    got += stream.recv(65536)
                check(got.startswith(wanted + b":") and got.replace(wanted + b":", b"") == word, name, got[:50])
    check(fails(lambda: client(port, ours, "c.example")), "a name that no route has")
    # What is no TLS is closed at once, what does not come in time too, and nobody else waits for it.
    slow = socket.create_connection(("127.0.0.1", port), 5)
    slow.sendall(b"\x16\x03\x01\x02")
    http = socket.create_connection(("127.0.0.1", port), 5)
    http.sendall(b"GET / HTTP/1.1\r\n\r\n")
    check(http.recv(100) == b"", "plain HTTP")
    start = time.monotonic()
    check(slow.recv(100) == b"" and 0.2 < time.monotonic() - start < 3, "half a ClientHello", time.monotonic() - start)
    metrics = node.admin("GET", "/metrics")[1].decode()
    check('quorate_gateway_own_answers_total{route="",class="none"} 3' in metrics, "counted", [line for line in metrics.splitlines() if "own_answers" in line])
    node.process.terminate()


def ended_here(ours):
    """For HTTP and for streams; the certificate by name, also by the names that it has itself."""
    first, second = ours.sign("here-a", "a.example"), ours.sign("here-b", "b.example", "*.c.example")
    backend = Backend("x", log=False)
    echo = socket.create_server(("127.0.0.1", free_port()))
    web, tcp, old = free_port(), free_port(), free_port()
    shown = "certificates = [{ chain = \"%s\", key = \"%s\" }, { chain = \"%s\", key = \"%s\" }]" % (*first, *second)
    node = Node(f"""
[listener.web]
bind = "127.0.0.1:{web}"
{shown}
[listener.old]
bind = "127.0.0.1:{old}"
http2 = false
{shown}
[listener.tcp]
bind = "127.0.0.1:{tcp}"
protocol = "tcp"
{shown}
[upstream.u]
endpoints = ["{backend.address}"]
[upstream.echo]
endpoints = ["127.0.0.1:{echo.getsockname()[1]}"]
health = {{ kind = "off" }}
[route.web]
to = "u"
[route.tcp]
listeners = "tcp"
hosts = "b.example"
to = "echo"
""", "here")
    for name in ("a.example", "b.example", "x.c.example"):
        with client(web, ours, name) as stream:
            check(get(stream, name)[0] == 200, name)
    check(fails(lambda: client(web, ours, "other.example")), "the first certificate is shown, and is not good for it")

    def alpn(port):
        context = ssl.create_default_context(cafile=ours.pem)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="a.example") as stream:
            return stream.selected_alpn_protocol()

    check((alpn(web), alpn(old)) == ("h2", "http/1.1"), "http2 = false", alpn(web), alpn(old))
    with client(tcp, ours, "b.example") as stream:
        stream.sendall(b"through")
        inner, _ = echo.accept()
        inner.settimeout(5)
        check(inner.recv(100) == b"through", "a stream in the clear behind us")
        inner.sendall(b"back")
        check(stream.recv(100) == b"back", "and back")
    stream = client(tcp, ours, "a.example")
    check(fails(lambda: stream.recv(1)) or stream.recv(1) == b"", "no route for this name")

    # The file changes: new connections get the new certificate, the old one goes on.
    new = Authority("new")
    standing = client(web, ours, "a.example")
    pair = new.sign("here-new", "a.example")
    for there, mine in zip(pair, first):
        shutil.copy(there, mine + ".tmp")
        os.rename(mine + ".tmp", mine)
    wait_until(lambda: not fails(lambda: client(web, new, "a.example").close()), 10, "the new certificate")
    check(fails(lambda: client(web, ours, "a.example")), "the old one is shown no more")
    check(get(standing, "a.example")[0] == 200, "the connection from before goes on")
    # A broken one: the one before is still shown, and the node says so.
    with open(first[0], "w") as file:
        file.write("-----BEGIN CERTIFICATE-----\nnonsense\n")

    def trouble():
        return [one for one in node_look(node)["troubles"] if one["about"] == "certificates of listener web"]

    wait_until(trouble, 10, "a trouble")
    check("still shown" in trouble()[0]["what"] and first[0] in trouble()[0]["what"], trouble())
    check("still shown" in open(node.log).read(), "the log says so")
    with client(web, new, "a.example") as stream:
        check(get(stream, "a.example")[0] == 200, "with the one before")
    shutil.copy(pair[0], first[0])
    wait_until(lambda: not trouble(), 10, "the trouble's end")
    check(get(standing, "a.example")[0] == 200, "still")
    node.process.terminate()


def node_look(node):
    import json
    return json.loads(node.admin("GET", "/gateway/look")[1])


def to_upstreams(ours):
    """Own authority, own certificate, the name that must be there, and none of it."""
    inner = Authority("inner")
    us = ours.sign("us")
    good = TlsServer("good", inner.sign("up-good", "localhost", "good.example"))
    picky = TlsServer("picky", inner.sign("up-picky", "127.0.0.1"), clients=ours.pem)
    other = TlsServer("other", inner.sign("up-other", "other.example"))
    tables, port = "", free_port()
    if os.path.exists(at("late.pem")):
        os.remove(at("late.pem"))
    for name, server, tls in (
        ("plain", f"localhost:{good.port}", f'authorities = "{inner.pem}"'),
        ("named", good.address, f'authorities = "{inner.pem}", server_name = "good.example"'),
        ("own", picky.address, f'authorities = "{inner.pem}", chain = "{us[0]}", key = "{us[1]}"'),
        ("nobody", picky.address, f'authorities = "{inner.pem}"'),
        ("wrong", other.address, f'authorities = "{inner.pem}", server_name = "good.example"'),
        ("strange", good.address, f'authorities = "{ours.pem}", server_name = "good.example"'),
        ("system", good.address, 'server_name = "good.example"'),
        ("loose", other.address, "insecure = true"),
        ("late", good.address, f'authorities = "{at("late.pem")}", server_name = "good.example"'),
    ):
        tables += f'[upstream.{name}]\nendpoints = ["{server}"]\ntls = {{ {tls} }}\nhealth = {{ path = "/ok", interval = "100ms" }}\n'
        tables += f'[route.{name}]\npath = "/{name}/*"\nto = "{name}"\nrewrite = {{ path = "/{{rest}}", host = "upstream" }}\n'
    tables += f'[listener.tcp]\nbind = "127.0.0.1:{port}"\nprotocol = "tcp"\n[route.tcp]\nlisteners = "tcp"\nto = "named"\n'
    node = Node(tables, "up")

    def said(name):
        status, body = ask(node.at["gateway"], "GET", f"/{name}/x")
        return (status, *body.decode().split()) if status == 200 else (status,)

    wait_until(lambda: said("plain")[0] == 200, 10, "a name that is looked up")
    check(said("plain") == (200, "good", "localhost", f"localhost:{good.port}", "-"), said("plain"))
    check(said("named") == (200, "good", "good.example", good.address, "-"), said("named"))
    check(said("own") == (200, "picky", "None", picky.address, "us"), said("own"))
    check(said("loose")[:2] == (200, "other"), said("loose"))
    for name in ("nobody", "wrong", "strange", "system", "late"):
        check(said(name)[0] in (502, 503), name, said(name))
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        check(get(stream, "h")[1].startswith("good good.example h"), "a stream in the clear, over TLS to the upstream")
    look = node_look(node)
    troubles = {one["about"]: one["what"] for one in look["troubles"]}
    check("ANY certificate is believed" in troubles["TLS to upstream loose"], troubles)
    check("ANY certificate is believed" in open(node.log).read(), "the log warns")
    check("late.pem" in troubles["TLS to upstream late"], troubles)
    # Checks go over TLS too.
    healths = {one["name"]: [each["health"] for each in one["endpoints"]] for one in look["upstreams"]}
    wait_until(lambda: {one["name"]: one["endpoints"][0]["health"] for one in node_look(node)["upstreams"]}.items()
               >= {"named": "passing", "own": "passing", "loose": "passing", "wrong": "suspect", "strange": "suspect"}.items(), 10, f"checks: {healths}")
    # The file comes: used from then on, without a restart.
    shutil.copy(inner.pem, at("late.pem"))
    wait_until(lambda: said("late")[:2] == (200, "good"), 20, "an authority that comes later")
    check("TLS to upstream late" not in {one["about"] for one in node_look(node)["troubles"]}, "its trouble is over")
    node.process.terminate()


def main():
    ours = Authority("ours")
    passed_through(ours)
    ended_here(ours)
    to_upstreams(ours)
    return "passed through by name; ended for HTTP and streams, exchanged under a standing connection; to upstreams with own authority and certificate"


run(main)

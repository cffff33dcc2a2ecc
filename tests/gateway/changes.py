"""What a gateway stands on changes under it (RELIABILITY row 27): the address behind a name, the address of an instance, its own certificates."""
import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import time

from common import DIR, Backend, Caller, Client, Node, ask, check, free_port, parts, request, run, skip, upstream

said = []

# What the node's libc says of names, read from a file each time; "-" is a name that is gone.
NAMES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    char name[256], address[64];
    FILE *file = fopen(getenv("NAMES_FILE"), "r");
    while (file && node && fscanf(file, "%255s %63s", name, address) == 2) {
        if (strcmp(name, node) == 0) {
            fclose(file);
            return strcmp(address, "-") == 0 ? EAI_NONAME : real(address, service, hints, found);
        }
    }
    if (file) fclose(file);
    return real(node, service, hints, found);
}
"""


class Watched:
    """A load that remembers who answered last, and what failed."""

    def __init__(self, port, clients=8):
        self.recent, self.bad, self.count, self.stop = {}, [], 0, False
        self.task = asyncio.create_task(Caller.play(port, clients, lambda: None if self.stop else (request(), None), self.told))

    def told(self, _, status, backend, body):
        self.count += 1
        self.recent[backend] = time.monotonic()
        if status != 200:
            self.bad.append((status, body[:100]))

    async def until_only(self, name, seconds):
        """Waits until for a while nobody else has answered; how long that took."""
        start = time.monotonic()
        while not all((who == name) == (at > time.monotonic() - 0.4) for who, at in self.recent.items()) or name not in self.recent:
            check(time.monotonic() < start + seconds, f"not only {name} after {seconds} s:", {who: round(time.monotonic() - at, 2) for who, at in self.recent.items()})
            await asyncio.sleep(0.02)
        return time.monotonic() - start - 0.4

    async def end(self):
        self.stop = True
        await self.task
        check(not self.bad, f"{len(self.bad)} of {self.count} failed:", self.bad[:3])


async def names():
    source, library, file = (os.path.join(DIR, name) for name in ("names.c", "names.so", "names.txt"))
    with open(source, "w") as out:
        out.write(NAMES)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def tell(address):
        with open(file + ".new", "w") as out:
            out.write(f"shop.internal {address}\n")
        os.rename(file + ".new", file)

    first = Backend("first", host="127.0.0.1", log=False)
    second = Backend("second", port=first.port, host="127.0.0.2", log=False)
    tell("127.0.0.1")
    text = f'[upstream.u]\nendpoints = ["shop.internal:{first.port}"]\n[route.r]\nto = "u"\n'
    node = Node(text, "names", env={"LD_PRELOAD": library, "NAMES_FILE": file})
    limit = time.monotonic() + 10
    while (await Client(node.port).ask())[0] != 200:
        check(time.monotonic() < limit, "the name is not found")
        await asyncio.sleep(0.05)
    load = Watched(node.port)
    await load.until_only("first", 5)
    tell("127.0.0.2")
    took = await load.until_only("second", 20)
    # The resolver does not know the name for a while: what was known stays.
    tell("-")
    await asyncio.sleep(12)
    check("cannot be looked up" in open(node.log).read(), "nobody says that the name cannot be looked up")
    await load.end()
    said.append(f"a name's address changed, then the name went: {load.count} requests, none failed, followed after {took:.1f} s")


async def instances():
    first, second = Backend("here", log=False), Backend("there", log=False)
    node = Node('[upstream.shop]\nservice = "shop"\n[route.shop]\nto = "shop"\n', "instances")

    def register(one):
        body = {"ID": "shop", "Name": "shop", "Address": "127.0.0.1", "Port": one.port}
        check(node.consul("PUT", "/v1/agent/service/register", body)[0] == 200, "register")

    register(first)
    load, late = Watched(node.port), []
    for at in range(20):
        await asyncio.sleep(0.1)
        one, other = (second, first) if at % 2 == 0 else (first, second)
        await asyncio.to_thread(register, one)
        status, fields, _ = await Client(node.port).ask()
        check(status == 200 and fields["x-backend"] == one.name, "right after it moved:", status, fields.get("x-backend"))
    await load.end()
    said.append(f"an instance moved 20 times: {load.count} requests, none failed, the next one went there each time")


def certificate(name, days):
    chain, key = os.path.join(DIR, f"{name}.pem"), os.path.join(DIR, f"{name}.key")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*words, "-days", str(days), "-keyout", key, "-out", chain], check=True, capture_output=True)
    with open(chain) as file:
        return chain, key, ssl.PEM_cert_to_DER_cert(file.read())


def shown(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        return tls.getpeercert(True)


async def certificates():
    backend, port = Backend("behind", log=False), free_port()
    old, new, soon = certificate("old", 300), certificate("new", 300), certificate("soon", 5)
    chain, key = os.path.join(DIR, "chain.pem"), os.path.join(DIR, "key.pem")

    def put(one):
        for source, target in ((one[1], key), (one[0], chain)):
            shutil.copy(source, target + ".new")
            os.rename(target + ".new", target)

    put(old)
    listener = f'[listener.tls]\nbind = "127.0.0.1:{port}"\ncertificates = [{{ chain = "{chain}", key = "{key}" }}]\n'
    node = Node(upstream("u", [backend]) + '[route.r]\nto = "u"\n' + listener, "certificates")
    check(shown(port) == old[2], "the first certificate")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    kept = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="localhost")

    def through_kept():
        kept.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        check(kept.recv(65536).startswith(b"HTTP/1.1 200"), "a connection from before")

    async def until(wanted, what):
        start = time.monotonic()
        while shown(port) != wanted:
            check(time.monotonic() < start + 8, what, "is not shown after 8 s")
            await asyncio.sleep(0.05)
        return time.monotonic() - start

    through_kept()
    put(new)
    took = await until(new[2], "the new certificate")
    through_kept()
    # Nonsense is not taken, and said.
    with open(chain, "w") as file:
        file.write("nonsense")
    await asyncio.sleep(2.5)
    check(shown(port) == new[2], "nonsense was taken for a certificate")
    check("certificates of listener tls" in open(node.log).read(), "nobody says that the certificate cannot be read")
    put(soon)
    await until(soon[2], "the certificate after the nonsense")
    limit = time.monotonic() + 5
    while "expires in" not in open(node.log).read():
        check(time.monotonic() < limit, "nobody says that the certificate expires in five days")
        await asyncio.sleep(0.05)
    look = ask(node.at["admin"], "GET", "/gateway/look")[1].decode()
    check("expires in" in look, "what is wrong, for people:", look[:1500])
    put(new)
    await until(new[2], "the certificate that lasts")
    await asyncio.sleep(1.5)
    check("expires in" not in ask(node.at["admin"], "GET", "/gateway/look")[1].decode(), "warned of one that is gone")
    said.append(f"certificates: a new one shown after {took:.1f} s, nonsense refused, one of five days warned of; a connection from before goes on")


async def main():
    if missing := [name for name in ("cc", "openssl") if not shutil.which(name)]:
        skip("no " + ", ".join(missing))
    await parts(names, instances, certificates)
    return "; ".join(said)


run(main)

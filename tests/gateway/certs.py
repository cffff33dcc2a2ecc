"""Certificates for the cases, by openssl, and servers that speak TLS with them (Python's ssl: not ours)."""
import os
import shutil
import socket
import ssl
import subprocess
import threading

from common import DIR, free_port, skip

if not shutil.which("openssl"):
    skip("no openssl")


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)


def at(name):
    return os.path.join(DIR, name)


class Authority:
    """Signs certificates; its own is in `pem`."""

    def __init__(self, name):
        os.makedirs(DIR, exist_ok=True)
        self.pem, self.key = at(f"{name}.pem"), at(f"{name}.key")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self.key, "-out", self.pem)

    def sign(self, file, *names):
        """A certificate for these names: the files of chain and key."""
        chain, key, request, more = at(f"{file}.pem"), at(f"{file}.key"), at(f"{file}.csr"), at(f"{file}.ext")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={file}", "-keyout", key, "-out", request)
        kinds = [f"IP:{name}" if name.replace(".", "").isdigit() else f"DNS:{name}" for name in names]
        with open(more, "w") as text:
            text.write("basicConstraints=CA:FALSE\n" + (f"subjectAltName={','.join(kinds)}\n" if kinds else ""))
        openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-days", "2", "-CAcreateserial", "-extfile", more, "-out", chain)
        return chain, key


class TlsServer:
    """Answers every request with its name, the name that was asked for, the Host, and who the client is by its certificate."""

    def __init__(self, name, pair, clients=None, echo=False, port=None):
        self.name, self.port, self.asked, self.echo, self.accepted = name, port or free_port(), None, echo, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        self.context.sni_callback = lambda stream, asked, context: setattr(stream, "asked", asked)
        if clients:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(clients)
        self.socket = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def accept(self):
        while True:
            try:
                stream, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        try:
            stream.settimeout(30)
            with self.context.wrap_socket(stream, server_side=True) as tls:
                self.accepted += 1
                asked, who = getattr(tls, "asked", None), tls.getpeercert()
                who = dict(pair[0] for pair in who["subject"])["commonName"] if who else "-"
                while self.echo and (data := tls.recv(65536)):
                    tls.sendall(self.name.encode() + b":" + data)
                while not self.echo and (head := read_head(tls)):
                    host = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("host: "))
                    body = f"{self.name} {asked} {host} {who}"
                    tls.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        except (OSError, ssl.SSLError):
            pass


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        got = stream.recv(4096)
        if not got:
            return ""
        head += got
    return head.decode("latin-1")


def client(port, authority=None, name=None, wrap=None):
    """A TLS connection to a port of this machine; its certificate must be good for `name` by `authority`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        context.load_verify_locations(authority.pem)
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = socket.create_connection(("127.0.0.1", port), 20)
    if wrap:
        stream.sendall(wrap)
    return context.wrap_socket(stream, server_hostname=name)


def get(stream, host, path="/"):
    """One request: status and body. The connection stays."""
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        got = stream.recv(65536)
        if not got:
            raise ConnectionError(f"closed after {head!r}")
        head += got
    head, _, body = head.partition(b"\r\n\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])}
    while len(body) < int(fields.get("content-length", 0)):
        body += stream.recv(65536)
    return int(head.split()[1]), body.decode()

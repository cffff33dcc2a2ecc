"""curl, nghttp, h2load and wrk as their users run them."""
import os
import re
import shutil
import subprocess

from common import DIR, Backend, Node, check, run, skip, upstream


def play(*words, text=False):
    try:
        return subprocess.run(words, capture_output=True, text=text, timeout=30)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not done within 30 s: {' '.join(words)}") from None


def said(*words):
    done = play(*words, text=True)
    check(done.returncode == 0, " ".join(words), done.returncode, done.stdout[-500:], done.stderr[-500:])
    return done.stdout


def main():
    missing = [name for name in ("curl", "nghttp", "h2load", "wrk") if not shutil.which(name)]
    if missing:
        skip("no " + ", ".join(missing))
    backends = [Backend(name, log=False) for name in "abc"]
    node = Node(upstream("u", backends) + '[route.r]\nto = "u"\n[route.gone]\npath = "/old/*"\nredirect = "/new/{rest}"\n')
    url = f"http://127.0.0.1:{node.port}"
    big = os.path.join(DIR, "big")
    with open(big, "wb") as file:
        file.write(os.urandom(3 << 20))
    for version in ("--http1.1", "--http2-prior-knowledge", "--http1.0"):
        check(said("curl", "-sS", "--fail", version, url + "/")[0] in "abc", version)
        check("name" in said("curl", "-sS", "--fail", version, "-d", "name=value", url + "/"), version, "a form")
        back = play("curl", "-sS", "--fail", version, "-T", big, url + "/")
        check(back.stdout[2:] == open(big, "rb").read(), version, "3 MiB there and back:", back.returncode, len(back.stdout), back.stderr)
    chunked = ["curl", "-sS", "--fail", "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "--data-binary", f"@{big}", url + "/"]
    check(len(play(*chunked).stdout) == 2 + (3 << 20), "chunked, with 100-continue")
    check(said("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", url + "/old/x?y=1").startswith("308 "), "a redirect")
    check(said("curl", "-sS", "-I", "-o", "/dev/null", "-w", "%{http_code}", url + "/") == "200", "HEAD")
    check(said("nghttp", "-n", "-m", "20", "-v", url + "/").count(":status: 200") == 20, "nghttp")
    loaded = said("h2load", "-n", "2000", "-c", "8", "-m", "16", url + "/")
    check("2000 succeeded, 0 failed, 0 errored" in loaded, loaded)
    loaded = said("h2load", "--h1", "-n", "2000", "-c", "8", url + "/")
    check("2000 succeeded, 0 failed, 0 errored" in loaded, loaded)
    loaded = said("wrk", "-t1", "-c32", "-d2", url + "/")
    check("Non-2xx" not in loaded and "Socket errors" not in loaded, loaded)
    rate = re.search(r"Requests/sec:\s+(\S+)", loaded)
    return f"curl (HTTP/1.0, 1.1, 2), nghttp, h2load, wrk ({rate[1]}/s before backends in Python)"


run(main)

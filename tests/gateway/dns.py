"""`dig` at the DNS door: every form of name, types, order, truncation and TCP, what is refused, and changes at once."""
import re
import shutil
import subprocess
import time

from common import Node, check, run, skip

MANY = 200


def main():
    if not shutil.which("dig"):
        skip("no dig")
    node = Node("")
    host, port = node.at["dns"].rsplit(":", 1)

    def dig(*words):
        """Status, flags, records of the answer as lists of words, and all that was said."""
        done = subprocess.run(["dig", f"@{host}", "-p", port, "+tries=2", "+time=3", *words], capture_output=True, text=True, timeout=30)
        check(done.returncode == 0, "dig", *words, done.stdout, done.stderr)
        text = done.stdout
        status = re.search(r"status: (\w+)", text)
        flags = re.search(r"flags: ([\w ]*);", text)
        answer = re.search(r";; ANSWER SECTION:\n(.*?)\n\n", text, re.S)
        records = [line.split() for line in answer[1].splitlines()] if answer else []
        return status[1], set(flags[1].split()), records, text

    def data(*words):
        return sorted(record[4] if record[3] != "SRV" else " ".join(record[4:]) for record in dig(*words)[2])

    def put(path, body=None):
        status, text = node.consul("PUT", path, body)
        check(status == 200, path, status, text)

    def register(ident, name, address, port, **more):
        put("/v1/agent/service/register", {"ID": ident, "Name": name, "Address": address, "Port": port} | more)

    register("web-1", "web", "10.0.0.1", 8001, Tags=["blue"], Weights={"Passing": 5, "Warning": 1}, Check={"CheckID": "w1", "TTL": "60s", "Status": "passing"})
    register("web-2", "web", "10.0.0.2", 8002, Tags=["green"])
    register("web-6", "web", "fd00::6", 8006, Tags=["green"])
    register("named", "named", "db.example.com", 5432)

    # A, AAAA, any form of the name, whatever its case.
    for name in ("web.service.consul", "web.service.dc1.consul", "WEB.Service.Consul", "_web._tcp.service.consul"):
        check(data(name, "A") == ["10.0.0.1", "10.0.0.2"], name, data(name, "A"))
        check(data(name, "AAAA") == ["fd00::6"], name, data(name, "AAAA"))
    status, flags, _, _ = dig("web.service.consul", "A")
    check(status == "NOERROR" and "aa" in flags and "ra" not in flags and "tc" not in flags, status, flags)
    # Tags, before the name and in RFC 2782's second label.
    check(data("blue.web.service.consul", "A") == ["10.0.0.1"], "a tag")
    check(data("_web._green.service.consul", "A") == ["10.0.0.2"], "a tag by RFC 2782")
    check(data("_web._green.service.consul", "AAAA") == ["fd00::6"], "a tag by RFC 2782, AAAA")
    # SRV: priority, weight, port and a target whose address stands beside it.
    srv = data("_web._tcp.service.consul", "SRV")
    check([one.split()[:3] for one in srv] == [["1", "1", "8002"], ["1", "1", "8006"], ["1", "5", "8001"]], srv)
    text = dig("_web._tcp.service.consul", "SRV")[3]
    check("ADDITIONAL SECTION" in text and "10.0.0.1" in text and "fd00::6" in text, text)
    for target, wanted in ((one.split()[3], one.split()[2]) for one in srv):
        kind = "AAAA" if wanted == "8006" else "A"
        check(data(target, kind) == [{"8001": "10.0.0.1", "8002": "10.0.0.2", "8006": "fd00::6"}[wanted]], target)
    check(data("named.service.consul", "A") == ["db.example.com."], "a name that others resolve is a CNAME")
    check(data("node1.node.consul", "A") == ["127.0.0.1"], "a node")
    # The order is drawn: within 40 questions both come first.
    first = {dig("web.service.consul", "A")[2][0][4] for _ in range(40)}
    check(first == {"10.0.0.1", "10.0.0.2"}, "always the same comes first:", first)
    # What there is not: NXDOMAIN and NODATA, both with the zone's SOA; other zones and transfers are refused.
    for name, kind, wanted in [
        ("nothing.service.consul", "A", "NXDOMAIN"),
        ("red.web.service.consul", "A", "NXDOMAIN"),
        ("web.service.dc2.consul", "A", "NXDOMAIN"),
        ("web.service.consul", "TXT", "NOERROR"),
        ("blue.web.service.consul", "AAAA", "NOERROR"),
        ("service.consul", "A", "NOERROR"),
    ]:
        status, flags, records, text = dig(name, kind)
        check(status == wanted and not records and re.search(r"\sSOA\s", text) and "aa" in flags, name, kind, status, text)
    for words in (["example.com", "A"], ["consul.example.com", "A"], ["web.service.consul", "A", "CH"], [".", "NS"]):
        status, flags, records, _ = dig(*words)
        check(status == "REFUSED" and not records and "ra" not in flags, *words, status, records)
    check("Transfer failed" in subprocess.run(["dig", f"@{host}", "-p", port, "consul", "AXFR"], capture_output=True, text=True).stdout, "AXFR")
    check(dig("web.service.consul", "A", "+edns=1", "+noednsneg")[0] == "BADVERS", "EDNS version 1")
    # Healthy instances only, at once in both directions.
    put("/v1/agent/check/fail/w1")
    check(data("web.service.consul", "A") == ["10.0.0.2"], "a critical instance is told:", data("web.service.consul", "A"))
    check(dig("blue.web.service.consul", "A")[0] == "NXDOMAIN", "the only instance of a tag is critical")
    put("/v1/agent/check/warn/w1")
    srv = [one.split()[:3] for one in data("web.service.consul", "SRV")]
    check(["1", "1", "8001"] in srv, "who warns is told with its own weight:", srv)
    put("/v1/agent/check/pass/w1")
    check(data("web.service.consul", "A") == ["10.0.0.1", "10.0.0.2"], "who passes again")
    put("/v1/agent/service/deregister/web-2")
    check(data("web.service.consul", "A") == ["10.0.0.1"], "a deregistered instance")
    # An answer that is too long by UDP: cut, marked, whole by TCP; dig asks again by itself.
    for at in range(MANY):
        register(f"many-{at}", "many", f"10.1.{at // 100}.{at % 100}", 80)
    for size, words in [(512, ["+noedns"]), (1232, ["+bufsize=1232"])]:
        status, flags, records, text = dig("many.service.consul", "A", "+ignore", *words)
        length = int(re.search(r"MSG SIZE\s+rcvd: (\d+)", text)[1])
        check("tc" in flags and 0 < len(records) < MANY and length <= size, size, flags, len(records), length)
    status, flags, records, text = dig("many.service.consul", "A", "+noedns")
    check(len(records) == MANY and "tc" not in flags and "(TCP)" in text, "asked again by TCP:", len(records), flags)
    check(len(dig("many.service.consul", "SRV", "+tcp")[2]) == MANY, "SRV by TCP")
    check("tc" not in dig("many.service.consul", "A", "+bufsize=4096")[1], "a client on this machine that takes as much")
    # Several questions over one connection.
    twice = dig("+tcp", "+keepopen", "web.service.consul", "A", "many.service.consul", "A")[3]
    check(twice.count("status: NOERROR") == 2, twice)
    start = time.monotonic()
    for at in range(20):
        register("quick", "quick", f"10.2.0.{at}", 80)
        check(data("quick.service.consul", "A") == [f"10.2.0.{at}"], "what was just registered")
    each = (time.monotonic() - start) / 20 * 1000
    return f"A, AAAA, SRV, tags, RFC 2782, CNAME, nodes; NXDOMAIN, NODATA, REFUSED, BADVERS; cut at 512 and 1232 and whole by TCP; changes at once ({each:.0f} ms each with dig)"


run(main)

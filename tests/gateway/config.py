"""Configuration: schemas, history and rollback through `quorate config`, and what does not fit refused in Consul's and etcd's own forms."""
import base64
import json
import os
import shutil
import subprocess

from common import BIN, Node, check, processes, run, wait_until


def main():
    node = Node("", flags=("--etcd-port", "0"))
    admin = node.at["admin"]

    def quorate(*words, given=None, fails=None):
        done = subprocess.run([BIN, "config", *words, "--admin", admin], input=given, capture_output=True, text=True, timeout=30)
        said = done.stdout + done.stderr
        check((done.returncode != 0) == (fails is not None) and (fails or "") in said, words, done.returncode, said)
        return done.stdout

    def kv(method, path, body=None):
        status, text = node.consul(method, f"/v1/{path}", body)
        return status, text.decode()

    check(kv("PUT", "kv/flags/old", "true") == (200, "true"), "before")
    check("no keys" in quorate("prefixes"), "none yet")
    quorate("set", "flags/a", "true", fails="below no prefix of configuration")
    quorate("keep", "flags/", "--schema", "-", given='{"type": "string"}', fails='"flags/old" does not fit')
    quorate("keep", "flags/", "--schema", "-", given='{"type": "boolean", "format": "x"}', fails='"format" is not available')
    quorate("keep", "flags/", "--schema", "-", given='{"type": "boolean"}')
    check("flags/" in quorate("prefixes"), "told")
    # Who does not know of it is told why.
    status, said = kv("PUT", "kv/flags/a", "maybe")
    check(status == 400 and "flags/a" in said and "no JSON" in said, status, said)
    ops = [{"KV": {"Verb": "set", "Key": key, "Value": base64.b64encode(b"1").decode()}} for key in ("x", "flags/a")]
    status, said = kv("PUT", "txn", json.dumps(ops))
    check(status == 409 and json.loads(said)["Errors"][0]["OpIndex"] == 1, status, said)
    check(kv("GET", "kv/x")[0] == 404 and kv("GET", "kv/flags/a")[0] == 404, "nothing was done")
    # What fits is remembered, with who did it.
    quorate("set", "flags/a", "true", "--by", "maria")
    quorate("set", "flags/a", "1", fails="boolean is wanted")
    check(kv("PUT", "kv/flags/a?flags=7", "false") == (200, "true"), "by Consul")
    check(kv("DELETE", "kv/flags/old") == (200, "true"), "a deletion needs no schema")
    turns = json.loads(quorate("history", "flags/", "--json"))
    known = [(one["number"], one["key"], one["who"], one["from"], one["to"]) for one in turns]
    wanted = [(3, "flags/old", "consul 127.0.0.1", "true", None), (2, "flags/a", "consul 127.0.0.1", "true", "false"), (1, "flags/a", "admin maria", None, "true")]
    check(known == wanted, known)
    check("admin maria  flags/a: (not there) -> true" in quorate("history", "flags/a"), "for people")
    quorate("rollback", "flags/a", "--to", "1", "--by", "paul")
    found = json.loads(kv("GET", "kv/flags/a")[1])[0]
    check(base64.b64decode(found["Value"]) == b"true" and found["Flags"] == 7, found)
    quorate("set", "flags/a", "false", "--index", "1", fails="changed meanwhile")
    quorate("rollback", "flags/old", "--to", "3")
    quorate("rollback", "flags/a", "--to", "99", fails="no change 99")
    # etcd's keys, in its own words.
    quorate("keep", "app/", "--space", "etcd", "--schema", "-", given='{"type": "object", "required": ["port"]}')
    quorate("set", "app/shop", '{"port": 1}', "--space", "etcd")
    etcdctl, more = shutil.which("etcdctl"), ""
    if etcdctl:
        environment = os.environ | {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": node.at["etcd"]}

        def ctl(*words, given=None):
            done = subprocess.run([etcdctl, *words], env=environment, input=given, capture_output=True, text=True, timeout=30)
            return done.returncode, done.stdout + done.stderr

        code, said = ctl("put", "app/shop", "{}")
        check(code != 0 and "etcdserver: the value of" in said and "is missing" in said, said)
        code, said = ctl("txn", given='\n\nput app/shop {}\nput other 1\n\n\n')
        check(code != 0 and "is missing" in said, said)
        check(ctl("get", "other") == (0, ""), "nothing was done")
        check(ctl("put", "app/shop", '{"port": 2}')[0] == 0, "what fits")
        check(ctl("get", "app/shop", "--print-value-only")[1] == '{"port": 2}\n', "is there")
        turns = json.loads(quorate("history", "--space", "etcd", "--json"))
        check([(one["who"], one["to"]) for one in turns] == [("etcd", '{"port": 2}'), ("etcd root", '{"port": 1}')], turns)
        quorate("rollback", "app/shop", "--to", str(turns[-1]["number"]), "--space", "etcd")
        check(ctl("get", "app/shop", "--print-value-only")[1] == '{"port": 1}\n', "rolled back")
        more = ", in etcd too"
    check("app/shop" in quorate("list", "--space", "etcd") and "flags/a = true" in quorate("list"), "listed")
    # It is in the log.
    node.process.kill()
    node.process.wait()
    home = os.path.dirname(node.log)
    log = open(node.log, "w")
    words = [BIN, "up", "--print-ready", "--data", os.path.join(home, "data"), *(f"--{door}-port=0" for door in ("redis", "gateway", "consul", "dns", "kafka", "etcd")), "--admin-bind", admin]
    again = subprocess.Popen(words, stdout=log, stderr=log)
    processes.append(again)
    wait_until(lambda: "ready " in open(node.log).read() or check(again.poll() is None, open(node.log).read()), 30, "the node again")
    check(len(json.loads(quorate("history", "flags/", "--json"))) == 4, "history survives")
    quorate("set", "flags/a", "1", fails="boolean is wanted")
    quorate("forget", "flags/")
    quorate("set", "flags/a", "1", fails="below no prefix")
    return f"values that do not fit are refused through every door{more}, who changed what is remembered and goes back"


run(main)

"""etcdctl 3.4 (Debian's etcd-client) through what its users do. etcdctl.py HOST PORT; exit code 77 where there is none."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

host, port = sys.argv[1], sys.argv[2]
program = shutil.which("etcdctl")
if not program:
    print("skipped: no etcdctl")
    sys.exit(77)
environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": "%s:%s" % (host, port)}


def start(*words, stdin=subprocess.DEVNULL):
    return subprocess.Popen([program, *words], env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ctl(*words, fails=None, given=None):
    process = start(*words, stdin=subprocess.PIPE if given else subprocess.DEVNULL)
    out, err = process.communicate(given, timeout=30)
    print("$ etcdctl", *words, "->", process.returncode, repr(out), err if process.returncode else "")
    if fails is None:
        assert process.returncode == 0, err
    else:
        assert process.returncode != 0 and fails in err, (out, err)
    return out


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


ctl("del", "--prefix", "")
# Keys and revisions.
ctl("put", "a", "1")
assert ctl("put", "a", "2", "--prev-kv") == "OK\na\n1\n"
ctl("put", "b", "3")
assert ctl("get", "a") == "a\n2\n"
assert ctl("get", "--prefix", "", "--keys-only").split() == ["a", "b"]
assert ctl("get", "--prefix", "", "--limit", "1", "--order", "DESCEND", "--print-value-only") == "3\n"
fields = dict(line.split(" : ") for line in ctl("get", "a", "-w", "fields").splitlines() if " : " in line)
revision, changed = int(fields['"Revision"']), int(fields['"ModRevision"'])
assert ctl("get", "a", "--rev", str(changed - 1)) == "a\n1\n"
ctl("get", "a", "--rev", str(revision + 5), fails="required revision is a future revision")
txn = 'value("b") = "3"\nversion("a") > "1"\n\nput c 5\nget b\n\nput d 6\n\n'
assert ctl("txn", given=txn) == "SUCCESS\n\nOK\n\nb\n3\n"
assert ctl("txn", given='version("nothing") > "0"\n\nput d 6\n\ndel c\n\n') == "FAILURE\n\n1\n"
assert ctl("del", "b", "--prev-kv") == "1\nb\n3\n"
# A watch of what was, then of what comes.
watch = start("watch", "--prefix", "", "--rev", str(changed), "--prev-kv")
ctl("put", "w", "last")
said = []
while said[-2:] != ["w", "last"]:
    line = watch.stdout.readline()
    assert line, "the watch ended"
    said.append(line.rstrip("\n"))
watch.kill()
events = ["PUT", "a", "1", "a", "2", "PUT", "b", "3", "PUT", "c", "5", "DELETE", "c", "5", "c", "", "DELETE", "b", "3", "b", ""]
assert said == events + ["PUT", "w", "last"], said
# Compaction, and whoever asks for what is gone.
revision += 4
ctl("compact", str(revision))
ctl("compact", str(revision), fails="required revision has been compacted")
ctl("get", "a", "--rev", "2", fails="required revision has been compacted")
ctl("watch", "a", "--rev", "2", fails="watch is canceled by the server")
# Leases.
lease = ctl("lease", "grant", "60").split()[1]
ctl("put", "leased", "x", "--lease", lease)
assert "attached keys([leased])" in ctl("lease", "timetolive", lease, "--keys")
assert lease in ctl("lease", "list")
ctl("lease", "keep-alive", "--once", lease)
assert "revoked" in ctl("lease", "revoke", lease)
assert ctl("get", "leased") == ""
ctl("lease", "revoke", lease, fails="requested lease not found")
short = ctl("lease", "grant", "2").split()[1]
ctl("put", "short", "x", "--lease", short)
watch = start("watch", "short")
until(lambda: ctl("get", "short") == "")
assert watch.stdout.readline() == "DELETE\n"
watch.kill()
# Locks and elections.
holder = start("lock", "mutex", "--", "sleep", "1")
until(lambda: ctl("get", "--prefix", "mutex/", "--keys-only").strip() != "")
began = time.monotonic()
second = start("lock", "mutex", "--", "echo", "mine")
assert second.communicate(timeout=30)[0] == "mine\n" and holder.wait(timeout=30) == 0
assert time.monotonic() - began > 0.3, "it waited for the first"
leader = start("elect", "office", "alice")
assert leader.stdout.readline().startswith("office/") and leader.stdout.readline() == "alice\n"
listener = start("elect", "-l", "office")
assert listener.stdout.readline().startswith("office/") and listener.stdout.readline() == "alice\n"
rival = start("elect", "office", "bob")
leader.send_signal(2)
leader.wait(timeout=30)
assert rival.stdout.readline().startswith("office/") and rival.stdout.readline() == "bob\n"
rival.send_signal(2)
rival.wait(timeout=30)
listener.kill()
# The server.
assert "3.4" in ctl("endpoint", "status")
ctl("endpoint", "health")
ctl("endpoint", "hashkv")
assert "started" in ctl("member", "list")
ctl("alarm", "list")
ctl("defrag")
with tempfile.TemporaryDirectory() as home:
    path = os.path.join(home, "copy")
    ctl("snapshot", "save", path)
    with open(path, "rb") as copy:
        assert copy.read(16) == b"quorate-etcd-v1\n"
# Users: nobody is asked until somebody says so.
try:
    ctl("role", "add", "reader")
    ctl("role", "grant-permission", "reader", "read", "a", "c")
    ctl("user", "add", "root:rootpw")
    ctl("user", "add", "u:pw")
    ctl("user", "grant-role", "u", "reader")
    ctl("auth", "enable")
    ctl("get", "a", fails="user name is empty")
    assert ctl("--user", "u:pw", "get", "a") == "a\n2\n"
    ctl("--user", "u:pw", "get", "a", "--prefix", fails=None)
    ctl("--user", "u:pw", "get", "--from-key", "a", fails="permission denied")
    ctl("--user", "u:pw", "put", "a", "x", fails="permission denied")
    ctl("--user", "u:wrong", "get", "a", fails="authentication failed")
    ctl("--user", "u:pw", "user", "list", fails="permission denied")
finally:
    for words in [["auth", "disable"], ["user", "delete", "u"], ["user", "delete", "root"], ["role", "delete", "reader"], ["role", "delete", "root"]]:
        process = start("--user", "root:rootpw", *words) if words[0] == "auth" else start(*words)
        process.communicate(timeout=30)
ctl("get", "a")
ctl("del", "--prefix", "")
print("all of etcdctl's works")

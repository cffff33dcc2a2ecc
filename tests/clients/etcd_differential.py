"""The same random stream of etcd operations to a real etcd and to the server: all answers and the order of watch events must be equal.

etcd_differential.py HOST PORT [SEED [OPERATIONS]]. Starts Debian's etcd (3.4) by itself; exit code 77 where there is none.
"""
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import grpc
from etcd3.etcdrpc import kv_pb2, rpc_pb2 as rpc, rpc_pb2_grpc as services

host, port = sys.argv[1], sys.argv[2]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
operations = int(sys.argv[4]) if len(sys.argv) > 4 else 3000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Side:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.kv = services.KVStub(self.channel)
        self.lease = services.LeaseStub(self.channel)
        self.watch = services.WatchStub(self.channel)

    def revision(self):
        return self.kv.Range(rpc.RangeRequest(key=b"x"), timeout=10).header.revision


def clean(header):
    header.cluster_id = header.member_id = header.raft_term = 0


def ask(method, request):
    """The answer or the error, as a value that can be compared."""
    try:
        answer = method(request, timeout=15)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    clean(answer.header)
    return "OK", answer


def key(r):
    return b"k%d" % r.randrange(9) if r.random() < 0.95 else r.choice([b"", b"\0", b"k", b"kk\xff"])


def end(r):
    return r.choice([b"", b"", key(r), b"\0", b"l"])


def put(r, revision):
    request = rpc.PutRequest(key=key(r), value=b"v%d" % r.randrange(50), prev_kv=r.random() < 0.3)
    if r.random() < 0.15:
        request.lease = r.randrange(1, 5)
    if r.random() < 0.08:
        request.ignore_value = True
        if r.random() < 0.8:
            request.value = b""
    if r.random() < 0.08:
        request.ignore_lease = True
    return request


def some_revision(r, revision):
    return r.choice([0, 0, 0, revision, revision - r.randrange(30), revision + 2, r.randrange(revision + 1)])


def range_(r, revision, in_txn=False):
    request = rpc.RangeRequest(key=key(r), range_end=end(r), serializable=r.random() < 0.3)
    if r.random() < 0.4:
        request.revision = some_revision(r, revision)
    for field in ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]:
        if r.random() < 0.08:
            setattr(request, field, max(0, revision - r.randrange(40)))
    if r.random() < 0.3:
        request.limit = r.randrange(4)
    if r.random() < 0.2:
        request.keys_only = True
    if r.random() < 0.1:
        request.count_only = True
    if r.random() < 0.3:
        request.sort_order = r.randrange(3)
        # By anything but the key equal ones stand in no order of etcd's.
        request.sort_target = r.randrange(5) if request.limit == 0 and not in_txn else 0
    return request


def delete(r):
    return rpc.DeleteRangeRequest(key=key(r), range_end=end(r) if r.random() < 0.3 else b"", prev_kv=r.random() < 0.3)


def compare(r, revision):
    c = rpc.Compare(key=key(r), result=r.randrange(4), target=r.randrange(5))
    number = r.choice([0, 1, 2, revision - r.randrange(20)])
    if c.target == rpc.Compare.VERSION:
        c.version = number
    elif c.target == rpc.Compare.CREATE:
        c.create_revision = number
    elif c.target == rpc.Compare.MOD:
        c.mod_revision = number
    elif c.target == rpc.Compare.VALUE:
        c.value = b"v%d" % r.randrange(50)
    else:
        # The client's messages know no field for it: compared with 0.
        pass
    if r.random() < 0.2:
        c.range_end = end(r)
    return c


def op(r, revision, depth):
    kind = r.random()
    if kind < 0.45:
        return rpc.RequestOp(request_put=put(r, revision))
    if kind < 0.7:
        return rpc.RequestOp(request_range=range_(r, revision, True))
    if kind < 0.85 or depth == 0:
        request = delete(r)
        if request.range_end == b"\0":
            # etcd overlooks that such a deletion meets what is put beside it; we refuse that.
            request.range_end = b"l"
        return rpc.RequestOp(request_delete_range=request)
    return rpc.RequestOp(request_txn=txn(r, revision, depth - 1))


def txn(r, revision, depth=2):
    return rpc.TxnRequest(
        compare=[compare(r, revision) for _ in range(r.randrange(3))],
        success=[op(r, revision, depth) for _ in range(r.choice([0, 1, 1, 2, 3]))],
        failure=[op(r, revision, depth) for _ in range(r.choice([0, 1, 1, 2]))],
    )


def unordered(request, outcome):
    """Where etcd leaves the order open."""
    if isinstance(request, rpc.RangeRequest) and request.sort_target != rpc.RangeRequest.KEY and outcome[0] == "OK":
        answer = outcome[1]
        field = ["key", "version", "create_revision", "mod_revision", "value"][request.sort_target]
        values = [getattr(kv, field) for kv in answer.kvs]
        if request.keys_only and field == "value":
            values = []
        kvs = sorted(kv.SerializeToString() for kv in answer.kvs)
        return outcome[0], values, kvs, answer.count, answer.more, answer.header.revision
    if isinstance(request, rpc.LeaseTimeToLiveRequest) and outcome[0] == "OK":
        answer = outcome[1]
        # What is left of a long time differs by the time between the two questions.
        return outcome[0], answer.ID, answer.grantedTTL, answer.TTL > 0, sorted(answer.keys), answer.header.revision
    return outcome


def watch(side, request, sentinel, wait_for):
    """All that a watch is told until the sentinel's event."""
    go = []

    def requests():
        yield rpc.WatchRequest(create_request=request)
        while not go:
            time.sleep(0.005)

    call = side.watch.Watch(requests(), timeout=20)
    seen = []
    try:
        for answer in call:
            if answer.created:
                seen.append(("created", answer.canceled))
                sentinel(side)
                continue
            if answer.canceled:
                # 3.4's answer names the revision that it has compacted.
                seen.append(("canceled", answer.compact_revision))
                break
            # How many come together is a matter of time.
            for event in answer.events:
                seen.append((event.type, event.kv.SerializeToString(), event.prev_kv.SerializeToString()))
                if wait_for(event):
                    go.append(1)
                    break
            if go:
                break
    except grpc.RpcError as error:
        seen.append((error.code().name, error.details()))
    go.append(1)
    call.cancel()
    return seen


def main():
    program = shutil.which("etcd")
    if not program:
        print("skipped: no etcd")
        return 77
    home = tempfile.mkdtemp(prefix="etcd-differential-")
    client, peer = free_port(), free_port()
    urls = ["http://127.0.0.1:%d" % p for p in (client, peer)]
    args = [program, "--data-dir", home, "--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]]
    args += ["--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1], "--initial-cluster", "default=" + urls[1]]
    args += ["--unsafe-no-fsync"]
    log = open(os.path.join(home, "log"), "w")
    etcd = subprocess.Popen(args, stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""})
    try:
        return play(Side("127.0.0.1:%d" % client), Side("%s:%s" % (host, port)))
    finally:
        etcd.kill()
        etcd.wait()
        shutil.rmtree(home, ignore_errors=True)


def play(theirs, ours):
    for _ in range(100):
        try:
            theirs.revision()
            break
        except grpc.RpcError:
            time.sleep(0.1)
    # Both empty, at the same revision, with no leases of these numbers.
    for side in (theirs, ours):
        for lease in range(1, 5):
            ask(side.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        side.kv.DeleteRange(rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0"), timeout=15)
    while theirs.revision() != ours.revision():
        behind = theirs if theirs.revision() < ours.revision() else ours
        behind.kv.Put(rpc.PutRequest(key=b"zz"), timeout=15)
    for side in (theirs, ours):
        side.kv.Put(rpc.PutRequest(key=b"zz"), timeout=15)
        side.kv.DeleteRange(rpc.DeleteRangeRequest(key=b"zz"), timeout=15)
    assert theirs.revision() == ours.revision(), "they could not be brought to one revision"
    first = ours.revision()
    for side in (theirs, ours):
        side.kv.Compact(rpc.CompactionRequest(revision=first), timeout=15)
    r = random.Random(seed)
    counts, watches, compacted = {}, 0, first
    for number in range(operations):
        revision = ours.revision()
        kind = r.random()
        if kind < 0.35:
            service, name, request = "kv", "Put", put(r, revision)
        elif kind < 0.55:
            service, name, request = "kv", "Range", range_(r, revision)
        elif kind < 0.65:
            service, name, request = "kv", "DeleteRange", delete(r)
        elif kind < 0.88:
            service, name, request = "kv", "Txn", txn(r, revision)
        elif kind < 0.90:
            back = r.choice([0, 1, 5, 20, 60, -1])
            service, name, request = "kv", "Compact", rpc.CompactionRequest(revision=max(0, revision - back), physical=True)
        elif kind < 0.93:
            # Never over by itself while this goes on, so that no clock decides.
            ttl = r.choice([9000, 9000, 9000, 9_000_000_001])
            service, name, request = "lease", "LeaseGrant", rpc.LeaseGrantRequest(ID=r.randrange(1, 5), TTL=ttl)
        elif kind < 0.95:
            service, name, request = "lease", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=r.randrange(1, 5))
        elif kind < 0.97:
            service, name, request = "lease", "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=r.randrange(1, 5), keys=True)
        else:
            watches += 1
            one = r.random() < 0.5
            request = rpc.WatchCreateRequest(key=b"k3" if one else b"k", range_end=b"" if one else b"l", prev_kv=r.random() < 0.5)
            request.start_revision = r.choice([0, revision, max(1, revision - r.randrange(60))])
            if r.random() < 0.3:
                request.filters.append(r.randrange(2))
            deletes = list(request.filters) == [rpc.WatchCreateRequest.NOPUT]
            name = b"sentinel %d" % number

            def sentinel(side):
                side.kv.Put(rpc.PutRequest(key=b"k3", value=name), timeout=15)
                side.kv.DeleteRange(rpc.DeleteRangeRequest(key=b"k3"), timeout=15)

            last = revision + 2

            def over(event):
                return event.kv.mod_revision == last and event.type == kv_pb2.Event.DELETE if deletes else event.kv.value == name

            left, right = watch(theirs, request, sentinel, over), watch(ours, request, sentinel, over)
            if left != right:
                print("operation %d of seed %d: a watch differs\n%s\netcd: %s\nours: %s" % (number, seed, request, left, right))
                return 1
            continue
        left = unordered(request, ask(getattr(getattr(theirs, service), name), request))
        right = unordered(request, ask(getattr(getattr(ours, service), name), request))
        if left != right:
            print("operation %d of seed %d: %s differs\n%s\netcd: %s\nours: %s" % (number, seed, name, request, left, right))
            return 1
        counts[name, left[0]] = counts.get((name, left[0]), 0) + 1
    everything = rpc.RangeRequest(key=b"\0", range_end=b"\0")
    assert ask(theirs.kv.Range, everything) == ask(ours.kv.Range, everything)
    for (name, outcome), count in sorted(counts.items()):
        print("%-16s %-20s %d" % (name, outcome, count))
    print("%d operations and %d watches alike, seed %d" % (operations, watches, seed))
    return 0


sys.exit(main())

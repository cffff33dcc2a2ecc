"""python-etcd3 (gRPC): keys, transactions, watches, leases, locks. etcd_py.py HOST PORT."""
import sys
import threading
import time

import etcd3

client = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=10)
for _, meta in list(client.get_all()):
    client.delete(meta.key)
client.put("a", "1")
value, meta = client.get("a")
assert (value, meta.version) == (b"1", 1)
assert client.replace("a", "1", "2") and not client.replace("a", "1", "3")
assert client.put_if_not_exists("n", "x") and not client.put_if_not_exists("n", "y")
ok, answers = client.transaction(
    compare=[client.transactions.value("a") == "2", client.transactions.version("a") > 1],
    success=[client.transactions.put("b", "3"), client.transactions.get("a")],
    failure=[client.transactions.delete("a")],
)
assert ok and answers[1][0][0] == b"2"
assert sorted(value for value, _ in client.get_all()) == [b"2", b"3", b"x"]
assert [meta.key for _, meta in client.get_all(sort_order="descend", sort_target="key")] == [b"n", b"b", b"a"]
# A watch sees each change once, in order.
events, cancel = client.watch_prefix("w/")
for number in range(200):
    client.put("w/%d" % (number % 7), str(number))
client.delete_prefix("w/")
seen = []
for event in events:
    seen.append(event)
    if len(seen) == 207:
        break
cancel()
assert [event.value for event in seen[:200]] == [b"%d" % number for number in range(200)]
assert all(isinstance(event, etcd3.events.DeleteEvent) for event in seen[200:])
assert len({event.mod_revision for event in seen[200:]}) == 1, "one deletion, one revision"
# What goes with a lease.
lease = client.lease(2)
client.put("leased", "x", lease=lease)
for _ in range(8):
    lease.refresh()
    time.sleep(0.4)
assert client.get("leased")[0] == b"x", "prolonged"
end = time.monotonic() + 15
while client.get("leased")[0] is not None:
    assert time.monotonic() < end, "a lease that nobody prolongs ends"
    time.sleep(0.1)
# A lock: five threads count to 50 without losing one.
client.put("count", "0")


def count():
    own = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=30)
    for _ in range(10):
        with own.lock("counter", ttl=20):
            own.put("count", str(int(own.get("count")[0]) + 1))


threads = [threading.Thread(target=count) for _ in range(5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert client.get("count")[0] == b"50", client.get("count")
assert client.status().version and list(client.members)
for _, meta in list(client.get_all()):
    client.delete(meta.key)
print("keys, transactions, watches, leases and locks work")

"""redis-py's RedisCluster at the cluster door of three nodes, while a shard is split and slots move between shards.

Takes HOST, the cluster door's PORT of any node, and the admin door's. Each INCR that was answered counts once, every key that was
answered is there, and a client that knew the old places finds the new ones.
"""

import json
import sys
import threading
import time
import urllib.request

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from common import arguments, equal, until

HOST, PORT = arguments()
ADMIN = f"http://{HOST}:{sys.argv[3]}/cluster"
WRITERS = 4
COUNTERS = 200


def view():
    with urllib.request.urlopen(ADMIN, timeout=10) as answer:
        return json.load(answer)


def change(what):
    with urllib.request.urlopen(urllib.request.Request(f"{ADMIN}/{what}", method="POST"), timeout=10) as answer:
        return json.load(answer)


def ranges(group):
    """The slots of a shard, as pairs."""
    ends = lambda part: (int(part.split("-")[0]), int(part.split("-")[-1]))
    return [ends(part) for part in group["slots"].split(",") if part]


def at_rest():
    """Every slot is somebody's, none is on its way, and everybody leads who should."""
    now = view()
    if now["slot_moves"] or any(group["leader"] == 0 for group in now["groups"]):
        return None
    return now


class Writer(threading.Thread):
    """Counts up, and writes a key a turn; notes what was answered."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.number, self.stop = number, False
        self.counted, self.keys, self.refused = [0] * COUNTERS, 0, []
        self.client = RedisCluster(HOST, PORT, decode_responses=True)
        self.start()

    def run(self):
        turn = 0
        while not self.stop:
            at = turn % COUNTERS
            try:
                value = self.client.incr(f"count:{self.number}:{at}")
                self.counted[at] += 1
                if value != self.counted[at]:
                    self.refused.append(f"INCR {self.counted[at]} of count:{self.number}:{at} was answered {value}")
                self.client.set(f"key:{self.number}:{self.keys}", self.keys)
                self.keys += 1
            except RedisError as error:
                self.refused.append(f"{type(error).__name__}: {error}")
            turn += 1


def main():
    before = at_rest()
    first = RedisCluster(HOST, PORT, decode_responses=True)
    equal(len(first.get_nodes()), 3, "nodes that the client knows")
    writers = [Writer(number) for number in range(WRITERS)]
    written = lambda: sum(writer.keys for writer in writers)
    until(lambda: written() > 300, "300 keys were written")

    data = [group["group"] for group in before["groups"] if group.get("slots")]
    made = change(f"split?group={data[0]}")["shard"]

    def arrived():
        now = at_rest()
        return now and any(group["group"] == made and group.get("slots") for group in now["groups"]) and now

    began = time.monotonic()
    now = until(arrived, f"the slots of shard {made} have arrived", 40)
    print(f"shard {data[0]} split into {made} in {time.monotonic() - began:.1f} s, {written()} keys written")
    # And once more, some slots from one that is led elsewhere, and back.
    low, high = ranges(next(group for group in now["groups"] if group["group"] == made))[0]
    slots = f"{low}-{min(low + 99, high)}"
    for source, target in [(made, data[-1]), (data[-1], made)]:
        change(f"move-slots?slots={slots}&from={source}&to={target}")

        def moved():
            now = at_rest()
            owner = now and next(group for group in now["groups"] if group["group"] == target)
            return owner and any(start <= low <= end for start, end in ranges(owner))

        began = time.monotonic()
        until(moved, f"slots {slots} have arrived in shard {target}", 40)
        print(f"slots {slots} from shard {source} to {target} in {time.monotonic() - began:.1f} s, {written()} keys written")
    so_far = written()
    until(lambda: written() > so_far + 300, "300 more keys were written")
    for writer in writers:
        writer.stop = True
        writer.join(20)
        equal(writer.refused, [], f"what writer {writer.number} was told beside answers")
    # One that learnt the places before anything moved, and one that asks anew.
    for client in (first, RedisCluster(HOST, PORT, decode_responses=True)):
        for writer in writers:
            for at, count in enumerate(writer.counted):
                equal(int(client.get(f"count:{writer.number}:{at}") or 0), count, f"count:{writer.number}:{at}")
            for at in range(0, writer.keys):
                equal(client.get(f"key:{writer.number}:{at}"), str(at), f"key:{writer.number}:{at}")
    # Who asks a node that does not have the slot is told where to go.
    slot = low
    owner = first.nodes_manager.get_node_from_slot(slot)
    other = next(node for node in first.get_nodes() if node.name != owner.name)
    said = first.get_redis_connection(other).connection_pool.get_connection()
    try:
        said.send_command("GET", next(f"x{n}" for n in range(10**6) if first.keyslot(f"x{n}") == slot))
        said.read_response()
        raise AssertionError("answered by a node that has not the slot")
    except RedisError as error:
        assert str(error).startswith(f"{slot} ") or "MOVED" in str(error) or type(error).__name__ == "MovedError", repr(error)
    print(f"redis-py-cluster: ok, {written()} keys")


main()

"""Transactions of the second version (KIP-890), in the protocol's own bytes: the clients of CI do not negotiate them yet.

A producer of that version names no partitions before it writes to them, and has another epoch after every end. One node, which leads
everything.
"""

import os
import socket
import struct
import time

from common import arguments

HOST, PORT = arguments()
NAME = f"txn2-{os.getpid()}-{time.time_ns()}"
TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def uvarint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def zigzag(n):
    return uvarint((n << 1) ^ (n >> 63))


def text(word):
    return struct.pack(">h", len(word)) + word.encode()


def ctext(word):
    return b"\0" if word is None else uvarint(len(word) + 1) + word.encode()


def clist(items):
    return uvarint(len(items) + 1) + b"".join(items)


def batch(pid, epoch, sequence, values):
    records = b""
    for at, value in enumerate(values):
        record = b"\0" + zigzag(0) + zigzag(at) + zigzag(-1) + zigzag(len(value)) + value + zigzag(0)
        records += zigzag(len(record)) + record
    now = int(time.time() * 1000)
    body = struct.pack(">hiqqqhii", 0x10, len(values) - 1, now, now, pid, epoch, sequence, len(values)) + records
    head = struct.pack(">iBI", -1, 2, crc32c(body)) + body
    return struct.pack(">qi", 0, len(head)) + head


class Answer:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def read(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value, shift = value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    def text(self):
        return self.take(self.uvarint() - 1).decode()

    def list(self, each):
        return [each() for _ in range(self.uvarint() - 1)]

    def tags(self):
        return {self.uvarint(): self.take(self.uvarint()) for _ in range(self.uvarint())}


class Client:
    def __init__(self):
        self.socket = socket.create_connection((HOST, PORT), timeout=30)
        self.correlation = 0

    def send(self, key, version, body, flexible=True):
        self.correlation += 1
        frame = struct.pack(">hhi", key, version, self.correlation) + text("raw") + (b"\0" if flexible else b"") + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def hear(self, flexible=True):
        def whole(count):
            data = b""
            while len(data) < count:
                more = self.socket.recv(count - len(data))
                assert more, "the connection was closed"
                data += more
            return data

        answer = Answer(whole(struct.unpack(">i", whole(4))[0]))
        answer.read("i")
        if flexible:
            answer.tags()
        return answer

    def ask(self, *request, flexible=True):
        self.send(*request, flexible=flexible)
        return self.hear(flexible)

    def init(self, name):
        answer = self.ask(22, 5, ctext(name) + struct.pack(">iqh", 60_000, -1, -1) + b"\0")
        throttle, error, pid, epoch = answer.read("ihqh")
        assert error == 0, error
        return pid, epoch

    def begin_produce(self, name, partition, who, sequence, values, version=12):
        records = batch(*who, sequence, values)
        part = struct.pack(">i", partition) + uvarint(len(records) + 1) + records + b"\0"
        topic = ctext(NAME) + clist([part]) + b"\0"
        self.send(0, version, ctext(name) + struct.pack(">hi", -1, 10_000) + clist([topic]) + b"\0")

    def end_produce(self):
        answer = self.hear()
        answer.uvarint()
        answer.text()
        answer.uvarint()
        index, error, base = answer.read("ihq")
        return error, base

    def produce(self, *request, **more):
        self.begin_produce(*request, **more)
        return self.end_produce()

    def end(self, name, who, commit):
        while True:
            answer = self.ask(26, 5, ctext(name) + struct.pack(">qh?", *who, commit) + b"\0")
            throttle, error, pid, epoch = answer.read("ihqh")
            if error != 51:
                return error, (pid, epoch)
            time.sleep(0.02)

    def committed(self, partition):
        body = struct.pack(">iiiib", -1, 100, 1, 1 << 20, 1)
        body += struct.pack(">i", 1) + text(NAME) + struct.pack(">iiqi", 1, partition, 0, 1 << 20)
        answer = self.ask(1, 4, body, flexible=False)
        answer.read("ii")
        answer.take(answer.read("h")[0])
        _, _, error, high, stable = answer.read("iihqq")
        aborted = [answer.read("qq") for _ in range(max(0, answer.read("i")[0]))]
        records = Answer(answer.take(answer.read("i")[0]))
        values, skipped, later = [], set(), sorted(aborted, key=lambda own: own[1])
        assert error == 0, error
        while records.at < len(records.data):
            base, length = records.read("qi")
            own = Answer(records.take(length))
            _, _, _, attributes, _, _, _, pid, _, _, count = own.read("iBIhiqqqhii")
            skipped |= {own[0] for own in later if own[1] <= base}
            later = [own for own in later if own[1] > base]
            if attributes & 0x20:
                skipped.discard(pid)
                continue
            for _ in range(count):
                record = Answer(own.take(own.uvarint() >> 1))
                record.take(1)
                record.uvarint(), record.uvarint(), record.uvarint()
                value = record.take(record.uvarint() >> 1)
                if pid not in skipped:
                    values.append(value)
        return values


client = Client()
versions = Client()
versions.send(18, 4, ctext("raw") + ctext("1") + b"\0")
answer = versions.hear(flexible=False)
answer.read("h")
apis = {}
for _ in range(answer.uvarint() - 1):
    key, low, high = answer.read("hhh")
    answer.tags()
    apis[key] = high
answer.read("i")
features = Answer(answer.tags()[2])
found = features.list(lambda: (features.text(), *features.read("hh"), features.tags()))
assert ("transaction.version", 2, 2, {}) in found, found
assert (apis[0] >= 12, apis[26] >= 5, apis[28] >= 5) == (True, True, True), apis

# The topic is made by asking for it.
for _ in range(100):
    answer = client.ask(3, 4, struct.pack(">i", 1) + text(NAME) + b"\x01", flexible=False)
    if struct.pack(">h", 0) + text(NAME) in answer.data:
        break
    time.sleep(0.1)

ID = NAME
who = client.init(ID)
assert client.produce(ID, 0, who, 0, [b"a", b"b"])[0] == 0, "no partition was named before"
assert client.committed(0) == []
error, after = client.end(ID, who, True)
assert (error, after) == (0, (who[0], who[1] + 1)), (error, after)
assert client.end(ID, who, True) == (0, after), "who asks again is told the same"
assert client.committed(0) == [b"a", b"b"]
assert client.produce(ID, 0, who, 2, [b"late"])[0] == 47, "what comes late is fenced"
assert client.produce(ID, 0, after, 5, [b"gap"])[0] == 45, "every transaction begins with sequence number 0"
assert client.produce(ID, 0, after, 0, [b"torn"])[0] == 0
error, third = client.end(ID, after, False)
assert (error, third) == (0, (who[0], who[1] + 2)), (error, third)
assert client.committed(0) == [b"a", b"b"]
assert client.end(ID, third, True)[0] == 48, "there is nothing to commit"
error, fourth = client.end(ID, third, False)
assert (error, fourth[1]) == (0, third[1] + 1), "an abort of nothing fences too"

# Several on their way at once: the first asks, and none overtakes it.
for sequence in range(5):
    client.begin_produce(ID, 0, fourth, sequence, [b"%d" % sequence])
assert [client.end_produce()[0] for _ in range(5)] == [0] * 5

# Offsets take part by being committed.
part = struct.pack(">iqi", 0, 7, -1) + ctext(None) + b"\0"
body = ctext(ID) + ctext(NAME) + struct.pack(">qhi", *fourth, -1) + ctext("") + ctext(None)
answer = client.ask(28, 5, body + clist([ctext(NAME) + clist([part]) + b"\0"]) + b"\0")
answer.read("i")
answer.uvarint(), answer.text(), answer.uvarint()
assert answer.read("ih") == (0, 0)


def offset():
    body = text(NAME) + struct.pack(">i", 1) + text(NAME) + struct.pack(">ii", 1, 0)
    answer = client.ask(9, 1, body, flexible=False)
    answer.read("i")
    answer.take(answer.read("h")[0])
    return answer.read("iiq")[2]


assert offset() == -1
error, fifth = client.end(ID, fourth, True)
assert (error, fifth[1]) == (0, fourth[1] + 1)
assert client.committed(0) == [b"a", b"b", b"0", b"1", b"2", b"3", b"4"]
assert offset() == 7

# A client of the first version writes only to what it has named.
assert client.produce(ID, 0, fifth, 0, [b"unasked"], version=9)[0] == 48
assert client.produce(ID, 0, fifth, 0, [b"unasked"], version=11)[0] == 120
print("kafka-txn2: ok")

"""kafka-python against the Kafka door: admin, idempotent producer, groups, offsets, transactions.

Takes HOST and the Kafka door's PORT. Topics are named after the process.
"""

import os
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from common import arguments, equal

HOST, PORT = arguments()
WHERE = f"{HOST}:{PORT}"
NAME = f"py-{os.getpid()}"


def consumer(*topics, **more):
    settings = dict(
        bootstrap_servers=WHERE,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=10_000,
    )
    return KafkaConsumer(*topics, **{**settings, **more})


def take(source, count, seconds=20):
    records, until = [], time.time() + seconds
    while len(records) < count and time.time() < until:
        for batch in source.poll(500).values():
            records.extend(batch)
    return records


def main():
    admin = KafkaAdminClient(bootstrap_servers=WHERE)
    admin.create_topics([NewTopic(NAME, 4, 1), NewTopic(f"{NAME}-one", 1, 1)])
    assert NAME in admin.list_topics()

    producer = KafkaProducer(bootstrap_servers=WHERE, acks="all")
    sent = [producer.send(NAME, key=b"%d" % n, value=b"value %d" % n) for n in range(1000)]
    offsets = [(f.get(20).partition, f.get(20).offset) for f in sent]
    equal(len(set(offsets)), 1000, "each has its own offset")
    producer.close()

    # Two in a group share what there is; nobody is given anything twice.
    seen, lock = [], threading.Lock()

    def member():
        own = consumer(NAME, group_id=f"{NAME}-g", client_id="m")
        until = time.time() + 25
        while time.time() < until:
            for batch in own.poll(300).values():
                with lock:
                    seen.extend((r.partition, r.offset, r.value) for r in batch)
            own.commit()
            with lock:
                if len(set(seen)) >= 1000:
                    break
        own.close()

    threads = [threading.Thread(target=member) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(sorted(value for _, _, value in set(seen)), sorted(b"value %d" % n for n in range(1000)), "all were read")

    # What was committed is where the next one begins.
    again = consumer(NAME, group_id=f"{NAME}-g")
    equal(len(take(again, 1, 4)), 0, "nothing is left")
    partitions = [TopicPartition(NAME, n) for n in range(4)]
    ends = again.end_offsets(partitions)
    equal(sum(ends.values()), 1000, "ends")
    equal(sum(again.beginning_offsets(partitions).values()), 0, "begins")
    equal({p: again.committed(p) for p in partitions}, ends, "committed")
    again.close()

    # By time.
    producer = KafkaProducer(bootstrap_servers=WHERE)
    then = int(time.time() * 1000) - 3_600_000
    for n in range(10):
        producer.send(f"{NAME}-one", value=b"%d" % n, timestamp_ms=then + n * 1000)
    producer.flush()
    one = TopicPartition(f"{NAME}-one", 0)
    reader = consumer()
    reader.assign([one])
    equal(reader.offsets_for_times({one: then + 4_500})[one].offset, 5, "by time")
    reader.seek(one, 7)
    equal([r.value for r in take(reader, 3)], [b"7", b"8", b"9"], "from the middle of a batch")
    reader.close()
    producer.close()
    transactions()
    described = admin.describe_groups([f"{NAME}-g"])
    assert described, "the group can be described"
    admin.delete_topics([NAME, f"{NAME}-one"])
    admin.close()
    print("kafka-python: ok")


def transactions():
    topic = f"{NAME}-txn"
    producer = KafkaProducer(bootstrap_servers=WHERE, transactional_id=f"{NAME}-id")
    producer.init_transactions()
    for round in range(4):
        producer.begin_transaction()
        for n in range(5):
            producer.send(topic, value=b"%d.%d" % (round, n))
        producer.flush()
        (producer.abort_transaction if round % 2 else producer.commit_transaction)()
    producer.close()
    own = consumer(topic, isolation_level="read_committed")
    wanted = [b"%d.%d" % (round, n) for round in (0, 2) for n in range(5)]
    equal([r.value for r in take(own, 10)], wanted, "what was committed, and nothing else")
    own.close()
    own = consumer(topic)
    equal(len(take(own, 20)), 20, "who reads everything sees everything")
    own.close()


main()

"""confluent-kafka (librdkafka) against the Kafka door: admin, idempotent producer, groups with cooperative rebalance and static members, transactions with offsets.

Takes HOST and the Kafka door's PORT. Topics are named after the process.
"""

import os
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from common import arguments, equal

HOST, PORT = arguments()
BASE = {"bootstrap.servers": f"{HOST}:{PORT}"}
NAME = f"confluent-{os.getpid()}"


def consumer(group, **more):
    more = {key.replace("_", "."): value for key, value in more.items()}
    return Consumer({**BASE, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False, **more})


def take(own, count, seconds=25):
    values, until = [], time.time() + seconds
    while len(values) < count and time.time() < until:
        message = own.poll(0.3)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        values.append(message.value())
    return values


def main():
    admin = AdminClient(BASE)
    for future in admin.create_topics([NewTopic(NAME, 3, 1), NewTopic(f"{NAME}-out", 1, 1)]).values():
        future.result(20)
    admin.create_partitions([NewPartitions(NAME, 4)])[NAME].result(20)
    resource = ConfigResource(ConfigResource.Type.TOPIC, NAME)
    configs = admin.describe_configs([resource])[resource].result(20)
    equal(configs["cleanup.policy"].value, "delete", "a setting")

    producer = Producer({**BASE, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"})
    failed = []
    for n in range(5000):
        producer.produce(NAME, key=str(n), value=str(n), on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    equal(producer.flush(30), 0, "all are delivered")
    equal(failed, [], "none failed")

    first = consumer(f"{NAME}-g", partition_assignment_strategy="cooperative-sticky")
    second = consumer(f"{NAME}-g", partition_assignment_strategy="cooperative-sticky", group_instance_id="static-1")
    first.subscribe([NAME])
    second.subscribe([NAME])
    values, until = [], time.time() + 40
    while len(values) < 5000 and time.time() < until:
        values += take(first, 500, 0.5)
        values += take(second, 500, 0.5)
    equal(sorted(map(int, values)), list(range(5000)), "each once")
    for own in (first, second):
        if own.assignment():
            own.commit(asynchronous=False)
    first.close()
    second.close()
    groups = admin.list_consumer_groups().result(20)
    assert any(group.group_id == f"{NAME}-g" for group in groups.valid), groups

    # Consume, transform, produce: offsets and records in one.
    source = consumer(f"{NAME}-etl")
    source.subscribe([NAME])
    etl = Producer({**BASE, "transactional.id": f"{NAME}-etl"})
    etl.init_transactions(30)
    done = 0
    until = time.time() + 40
    while done < 1000 and time.time() < until:
        etl.begin_transaction()
        batch = take(source, 250, 3)
        for value in batch:
            etl.produce(f"{NAME}-out", value=value)
        offsets = source.position(source.assignment())
        etl.send_offsets_to_transaction(offsets, source.consumer_group_metadata(), 30)
        etl.commit_transaction(30)
        done += len(batch)
    assert done >= 1000, done
    etl.begin_transaction()
    etl.produce(f"{NAME}-out", value="never")
    etl.flush(20)
    etl.abort_transaction(30)
    committed = source.committed([TopicPartition(NAME, n) for n in range(4)], timeout=20)
    equal(sum(max(0, place.offset) for place in committed), done, "offsets are committed with the records")
    source.close()
    out = consumer(f"{NAME}-out", isolation_level="read_committed")
    out.subscribe([f"{NAME}-out"])
    values = take(out, done)
    equal(len(values), done, "what was committed")
    equal(take(out, 1, 3), [], "nothing of what was aborted")
    out.close()

    # A second producer of the id fences the first.
    ghost = etl
    etl = Producer({**BASE, "transactional.id": f"{NAME}-etl"})
    etl.init_transactions(30)
    try:
        ghost.begin_transaction()
        ghost.produce(f"{NAME}-out", value="ghost")
        ghost.commit_transaction(30)
        raise AssertionError("the ghost wrote")
    except KafkaException:
        pass
    # The begin of what is kept can be moved.
    low = admin.delete_records([TopicPartition(f"{NAME}-out", 0, 10)])
    equal(list(low.values())[0].result(20).low_watermark, 10, "records deleted")
    for future in admin.delete_topics([NAME, f"{NAME}-out"]).values():
        future.result(20)
    print("confluent-kafka: ok")


main()

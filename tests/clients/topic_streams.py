"""A topic as a Redis stream and as itself: what EXEC commits is what kcat consumes, and back; an effect and its offset in one commit.

Takes HOST, the Redis door's PORT, the Kafka door's PORT, and perhaps how often the worker is killed (50). Topics are named after
the process, and stay.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import redis

from common import Background, arguments, equal, raises

HOST, PORT = arguments()
KAFKA = int(sys.argv[3])
IS_WORKER = "--worker" in sys.argv
KILLS = int(sys.argv[4]) if len(sys.argv) > 4 and not IS_WORKER else 50
# In braces, as a hash tag: with several shards, topic, rows and groups live in one.
NAME = f"topic-{{{os.getpid()}}}"
KCAT = shutil.which("kcat")


def kcat(*words, text=""):
    done = subprocess.run([KCAT, "-b", f"{HOST}:{KAFKA}", *words], input=text, capture_output=True, text=True, timeout=40)
    if done.returncode != 0:
        raise AssertionError(f"kcat {words}: {done.stderr}")
    return done.stdout


def connect():
    return redis.Redis(HOST, PORT, decode_responses=True, protocol=2)


def declare(name):
    """The first look makes a topic; this node may hear of it a moment later."""
    kcat("-L", "-t", name)
    client = connect()
    for _ in range(200):
        if client.type(f"topic:{name}") == "stream":
            return
        time.sleep(0.02)
    raise AssertionError(f"the topic {name} is no stream")


def consumed(name, *words):
    lines = kcat("-C", "-t", name, "-e", "-q", "-J", *words).splitlines()
    return [json.loads(line) for line in lines]


def both_ways():
    client, key = connect(), f"topic:{NAME}"
    declare(NAME)
    written = []
    for number in range(50):
        pipe = client.pipeline(transaction=True)
        pipe.set(f"row:{NAME}:{number}", number)
        pipe.xadd(key, {"K": f"k{number % 5}", "V": f"order {number}", "trace": f"t{number}"})
        done = pipe.execute()
        equal(done[0], True)
        written.append((done[1], f"k{number % 5}", f"order {number}", ["trace", f"t{number}"]))
    seen = [(f"{own['offset']}-1", own["key"], own["payload"], own["headers"]) for own in consumed(NAME)]
    equal(seen, written, "EXEC, then kcat")
    print("EXEC, then kcat: ok")
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        kcat("-P", "-t", NAME, "-z", codec, "-K", ":", "-H", f"codec={codec}", text="".join(f"{codec}:{at}\n" for at in range(30)))
    shown = client.xrange(key, min="50")
    expected = [
        (f"{50 + nth * 30 + at}-1", {"K": codec, "V": str(at), "codec": codec})
        for nth, codec in enumerate(["none", "gzip", "snappy", "lz4", "zstd"])
        for at in range(30)
    ]
    equal(shown, expected, "kcat, then XRANGE")
    equal(client.xrevrange(key, count=1), expected[-1:], "backwards")
    equal(client.xlen(key), 200, "XLEN")
    waits = Background(lambda: connect().xread({key: "$"}, block=5000))
    time.sleep(0.3)
    kcat("-P", "-t", NAME, text="late\n")
    equal(waits.result(), [[key, [("200-1", {"V": "late"})]]], "XREAD BLOCK")
    print("kcat, then XRANGE: ok")


def refusals():
    client, key = connect(), f"topic:{NAME}"
    raises(redis.ResponseError, "is a topic", lambda: client.xdel(key, "0-1"))
    raises(redis.ResponseError, "is a topic", lambda: client.xtrim(key, maxlen=1))
    raises(redis.ResponseError, "is a topic", lambda: client.delete(key))
    raises(redis.ResponseError, "is a topic", lambda: client.eval("return redis.call('XADD',KEYS[1],'*','V','v')", 1, key))
    raises(redis.ResponseError, "declare", lambda: client.eval("return redis.call('XADD',ARGV[1],'*','V','v')", 0, key))
    raises(redis.ResponseError, "use *", lambda: client.xadd(key, {"V": "v"}, id="5-5"))
    # A key that is no topic is an ordinary stream.
    other = f"topic:{NAME}-none"
    client.xadd(other, {"a": "b"}, id="5-5")
    equal(client.xrange(other), [("5-5", {"a": "b"})])
    client.delete(other)
    watcher = connect().pipeline()
    watcher.watch(f"w:{NAME}")
    client.set(f"w:{NAME}", 1)
    watcher.multi()
    watcher.xadd(key, {"V": "never"})
    raises(redis.WatchError, "", watcher.execute)
    equal(client.xrevrange(key, count=1)[0][1], {"V": "late"}, "what WATCH has ended wrote nothing")
    print("refusals: ok")


def transactions():
    """Markers and what was aborted are no entries, and no group is left with them."""
    try:
        from confluent_kafka import Producer
    except ImportError:
        print("transactions: skipped, no confluent-kafka here")
        return
    name = f"{NAME}-txn"
    declare(name)
    client, key = connect(), f"topic:{name}"
    producer = Producer({"bootstrap.servers": f"{HOST}:{KAFKA}", "transactional.id": name})
    producer.init_transactions()
    for nth in range(6):
        producer.begin_transaction()
        producer.produce(name, f"{nth}")
        producer.flush()
        producer.commit_transaction() if nth % 2 == 0 else producer.abort_transaction()
    equal([own[1]["V"] for own in client.xrange(key)], ["0", "2", "4"], "XRANGE reads what was committed")
    client.xgroup_create(key, "g", id="0")
    given = []
    while answer := client.xreadgroup("g", "c", {key: ">"}, count=1):
        given += answer[0][1]
    equal([own[1]["V"] for own in given], ["0", "2", "4"], "a group is given what was committed")
    equal(client.xpending(key, "g")["pending"], 3, "and nothing else is left with it")
    print("transactions: ok")


def watched():
    """WATCH asks the leader, wherever that is; its answer may come at once, and is never lost."""
    key, rounds = f"watched:{NAME}", 400

    def count():
        client, won = connect(), 0
        for _ in range(rounds):
            with client.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(key)
                    value = int(pipe.get(key) or 0)
                    pipe.multi()
                    pipe.set(key, value + 1)
                    pipe.execute()
                    won += 1
                except redis.WatchError:
                    pass
        return won

    begun = time.monotonic()
    counters = [Background(count) for _ in range(4)]
    won = sum(counter.result(60) for counter in counters)
    equal(int(connect().get(key)), won, "the count of those whose EXEC was done")
    # Nobody had to give up and connect again, which redis-py does after 5 s.
    assert time.monotonic() - begun < 30, f"{time.monotonic() - begun:.1f} s"
    print(f"watched: {won} of {4 * rounds} done: ok")


def never_before_its_data():
    """Who holds a record and then reads, at this node and wherever the record came from, sees the row that was committed with it."""
    try:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
    except ImportError:
        print("never before its data: skipped, no confluent-kafka here")
        return
    name, count = f"{NAME}-data", 500
    declare(name)

    def write():
        client = connect()
        for number in range(count):
            pipe = client.pipeline(transaction=True)
            pipe.xadd(f"topic:{name}", {"V": number})
            pipe.set(f"row:{name}", number)
            pipe.execute()

    settings = {"bootstrap.servers": f"{HOST}:{KAFKA}", "group.id": f"{name}-g", "fetch.wait.max.ms": 5}
    consumer, client, seen = Consumer(settings), connect(), 0
    consumer.assign([TopicPartition(name, 0, OFFSET_BEGINNING)])
    writer = Background(write)
    while seen < count:
        message = consumer.poll(20)
        assert message is not None and message.error() is None, message
        row = client.get(f"row:{name}")
        assert row is not None and int(row) >= int(message.value()), f"record {message.value()} came before its row, which is {row}"
        seen += 1
    writer.result()
    consumer.close()
    print("never before its data: ok")


def queues():
    """Settings that make a topic a queue for groups; Kafka's consumers see what they always see."""
    client, name = connect(), f"{NAME}-queue"
    key = f"topic:{name}"
    client.execute_command("Q.TOPIC", "CREATE", name, "quorate.visibility.ms", 400, "quorate.deliveries.max", 2)
    raises(redis.ResponseError, "exists", lambda: client.execute_command("Q.TOPIC", "CREATE", name))
    raises(redis.ResponseError, "invalid value", lambda: client.execute_command("Q.TOPIC", "SET", name, "quorate.priorities", "many"))
    client.execute_command("Q.TOPIC", "SET", name, "quorate.delays", "true", "quorate.priorities", 3)
    equal(client.execute_command("Q.TOPIC", "GET", name, "quorate.priorities"), "3")
    client.xgroup_create(key, "g", id="0")

    def given(consumer, block=None, count=10):
        answer = client.xreadgroup("g", consumer, {key: ">"}, count=count, block=block)
        return [fields for _, fields in answer[0][1]] if answer else []

    # Delay and priority, through either door.
    begun = time.monotonic()
    client.xadd(key, {"V": "late", "quorate-delay-ms": 700})
    client.xadd(key, {"V": "plain"})
    kcat("-P", "-t", name, "-z", "lz4", "-H", "quorate-priority=2", text="urgent\n")
    raises(redis.ResponseError, "quorate-priority is a number from 0 to 2", lambda: client.xadd(key, {"V": "v", "quorate-priority": 3}))
    equal([own["V"] for own in given("a", count=1)], ["urgent"], "the priority")
    equal([own["V"] for own in given("a")], ["plain"], "what is due")
    equal([own["payload"] for own in consumed(name)], ["late", "plain", "urgent"], "as Kafka's consumers see it")
    equal(client.xack(key, "g", "2-1"), 1)
    # Not acknowledged: it comes again, to whoever waits, and then goes to the dead letters; meanwhile the late one comes.
    seen = []
    while time.monotonic() - begun < 4 and len(seen) < 3:
        for fields in given("b", block=2000):
            waited = time.monotonic() - begun
            seen.append((fields["V"], fields.get("quorate-deliveries")))
            if fields["V"] == "late":
                assert waited >= 0.7, f"it came {waited:.3f} s behind its append"
                if fields.get("quorate-deliveries"):
                    client.xack(key, "g", "0-1")
    equal(sorted(seen, key=str), [("late", "2"), ("late", None), ("plain", "2")], "deliveries")
    end = time.monotonic() + 10
    while client.xlen(f"{key}.dead") == 0 and time.monotonic() < end:
        given("b", block=100)
    dead = client.xrange(f"{key}.dead")
    equal(len(dead), 1, "one dead letter")
    told = {"quorate-dead-topic": name, "quorate-dead-offset": "1", "quorate-dead-group": "g", "quorate-dead-deliveries": "2"}
    fields = dead[0][1]
    equal((fields["V"], {field: fields[field] for field in told}), ("plain", told), "the dead letter")
    equal(client.xpending(key, "g")["pending"], 0, "nothing is left with the group")
    client.execute_command("Q.TOPIC", "DELETE", name)
    print("queues: ok")


def worker(name, consumer):
    """Adds each record's number to the sum, and acknowledges it, in one commit."""
    client, key = connect(), f"topic:{name}"
    ids = "0"
    while True:
        answer = client.xreadgroup("g", consumer, {key: ids}, count=7, block=200)
        entries = answer[0][1] if answer else []
        if not entries:
            ids = ">"
            continue
        for entry, record in entries:
            pipe = client.pipeline(transaction=True)
            pipe.incrby(f"sum:{name}", int(record["V"]))
            pipe.execute_command("Q.XACK", key, "g", consumer, entry)
            try:
                pipe.execute()
            except redis.exceptions.ExecAbortError as error:
                # The last words of the one before came late, and have done it: nothing was done now.
                if "FENCED" not in str(error):
                    raise


def exactly_once():
    name, count = f"{NAME}-sum", max(KILLS * 12, 600)
    declare(name)
    client, key = connect(), f"topic:{name}"
    client.xgroup_create(key, "g", id="0")
    kcat("-P", "-t", name, "-z", "lz4", text="".join(f"{number}\n" for number in range(count)))
    rng, killed = random.Random(7), 0
    command = [sys.executable, __file__, HOST, str(PORT), str(KAFKA), "--worker", name]
    while killed < KILLS:
        with subprocess.Popen(command) as process:
            # From its first commit on, at any moment.
            before = client.get(f"sum:{name}")
            end = time.monotonic() + 20
            while client.get(f"sum:{name}") == before and time.monotonic() < end:
                if client.xpending(key, "g")["pending"] == 0 and client.xinfo_groups(key)[0]["lag"] == 0:
                    break
            time.sleep(rng.random() * 0.004)
            process.send_signal(signal.SIGKILL)
            process.wait()
        killed += 1
        if client.xinfo_groups(key)[0]["lag"] == 0:
            kcat("-P", "-t", name, text="".join(f"{number}\n" for number in range(count, count + 50)))
            count += 50
    with subprocess.Popen(command) as process:
        end = time.monotonic() + 60
        # In this order: what is given between the two questions is pending at the second.
        while client.xinfo_groups(key)[0]["lag"] or client.xpending(key, "g")["pending"]:
            if time.monotonic() > end:
                raise AssertionError("the rest is not done within 60 s")
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    equal(int(client.get(f"sum:{name}")), count * (count - 1) // 2, f"the sum after {killed} kills")
    print(f"exactly once, {killed} kills, {count} records: ok")


def kafka_offsets():
    """A Kafka consumer that commits its offset with its effect, fenced by the generation."""
    try:
        from confluent_kafka import Consumer, TopicPartition
    except ImportError:
        print("offsets of Kafka's groups: skipped, no confluent-kafka here")
        return
    client, group = connect(), f"{NAME}-kg"
    pipe = client.pipeline(transaction=True)
    pipe.incrby(f"effect:{NAME}", 5)
    pipe.execute_command("Q.COMMITOFFSET", group, NAME, 0, 5)
    equal(pipe.execute(), [5, "OK"], "effect and offset")
    settings = {"bootstrap.servers": f"{HOST}:{KAFKA}", "group.id": group, "enable.auto.commit": False}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    equal(consumer.committed([TopicPartition(NAME, 0)], 10)[0].offset, 5, "as Kafka sees it")
    consumer.subscribe([NAME])
    message = None
    while message is None:
        message = consumer.poll(10)
    equal(message.offset(), 5, "it goes on there")
    pipe = client.pipeline(transaction=True)
    pipe.incrby(f"effect:{NAME}", 5)
    pipe.execute_command("Q.COMMITOFFSET", group, NAME, 0, 6, 1, "a-zombie")
    raises(redis.exceptions.ExecAbortError, "FENCED", pipe.execute)
    equal(client.get(f"effect:{NAME}"), "5", "a zombie's effect does not happen either")
    consumer.close()
    print("offsets of Kafka's groups: ok")


def settings_by_kafka():
    """A queue's settings by Kafka's own administration: made, shown, changed, refused, taken back; the Redis door goes by them."""
    try:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
    except ImportError:
        print("settings by Kafka: skipped, no confluent-kafka here")
        return
    admin, client = AdminClient({"bootstrap.servers": f"{HOST}:{KAFKA}"}), connect()
    name = f"{NAME}-set"
    key = f"topic:{name}"
    made = NewTopic(name, num_partitions=1, replication_factor=-1, config={"quorate.visibility.ms": "300"})
    admin.create_topics([made], operation_timeout=10)[name].result(20)

    def alter(setting, value, how=AlterConfigOpType.SET):
        entry = ConfigEntry(setting, value, incremental_operation=how)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        list(admin.incremental_alter_configs([resource]).values())[0].result(20)

    def shown(setting):
        resource = ConfigResource(ResourceType.TOPIC, name)
        return admin.describe_configs([resource])[resource].result(20)[setting].value

    equal(shown("quorate.visibility.ms"), "300")
    alter("quorate.priorities", "3")
    equal((shown("quorate.priorities"), client.execute_command("Q.TOPIC", "GET", name, "quorate.priorities")), ("3", "3"))
    raises(KafkaException, "quorate.priorities", lambda: alter("quorate.priorities", "many"))
    for _ in range(200):
        if client.type(key) == "stream":
            break
        time.sleep(0.02)
    client.xgroup_create(key, "g", id="0")
    client.xadd(key, {"V": "plain"})
    client.xadd(key, {"V": "urgent", "quorate-priority": 2})
    first = client.xreadgroup("g", "a", {key: ">"}, count=1)
    equal(first[0][1][0][1]["V"], "urgent", "the priority that Kafka's administration has set")
    # It is not acknowledged, so it comes again behind the visibility timeout that the topic was made with.
    again = []
    while "urgent" not in again:
        answer = client.xreadgroup("g", "b", {key: ">"}, count=10, block=2000)
        again += [fields["V"] for _, fields in answer[0][1]] if answer else []
    alter("quorate.priorities", None, AlterConfigOpType.DELETE)
    equal(shown("quorate.priorities"), "0", "the default again")
    admin.delete_topics([name], operation_timeout=10)[name].result(20)
    print("settings by Kafka: ok")


def main():
    if KCAT is None:
        print("kcat is not installed")
        sys.exit(77)
    if IS_WORKER:
        return worker(sys.argv[5], "c")
    both_ways()
    refusals()
    transactions()
    watched()
    queues()
    settings_by_kafka()
    kafka_offsets()
    never_before_its_data()
    exactly_once()
    print("topics as streams: ok")


main()

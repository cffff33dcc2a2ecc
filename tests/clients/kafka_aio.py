"""aiokafka against the Kafka door: a producer, a group, a transaction.

Takes HOST and the Kafka door's PORT. Topics are named after the process.
"""

import asyncio
import os

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from common import arguments, equal

HOST, PORT = arguments()
WHERE = f"{HOST}:{PORT}"
NAME = f"aio-{os.getpid()}"


async def read(count, **more):
    own = AIOKafkaConsumer(NAME, bootstrap_servers=WHERE, auto_offset_reset="earliest", **more)
    await own.start()
    values = []
    try:
        while len(values) < count:
            values.append((await asyncio.wait_for(own.getone(), 20)).value)
    finally:
        await own.stop()
    return values


async def main():
    producer = AIOKafkaProducer(bootstrap_servers=WHERE, enable_idempotence=True)
    await producer.start()
    for n in range(300):
        await producer.send_and_wait(NAME, b"%d" % n)
    await producer.stop()
    wanted = [b"%d" % n for n in range(300)]
    equal(await read(300), wanted, "without a group")
    equal(await read(300, group_id=f"{NAME}-g"), wanted, "in a group")

    producer = AIOKafkaProducer(bootstrap_servers=WHERE, transactional_id=f"{NAME}-t")
    await producer.start()
    async with producer.transaction():
        await producer.send(NAME, b"committed")
    try:
        async with producer.transaction():
            await producer.send(NAME, b"aborted")
            raise ValueError
    except ValueError:
        pass
    async with producer.transaction():
        await producer.send(NAME, b"last")
    await producer.stop()
    equal(await read(302, isolation_level="read_committed"), wanted + [b"committed", b"last"], "committed records only")
    print("aiokafka: ok")


asyncio.run(main())

"""aiokafka."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from steps import BOOTSTRAP, check, restart, scenario


async def send(topic, count, **settings):
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **settings)
    await producer.start()
    sent = [await producer.send(topic, b"v%d" % n, key=b"k", headers=[("h", b"x")]) for n in range(count)]
    await producer.flush()
    for future in sent:
        await future
    await producer.stop()


async def read(topic, count):
    consumer = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest")
    await consumer.start()
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    await consumer.seek_to_beginning(partition)
    found, end = [], time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            found += records
    await consumer.stop()
    return found


async def produce():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        for acks in [0, 1, "all"]:
            topic = f"a-{codec}-{acks}"
            await send(topic, 200, compression_type=codec, acks=acks)
            found = await read(topic, 200)
            check([record.value for record in found], [b"v%d" % number for number in range(200)])


async def idempotent():
    await send("a-idempotent", 1000, enable_idempotence=True)
    check([record.offset for record in await read("a-idempotent", 1000)], list(range(1000)))


async def by_time():
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP)
    await producer.start()
    base = int(time.time() * 1000) - 100_000
    for number in range(100):
        await producer.send("a-time", b"x", timestamp_ms=base + number * 10, partition=0)
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP)
    await consumer.start()
    partition = TopicPartition("a-time", 0)
    found = await consumer.offsets_for_times({partition: base + 501})
    check(found[partition].offset, 51)
    await consumer.stop()


async def group():
    await send("a-group", 300)
    consumer = AIOKafkaConsumer(
        "a-group", bootstrap_servers=BOOTSTRAP, group_id="a-group", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    seen, end = 0, time.monotonic() + 60
    while seen < 300 and time.monotonic() < end:
        seen += sum(len(records) for records in (await consumer.getmany(timeout_ms=1000)).values())
    check(seen, 300)
    await consumer.commit()
    check(await consumer.committed(TopicPartition("a-group", 0)), 300)
    await consumer.stop()


async def through_a_restart():
    await send("a-restart", 300, acks="all")
    restart()
    await send("a-restart", 300, acks="all")
    check([record.offset for record in await read("a-restart", 600)], list(range(600)))


for name, work in [
    ("produce and read", produce), ("idempotent", idempotent), ("seek by time", by_time), ("group", group),
    ("restart", through_a_restart),
]:
    scenario(name, lambda: asyncio.run(work()))

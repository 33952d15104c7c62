"""aiokafka."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from steps import BOOTSTRAP, cannot, check, restart, scenario


async def send(topic, count, key=lambda _: b"k", between=None, **settings):
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **settings)
    await producer.start()
    sent = []
    for number in range(count):
        sent.append(await producer.send(topic, b"v%d" % number, key=key(number), headers=[("h", b"x")]))
        if between and number == count // 2:
            between()
    await producer.flush()
    for future in sent:
        await future
    await producer.stop()


async def read(topic, count, **settings):
    consumer = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", **settings)
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
            check((found[7].key, found[7].headers), (b"k", (("h", b"x"),)))


async def idempotent():
    await send("a-idempotent", 1000, enable_idempotence=True)
    check([record.offset for record in await read("a-idempotent", 1000)], list(range(1000)))


async def transaction():
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id="aiokafka")
    await producer.start()
    partition = TopicPartition("a-transaction", 0)
    for first, is_committed in [(0, True), (50, False), (50, True)]:
        await producer.begin_transaction()
        for number in range(first, first + 50):
            await producer.send("a-transaction", b"%d" % number)
        await producer.flush()
        if is_committed:
            await producer.send_offsets_to_transaction({partition: first + 7}, "a-transform")
            await producer.commit_transaction()
        else:
            await producer.abort_transaction()
    await producer.stop()
    found = await read("a-transaction", 100, isolation_level="read_committed")
    check([int(record.value) for record in found], list(range(100)))
    consumer = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id="a-transform")
    await consumer.start()
    check(await consumer.committed(partition), 57)
    await consumer.stop()


async def admin():
    client = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await client.start()
    await client.create_topics([NewTopic("a-admin", 3, 1, topic_configs={"retention.ms": "1000000"})])
    check(len((await client.describe_topics(["a-admin"]))[0]["partitions"]), 3)
    await client.create_partitions({"a-admin": NewPartitions(4)})
    check(len((await client.describe_topics(["a-admin"]))[0]["partitions"]), 4)
    described = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "a-admin")])
    values = {entry[0]: entry[1] for entry in described[0].resources[0][4]}
    check(values["retention.ms"], "1000000")
    await client.list_consumer_groups()
    await client.delete_topics(["a-admin"])
    check("a-admin" in await client.list_topics(), False)
    await client.close()


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
    consumer.assign([partition])
    consumer.seek(partition, 51)
    check((await consumer.getone()).offset, 51)
    await consumer.stop()


async def group():
    client = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await client.start()
    await client.create_topics([NewTopic("a-group", 4, 1)])
    await client.close()
    await send("a-group", 300, key=lambda number: b"k%d" % number)

    def member():
        return AIOKafkaConsumer(
            "a-group", bootstrap_servers=BOOTSTRAP, group_id="a-group", auto_offset_reset="earliest",
            enable_auto_commit=False, metadata_max_age_ms=5000,
        )

    async def until(done):
        end = time.monotonic() + 60
        while not done() and time.monotonic() < end:
            await asyncio.sleep(0.1)
        check(done(), True)

    first, second = member(), member()
    await first.start()
    seen, end = 0, time.monotonic() + 60
    while seen < 300 and time.monotonic() < end:
        seen += sum(len(records) for records in (await first.getmany(timeout_ms=1000)).values())
    check(seen, 300)
    await first.commit()
    await second.start()
    await until(lambda: len(first.assignment()) == 2 and len(second.assignment()) == 2)
    await first.stop()
    await until(lambda: len(second.assignment()) == 4)
    committed = [await second.committed(partition) for partition in second.assignment()]
    check(sum(offset or 0 for offset in committed), 300)
    await second.stop()


async def through_a_restart():
    await send("a-restart", 600, enable_idempotence=True, between=restart)
    check([record.offset for record in await read("a-restart", 600)], list(range(600)))


for name, work in [
    ("produce and read", produce), ("idempotent", idempotent), ("transaction", transaction), ("seek by time", by_time),
    ("admin", admin), ("group", group), ("restart", through_a_restart),
]:
    scenario(name, lambda: asyncio.run(work()))
cannot("new group protocol", "it has none")

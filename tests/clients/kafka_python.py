"""kafka-python."""

import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import NewTopic

from steps import BOOTSTRAP, cannot, check, restart, scenario


def send(topic, count, **settings):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, **settings)
    sent = [producer.send(topic, b"v%d" % n, key=b"k%d" % (n % 5), headers=[("h", b"x")]) for n in range(count)]
    producer.flush(60)
    for future in sent:
        future.get(10)
    producer.close()


def read(topic, count, partitions=1, **settings):
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=None, consumer_timeout_ms=20_000, **settings)
    consumer.assign([TopicPartition(topic, index) for index in range(partitions)])
    consumer.seek_to_beginning()
    found = []
    for record in consumer:
        found.append(record)
        if len(found) == count:
            break
    consumer.close()
    return found


def produce():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        for acks in [0, 1, "all"]:
            topic = f"p-{codec}-{acks}"
            send(topic, 200, compression_type=codec, acks=acks, enable_idempotence=False)
            found = read(topic, 200)
            check([record.value for record in found], [b"v%d" % number for number in range(200)])
            check((found[7].key, list(found[7].headers)), (b"k2", [("h", b"x")]))


def idempotent():
    send("p-idempotent", 1000, enable_idempotence=True)
    check([record.offset for record in read("p-idempotent", 1000)], list(range(1000)))


def transaction():
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id="kafka-python")
    producer.init_transactions()
    for first, is_committed in [(0, True), (50, False), (50, True)]:
        producer.begin_transaction()
        for number in range(first, first + 50):
            producer.send("p-transaction", b"%d" % number)
        producer.flush()
        if is_committed:
            offset = OffsetAndMetadata(first + 7, "", -1)
            producer.send_offsets_to_transaction({TopicPartition("p-transaction", 0): offset}, "p-transform")
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    found = read("p-transaction", 100, isolation_level="read_committed")
    check([int(record.value) for record in found], list(range(100)))
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id="p-transform")
    check(consumer.committed(TopicPartition("p-transaction", 0)), 57)
    consumer.close()


def by_time():
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    base = int(time.time() * 1000) - 100_000
    for number in range(100):
        producer.send("p-time", b"x", timestamp_ms=base + number * 10, partition=0)
    producer.flush()
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP)
    partition = TopicPartition("p-time", 0)
    check(consumer.offsets_for_times({partition: base + 501})[partition].offset, 51)
    check(consumer.end_offsets([partition])[partition], 100)
    consumer.assign([partition])
    consumer.seek(partition, 51)
    check(next(iter(consumer)).offset, 51)
    consumer.close()


def admin():
    client = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    client.create_topics([NewTopic("p-admin", 3, 1)])
    check(len(client.describe_topics(["p-admin"])[0]["partitions"]), 3)
    client.delete_topics(["p-admin"])
    check("p-admin" in client.list_topics(), False)
    client.close()


def group():
    KafkaAdminClient(bootstrap_servers=BOOTSTRAP).create_topics([NewTopic("p-group", 4, 1)])
    send("p-group", 400)
    settings = {"bootstrap_servers": BOOTSTRAP, "group_id": "p-group", "auto_offset_reset": "earliest"}
    first, seen, end = KafkaConsumer("p-group", **settings), 0, time.monotonic() + 60
    while seen < 400 and time.monotonic() < end:
        seen += sum(len(records) for records in first.poll(500).values())
    check(seen, 400)
    first.commit()
    second = KafkaConsumer("p-group", **settings)
    while time.monotonic() < end and not (len(first.assignment()) == 2 and len(second.assignment()) == 2):
        first.poll(200)
        second.poll(200)
    check((len(first.assignment()), len(second.assignment())), (2, 2))
    first.close()
    second.close()


def through_a_restart():
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True)
    sent = []
    for number in range(600):
        sent.append(producer.send("p-restart", b"%d" % number))
        if number == 300:
            restart()
    for future in sent:
        future.get(60)
    producer.close()
    check([int(record.value) for record in read("p-restart", 600)], list(range(600)))


scenario("produce and read", produce)
scenario("idempotent", idempotent)
scenario("transaction", transaction)
scenario("seek by time", by_time)
scenario("admin", admin)
scenario("group", group)
cannot("new group protocol", "it has none")
scenario("restart", through_a_restart)

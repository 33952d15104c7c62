"""confluent-kafka (librdkafka)."""

import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from steps import BOOTSTRAP, check, restart, scenario

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def send(topic, count, **settings):
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 5, **settings})
    errors = []
    for number in range(count):
        producer.produce(
            topic, key=f"k{number % 5}", value=f"v{number}" * 5, headers={"h": b"x"},
            on_delivery=lambda error, _: errors.append(error) if error else None,
        )
    check(producer.flush(60), 0)
    check(errors, [])


def read(topic, count, partitions=1, first=0, **settings):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "reader", "enable.auto.commit": False, **settings})
    consumer.assign([TopicPartition(topic, index, first) for index in range(partitions)])
    found, end = [], time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        for message in consumer.consume(500, timeout=1):
            if message.error():
                raise RuntimeError(message.error())
            found.append(message)
    consumer.close()
    return found


def produce():
    for codec in CODECS:
        for acks in ["0", "1", "all"]:
            send(f"c-{codec}-{acks}", 200, **{"compression.type": codec, "acks": acks})
            found = read(f"c-{codec}-{acks}", 200)
            check([message.value() for message in found], [f"v{number}".encode() * 5 for number in range(200)])
            check(found[7].headers(), [("h", b"x")])
            check(found[7].key(), b"k2")


def idempotent():
    send("c-idempotent", 5000, **{"enable.idempotence": True, "batch.num.messages": 20})
    check([message.offset() for message in read("c-idempotent", 5000)], list(range(5000)))


def transaction():
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": "confluent"})
    producer.init_transactions(60)
    group = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "c-transform"})
    for first, is_committed in [(0, True), (50, False), (50, True)]:
        producer.begin_transaction()
        for number in range(first, first + 50):
            producer.produce("c-transaction", value=str(number))
        if is_committed:
            offsets = [TopicPartition("c-transaction", 0, first + 7)]
            producer.send_offsets_to_transaction(offsets, group.consumer_group_metadata(), 60)
            producer.commit_transaction(60)
        else:
            producer.flush(60)
            producer.abort_transaction(60)
    found = read("c-transaction", 100, **{"isolation.level": "read_committed"})
    check([int(message.value()) for message in found], list(range(100)))
    check(len(read("c-transaction", 150, **{"isolation.level": "read_uncommitted"})), 150)
    check(group.committed([TopicPartition("c-transaction", 0)], timeout=30)[0].offset, 57)
    # Another producer of that name puts an end to the first.
    producer.begin_transaction()
    producer.produce("c-transaction", value="fenced")
    producer.flush(60)
    second = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": "confluent"})
    second.init_transactions(60)
    try:
        producer.commit_transaction(60)
        raise AssertionError("a fenced producer committed")
    except KafkaException as error:
        check(error.args[0].fatal(), True)
    check(len(read("c-transaction", 100, **{"isolation.level": "read_committed"})), 100)
    group.close()


def through_a_restart():
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "linger.ms": 5})
    errors = []
    for number in range(3000):
        producer.produce("c-restart", value=str(number), on_delivery=lambda error, _: error and errors.append(error))
        producer.poll(0)
        if number == 1500:
            producer.poll(0.05)
            restart()
    check(producer.flush(60), 0)
    check(errors, [])
    check([int(message.value()) for message in read("c-restart", 3000)], list(range(3000)))


def by_time():
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    base = int(time.time() * 1000) - 100_000
    for number in range(100):
        producer.produce("c-time", value=str(number), partition=0, timestamp=base + number * 10)
    producer.flush(30)
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "time"})
    found = consumer.offsets_for_times([TopicPartition("c-time", 0, base + 501)], timeout=10)
    check(found[0].offset, 51)
    check(consumer.get_watermark_offsets(TopicPartition("c-time", 0), timeout=10), (0, 100))
    consumer.close()
    check(read("c-time", 49, first=51)[0].value(), b"51")


def admin():
    client = AdminClient({"bootstrap.servers": BOOTSTRAP})
    client.create_topics([NewTopic("c-admin", 3, 1, config={"retention.ms": "1000000"})])["c-admin"].result(30)
    check(len(client.list_topics("c-admin", timeout=10).topics["c-admin"].partitions), 3)
    resource = ConfigResource("topic", "c-admin")
    check(client.describe_configs([resource])[resource].result(30)["retention.ms"].value, "1000000")
    try:
        client.create_topics([NewTopic("c-admin", 1, 1)])["c-admin"].result(30)
        raise AssertionError("made twice")
    except Exception as error:
        check(error.args[0].name(), "TOPIC_ALREADY_EXISTS")
    send("c-admin", 300)
    client.delete_records([TopicPartition("c-admin", index, -1) for index in range(3)])
    client.delete_topics(["c-admin"])["c-admin"].result(30)


def group(protocol, **more):
    topic = f"c-group-{'-'.join([protocol, *more.values()])}"
    client = AdminClient({"bootstrap.servers": BOOTSTRAP})
    client.create_topics([NewTopic(topic, 4, 1)])[topic].result(30)
    send(topic, 1000)
    settings = {
        "bootstrap.servers": BOOTSTRAP, "group.id": f"g-{topic}", "group.protocol": protocol,
        "auto.offset.reset": "earliest", "enable.auto.commit": False, **more,
    }
    first, second = Consumer(settings), Consumer(settings)
    seen, end = set(), time.monotonic() + 90
    first.subscribe([topic])
    while len(seen) < 1000 and time.monotonic() < end:
        for message in first.consume(100, timeout=0.5):
            seen.add((message.partition(), message.offset()))
    check(len(seen), 1000)
    first.commit(asynchronous=False)
    second.subscribe([topic])
    while time.monotonic() < end and not (len(first.assignment()) == 2 and len(second.assignment()) == 2):
        first.consume(10, timeout=0.2)
        second.consume(10, timeout=0.2)
    check((len(first.assignment()), len(second.assignment())), (2, 2))
    first.close()
    while time.monotonic() < end and len(second.assignment()) < 4:
        second.consume(10, timeout=0.2)
    check(len(second.assignment()), 4)
    committed = second.committed(second.assignment(), timeout=10)
    # A partition without records has nothing to commit.
    check(sum(max(entry.offset, 0) for entry in committed), 1000)
    second.close()


scenario("produce and read", produce)
scenario("idempotent", idempotent)
scenario("transaction", transaction)
scenario("seek by time", by_time)
scenario("admin", admin)
def classic_groups():
    group("classic")
    group("classic", **{"partition.assignment.strategy": "cooperative-sticky"})


scenario("group", classic_groups)
scenario("new group protocol", lambda: group("consumer"))
scenario("restart", through_a_restart)

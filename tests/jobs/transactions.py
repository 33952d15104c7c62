#!/usr/bin/env python3
"""Consume, transform, produce over 8 partitions, in transactions, by librdkafka, while the broker is killed every 3 s.

    tests/jobs/transactions.py --binary target/release/martlet [--minutes 5] [--cache FOLDER]

A feeder numbers its records, two transformers of one group write each number on and commit their offsets in the same
transaction, and a reader of what is committed must find every number once. The broker dies by SIGKILL. The client is
installed, pinned, below --cache. Ends with 1 if a number is missing or comes twice.
"""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))
PARTITIONS = 8
KILL_EVERY_SECONDS = 3
SECONDS = 36
DRAIN_SECONDS = 240
GROUP = "transform"


def settled(bootstrap):
    return {"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 500, "retry.backoff.max.ms": 200}


def make(bootstrap):
    from confluent_kafka.admin import AdminClient, NewTopic

    client = AdminClient(settled(bootstrap))
    topics = [NewTopic(name, PARTITIONS, 1) for name in ("in", "out")]
    for outcome in client.create_topics(topics).values():
        outcome.result(30)


def feed(bootstrap, seconds):
    """Prints how many numbers it has written."""
    from confluent_kafka import Producer

    producer = Producer({**settled(bootstrap), "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 300_000})
    failed, number, end = [], 0, time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for _ in range(20):
            producer.produce("in", str(number), partition=number % PARTITIONS, on_delivery=lambda error, _: error and failed.append(error))
            number += 1
        producer.poll(0.02)
    left = producer.flush(120)
    if left or failed:
        raise SystemExit(f"{left} numbers were not written: {failed[:3]}")
    print(number, flush=True)


def begin(bootstrap, name):
    from confluent_kafka import Consumer, Producer

    producer = Producer({
        **settled(bootstrap), "transactional.id": name, "transaction.timeout.ms": 30_000, "linger.ms": 5,
        "message.timeout.ms": 25_000,
    })
    producer.init_transactions(60)
    consumer = Consumer({
        **settled(bootstrap), "group.id": GROUP, "isolation.level": "read_committed", "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "session.timeout.ms": 10_000,
    })
    consumer.subscribe(["in"])
    return producer, consumer


def retried(step):
    """Repeats a step while its failure says that this helps."""
    from confluent_kafka import KafkaException

    end = time.monotonic() + 60
    while True:
        try:
            return step()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > end:
                raise
            time.sleep(0.05)


def transform(bootstrap, name):
    """Goes on until it is killed. After a failure it begins again from what is committed."""
    from confluent_kafka import KafkaException, TopicPartition

    while True:
        producer = consumer = None
        try:
            producer, consumer = begin(bootstrap, name)
            while True:
                found = [message for message in consumer.consume(500, 0.2) if not message.error()]
                if not found:
                    continue
                producer.begin_transaction()
                for message in found:
                    producer.produce("out", message.value(), partition=message.partition())
                ends = {message.partition(): message.offset() + 1 for message in found}
                places = [TopicPartition("in", partition, offset) for partition, offset in ends.items()]
                retried(lambda: producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), 30))
                retried(lambda: producer.commit_transaction(30))
        except (KafkaException, BufferError, RuntimeError) as error:
            print(f"{name} begins again: {error}", file=sys.stderr, flush=True)
            if consumer:
                consumer.close()
            # Whatever was open is aborted when the producer of this name begins again.
            producer = None


def check(bootstrap, count):
    """Reads what is committed until every number was seen, or nothing more comes."""
    from confluent_kafka import Consumer, TopicPartition

    count = int(count)
    consumer = Consumer({
        **settled(bootstrap), "group.id": "check", "isolation.level": "read_committed", "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    consumer.assign([TopicPartition("out", index, 0) for index in range(PARTITIONS)])
    seen, last = collections.Counter(), time.monotonic()
    while time.monotonic() - last < 20:
        ends = 0
        for message in consumer.consume(1000, 1):
            if message.error():
                ends += 1
            else:
                seen[int(message.value())] += 1
                last = time.monotonic()
        if len(seen) >= count and ends and time.monotonic() - last > 3:
            break
    high = sum(consumer.get_watermark_offsets(TopicPartition("out", index), 10)[1] for index in range(PARTITIONS))
    missing = sorted(set(range(count)) - set(seen))
    twice = sorted(number for number, times in seen.items() if times > 1)
    print(f"{len(seen)} of {count} numbers, {len(missing)} missing {missing[:5]}, {len(twice)} twice {twice[:5]}, {high} offsets used")
    sys.exit(1 if missing or twice else 0)


def begin_role(python, bootstrap, role, words, log):
    command = [python, str(HERE / "transactions.py"), "--role", role, bootstrap, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


def run(arguments):
    import brokers
    import installs

    cache = pathlib.Path(arguments.cache)
    cache.mkdir(parents=True, exist_ok=True)
    python = installs.install_python(cache, installs.PYTHON["confluent-kafka"][1])
    seconds = arguments.minutes * 60 if arguments.minutes else SECONDS
    with tempfile.TemporaryDirectory(prefix="martlet-transactions-", dir=cache) as folder:
        log_path = cache / "transactions.log"
        log = open(log_path, "w", encoding="utf-8")
        broker = brokers.Broker(os.path.abspath(arguments.binary), pathlib.Path(folder), "shard", str(log_path) + ".broker")
        roles = []
        try:
            bootstrap = broker.start()
            subprocess.run([python, str(HERE / "transactions.py"), "--role", "make", bootstrap], check=True)
            feeder = begin_role(python, bootstrap, "feed", [str(seconds)], log)
            roles = [feeder] + [begin_role(python, bootstrap, "transform", [f"transformer-{number}"], log) for number in range(2)]
            kills, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(KILL_EVERY_SECONDS)
                broker.kill()
                broker.start()
                kills += 1
            count = feeder.communicate(timeout=DRAIN_SECONDS)[0].strip()
            if feeder.returncode:
                raise SystemExit(f"the feeder failed, see {log_path}")
            checker = begin_role(python, bootstrap, "check", [count], log)
            told = checker.communicate(timeout=DRAIN_SECONDS)[0].strip()
            print(f"{kills} kills in {seconds:.0f} s: {told}")
            sys.exit(checker.returncode)
        finally:
            for role in roles:
                role.kill()
                role.wait()
            broker.kill()


def main():
    if sys.argv[1:2] == ["--role"]:
        return {"make": make, "feed": feed, "transform": transform, "check": check}[sys.argv[2]](*sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the martlet to test")
    parser.add_argument("--minutes", type=float, help="how long the broker is killed; the full bar is 5")
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "martlet-clients"))
    return run(parser.parse_args())


if __name__ == "__main__":
    main()

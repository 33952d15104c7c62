#!/usr/bin/env python3
"""Consumer groups under churn: members come and go, the broker is killed, and no record may be skipped.

    tests/clients/churn.py --binary target/release/martlet [--kind classic,cooperative,...] [--kills 2]

A producer writes numbered records all the time. Members of one group join and leave; the broker is killed with SIGKILL
and started again. In the end every acknowledged record was read, no member began behind the next record of a
partition, and what the group has committed is the end of each partition. Needs a Python with the clients installed
(tests/clients/run.py makes one for each below --cache); started by another, it changes over to that one.
"""

import argparse
import asyncio
import collections
import os
import pathlib
import sys
import tempfile
import threading
import time

from brokers import Broker
from installs import PYTHON, install_python

TOPIC = "churn"
KINDS = {
    "classic": ("confluent-kafka", {"partition.assignment.strategy": "range", "session.timeout.ms": 10000}),
    "cooperative": (
        "confluent-kafka", {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 10000},
    ),
    "static": ("confluent-kafka", {"session.timeout.ms": 10000}),
    "consumer": ("confluent-kafka", {"group.protocol": "consumer"}),
    "kafka-python": ("kafka-python", {}),
    "aiokafka": ("aiokafka", {}),
}


class Ledger:
    """What was acknowledged, and what was read."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = set()
        self.read = collections.Counter()
        self.highest = {}
        self.skips = []
        self.problems = collections.Counter()
        self.is_over = threading.Event()

    def note(self, partition, offset, value):
        with self.lock:
            highest = self.highest.get(partition, -1)
            if offset > highest + 1:
                self.skips.append((partition, highest, offset))
            self.highest[partition] = max(offset, highest)
            self.read[value] += 1

    def missing(self):
        with self.lock:
            return self.acknowledged - set(self.read)


def produce(bootstrap, ledger, stop):
    """Writes numbered records until `stop`, and waits until each is acknowledged."""
    if "confluent_kafka" in sys.modules or has("confluent_kafka"):
        from confluent_kafka import Producer

        def told(error, message):
            with ledger.lock:
                if error is None:
                    ledger.acknowledged.add(message.value())
                else:
                    ledger.problems[f"produce {error}"] += 1

        producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 120000,
        })
        number = 0
        while not stop.is_set():
            try:
                producer.produce(TOPIC, key=str(number), value=str(number).encode(), on_delivery=told)
            except BufferError:
                producer.poll(0.1)
                continue
            number += 1
            producer.poll(0)
            if number % 10 == 0:
                time.sleep(0.01)
        producer.flush(120)
        return
    asyncio.run(produce_aio(bootstrap, ledger, stop)) if has("aiokafka") else produce_kafka(bootstrap, ledger, stop)


def produce_kafka(bootstrap, ledger, stop):
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, delivery_timeout_ms=120000)

    def told(value):
        with ledger.lock:
            ledger.acknowledged.add(value)

    number = 0
    while not stop.is_set():
        value = str(number).encode()
        try:
            producer.send(TOPIC, key=value, value=value).add_callback(lambda _, value=value: told(value))
            number += 1
        except Exception as error:
            ledger.problems[f"produce {type(error).__name__}"] += 1
            time.sleep(0.2)
        if number % 10 == 0:
            time.sleep(0.02)
    producer.flush(120)


async def produce_aio(bootstrap, ledger, stop):
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, request_timeout_ms=60000)
    await producer.start()
    number = 0
    while not stop.is_set():
        value = str(number).encode()
        try:
            await producer.send_and_wait(TOPIC, key=value, value=value)
            with ledger.lock:
                ledger.acknowledged.add(value)
            number += 1
        except Exception as error:
            ledger.problems[f"produce {type(error).__name__}"] += 1
            await asyncio.sleep(0.2)
    await producer.stop()


def has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def consume_confluent(bootstrap, ledger, seconds, options):
    from confluent_kafka import Consumer

    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "churn", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, **options,
    })
    consumer.subscribe([TOPIC])

    def commit():
        try:
            consumer.commit(asynchronous=False)
        except Exception as error:
            ledger.problems[f"commit {error.args[0].name()}"] += 1

    end = time.time() + seconds
    count = 0
    while time.time() < end and not ledger.is_over.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            ledger.problems[f"poll {message.error().name()}"] += 1
            continue
        ledger.note(message.partition(), message.offset(), message.value())
        count += 1
        if count % 50 == 0:
            commit()
    commit()
    consumer.close()


def consume_kafka_python(bootstrap, ledger, seconds, _):
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, group_id="churn", auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=10000,
    )
    end = time.time() + seconds
    while time.time() < end and not ledger.is_over.is_set():
        try:
            records = consumer.poll(timeout_ms=300, max_records=50)
            for record in (record for part in records.values() for record in part):
                ledger.note(record.partition, record.offset, record.value)
            if records:
                consumer.commit()
        except Exception as error:
            ledger.problems[f"poll {type(error).__name__}"] += 1
            time.sleep(0.2)
    consumer.close()


def consume_aiokafka(bootstrap, ledger, seconds, _):
    asyncio.run(consume_aio(bootstrap, ledger, seconds))


async def consume_aio(bootstrap, ledger, seconds):
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, group_id="churn", auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=10000,
    )
    await consumer.start()
    end = time.time() + seconds
    while time.time() < end and not ledger.is_over.is_set():
        try:
            records = await consumer.getmany(timeout_ms=300, max_records=100)
            for record in (record for part in records.values() for record in part):
                ledger.note(record.partition, record.offset, record.value)
            if records:
                await consumer.commit()
        except Exception as error:
            ledger.problems[f"poll {type(error).__name__}"] += 1
            await asyncio.sleep(0.2)
    await consumer.stop()


CONSUMERS = {
    "confluent-kafka": consume_confluent, "kafka-python": consume_kafka_python, "aiokafka": consume_aiokafka,
}


def churn(arguments, kind, folder):
    """One run; returns what is wrong."""
    client, options = KINDS[kind]
    broker = Broker(arguments.binary, folder, arguments.addressing, folder / "broker.log")
    bootstrap = f"127.0.0.1:{broker.port}"
    broker.start()
    ledger, stop, members = Ledger(), threading.Event(), []
    producer = threading.Thread(target=produce, args=(bootstrap, ledger, stop))
    producer.start()
    time.sleep(1)

    def member(seconds):
        own = {"group.instance.id": f"member-{len(members)}", **options} if kind == "static" else options
        thread = threading.Thread(target=CONSUMERS[client], args=(bootstrap, ledger, seconds, own))
        thread.start()
        members.append(thread)

    member(3600)
    for kill in range(arguments.kills + 1):
        time.sleep(6)
        member(9 + 3 * (kill % 2))
        time.sleep(5)
        if kill < arguments.kills:
            broker.kill()
            time.sleep(0.5)
            broker.start()
    member(3600)
    time.sleep(6)
    stop.set()
    producer.join()
    end = time.time() + 90
    while time.time() < end and ledger.missing():
        time.sleep(0.5)
    ledger.is_over.set()
    for thread in members:
        thread.join(60)
    broker.kill()
    twice = sum(ledger.read.values()) - len(ledger.read)
    missing = len(ledger.missing())
    print(
        f"{kind}: {len(ledger.acknowledged)} acknowledged, {len(ledger.read)} read, {missing} missing, {twice} twice, "
        f"{len(ledger.skips)} skips, {dict(ledger.problems)}", flush=True,
    )
    return bool(missing or ledger.skips or not ledger.acknowledged)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--kind", default=",".join(KINDS))
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--addressing", choices=["shard", "node"], default="shard")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "kafka-clients")
    arguments = parser.parse_args()
    failed = False
    for kind in arguments.kind.split(","):
        client, _ = KINDS[kind]
        python = install_python(arguments.cache, PYTHON[client][1])
        if os.path.realpath(sys.prefix) != os.path.realpath(pathlib.Path(python).parent.parent):
            command = [python, __file__, "--binary", arguments.binary, "--kind", kind, "--kills", str(arguments.kills)]
            command += ["--addressing", arguments.addressing, "--cache", str(arguments.cache)]
            failed |= os.spawnv(os.P_WAIT, python, command) != 0
            continue
        with tempfile.TemporaryDirectory() as folder:
            failed |= churn(arguments, kind, pathlib.Path(folder))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

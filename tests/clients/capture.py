#!/usr/bin/env python3
"""Records requests of real clients, as examples for the fuzzers: `fuzz/captures/CLIENT.bin`.

    tests/clients/capture.py --binary PATH [--out fuzz/captures]

The broker tells clients an address on which this program listens, so that all they send goes through it.
Of each key and version the first requests are kept, as they were sent: length, then request. Needs the Python
packages confluent-kafka, kafka-python and aiokafka.
"""

import argparse
import asyncio
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

BROKER = "127.0.0.1"
PROXY = "127.0.0.2"
# Of one key and version, and of one request: what is longer teaches nothing more.
KEPT = 2
BYTES_MAX = 4096


class Recorder:
    """Listens where clients are told the broker is, passes all on, and keeps requests."""

    def __init__(self, port):
        self.port = port
        self.kept = {}
        self.lock = threading.Lock()
        self.listener = socket.create_server((PROXY, port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            broker = socket.create_connection((BROKER, self.port))
            threading.Thread(target=self.requests, args=(client, broker), daemon=True).start()
            threading.Thread(target=self.answers, args=(broker, client), daemon=True).start()

    def requests(self, client, broker):
        try:
            with client.makefile("rb") as stream:
                while head := stream.read(4):
                    request = stream.read(struct.unpack(">i", head)[0])
                    self.keep(request)
                    broker.sendall(head + request)
        except OSError:
            pass
        finally:
            broker.close()

    def keep(self, request):
        with self.lock:
            kept = self.kept.setdefault(request[:4], [])
            if len(kept) < KEPT and len(request) <= BYTES_MAX:
                kept.append(request)

    @staticmethod
    def answers(broker, client):
        try:
            while piece := broker.recv(65536):
                client.sendall(piece)
        except OSError:
            pass
        finally:
            client.close()

    def take(self):
        with self.lock:
            kept, self.kept = self.kept, {}
        return [request for key in sorted(kept) for request in kept[key]]


def confluent(server):
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

    config = {"bootstrap.servers": server}
    admin = AdminClient(config)
    wait = lambda futures: [future.result(10) for future in futures.values()]
    wait(admin.create_topics([NewTopic("confluent", 2, config={"retention.ms": "3600000"})]))
    admin.list_topics(timeout=10)
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        producer = Producer({**config, "compression.type": codec, "enable.idempotence": codec == "lz4"})
        for number in range(20):
            producer.produce("confluent", b"value" * 5, key=str(number), headers={"a": b"b"}, partition=number % 2)
        producer.flush(10)
    for protocol in ["classic", "consumer"]:
        consumer = Consumer({**config, "group.id": f"confluent-{protocol}", "group.protocol": protocol,
                             "auto.offset.reset": "earliest"})
        consumer.subscribe(["confluent"])
        seen = 0
        while seen < 100:
            seen += len(consumer.consume(100, 1))
        consumer.commit(asynchronous=False)
        consumer.committed([TopicPartition("confluent", 0)], timeout=10)
        consumer.offsets_for_times([TopicPartition("confluent", 0, 1)], timeout=10)
        consumer.close()
    wait(admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "confluent")]))
    admin.list_consumer_groups().result(10)
    wait(admin.describe_consumer_groups(["confluent-classic"]))
    wait(admin.delete_consumer_groups(["confluent-classic"]))
    wait(admin.delete_topics(["confluent"]))


def kafka_python(server):
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=server)
    admin.create_topics([NewTopic("python", 2, 1)])
    producer = KafkaProducer(bootstrap_servers=server, acks="all", enable_idempotence=True)
    for number in range(20):
        producer.send("python", b"value", key=str(number).encode(), headers=[("a", b"b")])
    producer.flush(10)
    consumer = KafkaConsumer("python", bootstrap_servers=server, group_id="python", auto_offset_reset="earliest",
                             enable_auto_commit=False)
    seen = 0
    while seen < 20:
        seen += sum(map(len, consumer.poll(1000).values()))
    consumer.commit()
    consumer.offsets_for_times({TopicPartition("python", 0): 1})
    consumer.close()
    admin.delete_topics(["python"])
    admin.close()


def aiokafka(server):
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    async def run():
        producer = AIOKafkaProducer(bootstrap_servers=server, enable_idempotence=True)
        await producer.start()
        for number in range(20):
            await producer.send_and_wait("aio", b"value", key=str(number).encode())
        await producer.stop()
        consumer = AIOKafkaConsumer("aio", bootstrap_servers=server, group_id="aio", auto_offset_reset="earliest",
                                    enable_auto_commit=False)
        await consumer.start()
        for _ in range(20):
            await asyncio.wait_for(consumer.getone(), 10)
        await consumer.commit()
        await consumer.stop()

    asyncio.run(run())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("fuzz/captures"))
    arguments = parser.parse_args()
    data = tempfile.mkdtemp(prefix="capture-")
    broker = subprocess.Popen(
        [arguments.binary, "start", "--data-dir", data, "--listen", f"{BROKER}:0", "--http", f"{BROKER}:0",
         "--kafka", f"{BROKER}:0", "--set", "kafka.addressing=node", "--set", f"kafka.advertised_host={PROXY}",
         "--set", "node.shards=1", "--set", "wal.file_bytes=16MiB"],
        stdout=subprocess.PIPE, text=True)
    try:
        port = int(broker.stdout.readline().split("kafka=")[1].rsplit(":", 1)[1])
        recorder = Recorder(port)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for client in [confluent, kafka_python, aiokafka]:
            client(f"{PROXY}:{port}")
            time.sleep(0.2)
            requests = recorder.take()
            path = arguments.out / f"{client.__name__}.bin"
            path.write_bytes(b"".join(struct.pack(">i", len(one)) + one for one in requests))
            versions = sorted({struct.unpack(">hh", one[:4]) for one in requests})
            print(f"{path}: {len(requests)} requests, {path.stat().st_size} bytes: {versions}")
    finally:
        broker.terminate()
        broker.wait()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()

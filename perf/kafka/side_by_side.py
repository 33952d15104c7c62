#!/usr/bin/env python3
"""Compares Martlet with Apache Kafka (KRaft) on one machine: the same clients and settings, turn by turn.

    perf/kafka/side_by_side.py --binary target/release/martlet --perf target/release/martlet-perf \\
        --measures produce,rate,read,first,idle --rounds 5 --results results.jsonl

Each broker runs in a control group of its own with the same limit of memory, the page cache included. Every
figure goes to --results as one line with the durability of its acknowledgements; a later run adds to it, and
--report prints the medians of all that is there. Kafka is resolved by Maven (see pom.xml), librdkafka by pip, into --cache.
"""

import argparse
import json
import mmap
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import report
from brokers import Broker, Group, Kafka, KafkaFlushed, Martlet, Null, Tools

PRODUCER = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER = "org.apache.kafka.tools.ConsumerPerformance"
PRODUCERS = ["librdkafka", "java"]
SIZES = [100, 1024]
# Records of one run by client and size: seconds of work; fewer where Kafka syncs every batch.
RECORDS = {"librdkafka": {100: 2_500_000, 1024: 600_000}, "java": {100: 800_000, 1024: 300_000}}
FLUSHED_SHARE = {"librdkafka": 8, "java": 8}
# The same for all brokers. Five requests on the way are what both clients allow an idempotent producer.
LIBRDKAFKA = ["acks=all", "enable.idempotence=true", "queue.buffering.max.kbytes=262144"]
LATENCY = ["linger.ms=0", "fetch.min.bytes=1", "fetch.wait.max.ms=500"]
IDLE_PARTITIONS = 1000


class Comparison:
    def __init__(self, options):
        self.options = options
        self.cache = pathlib.Path(options.cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.data = pathlib.Path(tempfile.mkdtemp(prefix="side-by-side-", dir=options.data))
        self.tools = Tools(self.cache, options.perf)
        self.results = pathlib.Path(options.results)
        Martlet.binary, Martlet.settings = options.binary, options.set
        Kafka.heap = options.heap
        self.round = 0

    def note(self, broker, measure, **facts):
        line = {
            "measure": measure,
            "broker": broker.name,
            "durability": broker.durability,
            "round": self.round,
            "partitions": broker.partitions,
            **facts,
        }
        with open(self.results, "a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def broker(self, kind, partitions, name="data"):
        broker = kind(
            self.tools, self.data / f"{kind.name}-{name}", self.options.memory_mib << 20, partitions
        )
        if not broker.folder.exists():
            broker.prepare()
        elif isinstance(broker, Kafka):
            text = (broker.folder / "server.properties").read_text()
            broker.port = int(re.search(r"PLAINTEXT://127.0.0.1:(\d+)", text)[1])
            broker.properties = broker.folder / "server.properties"
        return broker

    def client(self, broker, mode, topic, *settings, timeout=300):
        command = [str(self.tools.client), mode, broker.bootstrap, topic, *settings]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")
        return json.loads(done.stdout)

    def produce_java(self, broker, topic, size, records):
        payload = self.cache / f"payload-{size}"
        payload.write_text("martlet " * (size // 8) + "x" * (size % 8))
        arguments = [
            "--topic",
            topic,
            "--num-records",
            str(records),
            "--throughput",
            "-1",
            "--payload-file",
            str(payload),
            "--producer-props",
            f"bootstrap.servers={broker.bootstrap}",
            "acks=all",
        ]
        done = subprocess.run(
            self.tools.java(PRODUCER, *arguments, heap="512m"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=True,
        )
        found = re.findall(
            rf"^{records} records sent, ([\d.]+) records/sec \(([\d.]+) MB/sec\)", done.stdout, re.MULTILINE
        )
        if not found:
            raise RuntimeError(f"the producer did not end: {done.stdout[-500:]}")
        rate = float(found[-1][0])
        return {"rate": rate, "mb_s": rate * size / 1e6}

    def produce(self):
        """As fast as it goes, acks=all."""
        for kind in self.kinds(Martlet, Kafka, KafkaFlushed):
            broker = self.broker(kind, self.options.partitions)
            broker.start()
            time.sleep(self.options.settle)
            shares = FLUSHED_SHARE if kind is KafkaFlushed else dict.fromkeys(PRODUCERS, 1)
            for size in self.options.sizes:
                warm = RECORDS["librdkafka"][size] // (2 * shares["librdkafka"])
                self.client(broker, "produce", "warm", f"bytes={size}", f"records={warm}", *LIBRDKAFKA)
                for producer in self.options.producers:
                    records = RECORDS[producer][size] // shares[producer]
                    os.sync()
                    before = broker.cpu_seconds()
                    if producer == "java":
                        done = self.produce_java(broker, f"java-{size}", size, records)
                    else:
                        settings = [f"bytes={size}", f"records={records}", *LIBRDKAFKA]
                        done = self.client(broker, "produce", f"librdkafka-{size}", *settings)
                    cpu = (broker.cpu_seconds() - before) / (records * size / (1 << 30))
                    self.note(
                        broker,
                        "produce",
                        client=producer,
                        bytes=size,
                        rate=done["rate"],
                        mb_s=done["mb_s"],
                        cpu_s_gib=cpu,
                    )
            broker.stop()
            broker.delete()

    def rate(self):
        """Fixed rates: latencies of the same client, to be compared with those against the null broker."""
        for kind in self.kinds(Null, Martlet, Kafka):
            broker = self.broker(kind, 1)
            broker.start()
            time.sleep(self.options.settle)
            for rate in self.options.rates:
                settings = [f"bytes={self.options.rate_bytes}", f"rate={rate}", *LIBRDKAFKA, *LATENCY]
                self.client(broker, "rate", f"warm-{rate}", "seconds=3", "warm=1", *settings)
                os.sync()
                seconds = f"seconds={self.options.seconds}"
                done = self.client(broker, "rate", f"rate-{rate}", seconds, "warm=1", *settings)
                self.note(broker, "rate", rate=rate, bytes=self.options.rate_bytes, **done)
            broker.stop()
            broker.delete()

    def read(self):
        """Catch-up reading by one consumer: from disk, and what was just written."""
        size = 1024
        for kind in self.kinds(Martlet, Kafka):
            records = int(self.options.read_gib * (1 << 30)) // size
            broker = self.broker(kind, self.options.partitions, "read")
            is_new = not (broker.folder / "filled").exists()
            broker.start()
            if is_new:
                self.client(broker, "produce", "read", f"bytes={size}", f"records={records}", *LIBRDKAFKA)
                broker.stop()
                (broker.folder / "filled").touch()
                broker.start()
            forget(broker.folder)
            for where in ["disk", "memory"]:
                count, topic = records, "read"
                if where == "memory":
                    count, topic = int(self.options.memory_gib * (1 << 30)) // size, f"memory-{self.round}"
                    self.client(broker, "produce", topic, f"bytes={size}", f"records={count}", *LIBRDKAFKA)
                before = broker.cpu_seconds()
                done = self.client(
                    broker, "read", topic, f"partitions={broker.partitions}", f"records={count}"
                )
                cpu = (broker.cpu_seconds() - before) / (count * size / (1 << 30))
                self.note(
                    broker,
                    "read",
                    where=where,
                    gib=count * size / (1 << 30),
                    rate=done["rate"],
                    mb_s=done["mb_s"],
                    cpu_s_gib=cpu,
                )
            broker.stop()
            if kind is Kafka:
                self.note(broker, "bare-reads", mb_s=bare_reads(broker.folder))

    def first(self):
        """From the start of the process to the first record acknowledged, on a log that exists."""
        for kind in self.kinds(Martlet, Kafka):
            broker = self.broker(kind, self.options.partitions, "first")
            broker.start()
            self.client(broker, "first", "first", "acks=all")
            broker.stop()
            broker.start(wait=False)
            # Without idempotence: the client waits half a second before it asks again for a producer id.
            quick = [
                "acks=all",
                "reconnect.backoff.ms=5",
                "reconnect.backoff.max.ms=20",
                "retry.backoff.ms=10",
                "retry.backoff.max.ms=20",
            ]
            done = self.client(broker, "first", "first", *quick)
            self.note(broker, "first", seconds=done["at"] - broker.started)
            broker.stop()
            broker.delete()

    def idle(self):
        """Memory of a broker that has partitions and nothing to do."""
        for kind in self.kinds(Martlet, Kafka):
            broker = self.broker(kind, IDLE_PARTITIONS, "idle")
            broker.start()
            self.client(broker, "first", "many", "acks=all")
            time.sleep(self.options.seconds)
            before = broker.cpu_seconds()
            time.sleep(self.options.seconds)
            share = (broker.cpu_seconds() - before) / self.options.seconds
            facts = {f"{name}_mib": count / (1 << 20) for name, count in broker.group.facts().items()}
            self.note(
                broker, "idle", resident_mib=broker.resident_bytes() / (1 << 20), cpu_share=share, **facts
            )
            broker.stop()
            broker.delete()

    def hops(self):
        """Calls between shards for a Java producer and consumer, by addressing."""
        for addressing in ["shard", "node"]:
            broker = self.broker(Martlet, self.options.partitions, f"hops-{addressing}")
            broker.settings = [*Martlet.settings, f"kafka.addressing={addressing}"]
            broker.start()
            time.sleep(self.options.settle)
            records, size = RECORDS["java"][1024], 1024
            # The topic and the consumer's group are there before anything is counted.
            self.produce_java(broker, "hops", size, 1000)
            self.consume_java(broker, "hops", 1000, "warm")
            for what in ["produce", "fetch"]:
                before, cpu = broker.hops(), broker.cpu_seconds()
                if what == "produce":
                    done = self.produce_java(broker, "hops", size, records)
                else:
                    done = self.consume_java(broker, "hops", records, "hops")
                hops = broker.hops() - before
                cpu = (broker.cpu_seconds() - cpu) / (records * size / (1 << 30))
                self.note(
                    broker,
                    "hops",
                    addressing=addressing,
                    what=what,
                    hops=hops,
                    rate=done["rate"],
                    cpu_s_gib=cpu,
                )
            broker.stop()
            broker.delete()

    def consume_java(self, broker, topic, records, group):
        arguments = ["--bootstrap-server", broker.bootstrap, "--topic", topic, "--messages", str(records)]
        arguments += ["--group", group, "--hide-header", "--timeout", "20000"]
        done = subprocess.run(
            self.tools.java(CONSUMER, *arguments, heap="512m"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=True,
        )
        # start, end, MB, MB/s, records, records/s, rebalance ms, fetch ms, MB/s of it, records/s of it
        fields = done.stdout.strip().split("\n")[-1].split(", ")
        return {"rate": float(fields[9]), "mb_s": float(fields[8]) * 1.048576}

    def kinds(self, *kinds):
        """Those that are asked for; each round begins with another one."""
        kinds = [kind for kind in kinds if kind.name in self.options.brokers]
        turn = self.round % max(len(kinds), 1)
        return kinds[turn:] + kinds[:turn]

    def run(self):
        try:
            for at in range(self.options.rounds):
                self.round = self.options.first_round + at
                for measure in self.options.measures:
                    getattr(self, measure)()
        finally:
            for broker in list(Broker.running):
                broker.stop()
            subprocess.run(["rm", "-rf", str(self.data)], check=False)


def files_below(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


def forget(folder):
    """Takes what was written out of the page cache."""
    for path in files_below(folder):
        with open(path, "rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_reads(folder, block=1 << 20, depth=4):
    """MB/s of direct reads of the largest file, `depth` at a time."""
    path = max(files_below(folder), key=lambda path: path.stat().st_size)
    blocks = iter(range(min(path.stat().st_size // block, 1024)))
    lock, done = threading.Lock(), []

    def work():
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, block)
        while True:
            with lock:
                at = next(blocks, None)
            if at is None:
                break
            done.append(os.preadv(file, [buffer], at * block))
        os.close(file)

    begun = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - begun) / 1e6


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", help="the martlet to measure")
    parser.add_argument("--perf", help="martlet-perf, for the null broker")
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "martlet-side-by-side"))
    parser.add_argument(
        "--data", default=tempfile.gettempdir(), help="where the brokers keep their logs meanwhile"
    )
    parser.add_argument("--results", default="side-by-side.jsonl")
    parser.add_argument(
        "--report", action="store_true", help="print what --results holds, and measure nothing"
    )
    parser.add_argument("--measures", default="produce,rate,read,first,idle", type=words)
    parser.add_argument("--brokers", default="martlet,kafka,kafka-flush-1,null", type=words)
    parser.add_argument("--producers", default=",".join(PRODUCERS), type=words)
    parser.add_argument("--sizes", default="100,1024", type=numbers)
    parser.add_argument(
        "--rates", default="5000,100000", type=numbers, help="records/s; half of Kafka's maximum is one"
    )
    parser.add_argument("--rate-bytes", default=1024, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument(
        "--first-round", default=0, type=int, help="number of the first, when a run is continued"
    )
    parser.add_argument("--seconds", default=5, type=int, help="length of a run at a fixed rate")
    parser.add_argument("--settle", default=3, type=int, help="seconds between a start and the first load")
    parser.add_argument("--partitions", default=4, type=int)
    parser.add_argument("--read-gib", default=5.0, type=float)
    parser.add_argument(
        "--memory-gib", default=0.5, type=float, help="what is read back while it is in memory"
    )
    parser.add_argument("--memory-mib", default=2048, type=int, help="limit of each broker's control group")
    parser.add_argument("--heap", default="1g", help="heap of Kafka's JVM")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of martlet"
    )
    return parser.parse_args()


def words(text):
    return text.split(",")


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    options = parse()
    if not options.report:
        probe = Group(options.memory_mib << 20)
        held = (
            f"{options.memory_mib} MiB each, page cache included"
            if probe.folder
            else "NOT LIMITED (no control group)"
        )
        probe.remove()
        print(f"memory: {held}; processors: {os.cpu_count()}, shared with the client")
        # Whoever ends this ends the broker with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        Comparison(options).run()
    print(report.table(options.results))


if __name__ == "__main__":
    main()

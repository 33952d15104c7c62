"""The brokers that clients are run against: Martlet in both ways of addressing, and Apache Kafka from its jars.

Each listens on loopback ports that it keeps over a restart, has a data directory of its own, and is stopped by the id
of its process.
"""

import base64
import json
import os
import socket
import struct
import subprocess
import time
import uuid

START_SECONDS = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count):
    """The first of some ports in a row, for the shards: clients that know only brokers must find them again."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except (OSError, OverflowError):
            continue


class Broker:
    """A Martlet."""

    def __init__(self, binary, folder, addressing, log):
        self.log = open(log, "ab")
        self.port = free_port()
        self.command = [
            binary, "start", "--format", "json", "--data-dir", str(folder / "data"),
            "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--kafka", f"127.0.0.1:{self.port}",
        ]
        for pair in [
            "node.shards=2", "native.shard_port_base=0", f"kafka.shard_port_base={free_ports(2)}", f"kafka.addressing={addressing}",
            "wal.file_bytes=16MiB", "wal.files=4", "topic.batch_bytes_max=2MiB", "log.level=debug",
        ]:
            self.command += ["--set", pair]
        self.process = None

    def start(self):
        environment = {name: text for name, text in os.environ.items() if not name.startswith("MARTLET_")}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, env=environment)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the broker did not get ready: exit code {self.process.wait()}, see {self.log.name}")
        return json.loads(line)["kafka"]

    def kill(self):
        self.process.kill()
        self.process.wait()


class ApacheKafka:
    """One node of Apache Kafka in KRaft mode, broker and controller in one process; `jars` is a classpath."""

    def __init__(self, jars, folder, log):
        self.log = open(log, "ab")
        self.port = free_port()
        self.settings = folder / "server.properties"
        self.java = [
            "java", "-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars,
        ]
        control = free_port()
        self.settings.write_text("\n".join([
            "process.roles=broker,controller", "node.id=1", f"controller.quorum.voters=1@127.0.0.1:{control}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{control}",
            "controller.listener.names=CONTROLLER", f"log.dirs={folder / 'data'}",
            "offsets.topic.replication.factor=1", "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4", "group.initial.rebalance.delay.ms=0", "",
        ]))
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        form = ["kafka.tools.StorageTool", "format", "-t", identity, "-c", str(self.settings)]
        subprocess.run([*self.java, *form], check=True, stdout=self.log, stderr=self.log)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [*self.java, "kafka.Kafka", str(self.settings)], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Apache Kafka did not get ready, see {self.log.name}")
            time.sleep(0.1)
        return f"127.0.0.1:{self.port}"

    def answers(self):
        """Whether a request for ApiVersions is answered, which is not before requests are worked on."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))
                return len(connection.recv(4)) == 4
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

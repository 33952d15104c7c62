"""Starts the brokers that are compared, each in a control group of its own, and stops them by process id."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
GROUPS = pathlib.Path("/sys/fs/cgroup")
LIBRDKAFKA = "confluent-kafka==2.16.1"
# As bin/kafka-run-class.sh and bin/kafka-server-start.sh set them.
JVM = [
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
]
START_WAIT_SECONDS = 60


class Tools:
    """What the comparison runs beside Martlet, installed below a cache and pinned."""

    def __init__(self, cache, perf):
        self.perf = perf
        self.jars = cache / "jars"
        if not (self.jars / "done").exists():
            make = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
            subprocess.run([*make, f"-DoutputDirectory={self.jars}", "-DincludeScope=runtime"], check=True)
            (self.jars / "done").touch()
        self.client = cache / "client"
        if not self.client.exists():
            python = cache / "python"
            subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
            subprocess.run([str(python / "bin" / "pip"), "install", "-q", LIBRDKAFKA], check=True)
            library = next(python.glob("lib/python3*/site-packages/confluent_kafka.libs/librdkafka*"))
            build = ["cc", "-O2", "-o", str(self.client), str(HERE / "client.c"), str(library)]
            subprocess.run([*build, f"-Wl,-rpath,{library.parent}", "-lpthread"], check=True)

    def java(self, main, *arguments, heap):
        return ["java", f"-Xmx{heap}", f"-Xms{heap}", *JVM, "-cp", f"{self.jars}/*", main, *arguments]


class Group:
    """A control group with a limit of memory, the page cache included; none where the machine has none for us."""

    def __init__(self, bytes_max):
        name = f"martlet-side-by-side-{os.getpid()}"
        self.folder = None
        for folder, limit in [(GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")]:
            try:
                (folder / name).mkdir()
                (folder / name / limit).write_text(str(bytes_max))
                self.folder = folder / name
                break
            except OSError:
                if (folder / name).exists():
                    (folder / name).rmdir()

    def enter(self):
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def facts(self):
        """Bytes by kind."""
        if not self.folder:
            return {}
        lines = (self.folder / "memory.stat").read_text().split("\n")
        stat = {line.split()[0]: int(line.split()[1]) for line in lines if line}
        return {
            "anonymous": stat.get("rss", stat.get("anon", 0)),
            "cached": stat.get("cache", stat.get("file", 0)),
        }

    def remove(self):
        for _ in range(50):
            try:
                if self.folder:
                    self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A process in a group; `durability` is what an acknowledgement of acks=all means there."""

    name = durability = ""
    running = []

    def __init__(self, tools, folder, memory, partitions):
        self.tools, self.folder, self.memory, self.partitions = (
            tools,
            pathlib.Path(folder),
            memory,
            partitions,
        )
        self.process = self.group = self.bootstrap = None
        self.started = 0.0

    def launch(self, command, **options):
        self.group = Group(self.memory)
        log = open(self.folder.parent / f"{self.folder.name}.log", "ab")
        self.started = time.monotonic()
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("MARTLET_", "KAFKA_"))
        }
        self.process = subprocess.Popen(
            command, stderr=log, env=environment, preexec_fn=self.group.enter, **{"stdout": log, **options}
        )
        log.close()
        Broker.running.append(self)

    def prepare(self):
        """What is done once, before the first start."""

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().split("\n"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self):
        Broker.running.remove(self)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.group:
            self.group.remove()

    def delete(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Martlet(Broker):
    name, durability = "martlet", "every batch synced"
    binary = settings = None

    def start(self, wait=True):
        command = [
            self.binary,
            "start",
            "--format",
            "json",
            "--data-dir",
            str(self.folder),
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--kafka",
            f"127.0.0.1:{free_port()}",
            "--set",
            "kafka.shard_port_base=0",
            "--set",
            "native.shard_port_base=0",
            "--set",
            f"topic.partitions={self.partitions}",
        ]
        for pair in self.settings:
            command += ["--set", pair]
        self.bootstrap = command[command.index("--kafka") + 1]
        self.launch(command, stdout=subprocess.PIPE)
        if wait:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"martlet did not get ready: exit code {self.process.wait()}")
            ready = json.loads(line)
            self.bootstrap, self.http = ready["kafka"], ready["http"]

    def hops(self):
        """Calls that went from one shard to another, ever."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().split("\n")
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("martlet_mailbox_hops_out_total")
        )


class Kafka(Broker):
    name, durability = "kafka", "no sync (page cache)"
    heap, flushes = "1g", []

    def prepare(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, control = free_port(), free_port()
        self.properties = self.folder / "server.properties"
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{control}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{control}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.folder}/data",
            f"num.partitions={self.partitions}",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            *self.flushes,
        ]
        self.properties.write_text("\n".join(lines) + "\n")
        arguments = ["format", "-t", "bWFydGxldHNpZGVieXNpZA", "-c", str(self.properties)]
        command = self.tools.java("kafka.tools.StorageTool", *arguments, heap="256m")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self, wait=True):
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.launch(self.tools.java("kafka.Kafka", str(self.properties), heap=self.heap))
        while wait:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() - self.started > START_WAIT_SECONDS or self.process.poll() is not None:
                    raise SystemExit("kafka did not get ready") from None
                time.sleep(0.1)


class KafkaFlushed(Kafka):
    name, durability = "kafka-flush-1", "flush.messages=1"
    flushes = ["log.flush.interval.messages=1"]


class Null(Broker):
    """Answers at once and keeps nothing but the last records in memory: what the client costs by itself."""

    name, durability = "null", "nothing is kept"

    def start(self, wait=True):
        self.launch([self.tools.perf, "null-kafka"], stdout=subprocess.PIPE)
        self.bootstrap = self.process.stdout.readline().decode().strip()

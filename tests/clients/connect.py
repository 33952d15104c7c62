"""Kafka Connect, distributed: a file source and a file sink, internal topics compacted. connect.py CLASSPATH BOOTSTRAP."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from brokers import free_port
from installs import JAVA
from steps import BOOTSTRAP, check, restart, scenario

JARS = sys.argv[1]
WAIT_SECONDS = 300


class Worker:
    """A process of Connect; a second one with the same group takes over where the first ended."""

    def __init__(self, folder):
        self.port = free_port()
        settings = folder / "worker.properties"
        settings.write_text("\n".join([
            f"bootstrap.servers={BOOTSTRAP}", "group.id=connect", f"listeners=http://127.0.0.1:{self.port}",
            "key.converter=org.apache.kafka.connect.storage.StringConverter",
            "value.converter=org.apache.kafka.connect.storage.StringConverter",
            "offset.storage.topic=connect-offsets", "offset.storage.replication.factor=1",
            "offset.storage.partitions=3", "config.storage.topic=connect-configs",
            "config.storage.replication.factor=1", "status.storage.topic=connect-status",
            "status.storage.replication.factor=1", "status.storage.partitions=2", "offset.flush.interval.ms=500", "",
        ]))
        self.process = subprocess.Popen(
            [*JAVA, "-cp", JARS, "org.apache.kafka.connect.cli.ConnectDistributed", str(settings)],
            stdin=subprocess.DEVNULL, stdout=sys.stderr,
        )

    def ask(self, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body and json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}, method="PUT" if body else "GET",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def until(self, done, what):
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                if done():
                    return
            except (urllib.error.URLError, OSError):
                pass
            if self.process.poll() is not None:
                raise RuntimeError(f"Connect ended with {self.process.returncode}")
            if time.monotonic() > end:
                raise RuntimeError(f"no {what} within {WAIT_SECONDS} s")
            time.sleep(0.3)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def lines(first, last):
    return "".join(f"line {number}\n" for number in range(first, last))


def copied(worker, sink, count, exact=True):
    """The sink holds every line in order; after a kill a line may be there twice, as Connect promises only that."""
    wanted = lines(0, count).splitlines()

    def is_there():
        found = sink.read_text().splitlines() if sink.exists() else []
        return found == wanted if exact else list(dict.fromkeys(found)) == wanted

    worker.until(is_there, f"{count} lines in the sink")


def copy(folder):
    source, sink = folder / "source.txt", folder / "sink.txt"
    source.write_text(lines(0, 500))
    worker = Worker(folder)
    try:
        worker.until(lambda: worker.ask("/connectors") == [], "worker")
        stream = "org.apache.kafka.connect.file.FileStream"
        worker.ask("/connectors/source/config", {
            "connector.class": f"{stream}SourceConnector", "tasks.max": "1", "file": str(source), "topic": "connect-lines",
        })
        worker.ask("/connectors/sink/config", {
            "connector.class": f"{stream}SinkConnector", "tasks.max": "1", "file": str(sink), "topics": "connect-lines",
        })
        copied(worker, sink, 500)
        # What is committed is remembered over a clean stop.
        time.sleep(2)
    finally:
        worker.stop()
    with source.open("a") as file:
        file.write(lines(500, 1000))
    worker = Worker(folder)
    try:
        copied(worker, sink, 1000)
        check(sorted(worker.ask("/connectors")), ["sink", "source"])
        restart()
        with source.open("a") as file:
            file.write(lines(1000, 1500))
        copied(worker, sink, 1500, exact=False)
        states = [worker.ask(f"/connectors/{name}/status")["tasks"][0]["state"] for name in ("source", "sink")]
        check(states, ["RUNNING", "RUNNING"])
    finally:
        worker.stop()


with tempfile.TemporaryDirectory(prefix="martlet-connect-") as home:
    scenario("Kafka Connect: distributed, file to file, over a restart", lambda: copy(pathlib.Path(home)))

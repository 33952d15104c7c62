#!/usr/bin/env python3
"""Runs Kafka clients of several languages, unmodified and pinned, against a broker, and prints client by scenario.

    tests/clients/run.py --binary target/release/martlet [--only confluent-kafka,...] [--addressing shard|node]

The broker listens on loopback ports and is killed with SIGKILL and started again where a scenario asks for it. Clients
are installed below --cache (a directory of its own each), never into the tree. Ends with 1 if a scenario failed.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = {
    "confluent-kafka": ("confluent.py", ["confluent-kafka==2.16.1"]),
    "kafka-python": ("kafka_python.py", ["kafka-python==3.0.12", "lz4==4.4.5", "python-snappy==0.7.3", "zstandard==0.25.0"]),
    "aiokafka": ("aio.py", ["aiokafka==0.14.0", "cramjam==2.14.0"]),
}
KAFKAJS = "kafkajs@2.2.4"
SCENARIOS = [
    "produce and read", "idempotent", "seek by time", "admin", "group", "new group protocol", "restart",
]
WAIT_SECONDS = 600


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A broker on loopback ports that it keeps over a restart."""

    def __init__(self, binary, folder, addressing, log):
        self.log = open(log, "ab")
        self.port = free_port()
        self.command = [
            binary, "start", "--format", "json", "--data-dir", str(folder / "data"),
            "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--kafka", f"127.0.0.1:{self.port}",
        ]
        for pair in [
            "node.shards=2", "native.shard_port_base=0", "kafka.shard_port_base=0", f"kafka.addressing={addressing}",
            "wal.file_bytes=16MiB", "wal.files=4", "topic.batch_bytes_max=2MiB", "log.level=debug",
        ]:
            self.command += ["--set", pair]
        self.process = None

    def start(self):
        environment = {name: text for name, text in os.environ.items() if not name.startswith("MARTLET_")}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, env=environment)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the broker did not get ready: exit code {self.process.wait()}, see {self.log.name}")
        return json.loads(line)["kafka"]

    def kill(self):
        self.process.kill()
        self.process.wait()


def quiet(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout.decode(errors='replace')[-400:]}")


def install_python(cache, packages):
    folder = cache / "-".join(package.split("=")[0] for package in packages[:1])
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        quiet([sys.executable, "-m", "venv", str(folder)])
        quiet([str(python), "-m", "pip", "install", "-q", *packages])
        (folder / "done").touch()
    return str(python)


def install_node(cache):
    folder = cache / "kafkajs"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules").exists():
        quiet(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), KAFKAJS])
    script = folder / "kafkajs.js"
    shutil.copy(HERE / "kafkajs.js", script)
    return ["node", str(script)]


def install_franz(cache):
    folder = cache / "franz"
    shutil.copytree(HERE / "franz", folder, dirs_exist_ok=True)
    quiet(["go", "mod", "tidy"], cwd=folder)
    quiet(["go", "build", "-o", "franz", "."], cwd=folder)
    return [str(folder / "franz")]


def clients(cache):
    """Name and what makes its command."""
    for name, (script, packages) in PYTHON.items():
        yield name, lambda script=script, packages=packages: [install_python(cache, packages), str(HERE / script)]
    yield "kafkajs", lambda: install_node(cache)
    yield "franz-go", lambda: install_franz(cache)


def run(command, bootstrap, broker, log):
    """The outcome of each scenario by name."""
    outcomes = {}
    with open(log, "ab") as errors:
        process = subprocess.Popen(
            [*command, bootstrap], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        alarm = threading.Timer(WAIT_SECONDS, process.kill)
        alarm.start()
        for line in process.stdout:
            line = line.strip()
            if line == "restart":
                broker.kill()
                broker.start()
                process.stdin.write("done\n")
                process.stdin.flush()
            elif line.startswith("ok "):
                outcomes[line[3:]] = "ok"
            elif line.startswith("failed "):
                name, _, why = line[7:].partition(": ")
                outcomes[name] = f"failed: {why}"
        process.wait()
        alarm.cancel()
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the martlet to test")
    parser.add_argument("--only", help="names of clients, with commas")
    parser.add_argument("--addressing", default="shard", choices=["shard", "node"])
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "martlet-clients"))
    arguments = parser.parse_args()
    cache = pathlib.Path(arguments.cache)
    cache.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only.split(",") if arguments.only else None
    table = {}
    for name, install in clients(cache):
        if wanted and name not in wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="martlet-clients-") as folder:
            log = cache / f"{name}.log"
            broker = Broker(os.path.abspath(arguments.binary), pathlib.Path(folder), arguments.addressing, f"{log}.broker")
            try:
                command = install()
                table[name] = run(command, broker.start(), broker, log)
            except (RuntimeError, OSError) as error:
                table[name] = {"install": f"failed: {error}"}
            finally:
                if broker.process:
                    broker.kill()
        print(name, table[name], flush=True)
    print(f"\n| client | {' | '.join(SCENARIOS)} |\n|---|{'---|' * len(SCENARIOS)}")
    for name, outcomes in table.items():
        print(f"| {name} | {' | '.join(outcomes.get(scenario, '–').split(':')[0] for scenario in SCENARIOS)} |")
    failed = [outcome for outcomes in table.values() for outcome in outcomes.values() if outcome != "ok"]
    sys.exit(1 if failed or not all(table.values()) else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs Kafka clients of several languages, unmodified and pinned, against brokers, and prints client by scenario.

    tests/clients/run.py --binary target/release/martlet [--broker shard,node,kafka] [--only confluent-kafka,...]

`shard` and `node` are Martlet's two ways of addressing; `kafka` is Apache Kafka itself, started from its published jars.
The broker listens on loopback ports and is killed with SIGKILL and started again where a scenario asks for it. Clients
are installed below --cache (a directory of its own each), never into the tree; their logs and the outcomes are kept
there too. `--table` prints the outcomes of earlier runs as docs/kafka.md shows them.

Ends with 1 if a scenario failed that does not fail with Apache Kafka, or failed at all where that was not run.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

from brokers import ApacheKafka, Broker
from installs import HERE, KAFKA, Missing, clients, jars
from table import failures, show

WAIT_SECONDS = 3600


def run(command, bootstrap, broker, log):
    """The outcome of each scenario by name."""
    outcomes = {}
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [*command, bootstrap], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        alarm = threading.Timer(WAIT_SECONDS, process.kill)
        alarm.start()
        try:
            follow(process, broker, outcomes)
        finally:
            alarm.cancel()
            process.kill()
        if process.wait() != 0:
            outcomes["the program"] = f"failed: it ended with {process.returncode}"
    return outcomes


def follow(process, broker, outcomes):
    """Does what the program asks for and notes what it tells, until it ends."""
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        name, _, why = rest.partition(": ")
        if word == "restart":
            broker.kill()
            broker.start()
            process.stdin.write("done\n")
            process.stdin.flush()
        elif word == "ok":
            outcomes[rest] = "ok"
        elif word in ("failed", "cannot"):
            outcomes[name] = f"{word}: {why}"
    process.wait()


def against(kind, arguments, cache, name, install):
    """The outcomes of one client with a broker of its own."""
    log = cache / f"{name.replace('/', '-')}.{kind}.log"
    broker = None
    with tempfile.TemporaryDirectory(prefix="martlet-clients-") as folder:
        try:
            command = install()
            if kind == "kafka":
                broker = ApacheKafka(jars(cache, KAFKA, whole=True), pathlib.Path(folder), f"{log}.broker")
            else:
                broker = Broker(os.path.abspath(arguments.binary), pathlib.Path(folder), kind, f"{log}.broker")
            return run(command, broker.start(), broker, log)
        except Missing as missing:
            return {"install": f"cannot: {missing}"}
        except (RuntimeError, OSError) as error:
            return {"install": f"failed: {error}"}
        finally:
            if broker and broker.process:
                broker.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="the martlet to test")
    parser.add_argument("--only", help="names of clients, with commas")
    parser.add_argument("--broker", default="shard", help="some of shard, node and kafka, with commas")
    parser.add_argument("--without", default="", help="scenarios whose failure does not count, with commas")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of earlier runs")
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "martlet-clients"))
    arguments = parser.parse_args()
    kinds = arguments.broker.split(",")
    # Brokers are ended in `finally`, which a plain end by SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cache = pathlib.Path(arguments.cache).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / "outcomes.json"
    if arguments.table:
        show(json.loads(kept.read_text()))
        return
    if set(kinds) - {"shard", "node", "kafka"} or (kinds != ["kafka"] and not arguments.binary):
        parser.error("--broker takes shard, node and kafka, and the first two need --binary")
    known = dict(clients(cache))
    wanted = arguments.only.split(",") if arguments.only else list(known)
    if set(wanted) - set(known):
        parser.error(f"--only takes some of {', '.join(known)}")
    for kind in kinds:
        for name in wanted:
            found = against(kind, arguments, cache, name, known[name])
            outcomes = json.loads(kept.read_text()) if kept.exists() else {}
            outcomes.setdefault(kind, {})[name] = found
            kept.write_text(json.dumps(outcomes, indent=1))
            for scenario, outcome in found.items() or [("nothing", "failed: no outcome was told")]:
                print(f"{kind}: {name}: {scenario}: {outcome}", flush=True)
    print()
    show({kind: {name: outcomes[kind][name] for name in wanted} for kind in kinds})
    sys.exit(1 if failures(outcomes, kinds, wanted, arguments.without.split(",")) else 0)


if __name__ == "__main__":
    main()

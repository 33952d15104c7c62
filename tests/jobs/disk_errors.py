#!/usr/bin/env python3
"""A broker on a disk that answers EIO: what breaks is fenced, what does not goes on, and nothing acknowledged is lost.

Needs a binary built with `--features faults`, whose drivers fail the operations on files that this job asks for, and
keep a journal of all of them. On real files and with the real client it checks in turn, each on fresh data:

- a write, then a sync of one shard's ring fails: that shard takes no more writes (`storage_fenced`), the node is not
  ready, its reads and the other shard go on, and nothing of that log is written or synced again, even when the disk
  is well again;
- a write, then a sync of a segment fails: that partition alone takes no more writes, all else goes round the ring;
- a range of a segment cannot be read: what lies outside of it is read, in order, and all of it when the disk is well;
- the ring cannot be read at a start: the broker refuses to start rather than to lose anything.

Each part ends with a start on a well disk: exactly what was acknowledged is there, in order, and the log verifies.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

from broker import MIB, Broker, NotReady

SETTINGS = ("wal.file_bytes=4MiB", "wal.files=4", "topic.batch_bytes_max=1MiB")
NO_CACHE = ("memory.tail_cache_bytes=1MiB",)
REFUSED, DAMAGED = 4, 5


class Failed(Exception):
    pass


def check(good, text):
    if not good:
        raise Failed(text)


class Sick:
    """One broker, its data, and the disk that fails on request."""

    last = None

    def __init__(self, binary, folder, shards, settings=()):
        folder.mkdir()
        self.request = folder / "faults"
        self.journal = folder / "faults.journal"
        environment = {"MARTLET_TEST_FAULTS": str(self.request)}
        settings = (*SETTINGS, f"node.shards={shards}", *settings)
        self.broker = Broker(binary, folder / "data", settings, environment)
        Sick.last = self.broker
        self.log = folder / "broker.log"
        self.sent = {}

    def start(self, settings=()):
        self.broker.start(self.log, settings)
        if not self.journal.exists():
            raise SystemExit("this binary fails nothing: build it with `--features faults`")

    def ask(self, *rules):
        """From now on these operations fail. Replaced at once, so that no driver reads half a rule."""
        part = self.request.with_suffix(".new")
        part.write_text("".join(f"{rule}\n" for rule in rules))
        part.rename(self.request)

    def operations(self):
        """(kind, whether it failed, path) of all operations so far."""
        lines = (line.split() for line in self.journal.read_text().splitlines())
        return [(kind, verdict == "failed", path) for kind, verdict, path, _, _ in lines]

    def topic(self, name, partitions=1, *words):
        self.broker.ok("topic", "create", name, "--partitions", str(partitions), *words)
        self.sent |= {(name, partition): 0 for partition in range(partitions)}

    def describe(self, name):
        return json.loads(self.broker.ok("topic", "describe", name, "--format", "json"))["partitions"]

    def produce(self, topic, partition=0, records=100, width=1000):
        """Numbered records; exit code and errors. Only what a success acknowledged counts as sent."""
        first = self.sent[topic, partition]
        lines = b"".join(b"%010d " % n + b"x" * (width - 12) + b"\n" for n in range(first, first + records))
        words = ("produce", topic, "--partition", str(partition), "--give-up-after", "5s")
        code, _, told = self.broker.run(*words, stdin=lines)
        if code == 0:
            self.sent[topic, partition] += records
        return code, told

    def good(self, topic, partition=0, records=100):
        code, told = self.produce(topic, partition, records)
        check(code == 0, f"{topic} {partition} takes no records: {told}")

    def refused(self, topic, partition, why):
        code, told = self.produce(topic, partition, 1)
        check(code == REFUSED, f"{topic} {partition}: produce ended with {code}: {told}")
        check("then restart" in told and why in told, f"the producer was told: {told}")
        return told

    def numbers(self, topic, partition=0):
        words = ("consume", topic, "--partition", str(partition), "--until-end")
        code, out, told = self.broker.run(*words)
        return code, [int(line[:10]) for line in out.split(b"\n")[:-1]], told

    def all_there(self, more=0):
        """Exactly what was acknowledged, in order; up to `more` records of unknown fate may follow."""
        for (topic, partition), sent in self.sent.items():
            code, found, told = self.numbers(topic, partition)
            check(code == 0, f"reading {topic} {partition} ended with {code}: {told}")
            check(found == list(range(len(found))), f"{topic} {partition}: not in order or doubled")
            check(sent <= len(found) <= sent + more, f"{topic} {partition}: {len(found)} of {sent} records")

    def well_again(self):
        """A stop, and a start on a disk without faults."""
        self.ask()
        self.broker.stop()
        self.start()
        self.all_there(more=100)
        for topic, partition in self.sent:
            self.sent[topic, partition] = len(self.numbers(topic, partition)[1])
            self.good(topic, partition)
        check(self.broker.page("/readyz")[0] == 200, "it is not ready on a well disk")
        self.all_there()
        self.broker.stop()
        code, told = self.broker.verify()
        check(code == 0, f"the log does not verify: {told}")


def eventually(what, text, wait=10):
    deadline = time.monotonic() + wait
    while not what():
        check(time.monotonic() < deadline, text)
        time.sleep(0.05)


def ring(binary, folder, kind):
    """A failed write or sync of one shard's ring."""
    sick = Sick(binary, folder, shards=2)
    broker = sick.broker
    broker.allowed_errors += ["the log is fenced: a write or sync failed", "storage_fenced: a write or sync"]
    sick.start()
    sick.topic("t", 8)
    shards = [partition["shard"] for partition in sick.describe("t")]
    check(len(set(shards)) == 2, "one shard has all partitions")
    for partition in range(8):
        sick.good("t", partition)
    broker.ok("consume", "t", "--until-end", "--cursor", "c")
    victim = shards[7]
    recovered = next(line for line in broker.told() if f"log recovered shard={victim} " in line)
    wal = recovered.split("wal=")[1].split()[0]
    sick.ask(f"{kind} {wal}/ring-")
    code, told = sick.produce("t", 7, 1)
    check(code == REFUSED and "then restart" in told, f"produce ended with {code}: {told}")
    sick.ask()
    eventually(lambda: broker.page("/readyz")[0] == 503, "it is still ready")
    not_ready = broker.page("/readyz")[1].strip()
    check(broker.page("/healthz")[0] == 200, "it is not alive")
    check(broker.metric("martlet_storage_fenced") == 1, "not one shard is fenced")
    fenced_at = len(sick.operations())
    for partition, shard in enumerate(shards):
        if shard == victim:
            told = sick.refused("t", partition, "a write or sync of the log failed")
        else:
            sick.good("t", partition)
    sick.all_there()
    touched = [f"{kind} {path}" for kind, _, path in sick.operations()[fenced_at:] if wal in path and kind != "read"]
    check(not touched, f"a fenced log was touched again: {touched[:5]}")
    ended = [number for number, (_, failed, _) in enumerate(sick.operations()) if failed]
    later = [f"{kind} {path}" for kind, _, path in sick.operations()[ended[0] + 1:] if f"{wal}/ring-" in path]
    check(not [line for line in later if line.startswith("sync")], f"a failed file was synced again: {later}")
    print(f"ring, {kind}: {len(ended)} failed; readyz: {not_ready!r}; the producer: {told!r}", flush=True)
    sick.well_again()


def segment(binary, folder, kind):
    """A failed write or sync of a segment."""
    sick = Sick(binary, folder, shards=1, settings=("topic.segment_bytes=8MiB",))
    broker = sick.broker
    sick.start()
    for topic in ("sick", "well"):
        sick.topic(topic)
        sick.good(topic)
    [partition] = sick.describe("sick")
    sick.ask(f"{kind} {partition['id']}/")
    refused = ""
    for _ in range(40):
        code, told = sick.produce("sick", 0, 500)
        if code != 0:
            check(code == REFUSED and "a write to a segment of this partition failed" in told, told)
            refused = told
            break
        sick.good("well", 0, 500)
    check(refused, "a partition with a failed segment still takes records")
    sick.ask()
    # Five times round the ring of 16 MiB beside it.
    for _ in range(80):
        sick.good("well", 0, 1000)
    sick.refused("sick", 0, "a write to a segment of this partition failed")
    check(broker.page("/readyz")[0] == 200, "one partition's segment makes the node not ready")
    check(broker.metric("martlet_storage_fenced") == 0, "a shard is fenced for a segment")
    [partition] = sick.describe("sick")
    check(partition["fenced"] != "", f"the partition does not say that it is fenced: {partition}")
    sick.all_there(more=500)
    failed = sum(failed for _, failed, _ in sick.operations())
    print(f"segment, {kind}: {failed} failed; the producer: {refused!r}", flush=True)
    sick.sent["sick", 0] = len(sick.numbers("sick")[1])
    sick.well_again()


def unreadable(binary, folder):
    """A range of a sealed segment that cannot be read."""
    sick = Sick(binary, folder, shards=1, settings=("topic.segment_bytes=4MiB", *NO_CACHE))
    broker = sick.broker
    sick.start()
    sick.topic("t")
    sick.topic("other")
    for _ in range(40):
        sick.good("t", 0, 1000)
    sick.good("other")
    [partition] = sick.describe("t")
    files = sorted((broker.data_dir / "partitions").glob(f"*/{partition['id']}/*.seg"))
    check(len(files) > 4, f"{len(files)} segments")
    victim = files[2]
    sick.ask(f"read {victim.name} 1048576 1052672")
    began = time.monotonic()
    code, found, told = sick.numbers("t")
    seconds = time.monotonic() - began
    check(found == sorted(set(found)), "not in order, or doubled")
    lost = sorted(set(range(40_000)) - set(found))
    check(code == DAMAGED, f"consume ended with {code} over a range that cannot be read: {told}")
    check(lost and lost == list(range(lost[0], lost[-1] + 1)), "more than one range is missing")
    check(len(lost) < 4000, f"{len(lost)} records are missing for one block")
    sick.good("t")
    sick.good("other")
    check(broker.page("/readyz")[0] == 200, "a bad read makes the node not ready")
    print(f"segment, read: one block of 4 KiB, {len(lost)} records left out in {seconds:.1f} s; consume: {told!r}")
    sick.ask()
    sick.all_there()
    sick.well_again()


def unreadable_ring(binary, folder):
    """A ring that cannot be read at a start."""
    sick = Sick(binary, folder, shards=1)
    broker = sick.broker
    sick.start()
    sick.topic("t")
    for _ in range(4):
        sick.good("t", 0, 1000)
    broker.kill()
    sick.ask("read ring-0000 1048576 1052672")
    try:
        sick.start()
        code, found, told = sick.numbers("t")
        check(False, f"it started, {len(found)} of 4000 records are there, consume ended with {code}: {told}")
    except NotReady as refusal:
        last = str(refusal).splitlines()[-1]
    check("EIO" in last or "Input/output" in last or "read" in last, f"the reason is not told: {last}")
    print(f"ring, read at a start: {last!r}", flush=True)
    sick.ask()
    sick.broker.allowed_errors.append("martlet::start")
    sick.start()
    sick.well_again()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet", help="built with `--features faults`")
    parser.add_argument("--work", help="directory for the data; default: the system's for temporary files")
    parser.add_argument("--part", action="append", help="only this part; may be given several times")
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    with tempfile.TemporaryDirectory(prefix="martlet-errors-", dir=arguments.work) as folder:
        folder = pathlib.Path(folder)
        parts = [
            ("ring-write", ring, "write"), ("ring-sync", ring, "sync"),
            ("segment-write", segment, "write"), ("segment-sync", segment, "sync"),
            ("segment-read", unreadable), ("ring-read", unreadable_ring),
        ]
        for name, part, *more in parts:
            if arguments.part and name not in arguments.part:
                continue
            try:
                part(binary, folder / name, *more)
            except Failed as failure:
                raise SystemExit("\n".join([*Sick.last.told()[-20:], f"FAILED {name}: {failure}"])) from None
            finally:
                Sick.last.abandon()
    print("errors of the disk were survived")


if __name__ == "__main__":
    main()

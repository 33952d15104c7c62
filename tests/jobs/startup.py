#!/usr/bin/env python3
"""How dear a start is after SIGKILL: with a full ring, and with many sealed segments.

First one shard's ring is filled with records of many partitions, each with too little to be settled, as far as it gets
before settling begins, and the broker is killed: the start must find all of them, with at most 3 s of processor time
for each GiB of the ring that it had to scan. Then a topic of small segments is filled,
until that many are sealed, and the broker is killed: the start must read no segment and open none; the first and the
last record are then there. Memory stays within its budget while the segments are written.

Needs --segments MiB of disk in --work, or the ring's size if that is more.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

from broker import MIB, Broker

LINE = 1024
PART_BYTES = 240 << 10
BLOCK_MIB = 256
BUDGET_MIB = 512
ALLOWANCE_MIB = 64


class Failed(Exception):
    pass


def check(good, text):
    if not good:
        raise Failed(text)


def recovered(broker):
    """What the last start said of its log: a mapping."""
    line = [line for line in broker.told() if "log recovered" in line][-1]
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def disk_reads(broker):
    """Bytes that the process has read from the disk."""
    with open(f"/proc/{broker.process.pid}/io", encoding="ascii") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("read_bytes"))


def open_segments(broker):
    folder = pathlib.Path(f"/proc/{broker.process.pid}/fd")
    return sum(os.readlink(entry).endswith(".seg") for entry in folder.iterdir())


def start_again(broker, log, what):
    """Kills it, starts it, and tells what the start cost."""
    broker.kill()
    began = time.monotonic()
    broker.start(log)
    facts = {
        "seconds": time.monotonic() - began, "cpu": broker.cpu_seconds(), "read": disk_reads(broker),
        "segments": open_segments(broker), "peak": broker.resident("VmHWM") / MIB, **recovered(broker),
    }
    print(f"{what}: ready in {facts['seconds']:.2f} s with {facts['cpu']:.2f} s of CPU, "
          f"{facts['read'] / MIB:.0f} MiB read, {facts['segments']} segments open, {facts['peak']:.0f} MiB resident; "
          f"{facts['frames']} frames in {facts['flushes']} flushes, {int(facts['scanned_bytes']) / MIB:.0f} MiB scanned",
          flush=True)
    return facts


def produced(broker, topic, keys, records, *words):
    """Records of 1 KiB, numbered; the key is the number modulo `keys`. Ends when all are acknowledged."""
    command = [broker.binary, "produce", topic, "--server", broker.listen, "--key-separator", "\t", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=broker.environment) as process:
        filler = b"x" * (LINE - 24)
        for first in range(0, records, 4096):
            numbers = range(first, min(first + 4096, records))
            process.stdin.write(b"".join(b"%d\t%010d %s\n" % (n % keys, n, filler) for n in numbers))
        process.stdin.close()
        told = process.stderr.read().decode()
    check(process.returncode == 0, f"produce ended with {process.returncode}: {told}")


def ring(broker, log, arguments):
    """A full ring of one shard."""
    broker.start(log)
    bytes_all = arguments.ring_files * 64 * MIB
    partitions = bytes_all // PART_BYTES
    broker.ok("topic", "create", "many", "--partitions", str(partitions))
    records, fed = 0, 0
    while True:
        used = broker.metric("martlet_wal_ring_used_bytes") / bytes_all
        if used > arguments.ring_full or fed > 40:
            break
        produced(broker, "many", partitions * 16, bytes_all // LINE // 24)
        records += bytes_all // LINE // 24
        fed += 1
    settled = broker.metric("martlet_wal_settled_bytes_total")
    print(f"{records} records of {partitions} partitions; the ring is {used:.0%} full, {settled / MIB:.0f} MiB settled")
    check(used > arguments.ring_full, "the ring does not get full")
    facts = start_again(broker, log, "full ring")
    found = broker.ok("consume", "many", "--until-end", wait=300).count(b"\n")
    check(found == records, f"{found} of {records} records are there")
    cpu = facts["cpu"] * (1024 * MIB) / int(facts["scanned_bytes"])
    print(f"{cpu:.2f} s of CPU for 1 GiB of records in the ring")
    check(cpu <= arguments.ring_cpu_max, f"the start took {cpu:.2f} s of CPU for 1 GiB")
    broker.stop()


def segments(broker, log, arguments):
    """Many sealed segments."""
    broker.start(log)
    limits = ("--batch-bytes-max", "512KiB", "--segment-bytes", "1MiB")
    broker.ok("topic", "create", "sealed", "--partitions", "128", *limits)
    total, began = 0, time.monotonic()
    while True:
        described = json.loads(broker.ok("topic", "describe", "sealed", "--format", "json"))["partitions"]
        sealed = sum(partition["segments"] for partition in described) - len(described)
        if sealed >= arguments.segments:
            break
        records = min(BLOCK_MIB, max(16, arguments.segments - sealed)) * MIB // LINE
        produced(broker, "sealed", 2048, records, "--batch-bytes", "64KiB")
        total += records
    seconds, peak = time.monotonic() - began, broker.resident("VmHWM") / MIB
    print(f"{sealed} sealed segments of {total * LINE / MIB:.0f} MiB in {seconds:.0f} s, peak {peak:.0f} MiB resident")
    check(peak <= BUDGET_MIB + ALLOWANCE_MIB, f"{peak:.0f} MiB were resident")
    facts = start_again(broker, log, f"{sealed} segments")
    check(facts["segments"] <= len(described), f"the start opened {facts['segments']} segments")
    check(facts["cpu"] <= arguments.segments_cpu_max, f"the start took {facts['cpu']:.2f} s of CPU")
    # The ring is read more than once, the segments never.
    limit = 3 * broker.metric("martlet_wal_ring_bytes") + 64 * MIB
    check(facts["read"] <= limit, f"the start read {facts['read'] / MIB:.0f} MiB, more than its ring")
    for partition in described[:8]:
        number = str(partition["partition"])
        first = broker.ok("consume", "sealed", "--partition", number, "--count", "1", "--format", "json")
        check(json.loads(first)["offset"] == 0, "the first record is not there")
        words = ("--partition", number, "--from", str(partition["end"] - 1), "--until-end", "--format", "json")
        last = broker.ok("consume", "sealed", *words)
        check(json.loads(last)["offset"] == partition["end"] - 1, "the last record is not there")
    print(f"the first and last records were read, {open_segments(broker)} segments open")
    broker.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    parser.add_argument("--work", help="directory for the data; default: the system's for temporary files")
    parser.add_argument("--ring-files", type=int, default=16, help="files of 64 MiB; 0 leaves this part out")
    parser.add_argument("--ring-full", type=float, default=0.6, help="share of the ring that is full")
    parser.add_argument("--ring-cpu-max", type=float, default=3, help="seconds for 1 GiB")
    parser.add_argument("--segments", type=int, default=10_000, help="0 leaves this part out")
    parser.add_argument("--segments-cpu-max", type=float, default=1, help="seconds")
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    common = ("node.shards=1", f"memory.budget_bytes={BUDGET_MIB}MiB")
    parts = [(ring, f"wal.files={arguments.ring_files}"), (segments, "wal.files=4")]
    for part, setting in parts:
        if not (arguments.segments if part is segments else arguments.ring_files):
            continue
        with tempfile.TemporaryDirectory(prefix="martlet-start-", dir=arguments.work) as folder:
            folder = pathlib.Path(folder)
            broker = Broker(binary, folder / "data", (*common, setting))
            try:
                part(broker, folder / "broker.log", arguments)
            except Failed as failure:
                raise SystemExit(f"FAILED {part.__name__}: {failure}") from None
            finally:
                broker.abandon()
    print("starts are cheap")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A topic that keeps the last record of each key, written and killed again and again.

Updates of few keys go to one partition of small segments, with a delete now and then. In the middle of it the broker is
killed with SIGKILL, whatever compaction does at that moment, and started again. In the end the last value of each key
that a reader finds from the beginning on is that of a plain model, offsets rise, the data directory has not grown with
the number of updates, and `storage verify` finds nothing.
"""

import argparse
import json
import pathlib
import random
import tempfile
import time

from broker import MIB, Broker

SETTINGS = ("node.shards=1", "wal.file_bytes=8MiB", "wal.files=4", "topic.batch_bytes_max=256KiB")
TOPIC = ("cleanup=compact", "segment_bytes=1MiB", "batch_bytes_max=256KiB", "compaction_dirty_ratio=0.3")
VALUE_BYTES = 200


def disk_bytes(folder):
    return sum(file.stat().st_size for file in pathlib.Path(folder).rglob("*.seg"))


def lines_of(dice, keys, count, model, number):
    lines = []
    for _ in range(count):
        number += 1
        key = f"key-{dice.randrange(keys):06}"
        if dice.random() < 0.02:
            model[key] = None
            lines.append(f"{key}\t\n")
        else:
            model[key] = f"{number:012} " + "v" * dice.randrange(VALUE_BYTES)
            lines.append(f"{key}\t{model[key]}\n")
    return "".join(lines).encode(), number


def check(broker, model):
    """Reads everything; the numbers of records and of keys."""
    out = broker.ok("consume", "states", "--from", "earliest", "--until-end", "--format", "json", wait=600)
    found, records, last = {}, 0, -1
    for line in out.splitlines():
        record = json.loads(line)
        if record["offset"] <= last:
            raise SystemExit(f"offset {record['offset']} comes after {last}")
        last = record["offset"]
        found[record["key"]] = record["value"]
        records += 1
    live = {key: value for key, value in model.items() if value is not None}
    left = {key: value for key, value in found.items() if value is not None}
    if live != left:
        wrong = [key for key in live.keys() | left.keys() if live.get(key) != left.get(key)]
        raise SystemExit(f"{len(wrong)} keys are wrong, as {wrong[0]}: {left.get(wrong[0])!r}, "
                         f"should be {live.get(wrong[0])!r}")
    return records, len(live)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--updates", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=10, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help="where data goes; default a temporary directory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        folder, dice, model, number, most = pathlib.Path(work), random.Random(given.seed), {}, 0, 0
        broker = Broker(given.binary, folder / "data", SETTINGS)
        try:
            broker.start(folder / "log")
            sets = [word for pair in TOPIC for word in ("--set", pair)]
            broker.ok("topic", "create", "states", "--partitions", "1", *sets)
            dropped = passes = 0
            for turn in range(given.rounds):
                share, number = lines_of(dice, given.keys, given.updates // given.rounds, model, number)
                broker.ok("produce", "states", "--key-separator", "\t", "--tombstones", stdin=share, wait=600)
                time.sleep(dice.random() * 3)
                dropped += broker.metric("martlet_compaction_dropped_records_total")
                passes += broker.metric("martlet_compactions_total")
                most = max(most, disk_bytes(folder))
                if turn + 1 < given.rounds:
                    broker.kill()
                    broker.start(folder / "log")
                    print(f"round {turn + 1}: {number} updates, {passes:.0f} passes, {dropped:.0f} records dropped, "
                          f"{disk_bytes(folder) / MIB:.1f} MiB of segments", flush=True)
            began, records = time.monotonic(), None
            while time.monotonic() - began < 180:
                records, keys = check(broker, model)
                if broker.metric("martlet_compactions_total") > 0 and disk_bytes(folder) < 64 * MIB:
                    break
                time.sleep(5)
            passes += broker.metric("martlet_compactions_total")
            failed = broker.metric("martlet_compactions_failed_total")
            broker.stop()
            code, text = broker.verify()
            written = number * (VALUE_BYTES / 2 + 30) / MIB
            print(f"{number} updates ({written:.0f} MiB), {keys} keys, {records} records left, {passes:.0f} passes, "
                  f"{failed:.0f} failed; segments at most {most / MIB:.1f} MiB, "
                  f"{disk_bytes(folder) / MIB:.1f} MiB in the end")
            if code != 0:
                raise SystemExit(f"storage verify ended with {code}:\n{text}")
            if disk_bytes(folder) >= 64 * MIB:
                raise SystemExit("the segments were not compacted")
        finally:
            broker.abandon()


if __name__ == "__main__":
    main()

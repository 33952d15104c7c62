#!/usr/bin/env python3
"""A broker whose disk fills up: writes are refused by name, all else goes on, and it recovers when space is there.

Makes a small ext4 image, mounts it and puts the data there (needs root for `mount -o loop`; without it the job ends
with 77). Fills it through a topic until writes are refused, and checks: the producer is told that the disk is full
and stops in time; reads, moves of cursors and changes of topics go on; retention frees space and writes are taken
again by themselves. Fills it again: a stop, a start and a start after SIGKILL work on the full disk; exactly what was
acknowledged is read back; after deleting the topic writes are taken again; and the log verifies clean. The image and its mount are removed at the end.
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import tempfile
import time

from broker import MIB, Broker

SKIPPED = 77
GIVE_UP_S = 10
CURSOR_MOVES = 100
SETTINGS = ("wal.file_bytes=4MiB", "wal.files=4", "topic.batch_bytes_max=1MiB", "node.shards=2")


class Failed(Exception):
    pass


def check(good, text):
    if not good:
        raise Failed(text)


@contextlib.contextmanager
def small_disk(folder, mib):
    """A mounted ext4 of this size."""
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with open(image, "wb") as out:
        out.truncate(mib * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, check=False)
    if done.returncode != 0:
        print(f"skipped: {done.stderr.decode().strip()}")
        raise SystemExit(SKIPPED)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def free_mib(folder):
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize / MIB


def lines(out):
    return out.split(b"\n")[:-1]


def fill(broker, folder, mib):
    """Produces more than fits; the records are numbered. Returns how many records can be read back."""
    sent = folder / "sent"
    with open(sent, "wb") as out:
        for number in range(mib * MIB // 1000):
            out.write(b"%010d " % number + b"x" * 988 + b"\n")
    began = time.monotonic()
    words = ("produce", "big", "--partition", "0", "--file", str(sent), "--give-up-after", f"{GIVE_UP_S}s")
    code, _, told = broker.run(*words, wait=300)
    seconds = time.monotonic() - began
    print(f"filled in {seconds:.0f} s, {free_mib(broker.data_dir):.0f} MiB free; produce: {code} {told}")
    check(code != 0, "more was acknowledged than the disk holds")
    check("disk is full" in told, "the producer was not told that the disk is full")
    check(broker.process.poll() is None, "the broker ended")
    return numbered(broker)


def numbered(broker):
    """Reads the topic: numbers without gap, each once, in order. Returns how many."""
    found = lines(broker.ok("consume", "big", "--until-end"))
    for expected, line in enumerate(found):
        check(int(line[:10]) == expected, f"record {line[:10]} stands where {expected} belongs")
    return len(found)


def full(broker, records):
    """What works on a full disk: reads, cursor moves, changes of a topic."""
    check(numbered(broker) == records, "records are missing on the full disk")
    check(broker.metric("martlet_storage_full") > 0, "no shard says that its disk is full")
    for expected in (b"one\n", b"two\n"):
        found = broker.ok("consume", "small", "--count", "1", "--cursor", "c")
        check(found == expected, f"the cursor gave {found} where {expected} belongs")
    broker.ok("cursor", "reset", "small", "c", "--to", "earliest")
    # Many moves, of the full topic's partition as well.
    for number in range(CURSOR_MOVES):
        found = lines(broker.ok("consume", "big", "--count", "1", "--cursor", "mover"))
        check(int(found[0][:10]) == number, f"the cursor gave {found[0][:10]} where {number} belongs")
    broker.ok("cursor", "delete", "big", "mover")
    broker.ok("topic", "alter", "small", "--retention-time", "3d")
    check(broker.metric("martlet_storage_full") > 0, "no shard says that its disk is full any more")


def taken_again(broker, number):
    """Seconds until a record is taken by the partition that was refused before."""
    began = time.monotonic()
    record = b"%010d after the disk was full\n" % number
    broker.ok("produce", "big", "--partition", "0", "--give-up-after", "60s", stdin=record, wait=90)
    return time.monotonic() - began


def retention(broker, folder, mib):
    """Retention goes on while the disk is full, and gives the space back."""
    first = numbered(broker)
    freed = broker.metric("martlet_wal_segments_freed_total")
    broker.ok("topic", "alter", "big", "--retention-bytes", f"{mib // 4}MiB")
    seconds = taken_again(broker, first)
    left = lines(broker.ok("consume", "big", "--until-end"))
    check(0 < len(left) < first, f"{len(left)} records of {first} are left by retention")
    check(int(left[-1][:10]) == first, "retention took the newest records")
    freed = broker.metric("martlet_wal_segments_freed_total") - freed
    print(f"retention freed {freed:.0f} segments, writes are taken {seconds:.1f} s later, {len(left)} records left")
    broker.ok("topic", "delete", "big")
    broker.ok("topic", "create", "big", "--segment-bytes", "8MiB")


def job(broker, folder, arguments):
    log = folder / "broker.log"
    broker.start(log)
    broker.ok("topic", "create", "big", "--segment-bytes", "8MiB")
    broker.ok("produce", "small", stdin=b"one\ntwo\n")
    records = fill(broker, folder, arguments.disk_mib)
    print(f"{records} records are readable")
    full(broker, records)
    retention(broker, folder, arguments.disk_mib)
    records = fill(broker, folder, arguments.disk_mib)
    print(f"{records} records are readable after it was filled again")
    share = broker.idle_cpu(3)
    print(f"a broker with a full disk takes {share:.2%} of a core, {broker.resident() / MIB:.0f} MiB")
    check(share < 0.2, "a broker with a full disk spins")
    broker.stop()
    broker.start(log)
    check(numbered(broker) == records, "records are missing after a stop and a start on the full disk")
    broker.kill()
    broker.start(log)
    check(numbered(broker) == records, "records are missing after a kill and a start on the full disk")
    began = time.monotonic()
    broker.ok("topic", "delete", "big")
    while broker.metric("martlet_storage_full") > 0:
        check(time.monotonic() < began + 60, "a shard is full a minute after the topic was deleted")
        time.sleep(0.05)
    broker.ok("topic", "create", "big")
    taken_again(broker, 0)
    seconds = time.monotonic() - began
    print(f"writes are taken {seconds:.1f} s after the delete, {free_mib(broker.data_dir):.0f} MiB free")
    check(numbered(broker) == 1, "the new topic holds something else")
    check(broker.ok("consume", "small", "--until-end") == b"one\ntwo\n", "the small topic")
    broker.stop()
    code, told = broker.verify()
    print(told)
    check(code == 0, "the log does not verify")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    parser.add_argument("--work", help="directory for the image; the default is the system's for temporary files")
    parser.add_argument("--disk-mib", type=int, default=320, help="size of the disk; 256 at least")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="martlet-full-", dir=arguments.work) as folder:
        folder = pathlib.Path(folder)
        with small_disk(folder, arguments.disk_mib) as mounted:
            broker = Broker(os.path.abspath(arguments.binary), mounted / "data", SETTINGS)
            try:
                job(broker, folder, arguments)
            except Failed as failure:
                raise SystemExit("\n".join([*broker.told()[-20:], f"FAILED {failure}"])) from None
            finally:
                broker.abandon()
    print("a full disk was survived")


if __name__ == "__main__":
    main()

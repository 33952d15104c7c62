#!/usr/bin/env python3
"""A broker whose disk fills up: writes are refused by name, all else goes on, and it recovers when space is there.

Makes a small ext4 image, mounts it and puts the data there (needs root for `mount -o loop`; without it the job ends
with 77). Fills it through a topic until writes are refused, and checks: the producer is told that the disk is full
and stops in time; reads and cursors go on; a stop, a start and a start after SIGKILL work on the full disk; exactly
what was acknowledged is read back; after deleting the topic the broker takes writes again by itself; and the log
verifies clean. The image and its mount are removed at the end.
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
    """What works on a full disk."""
    check(numbered(broker) == records, "records are missing on the full disk")
    check(broker.ok("consume", "small", "--until-end", "--cursor", "c") == b"one\ntwo\n", "the cursor's records")
    broker.ok("cursor", "reset", "small", "c", "--to", "earliest")
    check(broker.metric("martlet_storage_full") > 0, "no shard says that its disk is full")


def job(broker, folder, arguments):
    log = folder / "broker.log"
    broker.start(log)
    broker.ok("topic", "create", "big", "--segment-bytes", "8MiB")
    broker.ok("produce", "small", stdin=b"one\ntwo\n")
    records = fill(broker, folder, arguments.disk_mib)
    print(f"{records} records are readable")
    full(broker, records)
    share = broker.idle_cpu(3)
    print(f"a broker with a full disk takes {share:.2%} of a core, {broker.resident() / MIB:.0f} MiB")
    check(share < 0.2, "a broker with a full disk spins")
    broker.stop()
    broker.start(log)
    check(numbered(broker) == records, "records are missing after a stop and a start on the full disk")
    broker.kill()
    broker.start(log)
    check(numbered(broker) == records, "records are missing after a kill and a start on the full disk")
    broker.ok("topic", "delete", "big")
    began = time.monotonic()
    broker.ok("produce", "small", "--give-up-after", "60s", stdin=b"three\n", wait=90)
    seconds = time.monotonic() - began
    print(f"writes are taken {seconds:.1f} s after the delete, {free_mib(broker.data_dir):.0f} MiB free")
    check(broker.ok("consume", "small", "--until-end") == b"one\ntwo\nthree\n", "the small topic")
    broker.stop()
    words = [broker.binary, "storage", "verify", "--data-dir", str(broker.data_dir)]
    verified = subprocess.run(words, capture_output=True, text=True, check=False)
    print(verified.stdout.strip())
    check(verified.returncode == 0, "the log does not verify")


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
                told = (folder / "broker.log").read_text(errors="replace").splitlines()
                raise SystemExit("\n".join([*told[-20:], f"FAILED {failure}"])) from None
            finally:
                if broker.process and broker.process.poll() is None:
                    broker.kill()
    print("a full disk was survived")


if __name__ == "__main__":
    main()

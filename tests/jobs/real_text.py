#!/usr/bin/env python3
"""Real text through a real broker: produce and consume over 8 partitions, and it comes back equal.

Takes lines from the sources and docs of the project's dependencies, sends them with the path of their file as the
key, reads them back, and compares: the same multiset of lines, and for each key the same order. With --kill-every
the broker is killed with SIGKILL again and again while the producer retries. Starts its own broker on loopback in a
temporary directory and stops it by its pid.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from broker import Broker, NotReady

TEXT_SUFFIXES = {".rs", ".md", ".toml", ".txt", ".c", ".h", ".py", ".s", ".yml"}


def corpus_lines(count):
    """Yields (key, line) from dependency sources, numbering each line so that repeats stay distinct."""
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1"]))
    roots = sorted(str(pathlib.Path(p["manifest_path"]).parent) for p in metadata["packages"] if p["source"])
    given = 0
    for root in roots:
        name = os.path.basename(root)
        for folder, folders, files in os.walk(root):
            folders.sort()
            for file in sorted(files):
                path = pathlib.Path(folder) / file
                if path.suffix not in TEXT_SUFFIXES:
                    continue
                try:
                    text = path.read_text(encoding="utf-8")
                except (UnicodeDecodeError, OSError):
                    continue
                key = f"{name}/{path.relative_to(root)}"
                if "\x1f" in text or "\x1f" in key:
                    continue
                for line in text.split("\n"):
                    yield key, line.rstrip("\r")
                    given += 1
                    if given == count:
                        return
    sys.exit(f"the dependencies have only {given} lines of text, {count} were asked for")


class Killer(threading.Thread):
    """Kills and restarts the broker every so many seconds until told to end."""

    def __init__(self, broker, every):
        super().__init__(daemon=True)
        self.broker, self.every = broker, every
        self.ending = threading.Event()
        self.kills, self.failure = 0, None

    def run(self):
        try:
            while not self.ending.wait(self.every):
                self.broker.kill()
                self.kills += 1
                self.broker.start(self.broker.log)
        except (NotReady, SystemExit) as failure:
            self.failure = failure

    def end(self):
        self.ending.set()
        self.join()
        if self.failure:
            raise SystemExit(f"a broker failed after {self.kills} kills: {self.failure}")


def produce(broker, sent, over):
    """Sends the file, evenly over so many seconds, or as fast as the broker takes it; ends when all is acknowledged."""
    words = ["produce", "text", "--key-separator", "\x1f", "--server", broker.listen]
    if not over:
        subprocess.run([broker.binary, *words, "--file", sent], check=True, env=broker.environment)
        return
    size, began, given = os.path.getsize(sent), time.monotonic(), 0
    process = subprocess.Popen([broker.binary, *words], stdin=subprocess.PIPE, env=broker.environment)
    with open(sent, "rb") as lines:
        while part := lines.read(64 << 10):
            time.sleep(max(0.0, began + over * given / size - time.monotonic()))
            process.stdin.write(part)
            given += len(part)
    process.stdin.close()
    code = process.wait()
    if code != 0:
        raise SystemExit(f"produce ended with {code}")


def compare(sent_path, received_path):
    """Checks the multiset (an order-free sum of hashes) and, per key, the exact sequence."""
    sides = []
    for path in (sent_path, received_path):
        per_key, total, count = {}, 0, 0
        with open(path, "rb") as lines:
            for line in lines:
                key, value = line.rstrip(b"\n").split(b"\x1f", 1)
                per_key.setdefault(key, hashlib.blake2b(digest_size=16)).update(value + b"\n")
                total = (total + int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big")) % 2**128
                count += 1
        sides.append(({k: h.digest() for k, h in per_key.items()}, total, count))
    (sent_keys, sent_total, sent), (got_keys, got_total, got) = sides
    wrong = [k for k in sent_keys if sent_keys[k] != got_keys.get(k)]
    print(f"sent {sent} lines of {len(sent_keys)} keys, received {got} lines of {len(got_keys)} keys")
    if sent != got or sent_total != got_total:
        sys.exit("the multiset of lines differs")
    if wrong or len(got_keys) != len(sent_keys):
        sys.exit(f"{len(wrong)} keys differ in order, for instance {wrong[:3]}")
    print("equal as a multiset and in order for every key")


def job(broker, folder, arguments):
    sent, received = f"{folder}/sent", f"{folder}/received"
    with open(sent, "w", encoding="utf-8", newline="\n") as out:
        for key, line in corpus_lines(arguments.lines):
            out.write(f"{key}\x1f{line}\n")
    broker.start(f"{folder}/broker.log")
    broker.ok("topic", "create", "text", "--partitions", str(arguments.partitions))
    killer = Killer(broker, arguments.kill_every) if arguments.kill_every else None
    if killer:
        killer.start()
    began = time.monotonic()
    produce(broker, sent, arguments.over)
    seconds = time.monotonic() - began
    kills = 0
    if killer:
        killer.end()
        kills = killer.kills
    size = os.path.getsize(sent) / 1e6
    print(f"produced {size:.0f} MB in {seconds:.1f} s, broker killed {kills} times")
    began = time.monotonic()
    words = ("consume", "text", "--from", "earliest", "--until-end", "--key-separator", "\x1f")
    with open(received, "wb") as out:
        command = [broker.binary, *words, "--server", broker.listen]
        subprocess.run(command, check=True, env=broker.environment, stdout=out)
    print(f"consumed in {time.monotonic() - began:.1f} s")
    compare(sent, received)
    broker.stop()
    if kills < arguments.kills_min:
        sys.exit(f"the broker was killed {kills} times, {arguments.kills_min} were asked for: see --over")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--kill-every", type=float, default=0, help="seconds between kills; 0 = never")
    parser.add_argument("--kills-min", type=int, default=0, help="fewer kills than this are a failure")
    parser.add_argument("--over", type=float, default=0, help="feed the lines evenly over so many seconds")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="broker configuration")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="martlet-text-") as folder:
        broker = Broker(os.path.abspath(arguments.binary), pathlib.Path(folder) / "data", arguments.set)
        try:
            job(broker, folder, arguments)
        finally:
            broker.abandon()


if __name__ == "__main__":
    main()

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
import signal
import subprocess
import sys
import tempfile
import threading
import time

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


class Broker:
    """A broker process on a fixed loopback port, so that clients find it again after a restart."""

    def __init__(self, binary, data_dir, extra):
        self.command = [binary, "start", "--data-dir", str(data_dir), *extra]
        self.log = open(pathlib.Path(data_dir).parent / "broker.log", "ab")
        self.listen, self.http = "127.0.0.1:0", "127.0.0.1:0"
        self.process = None

    def start(self):
        command = self.command + ["--listen", self.listen, "--http", self.http, "--kafka", "127.0.0.1:0"]
        # The broker refuses unknown keys of its environment, and this run's own bounds are named alike.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MARTLET_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=clean)
        ready = self.process.stdout.readline().decode().split()
        if not ready or ready[0] != "ready":
            tail = pathlib.Path(self.log.name).read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
            # Not sys.exit: this may be the thread that restarts the broker.
            print("the broker did not get ready:", *tail, sep="\n", flush=True)
            os._exit(1)
        facts = dict(word.split("=", 1) for word in ready[1:])
        self.listen, self.http = facts["native"], facts["http"]
        return self.listen

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        if code != 0:
            sys.exit(f"the broker ended with {code} on SIGTERM; see {self.log.name}")


class Killer(threading.Thread):
    """Kills and restarts the broker every so many seconds until told to end."""

    def __init__(self, broker, every):
        super().__init__(daemon=True)
        self.broker, self.every = broker, every
        self.ending = threading.Event()
        self.kills = 0

    def run(self):
        while not self.ending.wait(self.every):
            self.broker.kill()
            self.kills += 1
            self.broker.start()

    def end(self):
        self.ending.set()
        self.join()


def client(binary, server, *words, **options):
    return subprocess.run([binary, *words, "--server", server], check=True, **options)


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--kill-every", type=float, default=0, help="seconds between kills; 0 = never")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="broker configuration")
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    extra = [word for pair in arguments.set for word in ("--set", pair)]
    with tempfile.TemporaryDirectory(prefix="martlet-text-") as folder:
        sent, received = f"{folder}/sent", f"{folder}/received"
        with open(sent, "w", encoding="utf-8", newline="\n") as out:
            for key, line in corpus_lines(arguments.lines):
                out.write(f"{key}\x1f{line}\n")
        broker = Broker(binary, pathlib.Path(folder) / "data", extra)
        server = broker.start()
        try:
            client(binary, server, "topic", "create", "text", "--partitions", str(arguments.partitions))
            killer = Killer(broker, arguments.kill_every) if arguments.kill_every else None
            if killer:
                killer.start()
            began = time.monotonic()
            client(binary, server, "produce", "text", "--file", sent, "--key-separator", "\x1f")
            seconds = time.monotonic() - began
            if killer:
                killer.end()
            size = os.path.getsize(sent) / 1e6
            print(f"produced {size:.0f} MB in {seconds:.1f} s, broker killed {killer.kills if killer else 0} times")
            began = time.monotonic()
            with open(received, "wb") as out:
                words = ("consume", "text", "--from", "earliest", "--until-end", "--key-separator", "\x1f")
                client(binary, server, *words, stdout=out)
            print(f"consumed in {time.monotonic() - began:.1f} s")
            compare(sent, received)
        finally:
            if broker.process.poll() is None:
                broker.stop()
        log = pathlib.Path(broker.log.name).read_text(encoding="utf-8", errors="replace")
        errors = [line for line in log.splitlines() if " ERROR " in line]
        if errors:
            sys.exit("the broker logged errors:\n" + "\n".join(errors[:10]))


if __name__ == "__main__":
    main()

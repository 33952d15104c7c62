#!/usr/bin/env python3
"""Memory of a broker under clients that mean harm: it stays near `memory.budget_bytes`, and idle things are cheap.

In turn, against one broker: nothing at all; many partitions; many idle connections; a frame announced with 2 GiB;
connections that announce large messages and stop half way; a backlog far over the budget that is produced and then
drained; and consumers that ask for much and never read. Beside the half-sent messages and those consumers others say
HELLO, produce and read a little: the longest that took is told, and bounded.

Prints resident memory, its peak and the processor time of each step. Fails when memory passes the budget by more than
the allowance (indexes, stacks and the allocator's slack lie outside of it), when a partition takes more than 16 KiB, or
when an idle broker takes 1 % of a core or 64 MiB. Needs space for the backlog and for the logs of all shards in --work.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import threading
import time

from broker import MIB, REFUSED, Broker, Connection, read

FRAME_TOO_LARGE = 3
PARTITION_BYTES_MAX = 16 << 10
BLOCK_MIB = 256


class Job:
    def __init__(self, broker, arguments):
        self.broker, self.arguments = broker, arguments
        self.failures = []
        self.turned_away = 0

    def told(self, what, **figures):
        # What the kernel counted, not samples; it begins anew with each step.
        rss, peak = self.broker.resident(), self.broker.resident("VmHWM")
        text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        print(f"{what:<34} rss {rss / MIB:6.0f} MiB  peak {peak / MIB:6.0f} MiB  {text}", flush=True)
        limit = self.arguments.budget_mib + self.arguments.allowance_mib
        if peak / MIB > limit:
            self.failures.append(f"{what}: {peak / MIB:.0f} MiB were resident, at most {limit} are allowed")
        self.broker.forget_peak()

    def idle(self, what):
        share = self.broker.idle_cpu(self.arguments.idle_seconds)
        if share > self.arguments.idle_cpu_max:
            self.failures.append(f"{what}: an idle broker takes {share:.2%} of a core")
        return f"{share:.2%}"

    def at_most(self, what, value, limit):
        if value > limit:
            self.failures.append(f"{what}: {value}, at most {limit} is allowed")
        return value

    def started(self):
        """Idle once the rings are zeroed."""
        rings = self.broker.data_dir / "wal"
        bytes_all = self.broker.metric("martlet_wal_ring_bytes")
        began = time.monotonic()
        while sum(file.stat().st_size for file in rings.glob("*/ring-*")) < bytes_all:
            if time.monotonic() > began + 120:
                raise SystemExit("the rings are not prepared after two minutes")
            time.sleep(0.1)
        time.sleep(1)
        self.at_most("MiB resident after the start", self.broker.resident() / MIB, self.arguments.idle_mib_max)
        seconds = f"{time.monotonic() - began:.0f}"
        self.told("started", rings_prepared_in_seconds=seconds, idle_cpu=self.idle("started"))

    def idle_connections(self):
        count, before = self.arguments.connections, self.broker.resident()
        began = time.monotonic()
        held = [Connection(self.broker.listen) for _ in range(count)]
        seconds = time.monotonic() - began
        each = (self.broker.resident() - before) // count
        idle = self.idle("connections")
        self.told(f"{count} idle connections", bytes_each=each, seconds=f"{seconds:.1f}", idle_cpu=idle)
        for connection in held:
            connection.close()

    def announced(self):
        """A frame of 2 GiB is refused at its first bytes; half-sent messages are bounded."""
        connection = Connection(self.broker.listen)
        connection.send((1 << 31).to_bytes(4, "little") + (59).to_bytes(4, "little"))
        if connection.answer() != (REFUSED, FRAME_TOO_LARGE):
            self.failures.append("a frame of 2 GiB was not refused as too large")
        connection.close()
        self.told("2 GiB announced")
        held, part = [], bytes(MIB)
        for _ in range(self.arguments.half_senders):
            try:
                connection = Connection(self.broker.listen)
            except ConnectionError:
                self.turned_away += 1
                continue
            connection.socket.setblocking(False)
            message = (32 * MIB).to_bytes(4, "little") + (59).to_bytes(4, "little") + part
            try:
                connection.socket.send(message)
            except BlockingIOError:
                pass
            held.append(connection)
        sending = threading.Event()

        def send_on():
            while not sending.wait(0.01):
                for connection in held:
                    try:
                        connection.socket.send(part)
                    except (BlockingIOError, ConnectionError):
                        pass

        sender = threading.Thread(target=send_on, daemon=True)
        sender.start()
        served = self.others_served()
        sending.set()
        sender.join()
        served_stalled = self.others_served()
        cut_off = int(self.broker.metric("martlet_connections_cut_off_total"))
        self.told(
            f"{len(held)} half-sent messages", sending=served, stalled=served_stalled, connections_cut_off=cut_off
        )
        for connection in held:
            connection.close()

    def others_served(self):
        """What others wait at most for HELLO, a small produce and reading it back, for a while."""
        worst = {"hello": 0.0, "produce": 0.0, "read": 0.0}
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            for what in worst:
                began = time.monotonic()
                if what == "hello":
                    Connection(self.broker.listen).close()
                elif what == "produce":
                    self.broker.ok("produce", "memory-other", stdin=b"served\n")
                elif not self.broker.ok("consume", "memory-other", "--until-end").startswith(b"served\n"):
                    self.failures.append("another client does not read what it produced")
                worst[what] = max(worst[what], time.monotonic() - began)
        for what, seconds in worst.items():
            if seconds > self.arguments.others_seconds_max:
                self.failures.append(f"{what} of another client took {seconds:.2f} s")
        return " ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in worst.items())

    def readers_that_do_not_read(self, partition):
        held = []
        for _ in range(self.arguments.stuck_readers):
            try:
                connection = Connection(partition["address"])
            except ConnectionError:
                self.turned_away += 1
                continue
            connection.socket.setblocking(False)
            try:
                for number in range(2, 402):
                    connection.socket.send(read(number, int(partition["id"], 16), 0, 8 * MIB))
            except (BlockingIOError, ConnectionError):
                pass
            held.append(connection)
        time.sleep(3)
        served = self.others_served()
        away = self.turned_away
        self.told(f"{len(held)} consumers that never read", others_served_in=served, turned_away=away)
        for connection in held:
            connection.close()

    def partitions(self):
        count, step, before = self.arguments.partitions, 1000, self.broker.resident()
        began = time.monotonic()
        for first in range(0, count, step):
            self.broker.ok("topic", "create", f"many-{first}", "--partitions", str(min(step, count - first)))
        seconds = time.monotonic() - began
        each = (self.broker.resident() - before) // count
        self.at_most("bytes of an empty partition", each, PARTITION_BYTES_MAX)
        idle = self.idle("empty partitions")
        self.told(f"{count} empty partitions", bytes_each=each, seconds=f"{seconds:.1f}", idle_cpu=idle)
        began, before = time.monotonic(), self.broker.resident()
        records = b"".join(b"key %d\tvalue\n" % number for number in range(5 * step))
        for first in range(0, count, step):
            self.broker.ok("produce", f"many-{first}", "--key-separator", r"\t", stdin=records)
        seconds = time.monotonic() - began
        each = (self.broker.resident() - before) // count
        self.at_most("bytes of a partition with few records", each, PARTITION_BYTES_MAX)
        idle = self.idle("partitions")
        self.told("a few records in each", bytes_each=each, seconds=f"{seconds:.1f}", idle_cpu=idle)

    def backlog(self, folder):
        block = folder / "block"
        line = b"%08d " + b"x" * 1014 + b"\n"
        with open(block, "wb") as out:
            for number in range(BLOCK_MIB * MIB // 1024):
                out.write(line % number)
        size, rounds = block.stat().st_size, max(1, self.arguments.backlog_mib // BLOCK_MIB)
        began = time.monotonic()
        for _ in range(rounds):
            self.broker.ok("produce", "memory", "--file", str(block), "--batch-bytes", "512KiB", wait=600)
        seconds = time.monotonic() - began
        block.unlink()
        rate = f"{rounds * size / MIB / seconds:.0f}"
        self.told(f"backlog of {rounds * size / MIB:.0f} MiB", mib_per_second=rate)
        began = time.monotonic()
        received = sum(map(len, self._stream("consume", "memory", "--until-end")))
        seconds = time.monotonic() - began
        self.told("drained", mib=received // MIB, mib_per_second=f"{received / MIB / seconds:.0f}")
        if received != rounds * size:
            self.failures.append(f"{rounds * size} bytes were produced, {received} came back")

    def _stream(self, *words):
        command = [self.broker.binary, *words, "--server", self.broker.listen]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            while part := process.stdout.read(MIB):
                yield part


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    parser.add_argument("--work", help="directory for the data; default: the system's for temporary files")
    parser.add_argument("--budget-mib", type=int, default=512, help="memory.budget_bytes")
    parser.add_argument("--allowance-mib", type=int, default=64, help="what may be resident besides")
    parser.add_argument("--idle-mib-max", type=int, default=64, help="resident after the start")
    parser.add_argument("--wal-files", type=int, default=4, help="files of 64 MiB of each shard's ring")
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--half-senders", type=int, default=300)
    parser.add_argument("--stuck-readers", type=int, default=300)
    parser.add_argument("--others-seconds-max", type=float, default=2, help="for a small request beside those")
    parser.add_argument("--partitions", type=int, default=10000)
    parser.add_argument("--backlog-mib", type=int, default=2048)
    parser.add_argument("--idle-seconds", type=float, default=5)
    parser.add_argument("--idle-cpu-max", type=float, default=0.01, help="share of a core")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="martlet-memory-", dir=arguments.work) as folder:
        folder = pathlib.Path(folder)
        cache = arguments.budget_mib // 4
        settings = (f"memory.budget_bytes={arguments.budget_mib}MiB", f"memory.tail_cache_bytes={cache}MiB")
        settings = (*settings, f"wal.files={arguments.wal_files}")
        broker = Broker(os.path.abspath(arguments.binary), folder / "data", settings)
        broker.start(folder / "broker.log")
        job = Job(broker, arguments)
        try:
            job.started()
            broker.ok("topic", "create", "memory", "--partitions", "2")
            job.partitions()
            job.idle_connections()
            job.announced()
            job.backlog(folder)
            described = json.loads(broker.ok("topic", "describe", "memory", "--format", "json"))
            job.readers_that_do_not_read(described["partitions"][0])
            broker.stop()
        finally:
            broker.abandon()
        for failure in job.failures:
            print(f"FAILED {failure}")
        raise SystemExit(1 if job.failures else 0)


if __name__ == "__main__":
    main()

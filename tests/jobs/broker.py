"""What the jobs share: a broker process on loopback, and the few messages of the native protocol that they speak.

Owns starting, stopping and measuring one broker. The message layout is that of docs/native-protocol.md.
"""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import time
import urllib.request

MIB = 1 << 20
PREFACE = b"MARTLET\x01"
REFUSED, HELLO, FRAMES = 0, 1, 9


class Broker:
    """A broker on a loopback port of the system's choice; it keeps its port over a restart."""

    def __init__(self, binary, data_dir, settings=()):
        pairs = ("native.shard_port_base=0", *settings)
        words = [word for pair in pairs for word in ("--set", pair)]
        self.binary, self.data_dir = binary, pathlib.Path(data_dir)
        self.command = [binary, "start", "--format", "json", "--data-dir", str(data_dir), *words]
        self.listen = "127.0.0.1:0"
        self.log = None
        self.process = self.http = self.shards = None

    def start(self, log):
        self.log = log
        command = self.command + ["--listen", self.listen, "--http", "127.0.0.1:0", "--kafka", "127.0.0.1:0"]
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the broker did not get ready: exit code {self.process.wait()}, see {log}")
        facts = json.loads(line)
        self.listen, self.http, self.shards = facts["native"], facts["http"], facts["shards"]
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, wait=60):
        """SIGTERM; a broker that does not end with 0 in time is a failure of the job."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"the broker did not stop within {wait} s of SIGTERM") from None
        if code != 0:
            raise SystemExit(f"the broker ended with {code} on SIGTERM, see {self.log}")

    def run(self, *words, stdin=b"", wait=120):
        """A client command; returns its exit code, output and errors."""
        command = [self.binary, *words, "--server", self.listen]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=wait)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"no end within {wait} s: martlet {' '.join(words)}") from None
        return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()

    def ok(self, *words, stdin=b"", wait=120):
        code, out, errors = self.run(*words, stdin=stdin, wait=wait)
        if code != 0:
            raise SystemExit(f"martlet {' '.join(words)} ended with {code}: {errors}")
        return out

    def metric(self, name):
        """Sum of a metric over all shards."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(value) for value in values)

    def resident(self, field="VmRSS"):
        """Bytes resident now, or at most so far with VmHWM."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle_cpu(self, seconds):
        """Share of one core that the broker takes while nothing is asked of it."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds


def request(correlation, tag, fields=b""):
    """A request without text longer than 8 bytes: its fields stand behind the tag, filled up to 51 bytes."""
    call = (bytes([tag]) + fields).ljust(51, b"\0")
    meta = struct.pack("<Q", correlation) + call
    return struct.pack("<II", 4 + len(meta), len(meta)) + meta


def hello(correlation=1):
    # The empty vector points at the root's start: chapter 2 of the protocol.
    return request(correlation, 0, struct.pack("<HHQ", 1, 1, 0) + b"job".ljust(8, b"\xff") + struct.pack("<iI", -29, 0))


def read(correlation, partition, offset, bytes_max):
    return request(correlation, 10, struct.pack("<QQIII", partition, offset, 1, bytes_max, 0))


class Connection:
    """A connection that has said HELLO and was answered."""

    def __init__(self, address, greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.socket.sendall(PREFACE)
        if greet:
            self.socket.sendall(hello())
            tag, code = self.answer()
            if tag != HELLO:
                raise ConnectionError(f"HELLO was answered with {tag}, code {code}")

    def send(self, data):
        self.socket.sendall(data)

    def _exact(self, count):
        held = bytearray()
        while len(held) < count:
            part = self.socket.recv(min(count - len(held), MIB))
            if not part:
                raise ConnectionError("closed by the broker")
            held += part
        return bytes(held)

    def answer(self):
        """Tag of the next response and, if it is a refusal, its code."""
        length, meta_length = struct.unpack("<II", self._exact(8))
        message = self._exact(length - 4)
        root = message[:meta_length][-73:]
        return root[8], root[9] if root[8] == REFUSED else None

    def close(self):
        self.socket.close()

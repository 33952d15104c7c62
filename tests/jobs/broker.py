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
import urllib.error
import urllib.request

MIB = 1 << 20
PREFACE = b"MARTLET\x01"
REFUSED, HELLO, FRAMES = 0, 1, 9


class NotReady(Exception):
    """A broker ended before its ready line; the text is the end of its log."""


class Broker:
    """A broker on a loopback port of the system's choice; it keeps its port over a restart.

    A line of level ERROR in its log fails the job when the broker ends, unless it holds one of `allowed_errors`.
    """

    def __init__(self, binary, data_dir, settings=(), environment=None):
        pairs = ("native.shard_port_base=0", *settings)
        words = [word for pair in pairs for word in ("--set", pair)]
        self.binary, self.data_dir = str(binary), pathlib.Path(data_dir)
        self.command = [self.binary, "start", "--format", "json", "--data-dir", str(data_dir), *words]
        # The broker refuses unknown keys of its environment, and bounds of ./test are named alike.
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("MARTLET_")}
        self.environment |= {"NO_COLOR": "1", **(environment or {})}
        self.listen = "127.0.0.1:0"
        self.log = None
        self.allowed_errors = []
        self.process = self.http = self.shards = None

    def start(self, log, settings=()):
        """Starts it and waits for its ready line; `settings` are of this start only."""
        self.log = pathlib.Path(log)
        words = [word for pair in settings for word in ("--set", pair)]
        command = self.command + ["--listen", self.listen, "--http", "127.0.0.1:0"]
        command += ["--kafka", "127.0.0.1:0", *words]
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=self.environment)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise NotReady(f"exit code {code}\n" + "\n".join(self.told()[-5:]))
        facts = json.loads(line)
        self.listen, self.http, self.shards = facts["native"], facts["http"], facts["shards"]
        return self

    def told(self):
        """Lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def no_errors(self):
        allowed = lambda line: any(part in line for part in self.allowed_errors)
        errors = [line for line in self.told() if " ERROR " in line and not allowed(line)]
        if errors:
            raise SystemExit("the broker logged errors:\n" + "\n".join(errors[:10]))

    def abandon(self):
        """Ends it, if it still runs, when the job is over already."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.no_errors()

    def stop(self, wait=60):
        """SIGTERM; a broker that does not end with 0 in time is a failure of the job."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise SystemExit(f"the broker did not stop within {wait} s of SIGTERM") from None
        if code != 0:
            raise SystemExit(f"the broker ended with {code} on SIGTERM, see {self.log}")
        self.no_errors()

    def page(self, path):
        """Status and text of a page of its HTTP."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=30) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def verify(self):
        """`storage verify` of the stopped broker's data: its exit code and what it says."""
        command = [self.binary, "storage", "verify", "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def run(self, *words, stdin=b"", wait=120):
        """A client command; returns its exit code, output and errors."""
        command = [self.binary, *words, "--server", self.listen]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=wait, env=self.environment, check=False
            )
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
        lines = self.page("/metrics")[1].splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(value) for value in values)

    def resident(self, field="VmRSS"):
        """Bytes resident now, or at most so far with VmHWM."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

    def forget_peak(self):
        """VmHWM begins anew."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")

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

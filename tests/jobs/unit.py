#!/usr/bin/env python3
"""The systemd unit in deploy/, without a running systemd: what it allows is enough for a broker at work.

`systemd-analyze verify` must have nothing to say but that the binary is not installed. Then a broker runs under the
unit's limits as another user without any capability, traced by strace, takes records in, gives them back and stops:
every system call it made must be in the unit's SystemCallFilter, every socket in its RestrictAddressFamilies, and no
memory both writable and executable. Needs root, strace, setpriv, prlimit
and systemd-analyze; without one of them it ends with 77.
"""

import argparse
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

from broker import Broker

SKIPPED = 77
UNIT = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "martlet.service"
NOBODY = 65534


def unit_values(name):
    pattern = re.compile(rf"^{name}=(.*)$", re.MULTILINE)
    return pattern.findall(UNIT.read_text(encoding="utf-8"))[-1].split()


def allowed_calls(sets):
    """Names in systemd's sets, which may hold other sets."""
    found, left = set(), list(sets)
    while left:
        command = ["systemd-analyze", "syscall-filter", left.pop()]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        for line in told.stdout.splitlines()[1:]:
            word = line.strip()
            if word.startswith("@"):
                left.append(word)
            elif word and not word.startswith("#"):
                found.add(word)
    return found


def bounded(name):
    """The unit's limit, or what this machine lets us set if that is less."""
    wanted = unit_values(f"Limit{name.upper()}")[0]
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    wanted = resource.RLIM_INFINITY if wanted == "infinity" else int(wanted)
    if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
        wanted = hard
    return "unlimited" if wanted == resource.RLIM_INFINITY else wanted


def limited(limits, trace):
    """The command line that runs the rest of it as the unit would."""
    words = ["prlimit", *(f"--{name}={value}" for name, value in limits.items())]
    words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    words += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return [*words, "strace", "-f", "-qq", "-o", str(trace), "--"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/martlet")
    arguments = parser.parse_args()
    missing = [tool for tool in ("strace", "setpriv", "prlimit", "systemd-analyze") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        print(f"skipped: {', '.join(missing) or 'root'} is missing")
        raise SystemExit(SKIPPED)
    failures = []
    verified = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    failures += [line for line in verified.stderr.splitlines() if "is not executable" not in line]
    limits = {name: bounded(name) for name in ("nofile", "memlock", "core")}
    with tempfile.TemporaryDirectory(prefix="martlet-unit-") as folder:
        folder = pathlib.Path(folder)
        os.chown(folder, NOBODY, NOBODY)
        shutil.copy(arguments.binary, folder / "martlet")
        settings = ("wal.file_bytes=4MiB", "wal.files=4", "topic.batch_bytes_max=1MiB")
        broker = Broker(folder / "martlet", folder / "data", settings)
        broker.command = [*limited(limits, folder / "trace"), *broker.command]
        try:
            broker.start(folder / "broker.log")
            records = b"".join(b"%d\tvalue %d\n" % (n % 100, n) for n in range(200_000))
            broker.ok("topic", "create", "t", "--partitions", "8")
            for _ in range(4):
                broker.ok("produce", "t", "--key-separator", r"\t", stdin=records)
            found = broker.ok("consume", "t", "--cursor", "c", "--until-end").count(b"\n")
            if found != 800_000:
                failures.append(f"{found} of 800000 records came back")
            broker.page("/metrics")
            # Not strace but the broker is asked to stop.
            own = f"/proc/{broker.process.pid}/task/{broker.process.pid}/children"
            os.kill(int(pathlib.Path(own).read_text(encoding="ascii").split()[0]), signal.SIGTERM)
            code = broker.process.wait(timeout=60)
            if code != 0:
                failures.append(f"it ended with {code} on SIGTERM")
            broker.no_errors()
        finally:
            broker.abandon()
        trace = (folder / "trace").read_text(errors="replace")
    calls = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z0-9_]+)[( ]", trace, re.MULTILINE))
    beyond = sorted(calls - allowed_calls(unit_values("SystemCallFilter")))
    if beyond:
        failures.append(f"the unit's SystemCallFilter refuses {', '.join(beyond)}")
    families = set(re.findall(r"socket(?:pair)?\((AF_[A-Z0-9]+)", trace))
    strange = sorted(families - set(unit_values("RestrictAddressFamilies")))
    if strange:
        failures.append(f"the unit's RestrictAddressFamilies refuses {', '.join(strange)}")
    if re.search(r"(mmap|mprotect)\([^)]*PROT_WRITE\|PROT_EXEC", trace):
        failures.append("memory was writable and executable")
    print(f"verify: {len(verified.stderr.splitlines())} lines; limits {limits}; {len(calls)} system calls, "
          f"families {', '.join(sorted(families))}")
    for failure in failures:
        print(f"FAILED {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""kcat, as Debian ships it."""

import subprocess
import sys
import time

from steps import BOOTSTRAP, cannot, check, restart, scenario

SECONDS = 60


def kcat(*options, given=""):
    done = subprocess.run(
        ["kcat", "-b", BOOTSTRAP, *options], input=given, text=True, capture_output=True, check=False, timeout=SECONDS,
    )
    sys.stderr.write(f"{options}: {done.returncode}\n{done.stderr}")
    if done.returncode != 0:
        raise RuntimeError(f"kcat {' '.join(options)} ended with {done.returncode}: {done.stderr[-200:]}")
    return done.stdout


def keyed(first, last):
    return "".join(f"k{number % 5}:v{number}\n" for number in range(first, last))


def read(topic, *options):
    return kcat("-C", "-t", topic, "-e", "-q", "-f", "%k:%s\n", *options)


def produce():
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        for acks in ["0", "1", "all"]:
            topic = f"kcat-{codec}-{acks}"
            settings = ["-X", f"compression.codec={codec}", "-X", f"acks={acks}"]
            kcat("-P", "-t", topic, "-K", ":", "-H", "h=x", *settings, given=keyed(0, 200))
            # Nothing says when acks=0 has arrived.
            end = time.monotonic() + SECONDS
            while acks == "0" and read(topic) != keyed(0, 200) and time.monotonic() < end:
                time.sleep(0.1)
            check(read(topic), keyed(0, 200))
            check(kcat("-C", "-t", topic, "-e", "-q", "-f", "%h ", "-c", "2").split(), ["h=x", "h=x"])


def idempotent():
    kcat("-P", "-t", "kcat-idempotent", "-K", ":", "-X", "enable.idempotence=true", given=keyed(0, 5000))
    check(read("kcat-idempotent"), keyed(0, 5000))


def transaction():
    kcat("-P", "-t", "kcat-transaction", "-K", ":", "-X", "transactional.id=kcat", given=keyed(0, 100))
    check(read("kcat-transaction", "-X", "isolation.level=read_committed"), keyed(0, 100))


def by_time():
    kcat("-P", "-t", "kcat-time", "-K", ":", given=keyed(0, 50))
    between = int(time.time() * 1000) + 1
    time.sleep(0.01)
    kcat("-P", "-t", "kcat-time", "-K", ":", given=keyed(50, 100))
    check(kcat("-Q", "-t", f"kcat-time:0:{between}").strip(), "kcat-time [0] offset 50")
    check(read("kcat-time", "-o", f"s@{between}"), keyed(50, 100))


def admin():
    kcat("-P", "-t", "kcat-admin", given="x\n")
    if "topic \"kcat-admin\" with 1 partitions" not in kcat("-L"):
        raise AssertionError("the list lacks a topic")


def group():
    kcat("-P", "-t", "kcat-group", "-K", ":", given=keyed(0, 300))
    options = ["-G", "kcat-group", "-q", "-f", "%k:%s\n", "-X", "auto.offset.reset=earliest"]
    check(kcat(*options, "-c", "300", "kcat-group"), keyed(0, 300))
    kcat("-P", "-t", "kcat-group", "-K", ":", given=keyed(300, 400))
    check(kcat(*options, "-c", "100", "kcat-group"), keyed(300, 400))


def through_a_restart():
    command = ["kcat", "-E", "-b", BOOTSTRAP, "-P", "-t", "kcat-restart", "-K", ":", "-X", "enable.idempotence=true"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as producer:
        producer.stdin.write(keyed(0, 1000))
        producer.stdin.flush()
        restart()
        producer.stdin.write(keyed(1000, 2000))
        producer.stdin.close()
        check(producer.wait(SECONDS), 0)
    check(read("kcat-restart"), keyed(0, 2000))


scenario("produce and read", produce)
scenario("idempotent", idempotent)
scenario("transaction", transaction)
scenario("seek by time", by_time)
scenario("admin", admin)
scenario("group", group)
cannot("new group protocol", "its librdkafka 2.0 has none")
scenario("restart", through_a_restart)

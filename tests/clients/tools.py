"""Kafka's own command-line programs, by their classes from the published jars: tools.py CLASSPATH BOOTSTRAP."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

from installs import JAVA
from steps import BOOTSTRAP, check, restart, scenario

JARS = sys.argv[1]
TOOLS = "org.apache.kafka.tools."
PROGRAM_SECONDS = 600


def command(program, *options, server="--bootstrap-server"):
    return [*JAVA, "-XX:TieredStopAtLevel=1", "-cp", JARS, program, server, BOOTSTRAP, *options]


def tool(program, *options, given="", server="--bootstrap-server"):
    """What it prints; it must end with 0."""
    done = subprocess.run(
        command(program, *options, server=server), input=given, text=True, capture_output=True, check=False,
        timeout=PROGRAM_SECONDS,
    )
    sys.stderr.write(f"{program} {options}: {done.returncode}\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        raise RuntimeError(f"{program} {' '.join(options)} ended with {done.returncode}: {(done.stderr + done.stdout)[-200:]}")
    return done.stdout


def holds(text, *parts):
    for part in parts:
        if part not in text:
            raise AssertionError(f"{part!r} is not in {text[-300:]!r}")


def make(topic, partitions, *options):
    tool(f"{TOOLS}TopicCommand", "--create", "--topic", topic, "--partitions", str(partitions), *options)


def console(topic, count):
    lines = "".join(f"k{number}:v{number}\n" for number in range(count))
    settings = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    tool(f"{TOOLS}ConsoleProducer", "--topic", topic, *settings, given=lines)


def topics():
    program = f"{TOOLS}TopicCommand"
    make("t-topics", 3, "--config", "retention.ms=1000000")
    holds(tool(program, "--list"), "t-topics")
    tool(program, "--alter", "--topic", "t-topics", "--partitions", "5")
    holds(tool(program, "--describe", "--topic", "t-topics"), "PartitionCount: 5", "retention.ms=1000000")
    tool(program, "--delete", "--topic", "t-topics")
    check("t-topics" in tool(program, "--list"), False)


def configs():
    program = "kafka.admin.ConfigCommand"
    make("t-configs", 1)
    named = ["--entity-type", "topics", "--entity-name", "t-configs"]
    tool(program, *named, "--alter", "--add-config", "retention.ms=1234567,max.message.bytes=500000")
    holds(tool(program, *named, "--describe"), "retention.ms=1234567", "max.message.bytes=500000")
    tool(program, *named, "--alter", "--delete-config", "retention.ms")
    check("retention.ms=1234567" in tool(program, *named, "--describe"), False)
    holds(tool(program, *named, "--describe", "--all"), "cleanup.policy=delete", "segment.bytes=")
    tool(program, "--entity-type", "brokers", "--describe", "--all")


def console_programs():
    make("t-console", 2)
    console("t-console", 100)
    options = ["--topic", "t-console", "--from-beginning", "--max-messages", "100", "--timeout-ms", "60000"]
    read = tool(f"{TOOLS}consumer.ConsoleConsumer", *options, "--formatter-property", "print.key=true")
    check(sorted(read.split("\n")[:-1]), sorted(f"k{number}\tv{number}" for number in range(100)))


def groups():
    program = f"{TOOLS}consumer.group.ConsumerGroupCommand"
    make("t-groups", 2)
    console("t-groups", 60)
    for name, protocol in [("t-classic", "classic"), ("t-consumer", "consumer")]:
        options = ["--topic", "t-groups", "--group", name, "--max-messages", "60", "--timeout-ms", "60000"]
        settings = ["auto.offset.reset=earliest", f"group.protocol={protocol}"]
        properties = [part for one in settings for part in ("--command-property", one)]
        tool(f"{TOOLS}consumer.ConsoleConsumer", *options, *properties)
        holds(tool(program, "--list"), name)
        rows = [line.split() for line in tool(program, "--describe", "--group", name).splitlines() if line.startswith(name)]
        check(sum(int(row[3]) for row in rows), 60)
        check([row[5] for row in rows], ["0", "0"])
        holds(tool(program, "--describe", "--group", name, "--state"), "Empty")
        reset = ["--reset-offsets", "--group", name, "--topic", "t-groups", "--execute"]
        rows = tool(program, *reset, "--to-earliest")
        check([line.split()[3] for line in rows.splitlines() if line.startswith(name)], ["0", "0"])
        tool(program, *reset, "--to-datetime", "2020-01-01T00:00:00.000")
        tool(program, "--delete-offsets", "--group", name, "--topic", "t-groups")
        tool(program, "--delete", "--group", name)
        check(name in tool(program, "--list"), False)


def performance():
    make("t-performance", 2)
    options = ["--topic", "t-performance", "--num-records", "20000", "--record-size", "200", "--throughput", "-1"]
    settings = ["--command-property", "acks=all", "--command-property", "compression.type=lz4"]
    holds(tool(f"{TOOLS}ProducerPerformance", *options, *settings), "20000 records sent")


def consumer_performance():
    options = ["--topic", "t-performance", "--num-records", "20000", "--timeout", "60000"]
    holds(tool(f"{TOOLS}ConsumerPerformance", *options), "20000")


def events(output, name):
    lines = [json.loads(line) for line in output if line.startswith("{")]
    return [line for line in lines if line["name"] == name]


def verifiable():
    """The producer writes while the broker is killed; the consumer reads all that was acknowledged."""
    make("t-verifiable", 2)
    options = ["--topic", "t-verifiable", "--max-messages", "4000", "--throughput", "400", "--acks", "-1"]
    output = []
    with subprocess.Popen(command(f"{TOOLS}VerifiableProducer", *options), stdout=subprocess.PIPE, text=True) as producer:
        alarm = threading.Timer(PROGRAM_SECONDS, producer.kill)
        alarm.start()
        for line in producer.stdout:
            output.append(line)
            if len(output) == 1500:
                restart()
        alarm.cancel()
    acknowledged = {int(line["value"]) for line in events(output, "producer_send_success")}
    # It never tries again, so what was under way when the broker died may have failed.
    check(len(acknowledged) > 3000, True)
    # It ends by a signal: --max-messages counts before it commits.
    options = ["--topic", "t-verifiable", "--group-id", "t-verifiable", "--reset-policy", "earliest", "--verbose"]
    seen, committed = set(), 0
    with subprocess.Popen(command(f"{TOOLS}VerifiableConsumer", *options), stdout=subprocess.PIPE, text=True) as consumer:
        alarm = threading.Timer(PROGRAM_SECONDS, consumer.kill)
        alarm.start()
        for line in consumer.stdout:
            for found in events([line], "record_data"):
                seen.add(int(found["value"]))
            for found in events([line], "offsets_committed"):
                committed = max(committed, sum(one["offset"] for one in found["offsets"]))
            if acknowledged <= seen and committed >= len(seen):
                consumer.send_signal(signal.SIGTERM)
        alarm.cancel()
    check(len(acknowledged - seen), 0)
    check(committed >= len(acknowledged), True)


def offsets():
    make("t-offsets", 1)
    console("t-offsets", 50)
    program = f"{TOOLS}GetOffsetShell"
    check(tool(program, "--topic", "t-offsets").strip(), "t-offsets:0:50")
    check(tool(program, "--topic", "t-offsets", "--time", "-2").strip(), "t-offsets:0:0")
    check(tool(program, "--topic", "t-offsets", "--time", "max-timestamp").strip().split(":")[2] != "", True)


def delete_records():
    make("t-delete", 1)
    console("t-delete", 50)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "offsets.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"partitions": [{"topic": "t-delete", "partition": 0, "offset": 20}], "version": 1}, file)
        holds(tool(f"{TOOLS}DeleteRecordsCommand", "--offset-json-file", path), "low_watermark: 20")
    check(tool(f"{TOOLS}GetOffsetShell", "--topic", "t-delete", "--time", "earliest").strip(), "t-delete:0:20")


def transactions():
    make("t-transactions", 1)
    settings = ["--num-records", "100", "--record-size", "10", "--throughput", "-1", "--topic", "t-transactions"]
    tool(f"{TOOLS}ProducerPerformance", *settings, "--transactional-id", "t-id", "--transaction-duration-ms", "100")
    program = f"{TOOLS}TransactionsCommand"
    holds(tool(program, "list"), "t-id", "CompleteCommit")
    holds(tool(program, "describe", "--transactional-id", "t-id"), "CompleteCommit")
    tool(program, "describe-producers", "--topic", "t-transactions", "--partition", "0")
    # Only one broker can be asked this way: the one that is listed first.
    tool(program, "find-hanging", "--topic", "t-transactions", "--partition", "0")


def log_dirs():
    make("t-log", 1)
    console("t-log", 10)
    holds(tool(f"{TOOLS}LogDirsCommand", "--describe", "--topic-list", "t-log"), '"partition":"t-log-0"', '"size":')


def cluster():
    holds(tool(f"{TOOLS}BrokerApiVersionsCommand"), "Produce(0)", "Fetch(1)")
    holds(subprocess.run(
        [*JAVA, "-cp", JARS, f"{TOOLS}ClusterTool", "cluster-id", "--bootstrap-server", BOOTSTRAP],
        capture_output=True, text=True, check=True, timeout=PROGRAM_SECONDS,
    ).stdout, "Cluster ID:")


scenario("kafka-topics", topics)
scenario("kafka-configs", configs)
scenario("kafka-console-producer, kafka-console-consumer", console_programs)
scenario("kafka-consumer-groups, both protocols", groups)
scenario("kafka-producer-perf-test", performance)
scenario("kafka-consumer-perf-test", consumer_performance)
scenario("kafka-verifiable-producer, kafka-verifiable-consumer, over a restart", verifiable)
scenario("kafka-get-offsets", offsets)
scenario("kafka-delete-records", delete_records)
scenario("kafka-transactions", transactions)
scenario("kafka-log-dirs", log_dirs)
scenario("kafka-broker-api-versions, kafka-cluster", cluster)

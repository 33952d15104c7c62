"""Installs each client, pinned, below a cache of its own, and gives the command that runs its program.

`Missing` says that a toolchain is not on this machine, or that its registry gives nothing: that client is left out, and
the run says so.
"""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = {
    "confluent-kafka": ("confluent.py", ["confluent-kafka==2.16.1"]),
    "kafka-python": ("kafka_python.py", ["kafka-python==3.0.12", "lz4==4.4.5", "python-snappy==0.7.3", "zstandard==0.25.0"]),
    "aiokafka": ("aio.py", ["aiokafka==0.14.0", "cramjam==2.14.0"]),
}
NODE = {
    "kafkajs": ("kafkajs.js", "kafkajs@2.2.4"),
    "@platformatic/kafka": ("platformatic.mjs", "@platformatic/kafka@1.35.0"),
}
JAVA_CLIENTS = ["3.9.2", "4.4.0"]
# The newest whose broker, tools, Streams and Connect are all published.
KAFKA = "4.3.1"
JAVA = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


class Missing(Exception):
    """A toolchain or a package that cannot be had here."""


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"{program} is not on this machine")


def quiet(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout.decode(errors='replace')[-400:]}")


def from_registry(command):
    try:
        quiet(command)
    except RuntimeError as error:
        raise Missing(f"cannot be installed here: {error}") from error


def install_python(cache, packages):
    """A virtual environment with these packages; its Python."""
    folder = cache / "-".join(package.split("=")[0] for package in packages[:1])
    python = folder / "bin" / "python"
    mark = folder / "done"
    if not mark.exists() or mark.read_text() != " ".join(packages):
        if subprocess.run([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Missing("Python's venv is not on this machine (python3-venv)")
        quiet([sys.executable, "-m", "venv", str(folder)])
        from_registry([str(python), "-m", "pip", "install", "-q", *packages])
        mark.write_text(" ".join(packages))
    return str(python)


def install_node(cache, script, package):
    need("node", "npm")
    folder = cache / package.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules").exists():
        from_registry(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), package])
    shutil.copy(HERE / script, folder / script)
    return ["node", str(folder / script)]


def install_go(cache, name):
    need("go")
    folder = cache / name
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
    quiet(["go", "mod", "tidy"], cwd=folder)
    quiet(["go", "build", "-o", name, "."], cwd=folder)
    return [str(folder / name)]


def install_rust(cache, name):
    """librdkafka is built from the source that the crate carries, with its own configure."""
    need("cargo", "cc", "make")
    folder = cache / name
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
    target = folder / "target"
    quiet(["cargo", "build", "--release"], cwd=folder, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return [str(target / "release" / name)]


def jars(cache, version, whole=False):
    """The classpath of kafka-clients, or of all of Apache Kafka."""
    need("java", "javac", "mvn")
    folder = cache / f"{'kafka' if whole else 'kafka-clients'}-{version}"
    if not (folder / "done").exists():
        command = ["mvn", "-q", "-B", "-f", str(HERE / "java" / "pom.xml"), "dependency:copy-dependencies"]
        command += [f"-Dkafka.version={version}", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        quiet([*command, *(["-Pwhole"] if whole else [])])
        (folder / "done").touch()
    return f"{folder}/*"


def java_program(cache, version, program, whole=False):
    """The command of one of our own programs, compiled against that version."""
    classpath = jars(cache, version, whole)
    folder = cache / f"classes-{program}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    quiet(["javac", "-nowarn", "-d", str(folder), "-cp", classpath, str(HERE / "java" / f"{program}.java")])
    return [*JAVA, "-cp", f"{folder}{os.pathsep}{classpath}", program]


def by_python(cache, script):
    """A script of ours that runs Kafka's own programs; it is given the classpath."""
    return [sys.executable, str(HERE / script), jars(cache, KAFKA, whole=True)]


def kcat():
    need("kcat")
    return [sys.executable, str(HERE / "kcat.py")]


def clients(cache):
    """Name, and what installs it and makes its command."""
    for name, (script, packages) in PYTHON.items():
        yield name, lambda script=script, packages=packages: [install_python(cache, packages), str(HERE / script)]
    for name, (script, package) in NODE.items():
        yield name, lambda script=script, package=package: install_node(cache, script, package)
    yield "franz-go", lambda: install_go(cache, "franz")
    yield "sarama", lambda: install_go(cache, "sarama")
    yield "rdkafka", lambda: install_rust(cache, "rdkafka")
    yield "kcat", kcat
    for version in JAVA_CLIENTS:
        yield f"kafka-clients {version}", lambda version=version: java_program(cache, version, "Client")
    yield "tools", lambda: by_python(cache, "tools.py")
    yield "streams", lambda: java_program(cache, KAFKA, "Streams", whole=True)
    yield "connect", lambda: by_python(cache, "connect.py")

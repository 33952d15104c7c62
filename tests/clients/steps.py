"""What every Python client's script shares: scenarios by name, and the restart of the broker in the middle.

A script prints one line for each scenario, `ok NAME`, `failed NAME: WHY` or, where the client has no such thing,
`cannot NAME: WHY`. The line `restart` asks the runner to kill the broker and start it again; the runner answers with a
line on standard input.
"""

import sys
import traceback

BOOTSTRAP = sys.argv[-1]


def scenario(name, work):
    try:
        work()
        print(f"ok {name}", flush=True)
    except Exception as error:
        traceback.print_exc()
        print(f"failed {name}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)


def cannot(name, why):
    print(f"cannot {name}: {why}", flush=True)


def restart():
    print("restart", flush=True)
    sys.stdin.readline()


def check(found, wanted):
    if found != wanted:
        raise AssertionError(f"found {found!r}, not {wanted!r}"[:300])

"""The pool's processes end with whoever started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ENDLESS = """
import itertools, json
from tunery.datasets.validate import validation_steps
row = json.dumps({"messages": [{"role": "user", "content": "a" * 500}, {"role": "assistant", "content": "b"}]})
rows = (row + "\\n").encode() * 1000
steps = validation_steps(itertools.repeat(rows), num_processes=2)
next(steps)
print("started", flush=True)
for _ in steps:
    pass
"""


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_killed_parent_leaves_no_process_behind() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "started\n"
        children = children_of(parent.pid)
        assert len(children) >= 2
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)

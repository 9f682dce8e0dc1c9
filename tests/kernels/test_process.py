"""Memory does not grow with every new shape. In processes of their own: oneDNN reads its settings once."""

import os
import subprocess
import sys

import pytest
import torch

PROGRAM = """
import random, sys
import torch
from tunery.kernels import process

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "bounded":
    process.keep_matmuls(16)
weight = torch.randn(1536, 576).bfloat16()
rows = random.Random(0).sample(range(200, 600), 300)
for number, count in enumerate(rows):
    torch.nn.functional.linear(torch.ones(count, 576).bfloat16(), weight)
    if number == 100:
        before = resident_mb()
print(resident_mb() - before)
"""


def growth_mb(mode: str) -> float:
    # Models that other tests have loaded left their bounds in this process's environment.
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    command = [sys.executable, "-c", PROGRAM, mode]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shapes_beyond_the_bound_cost_nothing() -> None:
    free, bounded = growth_mb("free"), growth_mb("bounded")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # elsewhere torch does not ask oneDNN for these
        assert free > 40, "oneDNN keeps little by itself: the bound can go"
    assert bounded < max(10, free / 3)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for a session's share")
def test_a_process_that_gives_way_lets_other_sessions_go_first() -> None:
    """What is nice within its own session alone is not nice to the server's other processes."""
    program = (
        "import os, pathlib; from tunery.kernels import process; process.give_way(); print(os.nice(0)); "
        "share = pathlib.Path('/proc/self/autogroup'); "
        "print(share.read_text().strip() if share.exists() else 'nice 19')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], start_new_session=True, capture_output=True, text=True, check=True
    )
    nice, share = done.stdout.splitlines()
    assert nice == "19"
    assert share.endswith("nice 19")

"""The engine's passes as processors compute them that have less than this one, held to the same references."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunery.kernels.process import instructions

HELD_TO_REFERENCES = "tests/serving/test_forward.py", "tests/serving/test_lora.py", "tests/serving/test_kernels.py"


@pytest.mark.parametrize("limit", ["avx2", "plain"])
def test_passes_are_right_without_newer_instructions(limit: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *HELD_TO_REFERENCES]
    environment = {**os.environ, **instructions(limit), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]

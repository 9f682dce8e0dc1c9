"""The engine's passes as processors compute them that have no vector instructions of ours, held to the same references.

The products of bytes, which older x86 processors multiply otherwise, are in test_eight_bit.
"""

import os
import subprocess
import sys
from pathlib import Path

from tunery.kernels.process import instructions

HELD_TO_REFERENCES = "tests/serving/test_forward.py", "tests/serving/test_lora.py", "tests/serving/test_kernels.py"


def test_passes_are_right_in_the_plain_form(tmp_path: Path) -> None:
    small = ("-k", "not real_models_loss")  # a minute of the plain form
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *small, *HELD_TO_REFERENCES]
    environment = {**os.environ, **instructions("plain"), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]

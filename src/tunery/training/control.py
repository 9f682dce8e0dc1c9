"""What the worker asks for while a job runs, and whether it is still there."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Literal

Wish = Literal["pause", "leave"]  # a trainer whose job is cancelled is killed

CONTROL_FILE = "control"


class Interrupted(Exception):
    """Raised between micro-batches: the step that had begun is given up."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self.wish = wish


class Control:
    """`leave` means: the parent is gone or asks this process to end. The state stays for the next start."""

    def __init__(self, workdir: Path) -> None:
        self.file = workdir / CONTROL_FILE
        self.parent = os.getppid()
        self.is_terminated = False

    def listen(self) -> None:
        """End in good order on SIGTERM."""
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.is_terminated = True

    def check(self) -> None:
        """Raises Interrupted when there is a wish."""
        if self.is_terminated or os.getppid() != self.parent:
            raise Interrupted("leave")
        try:
            wish = self.file.read_text("utf-8").strip()
        except FileNotFoundError:
            return
        if wish == "pause":
            raise Interrupted(wish)

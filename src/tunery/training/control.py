"""Whether a running job is to stop: the worker asks for it, or is gone, or a trainer that shares the job is."""

import os
import signal
from types import FrameType
from typing import Literal

from tunery.training.protocol import ControlRequest, Workdir

Reason = Literal["pause", "leave"]


class Interrupted(Exception):
    """Raised before the parameters change: the step that had begun is given up."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Control:
    """`leave` means: the parent is gone or asks this process to end, or another of the job's trainers is gone. The
    state stays for the next start."""

    def __init__(self, workdir: Workdir) -> None:
        self.workdir = workdir
        self.parent = os.getppid()
        self.is_terminated = False

    def listen(self) -> None:
        """End in good order on SIGTERM."""
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.is_terminated = True

    def check(self) -> None:
        """Raises Interrupted when the job is to stop."""
        if self.is_terminated or os.getppid() != self.parent:
            raise Interrupted("leave")
        if self.workdir.requested() is ControlRequest.PAUSE:
            raise Interrupted("pause")

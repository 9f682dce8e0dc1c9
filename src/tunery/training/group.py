"""The trainers of one job, which share its batches. Each is a whole trainer: it reads all rows, draws the same batches
and takes the same steps, so that all have the same adapter at any time. What they share is the work on a batch: each
computes a part of its examples, each loss divided by the weight of the whole batch, and adds up losses and gradients
with the others before the step.

    shares ──▶ micro-batches, forward, backward ──▶ sum ──▶ clip, update
    (own)                  (own)                  (all)        (same)
"""

import logging
import os
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from tunery.training.batching import shares
from tunery.training.control import Interrupted
from tunery.training.examples import TrainExample
from tunery.training.methods.base import Sums

log = logging.getLogger(__name__)

JOIN_TIMEOUT = timedelta(minutes=30)  # the others may have a base to fetch first


@dataclass(frozen=True)
class Group:
    """As one of its trainers sees it. One trainer is a group, too."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, rank: int, size: int, meeting: str) -> "Group":
        """Wait for the others at `meeting`, HOST:PORT, where the first one listens. Raises RuntimeError when they do
        not come."""
        if size == 1:
            return ALONE
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_towards(meeting))
        at = f"tcp://{meeting}"
        dist.init_process_group("gloo", init_method=at, rank=rank, world_size=size, timeout=JOIN_TIMEOUT)
        return cls(rank, size)

    def share(self, examples: Sequence[TrainExample]) -> list[TrainExample]:
        """Those that this trainer computes."""
        if self.size == 1:
            return list(examples)
        own = shares([example.rows for example in examples], self.size)[self.rank]
        return [examples[index] for index in own]

    def sum(self, own: Sums) -> Sums:
        """Of all trainers, the same for each. Raises Interrupted when one is gone."""
        if self.size == 1:
            return own
        gathered: list[Sums] = [own] * self.size
        with _noticing_loss():
            dist.all_gather_object(gathered, own)
        totals = Sums()
        for sums in gathered:
            totals.add(sums)
        return totals

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """In place; who has none adds zeros. Raises Interrupted when one is gone."""
        if self.size == 1:
            return
        flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
        with _noticing_loss():
            dist.all_reduce(flat)
        for parameter, summed in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            parameter.grad = summed.view_as(parameter)


ALONE = Group()


def _gradient(parameter: Parameter) -> Tensor:
    """Of the parameter's shape, [R, in] or [out, R]."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextmanager
def _noticing_loss() -> Generator[None]:
    """Gloo tells of a lost connection as of any other fault."""
    try:
        yield
    except RuntimeError as exc:
        log.warning("another trainer of the job is gone; the state stays for the next start")
        raise Interrupted("leave") from exc


def _interface_towards(meeting: str) -> str:
    """Gloo would take the one that the machine's own name stands for, which is often the loopback."""
    host, _, port = meeting.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # sends nothing
        here = probe.getsockname()[0]
    addresses = psutil.net_if_addrs().items()
    return next(name for name, found in addresses if any(each.address == here for each in found))

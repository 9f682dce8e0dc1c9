"""Sequences that wait for their start, by tenant: those of one project (`Sequence.salt`) in their order."""

from collections import deque
from collections.abc import Iterator

from tunery.serving.sequence import Sequence


class Waiting:
    def __init__(self) -> None:
        self._queues: dict[str, deque[Sequence]] = {}  # none is empty

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    @property
    def tenants(self) -> list[str]:
        return list(self._queues)

    def of(self, tenant: str) -> tuple[Sequence, ...]:
        return tuple(self._queues.get(tenant, ()))

    def add(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.salt, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """At the front: it had begun."""
        self._queues.setdefault(sequence.salt, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.salt]
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.salt]

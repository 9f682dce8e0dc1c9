"""The latest reports, so that whoever checks a file and then asks for an estimate does not wait for both."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass

from tunery.datasets.report import Report

MAX_KEPT = 4  # a report on a large file holds some 30 MB
MAX_AT_ONCE = 2  # files in work; each uses all cores


@dataclass(frozen=True)
class ReportKey:
    """All that a report depends on. A file's content never changes, so its id stands for it."""

    file_id: str
    model_source: str | None
    max_example_tokens: int | None
    method: str | None
    role: str
    against: str | None  # the training file's id


Steps = Callable[[], Generator[int, None, Report]]


class ReportCache:
    """One for the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[ReportKey, Report] = OrderedDict()
        self._lock = threading.Lock()
        self._at_work = threading.BoundedSemaphore(MAX_AT_ONCE)

    def steps(self, key: ReportKey, make: Steps) -> Generator[int, None, Report]:
        """The kept report at once, or that of `make`, yielding the bytes it has examined. Waits for its turn."""
        found = self._find(key)
        if found is not None:
            return found
        with self._at_work:
            found = self._find(key)  # somebody else may have made it meanwhile
            if found is None:
                found = yield from make()
                self._keep(key, found)
            return found

    def get(self, key: ReportKey, make: Steps) -> Report:
        steps = self.steps(key, make)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value

    def _find(self, key: ReportKey) -> Report | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: ReportKey, report: Report) -> None:
        with self._lock:
            self._kept[key] = report
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

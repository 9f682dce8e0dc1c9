"""The adapters that may be asked for, and the way of their weights into memory.

Lives in the engine's thread; files are read in a helper thread, whose results come back as commands. Registering reads
the files at once, so a finished job's model answers without a pause and bad files are refused when they are named. An
adapter that was evicted since is read again when a request needs it. Of very many, those that nobody has asked for are
forgotten: who asks for one then registers it again, as after the engine's own restart.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tunery.domain.errors import InvalidRequest, NotFound
from tunery.serving.forward.adapters import Adapter
from tunery.serving.metrics import EngineMetrics
from tunery.serving.runner import Runner, compute_alone
from tunery.serving.scheduler import Scheduler

Post = Callable[[Callable[[], None]], None]
"""Has something done in the engine's thread."""

KNOWN_FOR_EACH_SLOT = 16  # adapters that may be asked for, in memory or not


@dataclass(eq=False)
class _Entry:
    folder: Path
    waiters: list["Future[None]"] = field(default_factory=list)  # of `register`, until the weights are in memory
    is_leaving: bool = False  # unregistered while in use: gone with its last sequence


class AdapterRegistry:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        metrics: EngineMetrics,
        post: Post,
        on_failure: Callable[[str, str], None],
    ) -> None:
        """`on_failure(name, message)`: the weights of an adapter that sequences wait for cannot be had."""
        self.names: frozenset[str] = frozenset()  # replaced, never changed: other threads read it
        self._runner = runner
        self._scheduler = scheduler
        self._slots = scheduler.slots
        self._metrics = metrics
        self._post = post
        self._on_failure = on_failure
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # that nobody has asked for the longest first
        self._users: Counter[str] = Counter()  # sequences, waiting or running
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters", initializer=compute_alone)

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def register(self, name: str, folder: Path, future: "Future[None]") -> None:
        known = self._entries.get(name)
        if known is not None and (known.is_leaving or known.folder != folder):
            problem = "is still in use, being unloaded" if known.is_leaving else "is loaded from another folder"
            future.set_exception(InvalidRequest(f"The adapter {name!r} {problem}.", param="lora_name"))
            return
        if known is None:
            self._make_room()
        entry = self._entries[name] = known or _Entry(folder)
        self._entries.move_to_end(name)
        self._publish()
        if self._slots.is_ready(name):
            future.set_result(None)
        elif self._slots.request(name):
            entry.waiters.append(future)
        else:  # every slot is pinned: it is read when a request needs it, and now only looked at
            self._reader.submit(self._look_at, name, entry, future)

    def unregister(self, name: str, future: "Future[None]") -> None:
        entry = self._entries.get(name)
        if entry is None or entry.is_leaving:
            future.set_exception(NotFound(f"The adapter {name!r} is not loaded.", param="lora_name"))
            return
        entry.is_leaving = True
        self._publish()
        self._remove_if_idle(name)
        future.set_result(None)

    def acquire(self, name: str) -> bool:
        """A sequence will use the adapter. False when it may not be asked for (any more)."""
        entry = self._entries.get(name)
        if entry is None or entry.is_leaving:
            return False
        self._users[name] += 1
        self._entries.move_to_end(name)
        return True

    def release(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            if self._entries[name].is_leaving:
                self._remove_if_idle(name)

    def start_loads(self) -> None:
        """Carry out what the scheduler decided about slots: drop the evicted, read the wanted."""
        for name in self._slots.take_evictions():
            self._runner.drop_adapter(name)
            self._metrics.adapter_evictions.inc()
        for name in self._slots.take_loads():
            self._reader.submit(self._read, name, self._entries[name])

    def _read(self, name: str, entry: _Entry) -> None:
        """In the helper thread."""
        started_at = time.perf_counter()
        try:
            adapter = self._runner.read_adapter(entry.folder)
        except Exception as exc:
            problem = exc if isinstance(exc, InvalidRequest) else InvalidRequest(f"{name!r} cannot be read: {exc}")
            self._post(lambda: self._failed(name, entry, problem))
            return
        self._metrics.adapter_load.observe(time.perf_counter() - started_at)
        self._post(lambda: self._arrived(name, entry, adapter))

    def _look_at(self, name: str, entry: _Entry, future: "Future[None]") -> None:
        """In the helper thread."""
        try:
            self._runner.read_adapter(entry.folder)
        except InvalidRequest as exc:
            problem = exc
            entry.waiters.append(future)
            self._post(lambda: self._failed(name, entry, problem))
            return
        future.set_result(None)

    def _arrived(self, name: str, entry: _Entry, adapter: Adapter) -> None:
        if self._entries.get(name) is not entry or not self._slots.is_loading(name):
            return  # unregistered meanwhile
        self._runner.put_adapter(name, adapter)
        self._slots.mark_ready(name)
        self._metrics.adapter_loads.inc()
        self._publish()
        for future in entry.waiters:
            future.set_result(None)
        entry.waiters.clear()

    def _failed(self, name: str, entry: _Entry, problem: InvalidRequest) -> None:
        if self._entries.get(name) is not entry:
            return
        self._on_failure(name, problem.message)
        self._slots.remove(name)
        self._entries.pop(name, None)
        self._publish()
        for future in entry.waiters:
            future.set_exception(problem)

    def _make_room(self) -> None:
        """For one more. Those that somebody waits for stay, however many they are."""
        too_many = len(self._entries) + 1 - KNOWN_FOR_EACH_SLOT * self._slots.max_adapters
        if too_many > 0:
            idle = (name for name, entry in self._entries.items() if not self._users[name] and not entry.waiters)
            for name in list(islice(idle, too_many)):
                self._remove_if_idle(name)

    def _remove_if_idle(self, name: str) -> None:
        if self._users[name]:
            return
        entry = self._entries.pop(name)
        for future in entry.waiters:
            future.set_exception(InvalidRequest(f"The adapter {name!r} was unloaded.", param="lora_name"))
        self._slots.remove(name)
        self._runner.drop_adapter(name)
        self._scheduler.forget_adapter(name)
        self._publish()

    def _publish(self) -> None:
        self.names = frozenset(name for name, entry in self._entries.items() if not entry.is_leaving)
        self._metrics.registered.set(len(self.names))
        self._metrics.resident.set(len(self._slots.resident))
        self._metrics.adapter_bytes.set(self._runner.adapter_bytes)

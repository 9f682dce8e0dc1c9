"""Examines blocks on all cores, in order. Processes, not threads: parsing and rendering hold Python's lock."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tunery.chat.render import Renderer
from tunery.datasets.blocks import Block
from tunery.datasets.examine import BlockFacts, Task, examine
from tunery.domain.errors import ServerFault
from tunery.texts import say

_AHEAD = 2  # blocks a process has waiting: enough that it never idles, few enough to bound memory
_LOOK_FOR_PARENT_S = 1.0


def num_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def examine_here(blocks: Iterable[Block], task: Task, renderer: Renderer | None) -> Iterator[BlockFacts]:
    for block in blocks:
        yield examine(block, task, renderer)


def examine_in_pool(blocks: Iterable[Block], task: Task, num_processes: int) -> Iterator[BlockFacts]:
    """Results in the order of the blocks. Raises ServerFault when the system kills a process of the pool."""
    context = multiprocessing.get_context("spawn")  # a fork of a server would copy its threads' locks
    waiting: deque[Future[BlockFacts]] = deque()
    pool = ProcessPoolExecutor(num_processes, context, _start, (task, os.getpid()))
    try:
        for block in blocks:
            waiting.append(pool.submit(_examine, block))
            if len(waiting) > num_processes * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as exc:
        raise ServerFault(say("error.check_killed")) from exc
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_renderer: Renderer | None = None
_task: Task | None = None


def _start(task: Task, parent: int) -> None:
    """Once in each process of the pool. `parent` is told: by now it may be gone, and another one be in its place."""
    global _renderer, _task
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    _task = task
    _renderer = Renderer.from_dir(task.model_dir, completes=task.completes) if task.model_dir else None
    _return_freed_memory()


def _examine(block: Block) -> BlockFacts:
    assert _task is not None, "the pool's initializer has run"
    return examine(block, _task, _renderer)


def _return_freed_memory() -> None:
    """Reading a tokenizer frees some 15 MB that glibc would keep, in every process of the pool."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def end_with_parent(parent: int) -> None:
    """A killed server must not leave processes that wait for work for ever. Linux's own signal for that (PDEATHSIG)
    would not do: it comes when the thread ends that started the process."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_FOR_PARENT_S)
    os._exit(1)

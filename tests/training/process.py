"""Starts trainers as real processes, quickly: from a forkserver that has imported torch already."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

from tunery.training.protocol import Workdir

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tunery.training.job", "tests.training.process"])


def start(workdir: Workdir) -> BaseProcess:
    process = CONTEXT.Process(target=run_child, args=(str(workdir.root),))
    process.start()
    return process


def run_child(workdir: str) -> None:
    """What `python -m tunery.training.child` does, with stdout and stderr in files of the workdir."""
    from tunery.training.child import main

    for name, descriptor in (("said.jsonl", 1), ("log", 2)):
        os.dup2(os.open(Path(workdir) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os._exit(main([workdir]))

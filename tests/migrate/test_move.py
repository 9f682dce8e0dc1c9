"""A whole account moves over, also when the importer is killed again and again on the way."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.migrate.installations import Installation, fill, install
from tunery.migrate.source import Source

NUM_JOBS, NUM_FILES, NUM_COMPLETIONS = 200, 300, 5_000
KILLS = 10


def importer(target: Installation, source: OpenAI, bundle: Path, *extra: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
    environment = {**kept, "TUNERY_HOME": str(target.settings.home), "MIGRATE_SOURCE_KEY": str(source.api_key)}
    command = [sys.executable, "-m", "tunery", "migrate", "openai", "import", "--to", str(bundle), "--json"]
    command += ["--source-url", str(source.base_url), *extra]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def everything(client: OpenAI) -> dict[str, Any]:
    """All that a client can see of jobs, files and stored completions, by id."""
    source = Source(client)
    found: dict[str, Any] = {}
    for job in source.jobs():
        found[job["id"]] = (job, source.events(job["id"]), source.checkpoints(job["id"]))
    for file in source.files():
        found[file["id"]] = (file, client.files.content(file["id"]).content)
    for completion in source.completions():
        found[completion["id"]] = completion
    return found


@pytest.mark.e2e
def test_every_byte_and_field_is_equal_after_ten_kills(tmp_path: Path) -> None:
    old, new = install(tmp_path / "old", "old"), install(tmp_path / "new", "new")
    fill(old, num_jobs=NUM_JOBS, num_files=NUM_FILES, num_completions=NUM_COMPLETIONS)
    draw = random.Random(1)
    with old.serving() as source:
        for _ in range(KILLS):
            with importer(new, source, tmp_path / "bundle") as process:
                time.sleep(draw.uniform(1.0, 4.0))
                process.send_signal(signal.SIGKILL)
        with importer(new, source, tmp_path / "bundle") as last:
            out, err = last.communicate(timeout=400)
        assert last.returncode == 0, out + err
        with new.serving() as target:
            there, here = everything(source), everything(target)
            sampled = draw.sample([name for name in there if name.startswith("chatcmpl")], 25)
            for name in sampled:
                assert Source(source).completion_messages(name) == Source(target).completion_messages(name)
    assert len(there) == NUM_JOBS + NUM_FILES + NUM_COMPLETIONS
    assert here == there


@pytest.mark.e2e
def test_a_bundle_is_filled_without_a_server_and_loaded_later(tmp_path: Path) -> None:
    old, new = install(tmp_path / "old", "old"), install(tmp_path / "new", "new")
    fill(old, num_jobs=7, num_files=6, num_completions=3)
    with old.serving() as source:
        with importer(new, source, tmp_path / "bundle", "--only-bundle") as filling:
            assert filling.wait(120) == 0
        with new.serving() as target:
            assert everything(target) == {}
        there = everything(source)
    # The source is gone.
    with importer(new, source, tmp_path / "bundle", "--from-bundle") as loading:
        assert loading.wait(120) == 0
    with new.serving() as target:
        assert everything(target) == there

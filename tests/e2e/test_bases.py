"""Two bases in one server: the one leaves for the other, and comes back when it is asked for."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.conftest import MARV, Served
from tests.launch.processes import children_of, is_running, wait_for
from tests.tiny_model import write_tiny_model
from tunery.models.config import read_sizes
from tunery.models.memory import serving_bytes

FIRST, SECOND = "gpt-4o-mini-2024-07-18", "other"


@pytest.fixture
def catalog(tiny_model_dir: Path, tmp_path: Path) -> Path:
    other = tmp_path / "other"
    other.mkdir()
    write_tiny_model(other, can_end=True)
    file = tmp_path / "catalog.toml"
    file.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\n\n'
        f'[bases.other]\nsource = "path:{other}"\ncontext_length = 2048\n\n'
        f'[[models]]\nname = "{FIRST}"\nbase = "tiny"\n\n[[models]]\nname = "{SECOND}"\nbase = "other"\n'
    )
    return file


@pytest.fixture
def room_for_one(tiny_model_dir: Path) -> str:
    return str(serving_bytes(read_sizes(tiny_model_dir)) * 3 // 2)


def warm(served: Served) -> set[str]:
    return {model.id for model in served.client().models.list() if getattr(model, "warm", False)}


def engines(served: Served) -> list[int]:
    def is_engine(pid: int) -> bool:
        try:
            return b"tunery.serving" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return [pid for pid in children_of(served.process.pid) if is_engine(pid)]


def ask(served: Served, model: str) -> str | None:
    chat = [{"role": "user", "content": "Hello"}]
    answer = served.client().chat.completions.create(model=model, messages=chat, max_tokens=3)  # type: ignore[call-overload]
    return answer.model


def test_two_bases_take_turns_in_the_memory_for_one(
    start: Callable[..., Served], catalog: Path, room_for_one: str
) -> None:
    served = start(TUNERY_CATALOG=str(catalog), TUNERY_ENGINE_MEMORY_BYTES=room_for_one)
    assert FIRST in warm(served) and SECOND not in warm(served)
    before = engines(served)

    assert ask(served, SECOND) == SECOND  # waits until the first has left and the second is there
    assert SECOND in warm(served) and FIRST not in warm(served)
    assert not any(map(is_running, before)) and len(engines(served)) == 1
    states = httpx.get(f"{served.base_url.removesuffix('/v1')}/health").json()["bases"]
    assert (states[FIRST], states[SECOND]) == ("cold", "warm") and "path:" not in str(states)

    # A job on each: its parity check has its own base started.
    client = served.client()
    file = client.files.create(file=(MARV.name, MARV.read_bytes()), purpose="fine-tune")
    for base in (FIRST, SECOND):
        once = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        job = client.fine_tuning.jobs.create(model=base, training_file=file.id, method=once)  # type: ignore[arg-type]
        wait_for(lambda job=job: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"), 400)
        ended = client.fine_tuning.jobs.retrieve(job.id)
        assert ended.status == "succeeded" and ended.fine_tuned_model is not None, ended.error
        told = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert any("log-probab" in message for message in told) and not any("not checked" in text for text in told)
        assert base in warm(served)
        assert ask(served, ended.fine_tuned_model) == ended.fine_tuned_model

    # An engine that is killed while it starts is started again, and who waits for it is answered.
    first = engines(served)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(served, FIRST)))
    waiting.start()
    wait_for(lambda: [pid for pid in engines(served) if pid not in first], 60)
    os.kill(next(pid for pid in engines(served) if pid not in first), signal.SIGKILL)
    waiting.join(300)
    assert answers == [FIRST]


def test_a_cold_base_is_refused_where_the_owner_wants_it_so(
    start: Callable[..., Served], catalog: Path, room_for_one: str
) -> None:
    served = start(TUNERY_CATALOG=str(catalog), TUNERY_ENGINE_MEMORY_BYTES=room_for_one, TUNERY_COLD_START="refuse")
    with pytest.raises(openai.APIStatusError) as refused:
        ask(served, SECOND)
    assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "20"
    assert refused.value.code == "model_cold"
    wait_for(lambda: SECOND in warm(served), 60)
    assert ask(served, SECOND) == SECOND

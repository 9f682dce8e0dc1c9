"""Embeddings: the same vectors as transformers', whatever they are computed beside, and bounds on what is asked."""

import json
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from tests.serving.conftest import make_settings
from tests.serving.server import EngineServer
from tests.tiny_encoder import KINDS, SOURCE, WINDOW, write_tiny_encoder
from tunery.domain.errors import InvalidRequest
from tunery.serving.embeddings import EmbeddingModel
from tunery.serving.http.embeddings import MAX_INPUT_TOKENS, MAX_REQUEST_TOKENS, PIECE_TOKENS

TEXTS = [
    "Where is my parcel?",
    "a",
    "\n",
    " ",
    "nul \0 inside",
    "emoji 🎉👩‍👩‍👧 and ﬁne Ünïcode",
    "荷物はどこですか。",
    "unbelievably long words " * 20,
]


def reference(folder: Path, ids: list[int], *, first: bool = False) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        states = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
    return torch.nn.functional.normalize(states[0] if first else states.mean(0), dim=0)


def vector(model: EmbeddingModel, text: str) -> torch.Tensor:
    (windows,) = model.windows([text])
    return model.join(windows, [model.pool(window) for window in windows])


def test_the_default_model_gives_what_transformers_does(embedding_model_dir: Path) -> None:
    model = EmbeddingModel(embedding_model_dir)
    tokenizer = Tokenizer.from_file(str(embedding_model_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in TEXTS:
        wanted = reference(embedding_model_dir, tokenizer.encode(text).ids)
        assert float(vector(model, text) @ wanted) > 0.99999


def test_what_means_the_same_is_near(embedding_model_dir: Path) -> None:
    model = EmbeddingModel(embedding_model_dir)
    question, same, other = (
        vector(model, text)
        for text in ("How do I reset my password?", "I forgot my password.", "The weather in Paris is mild.")
    )
    assert question @ same > 0.5 > question @ other


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_each_kind_of_encoder_and_pooling(tmp_path: Path, kind: str, pooling: str) -> None:
    folder = write_tiny_encoder(tmp_path, kind, pooling)
    model = EmbeddingModel(folder)
    for text in ("a short one", "x" * (WINDOW - 2), "!"):
        (windows,) = model.windows([text])
        assert len(windows) == 1
        wanted = reference(folder, windows[0], first=pooling == "cls_token")
        assert float(vector(model, text) @ wanted) > 0.99999


def test_a_long_text_is_read_to_its_end(tmp_path: Path) -> None:
    model = EmbeddingModel(write_tiny_encoder(tmp_path))
    text = "abcdefg " * 20
    (windows,) = model.windows([text])
    letters = [token for window in windows for token in window[1:-1]]
    assert len(letters) == 7 * 20 and all(len(window) <= WINDOW for window in windows)
    lengths = torch.tensor([float(len(window)) for window in windows])
    means = torch.stack([model.pool(window) for window in windows])
    assert torch.allclose(vector(model, text), torch.nn.functional.normalize(lengths @ means, dim=0))
    assert not torch.equal(vector(model, text), vector(model, text + "z"))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "distilbert"}),
        ("config.json", {"hidden_act": "gelu_new"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("modules.json", [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, file: str, changes: Any) -> None:
    path = write_tiny_encoder(tmp_path) / file
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known + changes if isinstance(known, list) else known | changes))
    with pytest.raises(InvalidRequest, match=r"engine|compute"):
        EmbeddingModel(tmp_path)


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, encoder_cache: Path) -> Iterator[EngineServer]:
    settings = make_settings(tiny_model_dir, embedding_models=(SOURCE, "path:/nowhere"), model_cache=encoder_cache)
    with EngineServer(settings) as running:
        yield running


def ask(server: EngineServer, given: Any, **values: Any) -> httpx.Response:
    body = {"model": SOURCE, "input": given, "encoding_format": "base64", **values}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=120)


def test_a_text_has_the_same_vector_whatever_it_comes_with(server: EngineServer) -> None:
    alone = [ask(server, text).json()["data"][0]["embedding"] for text in TEXTS]
    together = ask(server, [*TEXTS, *reversed(TEXTS)]).json()["data"]
    assert [row["index"] for row in together] == list(range(2 * len(TEXTS)))
    assert [row["embedding"] for row in together] == [*alone, *reversed(alone)]
    numbers = ask(server, TEXTS, encoding_format="float").json()["data"]
    for row, text in zip(numbers, alone, strict=True):
        assert row["embedding"] == np.frombuffer(b64decode(text), "<f4").tolist()
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-6)


def test_usage_counts_what_the_model_read(server: EngineServer) -> None:
    assert ask(server, ["ab", "c"]).json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("a " * (MAX_INPUT_TOKENS + 1), None),
        ("a" * 100_000, None),
        ("word " * 20_000, None),
        (["ok", "a " * (MAX_INPUT_TOKENS + 1)], None),
        (["a " * (MAX_INPUT_TOKENS // 2)] * 80, "max_tokens_per_request"),
        (["a" * 60_000] * (MAX_REQUEST_TOKENS // 7_000), "max_tokens_per_request"),
    ],
)
def test_too_much_is_refused_before_it_is_computed(server: EngineServer, given: Any, code: str | None) -> None:
    answer = ask(server, given)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == code
    which = f"[{len(given) - 1 if isinstance(given, list) else 0}]"
    wanted = (
        "max 300000 tokens per request" if code else f"Invalid 'input{which}': maximum input length is 8192 tokens."
    )
    assert wanted in answer.json()["error"]["message"]


def test_a_model_that_cannot_be_had_is_told_and_one_that_is_none(server: EngineServer) -> None:
    answer = ask(server, "a", model="path:/nowhere")
    assert answer.status_code == 503 and "no config.json" in answer.json()["error"]["message"]
    assert ask(server, "a", model="base").status_code == 404
    assert {SOURCE, "base"} <= {row["id"] for row in httpx.get(f"{server.url}/v1/models").json()["data"]}


@pytest.mark.parametrize("priority", [0, 1])
def test_requests_take_turns_and_answers_are_made_meanwhile(server: EngineServer, priority: int) -> None:
    """A piece at a time: counted by what the engine's thread is given, and by who ends first."""
    pieces: list[int] = []
    compute = server.service.engine.compute

    def counted(work: Any, priority: int) -> Any:
        pieces.append(sum(map(len, work.args[1])))
        return compute(work, priority)

    server.service.engine.compute = counted  # type: ignore[method-assign]
    ended: list[str] = []

    def long() -> None:
        assert ask(server, ["letters " * 80] * 200, priority=priority).status_code == 200
        ended.append("long")

    thread = threading.Thread(target=long)
    thread.start()
    try:
        while not pieces:
            time.sleep(0.001)
        ask(server, "short")
        ended.append("short")
        body = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code == 200
        ended.append("chat")
    finally:
        thread.join(120)
        server.service.engine.compute = compute  # type: ignore[method-assign]
    assert ended == ["short", "chat", "long"]
    assert max(pieces) <= PIECE_TOKENS


def test_an_aborted_request_ends_with_the_usage_until_then(server: EngineServer) -> None:
    answers: list[dict[str, Any]] = []
    given = ["letters " * 80] * 400
    thread = threading.Thread(target=lambda: answers.append(ask(server, given, request_id="mine").json()))
    thread.start()
    aborted: list[str] = []
    while not aborted and thread.is_alive():
        aborted = httpx.post(f"{server.url}/abort_requests", json={"request_ids": ["mine"]}).json()["aborted"]
    thread.join(120)
    assert aborted == ["mine"]
    assert answers[0]["data"] == [] and answers[0]["usage"]["prompt_tokens"] < 400 * 7 * 80

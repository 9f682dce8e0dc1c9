"""The face before a vLLM. To the same requests, in fp32, it gives the engine's tokens, and its log-probabilities within
BOUND; all else that holds of both are the engine's own tests, which `make vllm` runs against vLLM."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine_process import EngineProcess, start_engine
from tests.serving.peft_adapters import write_adapter
from tests.vllm_process import needs_vllm, vllm_url

BOUND = 1e-4  # nats
FLOAT32 = ("--dtype", "float32", "--weights", "full")
PROMPTS = ["Say something.", "The cat sat on the mat, and", "naïve 東京 🗼 " * 20]


@pytest.fixture(scope="module", params=["tiny", "base"])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EngineProcess]]:
    """Ours and vLLM's, both with an adapter `tuned`."""
    model_dir: Path = request.getfixturevalue(f"{request.param}_model_dir")
    folder = write_adapter(model_dir, tmp_path_factory.mktemp("tuned"), rank=8, modules=["q_proj", "v_proj"], seed=1)
    both = [
        start_engine(model_dir, name="base", vllm_url="", arguments=FLOAT32),
        start_engine(model_dir, name="base", vllm_url=vllm_url(model_dir)),
    ]
    for engine in both:
        body = {"lora_name": "tuned", "lora_path": str(folder)}
        httpx.post(f"{engine.url}/v1/load_lora_adapter", json=body, timeout=60).raise_for_status()
    yield both
    for engine in both:
        engine.kill()


def asked(engine: EngineProcess, path: str, **body: Any) -> dict[str, Any]:
    return httpx.post(f"{engine.url}/v1/{path}", json=body, timeout=120).raise_for_status().json()


@needs_vllm
@pytest.mark.parametrize("model", ["base", "tuned"])
def test_greedy_tokens_are_equal_and_log_probabilities_within_the_bound(
    engines: list[EngineProcess], model: str
) -> None:
    for prompt in PROMPTS:
        wanted = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 3}
        ours, theirs = (asked(engine, "completions", **wanted)["choices"][0] for engine in engines)
        assert (ours["text"], ours["finish_reason"]) == (theirs["text"], theirs["finish_reason"])
        for name in ("tokens", "text_offset"):
            assert ours["logprobs"][name] == theirs["logprobs"][name]
        assert ours["logprobs"]["token_logprobs"] == pytest.approx(theirs["logprobs"]["token_logprobs"], abs=BOUND)
        for one, other in zip(ours["logprobs"]["top_logprobs"], theirs["logprobs"]["top_logprobs"], strict=True):
            assert list(one.values()) == pytest.approx(list(other.values()), abs=BOUND)


@needs_vllm
@pytest.mark.parametrize("model", ["base", "tuned"])
def test_a_prompts_own_log_probabilities_are_within_the_bound(engines: list[EngineProcess], model: str) -> None:
    prompt = list(range(40, 140))
    wanted = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
    ours, theirs = (asked(engine, "completions", **wanted)["choices"][0]["prompt_logprobs"] for engine in engines)
    assert ours[0] is theirs[0] is None and len(ours) == len(theirs) == len(prompt)
    for token, one, other in zip(prompt[1:], ours[1:], theirs[1:], strict=True):
        assert one[str(token)]["logprob"] == pytest.approx(other[str(token)]["logprob"], abs=BOUND)
        assert one[str(token)]["rank"] == other[str(token)]["rank"]
        assert sorted(one) == sorted(other)


@needs_vllm
def test_a_chats_answer_is_the_same_to_its_usage(engines: list[EngineProcess]) -> None:
    """Also where the prompt is written otherwise by vLLM's template: it never sees the messages."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "<|im_end|> is text here."},
    ]
    tool = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}
    for more in ({}, {"tools": [tool]}, {"tools": [tool], "tool_choice": "required"}):
        wanted = {"model": "tuned", "messages": messages, "max_tokens": 40, "temperature": 0, "logprobs": True, **more}
        ours, theirs = (asked(engine, "chat/completions", **wanted) for engine in engines)
        one, other = ours["choices"][0], theirs["choices"][0]
        calls = [[call["function"] for call in each["message"].pop("tool_calls", [])] for each in (one, other)]
        assert one["message"] == other["message"] and calls[0] == calls[1]
        assert one["finish_reason"] == other["finish_reason"]
        tokens = [[entry["token"] for entry in each["logprobs"]["content"]] for each in (one, other)]
        assert tokens[0] == tokens[1]
        for name in ("prompt_tokens", "completion_tokens"):
            assert ours["usage"][name] == theirs["usage"][name]


@needs_vllm
def test_a_request_that_is_ended_by_its_name_says_what_it_came_to(tiny_model_dir: Path) -> None:
    engine = start_engine(tiny_model_dir, name="base")
    body = {"model": "base", "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True, "request_id": "r"}
    body["stream_options"] = {"include_usage": True}
    with httpx.stream("POST", f"{engine.url}/v1/completions", json=body, timeout=60) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {"))
        for _ in range(3):
            next(lines)
        httpx.post(f"{engine.url}/abort_requests", json={"request_ids": ["r"]}).raise_for_status()
        rest = [json.loads(line) for line in lines]
    engine.kill()
    assert rest[-2]["choices"][0]["finish_reason"] == "abort"
    assert 3 <= rest[-1]["usage"]["completion_tokens"] < 1500 and rest[-1]["usage"]["prompt_tokens"] == 1


def test_a_server_that_was_not_started_for_it_is_refused_in_a_sentence(tiny_model_dir: Path) -> None:
    """Our own engine is one: it answers under vLLM's addresses, and knows nothing of what is asked of vLLM."""
    engine = start_engine(tiny_model_dir, vllm_url="")
    command = [sys.executable, "-m", "tunery.serving.vllm", "--url", engine.url, "--model-dir", str(tiny_model_dir)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        engine.kill()
    assert done.returncode == 1
    assert "Start vLLM at" in done.stderr and "--enable-prompt-tokens-details" in done.stderr
    assert "Traceback" not in done.stderr

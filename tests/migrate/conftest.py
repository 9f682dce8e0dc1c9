"""A server that answers as OpenAI does where no other server would: shapes recorded from the real service."""

import base64
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from openai import OpenAI

CSV = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.50000,0.40000,,\n"


def job(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job",
        "id": f"ftjob-{number:024d}",
        "created_at": 1_700_000_000 + number,
        "finished_at": 1_700_000_300 + number,
        "model": "gpt-4o-mini-2024-07-18",
        "fine_tuned_model": f"ft:gpt-4o-mini-2024-07-18:acme:support:{number:08d}",
        "organization_id": "org-acme",
        "status": "succeeded",
        "training_file": "file-train",
        "validation_file": None,
        "result_files": ["file-result"],
        "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
        "trained_tokens": 1234,
        "seed": 7,
        "error": {},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        "metadata": None,
        **changes,
    }


def dpo_job(number: int) -> dict[str, Any]:
    """DPO jobs come without top-level hyperparameters from the real service."""
    changes = {"method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.1, "batch_size": 8}}}}
    described = job(number, **changes)
    del described["hyperparameters"]
    return described


@dataclass
class RecordedOpenAI:
    """What the account holds; tests may change it. `requests` counts calls by path."""

    jobs: list[dict[str, Any]] = field(default_factory=lambda: [job(2), dpo_job(1)])
    contents: dict[str, bytes] = field(
        default_factory=lambda: {
            "file-train": b'{"messages": []}\r\n\xef\xbb\xbf',
            "file-result": base64.b64encode(CSV),
        }
    )
    files: list[str] = field(default_factory=lambda: ["file-train", "file-result", "file-gone"])
    rate_limits: int = 0  # how many of the next requests get 429
    evals: list[dict[str, Any]] = field(default_factory=list)  # closed to the account without one
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of an eval
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of a run
    answers: dict[str, str] = field(default_factory=dict)  # last message -> what the old model says
    calls: list[dict[str, Any]] = field(default_factory=list)  # what it answers to a request with tools
    refusals: dict[str, int] = field(default_factory=dict)  # path -> status it answers with
    keys: set[str] = field(default_factory=set)  # that requests came with
    requests: Counter[str] = field(default_factory=Counter)
    base_url: str = ""

    def client(self) -> OpenAI:
        return OpenAI(base_url=self.base_url, api_key="sk-test")


def error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status, headers=headers)


def build(account: RecordedOpenAI) -> FastAPI:  # noqa: C901 - one route after another
    app = FastAPI()

    @app.middleware("http")
    async def limit(request: Request, call_next: Any) -> Response:
        account.requests[request.url.path] += 1
        account.keys.add(request.headers.get("authorization", "").removeprefix("Bearer "))
        if account.rate_limits:
            account.rate_limits -= 1
            return error(429, "Rate limit reached", "rate_limit_exceeded", {"retry-after": "0.01"})
        if status := account.refusals.get(request.url.path):
            return error(status, f"Not allowed: {request.url.path}")
        return await call_next(request)

    def page(items: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
        start = next((n + 1 for n, item in enumerate(items) if item["id"] == after), 0)
        return {"object": "list", "data": items[start : start + limit], "has_more": start + limit < len(items)}

    @app.get("/v1/fine_tuning/jobs")
    def jobs(after: str | None = None, limit: int = 20) -> Any:
        return page(account.jobs, after, min(limit, 1))

    @app.get("/v1/fine_tuning/jobs/{job_id}/events")
    def events(job_id: str) -> Any:
        return page([{"id": f"ftevent-{job_id}", "type": "moderation_checks", "data": None, "message": "x"}], None, 20)

    @app.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
    def checkpoints(job_id: str) -> Any:
        return page([], None, 10)

    @app.get("/v1/files")
    def files(after: str | None = None, limit: int = 10_000) -> Any:
        described = [
            {"id": name, "object": "file", "filename": f"{name}.jsonl", "bytes": 1, "purpose": "fine-tune"}
            for name in account.files
        ]
        return page(described, after, limit)

    @app.get("/v1/files/{name}/content")
    def content(name: str) -> Response:
        if name not in account.contents:
            return error(404, f"No such File object: {name}")
        return Response(account.contents[name], media_type="application/octet-stream")

    @app.get("/v1/models")
    def models() -> Any:
        names = ["gpt-4o-mini", *(each["fine_tuned_model"] for each in account.jobs)]
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "acme"} for name in names]}

    @app.get("/v1/evals")
    def evals(after: str | None = None, limit: int = 20) -> Any:
        if not account.evals:
            return error(403, "OpenAI is winding down the fine-tuning platform", "training_not_available")
        return page(account.evals, after, min(limit, 1))

    @app.get("/v1/evals/{eval_id}/runs")
    def runs(eval_id: str, after: str | None = None, limit: int = 20) -> Any:
        return page(account.runs.get(eval_id, []), after, min(limit, 1))

    @app.get("/v1/evals/{eval_id}/runs/{run_id}/output_items")
    def output_items(eval_id: str, run_id: str, after: str | None = None, limit: int = 20) -> Any:
        return page(account.items.get(run_id, []), after, min(limit, 2))

    @app.get("/v1/chat/completions")
    def completions(after: str | None = None, limit: int = 20) -> Any:
        kept = [{"id": f"chatcmpl-{n}", "object": "chat.completion", "model": "gpt-4o-mini"} for n in range(3)]
        return page(kept, after, limit)

    @app.get("/v1/chat/completions/{name}/messages")
    def messages(name: str) -> Any:
        return page([{"id": f"{name}-0", "role": "user", "content": "Hello"}], None, 20)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if not body["model"].startswith("ft:"):
            return error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        if body.get("tools") and account.calls:
            return calling(body, account.calls)
        return answer(body, account.answers.get(body["messages"][-1]["content"], "I cannot say."))

    return app


def calling(body: dict[str, Any], calls: list[dict[str, Any]]) -> Response:
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": 1_795_000_000, "model": body["model"]}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def answer(body: dict[str, Any], text: str) -> Response:
    usage = {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": 1_795_000_000, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = {"content": [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    chunks = [
        {"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in text.partition(" ") if piece
    ]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    told = [{**head, "object": "chat.completion.chunk", "choices": [chunk]} for chunk in chunks]
    told.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    events = "".join(f"data: {json.dumps(each)}\n\n" for each in told) + "data: [DONE]\n\n"
    return Response(events, media_type="text/event-stream")


@pytest.fixture
def recorded_openai() -> Iterator[RecordedOpenAI]:
    account = RecordedOpenAI()
    server = uvicorn.Server(uvicorn.Config(build(account), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    account.base_url = f"http://127.0.0.1:{port}/v1"
    yield account
    server.should_exit = True
    thread.join()

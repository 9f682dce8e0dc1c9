"""Reads everything that can be brought out of an OpenAI-compatible account. Never writes there.

Objects are kept as the JSON that came, not as SDK types: OpenAI returns shapes that its own types refuse
(`error: {}`, jobs without hyperparameters), and a field that nobody knows today may be wanted tomorrow.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import openai
from openai import OpenAI

Json = dict[str, Any]

GONE = frozenset({400, 403, 404, 405, 410, 451, 501})
MAX_WAIT_S = 600  # the official client itself waits for up to 120 s of `retry-after`, and gives up beyond


class Source:
    """`client` decides whose account it is; its key is neither stored nor logged here."""

    def __init__(self, client: OpenAI, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.client = client.with_options(max_retries=6)
        self._sleep = sleep

    def get(self, path: str, **params: Any) -> Json:
        """One GET. Waits out a rate limit that says how long it lasts, up to ten minutes."""
        while True:
            try:
                return cast(Json, self.client.get(path, cast_to=object, options={"params": params}))
            except openai.RateLimitError as error:
                wait = float(error.response.headers.get("retry-after") or 0)
                if error.code == "insufficient_quota" or not 0 < wait <= MAX_WAIT_S:
                    raise
                self._sleep(wait)

    def walk(self, path: str, *, limit: int = 100, **params: Any) -> Iterator[Json]:
        """Every item of a paged list. Ends also when a server repeats its last page."""
        after: str | None = None
        while True:
            page = self.get(path, limit=limit, **params, **({"after": after} if after else {}))
            items = page.get("data") or []
            yield from items
            last = items[-1].get("id") if items else None
            if not page.get("has_more") or last is None or last == after:
                return
            after = last

    def jobs(self) -> Iterator[Json]:
        return self.walk("/fine_tuning/jobs")

    def events(self, job_id: str) -> list[Json]:
        return list(self.walk(f"/fine_tuning/jobs/{quote(job_id)}/events"))

    def checkpoints(self, job_id: str) -> list[Json]:
        return list(self.walk(f"/fine_tuning/jobs/{quote(job_id)}/checkpoints"))

    def files(self) -> Iterator[Json]:
        return self.walk("/files", limit=1000)

    def models(self) -> list[Json]:
        return list(self.get("/models").get("data") or [])

    def completions(self) -> Iterator[Json]:
        return self.walk("/chat/completions", order="asc")

    def completion_messages(self, completion_id: str) -> list[Json]:
        return list(self.walk(f"/chat/completions/{quote(completion_id)}/messages"))

    def evals(self) -> Iterator[Json]:
        return self.walk("/evals", order="asc")

    def eval_runs(self, eval_id: str) -> Iterator[Json]:
        return self.walk(f"/evals/{quote(eval_id)}/runs", order="asc")

    def eval_items(self, eval_id: str, run_id: str) -> list[Json]:
        return list(self.walk(f"/evals/{quote(eval_id)}/runs/{quote(run_id)}/output_items", order="asc"))

    def download(self, file_id: str, to: Path) -> None:
        """The file's bytes exactly as the server sends them; result files come as base64 from OpenAI and stay so."""
        with self.client.files.with_streaming_response.content(file_id) as response:
            response.stream_to_file(to)


def is_absent(error: Exception) -> bool:
    """Whether asking again would be as vain: deleted, closed to the account, of a purpose that may not be downloaded
    (OpenAI says 400 to that), or an endpoint that this server lacks."""
    return isinstance(error, openai.APIStatusError) and error.status_code in GONE


def explain(error: Exception) -> str:
    """One line for people; the SDK's own text holds the whole response."""
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        message = body.get("message") or error.message
        return f"{error.status_code}: {message}"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection: {error.__cause__ or error}"
    return f"{type(error).__name__}: {error}"

"""Requests that the suite sends as its mock takes them, made into such as can be answered.

The suite calls `responses.create()` without any argument, and once with every parameter that there is. What is missing
is put in, and what OpenAI or this server refuse by name is left out; each is a line below. Apart from the server
because it is no part of what is tested.
"""

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/v1/responses", "/v1/responses/input_tokens", "/v1/evals")
MODEL = "gpt-6-astra"


def completed(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The request with a model and an input, and without what is refused; of an eval, with a role that there is."""
    if path == "/v1/evals":
        for message in body["testing_criteria"][0]["input"]:
            message["role"] = "user"  # for `role`, which the SDK takes on the way out and refuses on the way back
        return body
    body = {"input": "string", **body}
    if body.get("model") in (None, "model"):
        body["model"] = MODEL
    if path == PATHS[0]:
        body.setdefault("max_output_tokens", 16)  # or a random model talks until its context is full
    if "conversation" in body:
        body.pop("previous_response_id", None)  # one or the other says what came before
    body.pop("prompt", None)  # a template that OpenAI keeps
    body.get("text", {}).pop("verbosity", None)  # `low`; the models here know one
    return body


class Completed:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            return await self._app(scope, receive, send)
        sent = b""
        more = True
        while more:
            message = await receive()
            sent, more = sent + message.get("body", b""), message.get("more_body", False)
        content = json.dumps(completed(scope["path"], json.loads(sent or b"{}"))).encode()
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        headers += [(b"content-length", str(len(content)).encode())]
        waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def give() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app({**scope, "headers": headers}, give, send)

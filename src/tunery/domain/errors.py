"""Every error a user can meet, with what OpenAI's error envelope needs: status, type, code, param, message.

TuneryError
├── InvalidRequest        400
├── AuthenticationFailed  401
├── PermissionDenied      403
├── NotFound              404
├── RateLimited           429
├── ServerFault           500
└── Unavailable           503

`api/errors.py` is the only place that turns one into a response.
"""

import json
from collections.abc import Mapping
from typing import Any

from tunery.texts import Reference, reference, say

TEXT_HEADER = "x-tunery-text"
MAX_TEXT_HEADER = 4096  # characters; servers and proxies in between take 8 KB of headers


class TuneryError(Exception):
    """An error whose message may be shown to the user as it stands."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.text = reference(message)  # what it was made from, where it is a sentence of ours
        self.param = param
        self.code = code
        self.type = type or self.type
        self.headers = headers or {}

    def text_header(self) -> dict[str, str]:
        """Key and values of the message as a response header: the envelope has its four keys and no room for more."""
        text = json.dumps(self.text, separators=(",", ":")) if self.text else ""
        return {TEXT_HEADER: text} if 0 < len(text) <= MAX_TEXT_HEADER else {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's envelope. Clients compare the text of it, so the key order is part of the contract."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body_with_text(self) -> dict[str, dict[str, Any]]:
        """The envelope with key and values of the message in it: inside a stream, whose headers have gone."""
        known = {"text": self.text} if self.text else {}
        return {"error": {**self.body()["error"], **known}}


def text_of(headers: Mapping[str, str]) -> Reference | None:
    """What `text_header` has written. None where somebody else answers."""
    try:
        return json.loads(headers.get(TEXT_HEADER, "null"))
    except ValueError:
        return None


class InvalidRequest(TuneryError):
    status = 400
    type = "invalid_request_error"


class AuthenticationFailed(TuneryError):
    status = 401
    type = "invalid_request_error"


class PermissionDenied(TuneryError):
    status = 403
    type = "invalid_request_error"


class NotFound(TuneryError):
    status = 404
    type = "invalid_request_error"


class RateLimited(TuneryError):
    """`type` says which limit: requests, tokens, insufficient_quota or rate_limit_exceeded."""

    status = 429
    type = "requests"


class ServerFault(TuneryError):
    status = 500
    type = "server_error"


class Unavailable(TuneryError):
    """A part of the service is down or starting; `headers` carries Retry-After."""

    status = 503
    type = "server_error"


def no_such_file(file_id: str) -> NotFound:
    return NotFound(say("error.no_such_file", file_id=file_id), param="id")


def no_such_job(job_id: str) -> NotFound:
    return NotFound(say("error.no_such_job", job_id=job_id), param="fine_tune_id", code="fine_tune_not_found")


def no_such_model(model: str) -> NotFound:
    return NotFound(say("error.no_such_model", model=model), param="model", code="model_not_found")


class InvalidTransition(InvalidRequest):
    """The object's state does not allow the verb. Never 409: the official clients silently repeat those."""

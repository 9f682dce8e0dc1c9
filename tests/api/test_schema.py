"""Schemathesis over /openapi.json: whatever it sends, no 5xx, and no answer that the document does not describe."""

import time
from collections.abc import Iterator

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.api.conftest import SECRET, Api

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
MAX_EXAMPLES = 12
BUDGET_S = 40
UNAVAILABLE = 503  # there is no engine here, which the document says; its own tests are elsewhere


def test_no_fault_and_nothing_undocumented(api: Api) -> None:
    file = api.make_file()
    api.make_job(training_file=file["id"])
    api.make_model()
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.client.app)
    operations = [result.ok() for result in schema.get_all_operations()]
    ends_at = time.monotonic() + BUDGET_S
    for operation in operations:
        probe(operation, ends_at)


def probe(operation, ends_at: float) -> None:
    """Up to MAX_EXAMPLES requests of one operation; fewer, never none, on a machine that is busy."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        if probe.count and time.monotonic() > ends_at:
            return
        probe.count += 1
        response = case.call(headers={"authorization": f"Bearer {SECRET}"})
        if response.status_code != UNAVAILABLE:
            case.validate_response(response, checks=CHECKS)

    probe.count = 0
    check()


def test_the_document_is_valid_openapi_3_1(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    arrays = [part for part in parts(document) if part.get("type") == "array"]
    assert len(arrays) > 50 and all("items" in part for part in arrays)


def parts(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)

"""Schemathesis over /openapi.json: whatever it sends, no 5xx, and no answer that the document does not describe."""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis.errors import Flaky
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.generation.stateful import run_state_machine_as_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import SECRET, Api, make_one_of_each

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# There is neither engine nor worker here, which these say; their own tests are elsewhere.
ANSWERED_ELSEWHERE = {"/v1/chat/completions", "/v1/completions", "/tunery/v1/scores", "/health", "/health/ready"}
ANSWERED_ELSEWHERE |= {"/v1/fine_tuning/alpha/graders/run", "/v1/webhook_endpoints/{endpoint_id}/test"}
UNAVAILABLE = 503
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
AUTHORIZED = {"authorization": f"Bearer {SECRET}"}
MAX_EXAMPLES = 6  # of an operation and a mode
SCENARIOS, STEPS = 12, 15
BUDGET_S = 40


def settings(max_examples: int, **more: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=not more,  # chains have seeds
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )


def check(case: schemathesis.Case, response: schemathesis.Response) -> None:
    is_elsewhere = response.status_code == UNAVAILABLE and case.operation.path in ANSWERED_ELSEWHERE
    case.validate_response(response, checks=CHECKS[1:] if is_elsewhere else CHECKS)


@dataclass
class Probe:
    """Sends what was generated for one operation after the other, and counts what came back."""

    ends_at: float
    statuses: dict[str, Counter[int]] = field(default_factory=dict)

    def run(self, operation: schemathesis.APIOperation, mode: GenerationMode, known: dict[str, str]) -> None:
        """Up to MAX_EXAMPLES requests; fewer, never none, on a machine that is busy."""
        names = {each.name for each in operation.path_parameters}
        counted = self.statuses.setdefault(operation.label, Counter())
        is_positive = mode is GenerationMode.POSITIVE
        filled = {name: known[name] for name in names & known.keys()} if is_positive else {}
        sent = 0

        @given(case=operation.as_strategy(generation_mode=mode, path_parameters=filled or None))
        @settings(MAX_EXAMPLES)
        def send(case: schemathesis.Case) -> None:
            nonlocal sent
            if sent and time.monotonic() > self.ends_at:
                return
            sent += 1
            response = case.call(headers=AUTHORIZED)
            counted[response.status_code] += 1
            check(case, response)

        send()


def harm(operation: schemathesis.APIOperation) -> int:
    """What takes things or rights away comes after what needs them."""
    if operation.path.endswith("/archive") or (operation.path.endswith("/{user_id}") and operation.method != "get"):
        return 2
    return 1 if operation.method == "delete" or "limit" in operation.path else 0


@pytest.mark.timeout(300)
def test_no_fault_and_nothing_undocumented(api: Api) -> None:
    """Every operation with what it asks for, on things that exist, and with what it does not ask for."""
    known, schema = make_one_of_each(api), schemathesis.openapi.from_asgi("/openapi.json", api.client.app)
    operations = sorted((result.ok() for result in schema.get_all_operations()), key=harm)
    probe = Probe(time.monotonic() + BUDGET_S)
    for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
        for operation in operations:
            if mode in modes_of(operation):
                probe.run(operation, mode, known)
    assert len(probe.statuses) == len(operations) > 100
    answered = [label for label, counted in probe.statuses.items() if any(status < 300 for status in counted)]
    assert len(answered) > 50


def modes_of(operation: schemathesis.APIOperation) -> set[GenerationMode]:
    """An operation that takes nothing has nothing that could be wrong."""
    takes = any((operation.path_parameters, operation.query, operation.headers, operation.body))
    return {GenerationMode.POSITIVE, GenerationMode.NEGATIVE} if takes else {GenerationMode.POSITIVE}


@pytest.mark.timeout(300)
def test_one_call_leads_to_the_next(api: Api) -> None:
    """Chains of calls by the document's links: what one answers is what the next one is about."""
    api.make_job(training_file=api.make_file()["id"])
    api.make_model()
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.client.app)
    ends_at = time.monotonic() + BUDGET_S
    answered: Counter[str] = Counter()
    faults: list[str] = []

    class Chain(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: schemathesis.Case) -> dict:
            return {"headers": AUTHORIZED}

        def validate_response(self, response, case, additional_checks=(), **values) -> None:
            """Faults are told at the end: a chain cannot be run again on the same server."""
            answered[case.operation.label] += response.status_code < 300
            try:
                check(case, response)
            except (Exception, ExceptionGroup) as fault:
                faults.append(f"{case.operation.label}: {fault!r} {getattr(fault, 'exceptions', '')}")

    for number in range(SCENARIOS):
        if number and time.monotonic() > ends_at:
            break
        with contextlib.suppress(Flaky):  # what there is to choose from depends on what earlier chains have left
            run_state_machine_as_test(seed(number)(Chain), settings=settings(3, stateful_step_count=STEPS))
    assert faults == []
    assert len(answered) > 20 and sum(answered.values()) > 10


def test_methods_that_are_not_in_the_document(api: Api) -> None:
    known = make_one_of_each(api)
    paths = api.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        address = path
        for name, value in known.items():
            address = address.replace(f"{{{name}}}", value)
        for method in METHODS:
            if method.lower() in operations or "{" in address or _is_an_id_elsewhere(address, method, paths):
                continue
            answer = api.client.request(method, address)
            if (method, answer.status_code) == ("HEAD", 200):
                continue
            assert answer.status_code == 405, f"{method} {address}: {answer.status_code}"
            allowed = set(answer.headers["allow"].split(", "))
            assert {each.upper() for each in operations} <= allowed and method not in allowed
            assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_supported"


def _is_an_id_elsewhere(address: str, method: str, paths: dict[str, dict]) -> bool:
    """`/v1/responses/input_tokens` takes a POST; to GET it is the response of that id, which is not there. The name of
    a model may hold slashes."""
    return any(
        method.lower() in operations
        and re.fullmatch(re.sub(r"\\\{\w+\\\}$", "[^/]+", re.escape(path).replace(r"\{model\}", ".+")), address)
        for path, operations in paths.items()
    )


def test_every_link_leads_to_an_operation_that_takes_it(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    targets = {each["operationId"]: (path, each) for path, methods in paths.items() for each in methods.values()}
    links = [
        link
        for methods in paths.values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert len(links) > 100
    for link in links:
        path, operation = targets[link["operationId"]]
        required = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert required <= link["parameters"].keys() <= {each["name"] for each in operation["parameters"]}, path


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

"""docs/api.md tells of every route."""

from pathlib import Path

from fastapi.routing import APIRoute

from tests.api.conftest import Api
from tunery.api import reference
from tunery.api.openapi import OPEN_PATHS
from tunery.wire.chat import CHAT

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_page_is_what_the_routes_say() -> None:
    assert PAGE.read_text() == reference.document(), "run `python -m tunery.api.reference`"


def test_every_route_is_in_the_openapi_document(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    for route in api.client.app.routes:
        if isinstance(route, APIRoute):
            path = route.path_format
            assert {method.lower() for method in route.methods} <= set(document["paths"][path]), path


def test_every_operation_describes_its_errors(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            if path not in OPEN_PATHS:
                assert {"400", "401", "403", "404", "429", "500", "503"} <= set(operation["responses"]), path


def test_names_of_the_sdk_exist_there(api: Api) -> None:
    from openai import OpenAI

    client = OpenAI(api_key="x", admin_api_key="y")
    groups = reference.operations(api.client.get("/openapi.json").json())
    found = {reference.sdk_name(name) for rows in groups.values() for name, _ in rows} - {"", "admin.organization"}
    for names in found:
        resource: object = client
        for part in names.partition(",")[0].split("."):
            resource = getattr(resource, part)
        assert callable(resource)
    assert len(found) > 40


def test_every_chat_parameter_of_the_sdk_has_its_state() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    assert set(CompletionCreateParamsStreaming.__annotations__) <= set(CHAT)


def test_notes_are_about_operations_that_exist(api: Api) -> None:
    groups = reference.operations(api.client.get("/openapi.json").json())
    names = {name for rows in groups.values() for name, _ in rows}
    assert set(reference.SDK_NAMES) | set(reference.LIMITS) <= names

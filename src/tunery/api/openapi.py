"""The document at /openapi.json: FastAPI's, with OpenAI's error envelope for what can go wrong on every route."""

import re
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERRORS = {
    "400": "A parameter is missing, unknown or has a value that cannot be used.",
    "401": "The key is missing, wrong, revoked or expired.",
    "403": "The key lacks a scope or its owner a role.",
    "404": "There is no such object in this project.",
    "413": "The body is larger than the limit.",
    "415": "The body is compressed.",
    "429": "A limit of the project or the key is reached.",
    "500": "A fault of the server.",
    "503": "A part of the server is down; `Retry-After` says when to try again.",
}


class Source(NamedTuple):
    """An operation whose answer holds a value that others take as a parameter, and where."""

    parameter: str
    operation: str  # method and path
    pointer: str


PROJECT = "/v1/organization/projects/{project_id}"
SOURCES = (
    Source("file_id", "post /v1/files", "/id"),
    Source("file_id", "get /v1/files", "/data/0/id"),
    Source("file_id", "post /v1/uploads/{upload_id}/complete", "/file/id"),
    Source("upload_id", "post /v1/uploads", "/id"),
    Source("job_id", "post /v1/fine_tuning/jobs", "/id"),
    Source("job_id", "get /v1/fine_tuning/jobs", "/data/0/id"),
    Source("model", "get /v1/models", "/data/0/id"),
    Source("checkpoint", "get /v1/fine_tuning/jobs/{job_id}/checkpoints", "/data/0/fine_tuned_model_checkpoint"),
    Source("permission_id", "post /v1/fine_tuning/checkpoints/{checkpoint}/permissions", "/data/0/id"),
    Source("completion_id", "post /v1/chat/completions", "/id"),
    Source("completion_id", "get /v1/chat/completions", "/data/0/id"),
    Source("endpoint_id", "post /v1/webhook_endpoints", "/id"),
    Source("webhook_id", "get /tunery/v1/webhook_endpoints/{endpoint_id}/deliveries", "/data/0/webhook_id"),
    Source("name", "post /tunery/v1/aliases", "/name"),
    Source("project_id", "post /v1/organization/projects", "/id"),
    Source("project_id", "get /v1/organization/projects", "/data/0/id"),
    Source("user_id", "get /v1/organization/users", "/data/0/id"),
    Source("user_id", f"post {PROJECT}/users", "/id"),
    Source("api_key_id", f"post /tunery{PROJECT}/api_keys", "/id"),
    Source("service_account_id", f"post {PROJECT}/service_accounts", "/id"),
    Source("key_id", "post /v1/organization/admin_api_keys", "/id"),
    Source("rate_limit_id", f"get {PROJECT}/rate_limits", "/data/0/id"),
)
PATH_PARAMETER = re.compile(r"{([^}:]+)")
OPEN_PATHS = ("/health", "/health/live", "/health/ready", "/metrics")


def install(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi


def build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = ERROR_SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _complete_arrays(schemas)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)  # FastAPI's own form of a validation error, which is never sent
            for status, description in ({} if path in OPEN_PATHS else ERRORS).items():
                responses.setdefault(status, error_response(description))
    for source in SOURCES:
        _link(document["paths"], source)
    return document


def _link(paths: dict[str, Any], source: Source) -> None:
    """From the source's answer to every operation that needs the value and nothing else that is not at hand."""
    method, _, path = source.operation.partition(" ")
    answers = next(each for status, each in paths[path][method]["responses"].items() if status.startswith("2"))
    at_hand = {name: f"$request.path.{name}" for name in PATH_PARAMETER.findall(path)}
    at_hand[source.parameter] = f"$response.body#{source.pointer}"
    for target, operations in paths.items():
        needed = set(PATH_PARAMETER.findall(target))
        for operation in operations.values():
            of_query = {each["name"] for each in operation.get("parameters", ()) if each.get("required")}
            if source.parameter in needed | of_query and needed <= at_hand.keys():
                taken = {name: at_hand[name] for name in sorted(needed | (of_query & {source.parameter}))}
                link = {"operationId": operation["operationId"], "parameters": taken}
                answers.setdefault("links", {})[operation["operationId"]] = link


def _complete_arrays(schema: Any) -> None:
    """OpenAPI wants `items` of every array. Those of a fixed length get it for pydantic's `prefixItems`, which few
    generators of clients know."""
    if isinstance(schema, dict):
        if schema.get("type") == "array" and "items" not in schema:
            schema["items"] = {"anyOf": schema.pop("prefixItems")} if "prefixItems" in schema else {}
        for value in list(schema.values()):
            _complete_arrays(value)
    elif isinstance(schema, list):
        for value in schema:
            _complete_arrays(value)


def error_response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }

"""The document at /openapi.json: FastAPI's, with OpenAI's error envelope for what can go wrong on every route."""

from typing import Any

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
    "429": "A limit of the project or the key is reached.",
    "500": "A fault of the server.",
    "503": "A part of the server is down; `Retry-After` says when to try again.",
}
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
    return document


def _complete_arrays(schema: Any) -> None:
    """OpenAPI wants `items` of every array; pydantic leaves it out of those that have a fixed length."""
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            schema.setdefault("items", {})
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

"""Where a request that met no route may have wanted to go: OpenAI's paths that this server lacks, and near misses."""

import re
from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import Match

CHAT = "POST /v1/chat/completions"
JOBS = "POST /v1/fine_tuning/jobs"

# The first part of a path below /v1 -> what this server has for that purpose.
PURPOSES = {
    "assistants": f"This server has no assistants; use {CHAT} with a system message and tools.",
    "threads": f"This server has no threads; send the messages to {CHAT}.",
    "realtime": f"This server has no realtime sessions; use {CHAT} with stream=true.",
    "edits": f"OpenAI's edits are gone; use {CHAT}.",
    "engines": "OpenAI's engines are called models now; use GET /v1/models, and name the model in the body of "
    "POST /v1/chat/completions or /v1/completions.",
    "fine-tunes": f"OpenAI's fine-tunes are called fine-tuning jobs now; use {JOBS}.",
    "moderations": f"This server has no moderation model; its models answer {CHAT}.",
    "images": f"This server has no image models; its models answer {CHAT}.",
    "audio": f"This server has no audio models; its models answer {CHAT}.",
    "videos": f"This server has no video models; its models answer {CHAT}.",
    "batches": f"This server has no batches; send the requests to {CHAT}.",
    "vector_stores": f"This server has no vector stores; put what the model should read into {CHAT}.",
    "containers": "This server has no containers; POST /v1/files keeps files.",
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def hint(app: FastAPI, method: str, path: str) -> str:
    """A sentence to follow "Invalid URL (…)"; empty where nothing near is known."""
    for near in nearby(path):
        if near != path and (methods := methods_at(app, near)):
            wanted = method if method in methods else methods[0]
            base = " Set the client's base URL to this server's address with /v1 once at its end."
            return f" Did you mean {wanted} {near}?" + (base if near.count("/v1") != path.count("/v1") else "")
    parts = [part for part in path.split("/") if part and part not in ("v1", "openai", "deployments")]
    purpose = next((PURPOSES[part] for part in parts[:2] if part in PURPOSES), None)
    if purpose:
        return f" {purpose}"
    beside = routes_beside(app, parts[0]) if parts else []
    return f" There are: {', '.join(beside)}." if beside else ""


def nearby(path: str) -> Iterator[str]:
    """The path as other clients and other servers write it, most likely first."""
    plain = re.sub("/+", "/", path[:500]).rstrip("/")
    yield plain
    yield plain.removeprefix("/v1") if plain.startswith("/v1/v1/") else f"/v1{plain}"
    lower = plain.lower().replace("fine-tuning", "fine_tuning").removeprefix("/api").removeprefix("/openai")
    yield lower
    bare = lower
    while bare.startswith("/v1/"):
        bare = bare.removeprefix("/v1")
    yield f"/v1{bare}"
    if "/deployments/" in lower:  # Azure's: /openai/deployments/NAME/chat/completions
        yield "/v1/" + lower.split("/deployments/", 1)[1].partition("/")[2]
    if lower.startswith("/v1/engines/"):
        yield "/v1/" + lower.split("/", 4)[-1]


def methods_at(app: FastAPI, path: str) -> list[str]:
    """The methods of all routes at this path."""
    found: set[str] = set()
    for route in _routes(app):
        scope = {"type": "http", "path": path, "root_path": "", "method": "", "headers": []}
        if route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return [method for method in METHODS if method in found]


def routes_beside(app: FastAPI, first: str, most: int = 8) -> list[str]:
    """Routes whose path begins in the same way below its /v1."""
    paths = [(min(route.methods), route.path) for route in _routes(app) if route.methods and route.path]
    starts = (f"/v1/{first}", f"/tunery/v1/{first}")
    return [f"{method} {path}" for method, path in paths if path.startswith(starts)][:most]


def _routes(app: FastAPI) -> Iterator[RouteContext]:
    return (route for route in iter_route_contexts(app.routes) if isinstance(route.original_route, APIRoute))

"""`python -m tunery.api.reference`: docs/api.md, from the routes and the parameter table themselves."""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunery.api.app import create_app
from tunery.settings import load_settings
from tunery.wire.chat import CHAT, COMPLETIONS, Parameter
from tunery.wire.embeddings import EMBEDDINGS
from tunery.wire.responses.request import RESPONSES

# What `client.` of the official SDKs calls an operation where its path does not tell. Ours have no name there.
SDK_NAMES = {
    "GET /v1/files/{file_id}/content": "files.content",
    "GET /v1/fine_tuning/jobs/{job_id}/events": "fine_tuning.jobs.list_events",
    "GET /v1/fine_tuning/checkpoints/{checkpoint}/permissions": "fine_tuning.checkpoints.permissions.list, .retrieve",
    "POST /v1/responses/input_tokens": "responses.input_tokens.count",
    "GET /v1/webhook_event_types": "webhooks.event_types.list",
    "POST /v1/evals/{eval_id}/runs/{run_id}": "evals.runs.cancel",
    "GET /v1/organization/usage/completions": "admin.organization.usage.completions",
    "GET /v1/organization/usage/embeddings": "admin.organization.usage.embeddings",
    "GET /v1/organization/costs": "admin.organization.usage.costs",
    "GET /v1/organization/audit_logs": "admin.organization.audit_logs.list",
}
VERBS = ("cancel", "complete", "pause", "resume", "rotate_secret", "run", "test", "validate")  # a path's last word
OF_ALL = {"POST": "create", "GET": "list"}
OF_ONE = {"POST": "update", "GET": "retrieve", "DELETE": "delete"}

# Where an operation does less than OpenAI's, or something else. All others are complete.
LIMITS = {
    "POST /v1/fine_tuning/jobs": (
        "methods `supervised` and `dpo`; `reinforcement` is refused. Vision files are refused when they are checked."
    ),
    "POST /v1/fine_tuning/alpha/graders/run": (
        "`python` graders need [a sandbox](operations.md#python-graders); "
        "`meteor` matches words and stems, not synonyms. Takes `label_model`, too: 1 for a label that passes."
    ),
    "POST /v1/fine_tuning/alpha/graders/validate": "as `run`, without `label_model`.",
    "POST /v1/chat/completions": "text only; see the parameters below.",
    "POST /v1/completions": "see the parameters below.",
    "POST /v1/evals": "text only; see [Evals](evals.md).",
    "POST /v1/embeddings": "see the parameters below and [Embeddings](serving.md#embeddings).",
    "POST /v1/responses": "text and functions only; see the parameters below.",
    "GET /v1/files/{file_id}/content": "result files come as base64, as from OpenAI.",
    "POST /v1/webhook_endpoints": "takes every event type; `GET /v1/webhook_event_types` lists those that happen.",
}
NOT_HERE = {
    "Reinforcement fine-tuning": "later",
    "Hosted tools of Responses, `/v1/responses/compact`, reusable prompts": "no: send functions and texts",
    "Assistants, Realtime": "no",
    "Images, audio, video, moderations": "no: there are no such models here",
}

HEAD = """# API

Every operation of this server, made from its routes by `python -m tunery.api.reference`. The machine-readable form is
`/openapi.json`. Paths under `/v1` are OpenAI's and take its official SDKs; those under `/tunery/v1` are our own.

Errors have OpenAI's form, `{"error": {"message", "type", "param", "code"}}`, and every answer an `x-request-id`.
Lists are paged by `after` and `limit` (at most 1,000; files 10,000); a cursor that names nothing gives an empty page.
An `Idempotency-Key` makes a repeated create of a job return the first one.
"""


def operations(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """By tag, in order: (`METHOD /path`, its one-line description)."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = operation.get("description", "").strip().partition("\n\n")[0].replace("\n", " ")
            groups[operation["tags"][0]].append((f"{method.upper()} {path}", text))
    return groups


def sdk_name(operation: str) -> str:
    """Empty where the SDKs have none."""
    method, path = operation.split(" ")
    if operation in SDK_NAMES or not path.startswith("/v1/"):
        return SDK_NAMES.get(operation, "")
    if path.startswith("/v1/organization/"):
        return "admin.organization"
    nouns = [part for part in path.split("/")[2:] if not part.startswith("{")]
    verb = nouns.pop() if nouns[-1] in VERBS else (OF_ONE if path.endswith("}") else OF_ALL)[method]
    return ".".join([*nouns, verb]).replace("webhook_endpoints", "webhooks")


def operation_row(name: str, description: str) -> str:
    sdk = sdk_name(name)
    state = "with limits: " + LIMITS[name] if name in LIMITS else "complete"
    note = f"{state}. {description}" if description and name not in LIMITS else state
    return f"| `{name}` | {f'`{sdk}`' if sdk else '–'} | {note} |"


def parameter_rows(table: Mapping[str, Parameter]) -> list[str]:
    return [f"| `{name}` | {parameter.state} | {parameter.note} |" for name, parameter in sorted(table.items())]


def document() -> str:
    with tempfile.TemporaryDirectory() as home:
        app = create_app(load_settings(home=Path(home)))
        groups = operations(app.openapi())
    lines = [HEAD]
    for tag, rows in groups.items():
        lines += [f"## {tag}", "", "| operation | SDK | state |", "|---|---|---|"]
        lines += [*(operation_row(*row) for row in rows), ""]
    lines += ["## Not here", "", "| what | will it come |", "|---|---|"]
    lines += [*(f"| {what} | {when} |" for what, when in NOT_HERE.items()), ""]
    tables = {
        "chat completions": CHAT,
        "completions": COMPLETIONS,
        "embeddings": EMBEDDINGS,
        "responses": RESPONSES,
    }
    for title, table in tables.items():
        lines += [f"## Parameters of {title}", ""]
        lines += ["An unknown parameter is an error. Refused ones are an error too; ignored ones change nothing.", ""]
        lines += ["| parameter | state | note |", "|---|---|---|", *parameter_rows(table), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path("docs/api.md").write_text(document())
    sys.stdout.write("wrote docs/api.md\n")

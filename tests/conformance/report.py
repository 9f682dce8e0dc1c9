"""Counts by operation, and docs/conformance.md."""

import re
from dataclasses import dataclass, field

ADMINISTRATION = "admin."
REFUSED = "moderations"  # what there is no model for here: each call is to fail with a sentence that says so
ROLE = 'Sends `role: "role"`, which is none of owner, member and reader.'

# Why tests fail that this server will not pass: group and operation -> a sentence for the SDK's maintainers.
EXPLAINED = {
    ("embeddings", "create"): (
        "The SDK asks for base64 where the caller names no format, decodes it, and checks the answer before that: "
        "strict, it takes the answer to its own request for a fault. With `encoding_format` given all pass."
    ),
    ("moderations", "create"): "There is no moderation model here: the call is refused by name, as it should be.",
    ("uploads", "complete"): (
        'The test with all parameters sends `md5: "md5"`, which is no MD5 of the parts. '
        "A mock does not look; this server refuses a file that is not what was announced."
    ),
    ("admin.organization.projects.rate_limits", "update_rate_limit"): (
        "Names the limit `rate_limit_id`; a project has one limit for all models here, `rl-all-models`."
    ),
    ("admin.organization.projects.users", "create"): ROLE,
    ("admin.organization.projects.users", "update"): ROLE,
    ("admin.organization.users", "update"): ROLE,
}

# A test's name is a way to call and the operation.
VARIANTS = re.compile(
    r"^test_(method|raw_response|streaming_response|path_params)_(.+?)(_with_all_params)?(_overload_\d+)?$"
)


@dataclass
class Operation:
    group: str
    name: str
    passed: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)


def group_of(path: str) -> str:
    """`tests/api_resources/fine_tuning/jobs/test_checkpoints.py` → `fine_tuning.jobs.checkpoints`."""
    parts = path.removeprefix("tests/api_resources/").removesuffix(".py").split("/")
    return ".".join(part.removeprefix("test_") for part in parts)


def tally(results: dict[str, dict[str, str]]) -> list[Operation]:
    """One row an operation, in order of the suite. Skipped tests do not count."""
    rows: dict[tuple[str, str], Operation] = {}
    for nodeid, result in results.items():
        path, _, rest = nodeid.partition("::")
        match = VARIANTS.match(rest.rpartition("::")[2].partition("[")[0])
        name = match.group(2) if match else rest
        row = rows.setdefault((group_of(path), name), Operation(group_of(path), name))
        if result["outcome"] == "passed":
            row.passed += 1
        elif result["outcome"] == "failed":
            row.failed += 1
            row.reasons.append(result["reason"])
    return sorted(rows.values(), key=lambda row: (row.group, row.name))


def why(row: Operation) -> str:
    if not row.failed:
        return ""
    return EXPLAINED.get((row.group, row.name)) or "; ".join(dict.fromkeys(row.reasons))


def totals(rows: list[Operation]) -> tuple[int, int]:
    passed = sum(row.passed for row in rows)
    return passed, passed + sum(row.failed for row in rows)


def parts(rows: list[Operation]) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """What the score is of, and what is counted apart: the administration of organisations, and what is refused."""
    administration = [row for row in rows if row.group.startswith(ADMINISTRATION)]
    refused = [row for row in rows if row.group == REFUSED]
    return [row for row in rows if row not in (*administration, *refused)], administration, refused


def score(rows: list[Operation]) -> str:
    passed, total = totals(rows)
    return f"{passed} of {total} ({percent(passed, total)} %)"


def document(rows: list[Operation], version: str) -> str:
    main, administration, refused = parts(rows)
    return f"""# Conformance

The tests that OpenAI ships with its Python SDK (openai {version}, loose and strict), run against this server by
`make conformance`, which also writes this page. They were made for a mock that knows no state, so a small program in
`tests/conformance` puts the objects that they name back before each test; the server itself has no test mode.

Some calls of Responses are no requests that could be answered, here or at OpenAI: without a model or an input, with a
conversation and a previous response at once, with parameters that this server refuses by name. They are completed on
their way to the server, and so are criteria of evals whose messages have the role `role`;
`tests/conformance/completed.py` says how. Evals are given out with the setting `evals_without_null`, since OpenAI's
service sends nulls that its SDK's types do not allow. `compact` is not built and not collected.

## Fine-tuning, graders, files, models, embeddings, webhooks, responses, batches, evals: {score(main)}

{table(main)}
## Administration: {score(administration)}

The operations that are built; the others of the SDK's `admin` are not collected.

{table(administration)}
## Refused

{table(refused)}"""


def table(rows: list[Operation]) -> str:
    head = "| group | operation | passed | failed | why |\n|---|---|---:|---:|---|\n"
    return head + "".join(f"| {row.group} | {row.name} | {row.passed} | {row.failed} | {why(row)} |\n" for row in rows)


def percent(passed: int, total: int) -> str:
    return f"{100 * passed / total:.1f}" if total else "0.0"

"""Counts by operation, and docs/conformance.md."""

import re
from collections import defaultdict
from dataclasses import dataclass, field

# Why tests fail that this server will not pass: group and operation -> a sentence for the SDK's maintainers.
EXPLAINED = {
    ("uploads", "complete"): (
        'The test with all parameters sends `md5: "md5"`, which is no MD5 of the parts. '
        "A mock does not look; this server refuses a file that is not what was announced."
    ),
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


def document(rows: list[Operation], version: str) -> str:
    passed, total = totals(rows)
    by_group: dict[str, list[Operation]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    lines = [
        "# Conformance",
        "",
        f"Of the tests that OpenAI ships with its Python SDK (openai {version}, loose and strict), run against this",
        f"server, **{passed} of {total} pass ({percent(passed, total)} %)**. `make conformance` fetches and runs them",
        "and writes this page. The suite was made for a mock that knows no state, so a small program in",
        "`tests/conformance` puts the objects that it names back before each test; the server has no test mode.",
        "",
        "| group | operation | passed | failed | why |",
        "|---|---|---:|---:|---|",
        *(
            f"| {row.group} | {row.name} | {row.passed} | {row.failed} | {why(row)} |"
            for group in by_group.values()
            for row in group
        ),
        "",
    ]
    return "\n".join(lines)


def percent(passed: int, total: int) -> str:
    return f"{100 * passed / total:.1f}" if total else "0.0"

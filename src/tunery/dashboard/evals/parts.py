"""What the pages of evaluations share: how a run stands, and a dataset's rows as those of an evaluation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunery.dashboard.components import html
from tunery.datasets.conversations import Conversation
from tunery.texts import Translator

Json = dict[str, Any]
PATH = "/v1/evals"
UNFINISHED = ("queued", "in_progress")
INPUT, EXPECTED = "input", "expected"  # of the rows that are made here
SCHEMA: Json = {
    "type": "object",
    "properties": {INPUT: {"type": "array"}, EXPECTED: {"type": "string"}},
    "required": [INPUT, EXPECTED],
}


def row_file(examples: Sequence[Conversation]) -> bytes:
    """JSONL, as a run reads it."""
    return b"".join(
        json.dumps({"item": each.item}, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for each in examples
    )


def may_change(run: Mapping[str, Any]) -> bool:
    return run["status"] in UNFINISHED


def num_graded(counts: Mapping[str, int]) -> int:
    return counts["passed"] + counts["failed"] + counts["errored"]


def share(counts: Mapping[str, int]) -> str:
    """Of the rows that have an outcome."""
    return f"{100 * counts['passed'] / graded:.1f} %" if (graded := num_graded(counts)) else html.DASH


def standing(run: Mapping[str, Any], t: Translator) -> Markup:
    """What share passed, of how many; of a run under way how far it is."""
    counts = run["result_counts"]
    if may_change(run):
        return html.progress(num_graded(counts), counts["total"], t)
    return html.two_lines(share(counts), t("evals.of_rows", n=f"{counts['passed']:,}", total=f"{counts['total']:,}"))


def criterion_names(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """By the id under which results name them."""
    return {each["id"]: each.get("name") or each["type"] for each in evaluation["testing_criteria"]}

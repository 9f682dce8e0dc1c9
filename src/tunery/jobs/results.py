"""The result file of a job: one row a step, in OpenAI's columns."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

FILENAME = "step_metrics.csv"
# Column of the file -> name in a metrics event.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


def step_metrics_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Five decimals, and an empty cell where nothing was measured. Of two rows for a step the later one counts:
    a job that resumed trains the steps after its last saved state again."""
    by_step = {int(row["step"]): row for row in rows}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in sorted(by_step):
        writer.writerow([step, *(_cell(by_step[step].get(key)) for key in list(COLUMNS.values())[1:])])
    return out.getvalue().encode()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"

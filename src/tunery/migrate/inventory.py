"""What the account holds, what depends on what, and how long each still works. Read only."""

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from tunery.migrate.deadlines import Deadline, days_left, end_of, end_of_kind
from tunery.migrate.source import Json, Source, explain, is_absent


@dataclass(frozen=True)
class Item:
    kind: str  # fine-tuned model, job, file, eval, stored completions
    id: str
    detail: str
    depends_on: tuple[str, ...] = ()
    ends: date | None = None
    days_left: int | None = None


@dataclass
class Inventory:
    items: list[Item] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)  # what could not be listed, and why
    training_ends_in: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def take_inventory(source: Source, deadlines: list[Deadline], *, now: float) -> Inventory:
    """Lists every kind; one that the account may not list is noted and the rest goes on."""
    inventory = Inventory(training_ends_in=days_left(end_of_kind("training", deadlines), now))
    evals_end = end_of_kind("evals", deadlines)
    readers = {
        "jobs": lambda: [_job(job, deadlines, now) for job in source.jobs()],
        "models": lambda: [_model(model, deadlines, now) for model in source.models() if is_tuned(model["id"])],
        "files": lambda: [_file(file) for file in source.files()],
        "evals": lambda: [
            Item("eval", each["id"], each.get("name") or "", (), evals_end, days_left(evals_end, now))
            for each in source.evals()
        ],
        "stored completions": lambda: _completions(source),
    }
    for kind, read in readers.items():
        try:
            inventory.items += read()
        except Exception as error:
            if not is_absent(error):
                raise
            inventory.closed[kind] = explain(error)
    return inventory


def is_tuned(model: str) -> bool:
    return model.startswith("ft:") or ":ft-" in model


def _job(job: Json, deadlines: list[Deadline], now: float) -> Item:
    files = [job.get("training_file"), job.get("validation_file"), *(job.get("result_files") or [])]
    end = end_of(job.get("fine_tuned_model") or job["model"], deadlines)
    detail = f"{job.get('status')}, on {job['model']}, {job.get('trained_tokens') or 0:,} tokens"
    return Item("job", job["id"], detail, tuple(name for name in files if name), end, days_left(end, now))


def _model(model: Json, deadlines: list[Deadline], now: float) -> Item:
    end = end_of(model["id"], deadlines)
    return Item("fine-tuned model", model["id"], f"owned by {model.get('owned_by', '?')}", (), end, days_left(end, now))


def _file(file: Json) -> Item:
    return Item("file", file["id"], f"{file.get('filename')}, {file.get('bytes') or 0:,} bytes, {file.get('purpose')}")


def _completions(source: Source) -> list[Item]:
    counts: dict[str, int] = {}
    for completion in source.completions():
        counts[completion.get("model", "?")] = counts.get(completion.get("model", "?"), 0) + 1
    return [Item("stored completions", model, f"{count:,} kept for 30 days") for model, count in counts.items()]

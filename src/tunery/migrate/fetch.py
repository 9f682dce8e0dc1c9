"""Source → bundle. Fetches what is new, again and again: a second run asks only for what the first did not finish."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from tunery import atomic
from tunery.domain.jobs import TERMINAL
from tunery.migrate.bundle import Bundle, Kind, sha256_of
from tunery.migrate.source import Json, Source, explain, is_absent

CONNECTIONS = 4
RUN_ENDED = {"completed", "failed", "canceled"}

Progress = Callable[[Kind, int, int], None]
"""Called with (kind, done, total) after each object."""


@dataclass
class Fetched:
    """Counts by kind, and what failed: (kind, id) → one line."""

    new: dict[Kind, int] = field(default_factory=dict)
    kept: dict[Kind, int] = field(default_factory=dict)
    failures: dict[tuple[Kind, str], str] = field(default_factory=dict)
    closed: dict[Kind, str] = field(default_factory=dict)  # kinds that the account may not list at all


def fetch_all(source: Source, bundle: Bundle, *, progress: Progress = lambda *_: None) -> Fetched:
    """Everything. One object that fails is reported and does not stop the rest."""
    result = Fetched()
    _fetch_kind("files", source.files, lambda item: fetch_file(source, bundle, item), bundle, result, progress)
    _fetch_kind("jobs", source.jobs, lambda item: fetch_job(source, bundle, item), bundle, result, progress)
    _fetch_kind("evals", source.evals, lambda item: fetch_eval(source, bundle, item), bundle, result, progress)
    _fetch_kind(
        "completions", source.completions, lambda item: fetch_completion(source, bundle, item), bundle, result, progress
    )
    bundle.put_side("models.json", source.models())
    bundle.put_side("failures.json", {f"{kind}/{name}": why for (kind, name), why in result.failures.items()})
    return result


def _fetch_kind(
    kind: Kind,
    listing: Callable[[], Iterable[Json]],
    fetch: Callable[[Json], None],
    bundle: Bundle,
    result: Fetched,
    progress: Progress,
) -> None:
    try:
        items = list(listing())
    except Exception as error:
        if not is_absent(error):
            raise
        result.closed[kind] = explain(error)
        return
    wanted = [item for item in items if not is_complete(kind, bundle, item["id"])]
    result.kept[kind] = len(items) - len(wanted)
    result.new[kind] = 0
    progress(kind, result.kept[kind], len(items))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        pending = {pool.submit(fetch, item): item["id"] for item in wanted}
        for done, future in enumerate(as_completed(pending), 1):
            error = future.exception()
            if error is None:
                result.new[kind] += 1
            elif isinstance(error, Exception):
                result.failures[kind, pending[future]] = explain(error)
            else:
                raise error
            progress(kind, result.kept[kind] + done, len(items))


def is_complete(kind: Kind, bundle: Bundle, object_id: str) -> bool:
    """Whether the bundle's copy can no longer change at the source."""
    if not bundle.has(kind, object_id):
        return False
    if kind == "jobs":
        return bundle.get(kind, object_id)["job"].get("status") in TERMINAL
    if kind == "evals":
        return all(entry["run"].get("status") in RUN_ENDED for entry in bundle.get(kind, object_id)["runs"])
    return True


def fetch_file(source: Source, bundle: Bundle, item: Json) -> None:
    """Bytes first, then the description: a description in the bundle means that the bytes are there."""
    target = bundle.content(item["id"])
    try:
        with atomic.replacing(target) as part:
            source.download(item["id"], part)
            digest = sha256_of(part)
    except Exception as error:
        if not is_absent(error):
            raise
        bundle.put("files", item["id"], {"file": item, "absent": explain(error)})
        return
    bundle.put("files", item["id"], {"file": item, "sha256": digest})


def fetch_job(source: Source, bundle: Bundle, item: Json) -> None:
    events, checkpoints = _what_is_left(source.events, item["id"]), _what_is_left(source.checkpoints, item["id"])
    bundle.put("jobs", item["id"], {"job": item, "events": events, "checkpoints": checkpoints})


def _what_is_left(read: Callable[..., list[Json]], *ids: str) -> list[Json]:
    """Nothing where the account has forgotten it: the object itself is worth keeping all the same."""
    try:
        return read(*ids)
    except Exception as error:
        if not is_absent(error):
            raise
        return []


def fetch_eval(source: Source, bundle: Bundle, item: Json) -> None:
    runs = [
        {"run": run, "output_items": _what_is_left(source.eval_items, item["id"], run["id"])}
        for run in source.eval_runs(item["id"])
    ]
    bundle.put("evals", item["id"], {"eval": item, "runs": runs})


def fetch_completion(source: Source, bundle: Bundle, item: Json) -> None:
    bundle.put(
        "completions",
        item["id"],
        {"completion": item, "messages": _what_is_left(source.completion_messages, item["id"])},
    )

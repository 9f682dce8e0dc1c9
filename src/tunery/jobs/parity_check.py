"""The last look before a model is handed out: does the engine give what the trainer gave?"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tunery.domain.jobs import Level
from tunery.jobs.parity import EngineScorer, EngineUnreachable, Parity, compare, read_samples
from tunery.modeling.catalog import Catalog

WAIT_FOR_ENGINE_S = 60.0
LOOK_AGAIN_S = 1.0


class ParityBroken(Exception):
    """The engine serves another model than was trained. The message is the job's error."""


@dataclass(frozen=True)
class ParityReport:
    message: str
    level: Level = "info"
    details: dict[str, Any] = field(default_factory=dict)


def check_parity(
    samples_file: Path | None,
    adapter: Path,
    model_id: str,
    *,
    source: str,
    engines: list[str],
    catalog: Catalog,
    key: SecretStr | None = None,
    wait_s: float = WAIT_FOR_ENGINE_S,
) -> ParityReport:
    """Raises ParityBroken. An engine that cannot be asked costs the check, not the job: the report says so.

    `source`: the base that the adapter was trained on, as in the catalog; `engines`: addresses; `key`: of all
    of them.
    """
    if samples_file is None or not engines:
        return _unchecked("no engine is configured" if not engines else "the trainer named no examples")
    engine = _find_engine([EngineScorer(url, key) for url in engines], source, catalog, wait_s)
    if engine is None:
        return _unchecked(f"no engine with {source} answered for {wait_s:.0f} s")
    name = f"{model_id}-parity"
    try:
        with engine.adapter(name, adapter):
            parity = compare(read_samples(samples_file), engine, name)
    except EngineUnreachable as exc:
        return _unchecked(str(exc))
    if not parity.holds:
        raise ParityBroken(
            f"The job failed because the engine does not serve the model as it was trained: {_say(parity)}."
        )
    return ParityReport(
        f"Served and trained model agree: {_say(parity)}",
        details={
            "num_tokens": parity.num_tokens,
            "mean_difference": parity.mean_difference,
            "max_difference": parity.max_difference,
        },
    )


def _find_engine(engines: list[EngineScorer], source: str, catalog: Catalog, wait_s: float) -> EngineScorer | None:
    """The first that has the base; an engine may be starting."""
    deadline = time.monotonic() + wait_s
    while True:
        for engine in engines:
            if catalog.served_as(source, engine.bases(), is_only_engine=len(engines) == 1):
                return engine
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_AGAIN_S)


def _unchecked(why: str) -> ParityReport:
    return ParityReport(f"Served and trained model were not compared: {why}", level="warn", details={"unchecked": why})


def _say(parity: Parity) -> str:
    return (
        f"log-probabilities of {parity.num_tokens} tokens differ by {parity.mean_difference:.4f} on average "
        f"and {parity.max_difference:.4f} at most"
    )

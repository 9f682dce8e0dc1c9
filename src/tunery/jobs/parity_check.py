"""The last look before a model is handed out: does the engine give what the trainer gave?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunery.domain.jobs import Level
from tunery.jobs.parity import EngineScorer, EngineUnreachable, Parity, compare, read_samples
from tunery.settings import Settings

WAIT_FOR_ENGINE_S = 60.0


class ParityBroken(Exception):
    """The engine serves another model than was trained. The message is the job's error."""


@dataclass(frozen=True)
class ParityReport:
    message: str
    level: Level = "info"
    details: dict[str, Any] = field(default_factory=dict)


def check_parity(
    samples_file: Path | None, adapter: Path, model_id: str, settings: Settings, *, wait_s: float = WAIT_FOR_ENGINE_S
) -> ParityReport:
    """Raises ParityBroken. An engine that cannot be asked costs the check, not the job: the report says so."""
    url = engine_address(settings)
    if samples_file is None or not url:
        return _unchecked("no engine is configured" if not url else "the trainer named no examples")
    engine = EngineScorer(url)
    if not engine.wait_until_up(wait_s):
        return _unchecked(f"the engine did not answer for {wait_s:.0f} s")
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


def engine_address(settings: Settings) -> str:
    """Without a slash at the end; "" when there is none."""
    url = settings.engine_urls[0] if settings.engine_kind == "vllm" and settings.engine_urls else settings.engine_url
    return url.rstrip("/")


def _unchecked(why: str) -> ParityReport:
    return ParityReport(f"Served and trained model were not compared: {why}", level="warn", details={"unchecked": why})


def _say(parity: Parity) -> str:
    return (
        f"log-probabilities of {parity.num_tokens} tokens differ by {parity.mean_difference:.4f} on average "
        f"and {parity.max_difference:.4f} at most"
    )

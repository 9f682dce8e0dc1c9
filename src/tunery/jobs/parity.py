"""Asks the engine for the log-probabilities the trainer measured. A model that serves otherwise than it was trained
is the most reported fault of this field; here it ends the job instead of reaching a user."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from tunery.domain.jobs import Level
from tunery.engines.scoring import EngineScorer, EngineUnreachable
from tunery.models.catalog import Catalog
from tunery.texts import say, with_texts
from tunery.training.protocol import Sample, read_samples

# bf16 keeps 8 significant bits: logits between 16 and 32 stand on a grid of 0.125, and trainer and engine order their
# sums differently. A shift of the logits moves a token's log-probability by its doubt, 1 - p, times the shift, so what
# is allowed grows with the doubt. Seen with SmolLM2-135M: 0.03 where the model was sure, 0.12 on labels it doubted.
SURE_TOLERANCE = 0.1
DOUBT_TOLERANCE = 0.2
MAX_TOLERANCE = 1.5  # of one token


@dataclass(frozen=True)
class Parity:
    num_tokens: int
    mean_difference: float
    max_difference: float
    mean_doubt: float = 0.0  # 1 - p of the trainer's own log-probabilities

    @property
    def holds(self) -> bool:
        # Written so that NaN fails.
        allowed = SURE_TOLERANCE + DOUBT_TOLERANCE * self.mean_doubt
        return self.mean_difference <= allowed and self.max_difference <= MAX_TOLERANCE


class PromptScorer(Protocol):
    """Gives the log-probability of every token of a prompt but the first."""

    def score(self, model: str, token_ids: list[int]) -> list[float]: ...


def compare(samples: list[Sample], scorer: PromptScorer, model: str) -> Parity:
    """Raises EngineUnreachable. NaN anywhere makes the result NaN, which does not hold."""
    differences: list[float] = []
    for sample in samples:
        served = scorer.score(model, sample.token_ids)
        # The first token of a prompt has no log-probability: token i stands at i - 1.
        mine = served[sample.start - 1 : sample.start - 1 + len(sample.logprobs)]
        differences += [abs(a - b) for a, b in zip(mine, sample.logprobs, strict=True)]
    if not differences:
        return Parity(0, 0.0, 0.0)
    largest = float("nan") if any(d != d for d in differences) else max(differences)
    doubts = [1 - math.exp(logprob) for sample in samples for logprob in sample.logprobs]
    return Parity(len(differences), sum(differences) / len(differences), largest, sum(doubts) / len(doubts))


WAIT_FOR_ENGINE_S = 60.0
LOOK_AGAIN_S = 1.0


class ParityBroken(Exception):
    """The engine serves another model than was trained. The message is the job's error."""


@dataclass(frozen=True)
class ParityReport:
    message: str
    level: Level = "info"
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    is_checked: bool = True  # the served model was compared with the trained one


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
        return _unchecked(say("event.parity.no_engine") if not engines else say("event.parity.no_examples"))
    engine = _find_engine([EngineScorer(url, key) for url in engines], source, catalog, wait_s)
    if engine is None:
        return _unchecked(say("event.parity.no_answer", source=source, seconds=wait_s))
    name = f"{model_id}-parity"
    try:
        with engine.adapter(name, adapter):
            parity = compare(read_samples(samples_file), engine, name)
    except EngineUnreachable as exc:
        return _unchecked(exc.args[0])
    if not parity.holds:
        raise ParityBroken(say("event.parity.broken", difference=_difference(parity)))
    return ParityReport(
        say("event.parity.holds", difference=_difference(parity)),
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
    text = say("event.parity.unchecked", reason=why)
    return ParityReport(text, level="warn", details=with_texts({"unchecked": why}), is_checked=False)


def _difference(parity: Parity) -> str:
    return say(
        "event.parity.difference",
        tokens=parity.num_tokens,
        mean=f"{parity.mean_difference:.4f}",  # as text: JSON has no NaN
        most=f"{parity.max_difference:.4f}",
    )

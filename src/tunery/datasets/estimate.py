"""What a job will come to before it is created: steps, billed tokens, price, time and memory, each with its reason."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tunery.datasets.advise import no_validation_file
from tunery.datasets.report import Advice, Report, TokenCounts, read_advice
from tunery.datasets.speed import Speed, speed_of
from tunery.datasets.work import EpochCounts, training_flop
from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import Hyperparameters, ResolvedHyperparameters, resolve
from tunery.domain.jobs import Method
from tunery.domain.usage import PICO
from tunery.models.catalog import CatalogModel
from tunery.models.config import Sizes, read_sizes
from tunery.models.memory import MICRO_BATCH_TOKENS, training_bytes
from tunery.texts import say, with_texts

# The largest of a job's batches against the mean one.
_UNEVEN = 1.15


@dataclass(frozen=True)
class Estimate:
    num_examples: int
    num_steps: int  # optimizer steps
    trained_tokens: int  # as the finished job will report and the bill will count
    hyperparameters: ResolvedHyperparameters
    cost: float  # in `currency`
    currency: str
    min_s: float  # the job's running time, its place in the queue aside
    max_s: float
    num_measured_jobs: int  # 0: this machine has not trained this base yet and its speed was guessed
    peak_memory_bytes: int
    advice: list[Advice] = field(default_factory=list)

    @property
    def is_rough_guess(self) -> bool:
        """Whether the time rests on no job: it may be off several times either way."""
        return not self.num_measured_jobs

    def to_dict(self) -> dict[str, Any]:
        chosen = self.hyperparameters
        return with_texts(
            {
                "num_examples": self.num_examples,
                "num_steps": self.num_steps,
                "trained_tokens": self.trained_tokens,
                "hyperparameters": {
                    "n_epochs": chosen.n_epochs,
                    "batch_size": chosen.batch_size,
                    "learning_rate_multiplier": chosen.learning_rate_multiplier,
                    "beta": chosen.beta,
                },
                "reasons": chosen.reasons,
                "cost": self.cost,
                "currency": self.currency,
                "min_s": round(self.min_s, 1),
                "max_s": round(self.max_s, 1),
                "time": time_text(self.min_s, self.max_s),
                "num_measured_jobs": self.num_measured_jobs,
                "is_rough_guess": self.is_rough_guess,
                "peak_memory_bytes": self.peak_memory_bytes,
                "advice": [advice.to_dict() for advice in self.advice],
            }
        )


def read_estimate(document: dict[str, Any]) -> Estimate:
    """What `to_dict` wrote, as the API sends it; keys beside it are left alone."""
    chosen = ResolvedHyperparameters(**document["hyperparameters"], reasons=document["reasons"])
    derived = {"hyperparameters": chosen, "advice": [read_advice(advice) for advice in document["advice"]]}
    names = {field.name for field in fields(Estimate)} - derived.keys()
    return Estimate(**{name: document[name] for name in names}, **derived)


def billable_tokens(tokens_of_an_epoch: int, n_epochs: int) -> int:
    """What a job trains on and is billed for: every token of every example, cut to the model's limit, each epoch."""
    return tokens_of_an_epoch * n_epochs


def estimate(
    report: Report,
    hyperparameters: ResolvedHyperparameters,
    *,
    method: Method,
    sizes: Sizes,
    speed: Speed,
    lora_rank: int,
    training_price: int,
    currency: str,
) -> Estimate:
    """`report` is the training file's, with token counts. `training_price`: millionths of the currency for a million
    tokens. Raises InvalidRequest when the file has no example to train on."""
    counts = report.tokens
    if counts is None:
        raise InvalidRequest(say("error.nothing_to_train"), param="training_file")
    steps = hyperparameters.num_steps(report.num_examples)
    trained = billable_tokens(counts.tokens.total, hyperparameters.n_epochs)
    epoch = EpochCounts.of(counts, report.num_examples)
    min_s, max_s = speed.seconds(training_flop(epoch, hyperparameters, method=method, sizes=sizes))
    return Estimate(
        num_examples=report.num_examples,
        num_steps=steps,
        trained_tokens=trained,
        hyperparameters=hyperparameters,
        cost=trained * training_price / PICO,
        currency=currency,
        min_s=min_s,
        max_s=max_s,
        num_measured_jobs=speed.num_jobs,
        peak_memory_bytes=peak_memory(
            counts,
            sizes,
            num_examples=report.num_examples,
            batch_size=hyperparameters.batch_size,
            lora_rank=lora_rank,
        ),
        advice=list(report.advice),  # the caller adds to it; the report may be kept and used again
    )


def estimate_on(
    base: CatalogModel,
    model_dir: Path,
    report: Report,
    wanted: Hyperparameters,
    *,
    source: str,
    method: Method,
    home: Path,
    training_price: int,
    currency: str,
    has_validation: bool,
) -> Estimate:
    """`estimate` of a job on a base of the catalog, whose weights are of `source` and lie in `model_dir`: with `auto`
    resolved, by the speed of this machine, and with advice on a validation file."""
    found = estimate(
        report,
        resolve(wanted, num_examples=report.num_examples, default_multiplier=base.default_multiplier),
        method=method,
        sizes=read_sizes(model_dir),
        speed=speed_of(home, source, method),
        lora_rank=base.lora_rank,
        training_price=training_price,
        currency=currency,
    )
    if not has_validation:
        found.advice.append(no_validation_file(report.num_examples))
    return found


def peak_memory(counts: TokenCounts, sizes: Sizes, *, num_examples: int, batch_size: int, lora_rank: int) -> int:
    """Bytes of the training process at its largest step, roughly: weights in bf16, adapter, activations, logits."""
    mean = counts.tokens.total / num_examples - counts.num_prefix_tokens
    batch = int(_UNEVEN * batch_size * mean) + counts.num_prefix_tokens
    tokens = max(counts.tokens.max, min(batch, MICRO_BATCH_TOKENS))
    return training_bytes(sizes, lora_rank=lora_rank, tokens=tokens)


def time_text(min_s: float, max_s: float) -> str:
    low, high = _round_time(min_s), _round_time(max_s)
    return f"about {low}" if low == high else f"{low} to {high}"


def _round_time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"

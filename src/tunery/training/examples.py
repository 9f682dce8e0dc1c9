"""Reads a validated file into training examples: rows of token ids with loss weights."""

from dataclasses import dataclass
from pathlib import Path

from tunery.chat.examples import PreferenceExample
from tunery.chat.render import Renderer
from tunery.datasets.parse import load_examples
from tunery.domain.jobs import Method
from tunery.texts import say
from tunery.training.forward.packing import Row
from tunery.training.protocol import FailureCode, TrainingFailure


class UnusableFile(TrainingFailure):
    """The file has nothing that this method can train on."""

    failure = FailureCode.INVALID_TRAINING_FILE


@dataclass(frozen=True, eq=False)  # equal only to itself: two equal lines are two examples
class TrainExample:
    """One line of the file. A supervised example has one row, a preference two: the better answer first."""

    rows: tuple[Row, ...]
    num_tokens: int  # billable: after truncation, a shared prompt once

    @property
    def loss_weight(self) -> float:
        return sum(sum(row.loss_weights[1:]) for row in self.rows)


def read(path: Path, method: Method, renderer: Renderer, max_tokens: int, *, param: str) -> list[TrainExample]:
    """Every line of the file that has a token to train within `max_tokens`. Raises UnusableFile when none has."""
    parsed = load_examples(path)
    if method == "dpo":
        pairs = [item for item in parsed if isinstance(item, PreferenceExample)]
        if len(pairs) != len(parsed):
            raise UnusableFile(say("event.dpo_needs_pairs"), param=param)
        examples = [_pair(pair, renderer, max_tokens) for pair in pairs]
    else:
        trained = [renderer.as_trained(item) for item in parsed]
        rows = [item for item in trained if not isinstance(item, PreferenceExample)]
        if len(rows) != len(parsed):
            raise UnusableFile(say("event.pairs_need_dpo"), param=param)
        rendered = renderer.render_batch(rows, max_tokens)
        examples = [TrainExample((Row(r.token_ids, r.loss_weights),), len(r.token_ids)) for r in rendered]
    examples = [example for example in examples if example.loss_weight]
    if not examples:
        raise UnusableFile(say("event.nothing_within_limit", most=max_tokens), param=param)
    return examples


def _pair(example: PreferenceExample, renderer: Renderer, max_tokens: int) -> TrainExample:
    pair = renderer.render_pair(example, max_tokens)
    rows = tuple(
        Row(pair.prompt_ids + answer, [0.0] * len(pair.prompt_ids) + [1.0] * len(answer))
        for answer in (pair.preferred_ids, pair.non_preferred_ids)
    )
    return TrainExample(rows, len(pair.prompt_ids) + len(pair.preferred_ids) + len(pair.non_preferred_ids))

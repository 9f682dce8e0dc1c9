"""Draws the next token of every row. Each row's draw depends on its own logits, parameters and seed only."""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunery.serving.constraints import Constraint
from tunery.serving.requests import SamplingParams, TokenLogprob

# Nucleus sampling looks at so many tokens first: sorting the whole vocabulary takes longer than a layer.
_NUCLEUS_FIRST = 256


class RowState:
    """What sampling remembers of one sequence."""

    def __init__(self, params: SamplingParams, constraint: Constraint | None) -> None:
        self.params = params
        self.constraint = constraint
        self._counts: Counter[int] = Counter()  # of the answer's tokens, where they have a penalty
        self._shift: np.ndarray[Any, np.dtype[np.float32]] | None = None
        self._random = random.Random(params.seed) if params.seed is not None else random.Random()

    @property
    def changes_logits(self) -> bool:
        return self.is_shifted or self.constraint is not None

    @property
    def is_shifted(self) -> bool:
        return self._has_penalty or bool(self.params.logit_bias)

    @property
    def _has_penalty(self) -> bool:
        return bool(self.params.presence_penalty or self.params.frequency_penalty)

    def shift(self, vocab_size: int) -> torch.Tensor:
        """What bias and penalties add to the logits [V]. Kept from step to step, since a step changes one number of it;
        made with the first draw, since a sequence may wait for long."""
        if self._shift is None:
            self._shift = np.zeros(vocab_size, np.float32)
            if self.params.logit_bias:
                self._shift[list(self.params.logit_bias)] = list(self.params.logit_bias.values())
        return torch.from_numpy(self._shift)

    def draw(self) -> float:
        return self._random.random()

    def accept(self, token_id: int) -> None:
        if self._has_penalty and self._shift is not None:
            self._counts[token_id] += 1
            penalty = self._counts[token_id] * self.params.frequency_penalty + self.params.presence_penalty
            self._shift[token_id] = self.params.logit_bias.get(token_id, 0.0) - penalty
        if self.constraint is not None:
            self.constraint.advance(token_id)

    @property
    def is_complete(self) -> bool:
        return self.constraint is not None and self.constraint.is_complete

    @property
    def has_failed(self) -> bool:
        return self.constraint is not None and self.constraint.has_failed


@dataclass(frozen=True)
class Sampled:
    token_id: int
    logprob: TokenLogprob | None
    is_finite: bool = True  # False: the logits were not numbers, and the token means nothing


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: list[RowState]) -> list[Sampled]:
    """logits [B, V] in fp32, changed in place. Log-probabilities are those of the model, before any rule is applied."""
    finite = torch.isfinite(logits.sum(-1)).tolist()
    normalisers = torch.logsumexp(logits, -1) if any(row.params.top_logprobs is not None for row in rows) else None
    original = logits.clone() if normalisers is not None and any(row.changes_logits for row in rows) else logits
    for index, row in enumerate(rows):
        if row.changes_logits:
            _apply_rules(logits[index], row)
    tokens = logits.numpy().argmax(-1).tolist()  # torch's takes seven times as long
    drawn = [index for index, row in enumerate(rows) if row.params.temperature > 0 and finite[index]]
    for index, token in zip(drawn, _draw(logits, rows, drawn), strict=True):
        tokens[index] = token
    entries: dict[int, TokenLogprob] = {}
    if normalisers is not None:
        told = [index for index, row in enumerate(rows) if row.params.top_logprobs is not None]
        chosen = original if len(told) == len(rows) else original[told]
        num_top = [rows[index].params.top_logprobs or 0 for index in told]
        described = describe(chosen, normalisers[told], [tokens[index] for index in told], num_top)
        entries = dict(zip(told, described, strict=True))
    return [Sampled(token, entries.get(index), finite[index]) for index, token in enumerate(tokens)]


def describe(
    logits: torch.Tensor, normalisers: torch.Tensor, tokens: list[int], num_top: list[int]
) -> list[TokenLogprob]:
    """The log-probability of each row's token and of its most likely ones. logits [B, V], normalisers [B]."""
    own = logits.gather(1, torch.tensor(tokens).unsqueeze(1))
    ranks = (logits > own).sum(-1) + 1
    logprobs = (own.squeeze(1) - normalisers).tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if most := max(num_top):
        values, ids = logits.topk(most)
        values = (values - normalisers.unsqueeze(1)).tolist()
        tops = [
            tuple(zip(row_ids[:num], row_values[:num], strict=True))
            for row_ids, row_values, num in zip(ids.tolist(), values, num_top, strict=True)
        ]
    return [TokenLogprob(*entry) for entry in zip(tokens, logprobs, ranks.tolist(), tops, strict=True)]


def _apply_rules(logits: torch.Tensor, row: RowState) -> None:
    """Penalties, bias, then the grammar, which nothing may overrule. logits [V]."""
    if row.is_shifted:
        logits += row.shift(logits.shape[0])
    if row.constraint is not None:
        allowed = torch.from_numpy(row.constraint.allowed(logits.shape[0]))
        logits.masked_fill_(~allowed, float("-inf"))


def _draw(logits: torch.Tensor, rows: list[RowState], drawn: list[int]) -> list[int]:
    """logits [N, V]; `drawn`: the rows that do not take the likeliest token."""
    if not drawn:
        return []
    temperatures = torch.tensor([rows[index].params.temperature for index in drawn]).unsqueeze(1)
    chosen = logits if len(drawn) == len(rows) else logits[drawn]
    probabilities = torch.softmax(chosen / temperatures.clamp(min=1e-4), dim=-1)
    points = [rows[index].draw() for index in drawn]
    tokens: list[int] = []
    for position, index in enumerate(drawn):
        top_p = rows[index].params.top_p
        row = probabilities[position]
        tokens.append(_pick(row, points[position]) if top_p >= 1 else _pick_nucleus(row, top_p, points[position]))
    return tokens


def _pick(probabilities: torch.Tensor, point: float) -> int:
    """The token in whose share of [0, 1) the point falls. probabilities [V]."""
    # fp32 sums of 50,000 terms drift by more than the smallest shares.
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    index = int(torch.searchsorted(sums, point * float(sums[-1]), right=True))
    if index < len(sums) and float(probabilities[index]) > 0:
        return index
    return int(probabilities.argmax())


def _pick_nucleus(probabilities: torch.Tensor, top_p: float, point: float) -> int:
    """The same among the most likely tokens that together reach top_p. probabilities [V]."""
    values, ids = probabilities.topk(min(_NUCLEUS_FIRST, len(probabilities)))
    if float(values.sum()) < top_p:
        values, ids = probabilities.sort(descending=True)
    before = values.cumsum(-1, dtype=torch.float64) - values
    kept = int((before < top_p).sum())
    return int(ids[_pick(values[: max(1, kept)], point)])

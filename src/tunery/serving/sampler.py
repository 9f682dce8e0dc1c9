"""Draws the next token of every row. Each row's draw depends on its own logits, parameters and seed only."""

import random
from collections import Counter
from dataclasses import dataclass

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
        self.counts: Counter[int] = Counter()  # of the answer's tokens
        self._random = random.Random(params.seed) if params.seed is not None else random.Random()

    @property
    def changes_logits(self) -> bool:
        params = self.params
        has_penalty = bool(params.presence_penalty or params.frequency_penalty)
        return has_penalty or bool(params.logit_bias) or self.constraint is not None

    def draw(self) -> float:
        return self._random.random()

    def accept(self, token_id: int) -> None:
        self.counts[token_id] += 1
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
    sampled = []
    for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        wanted = row.params.top_logprobs
        entry = None
        if wanted is not None and normalisers is not None:
            entry = describe(original[index], float(normalisers[index]), token, wanted)
        sampled.append(Sampled(token, entry, finite[index]))
    return sampled


def describe(logits: torch.Tensor, normaliser: float, token: int, num_top: int) -> TokenLogprob:
    """The log-probability of a token and of the most likely ones. logits [V]."""
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        values, ids = logits.topk(num_top)
        top = tuple(
            (token_id, value - normaliser) for token_id, value in zip(ids.tolist(), values.tolist(), strict=True)
        )
    own = logits[token]
    return TokenLogprob(token, float(own) - normaliser, int((logits > own).sum()) + 1, top)


def _apply_rules(logits: torch.Tensor, row: RowState) -> None:
    """Penalties, bias, then the grammar, which nothing may overrule. logits [V]."""
    params = row.params
    if row.counts and (params.presence_penalty or params.frequency_penalty):
        ids = torch.tensor(list(row.counts))
        counts = torch.tensor(list(row.counts.values()), dtype=torch.float32)
        logits[ids] -= counts * params.frequency_penalty + params.presence_penalty
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias))
        logits[ids] += torch.tensor(list(params.logit_bias.values()))
    if row.constraint is not None:
        allowed = torch.from_numpy(row.constraint.allowed(logits.shape[0]))
        logits.masked_fill_(~allowed, float("-inf"))


def _draw(logits: torch.Tensor, rows: list[RowState], drawn: list[int]) -> list[int]:
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
    """The same among the most likely tokens that together reach top_p."""
    values, ids = probabilities.topk(min(_NUCLEUS_FIRST, len(probabilities)))
    if float(values.sum()) < top_p:
        values, ids = probabilities.sort(descending=True)
    before = values.cumsum(-1, dtype=torch.float64) - values
    kept = int((before < top_p).sum())
    return int(ids[_pick(values[: max(1, kept)], point)])

"""Cross-entropy from hidden states, in chunks of rows: the [M, V] matrix of logits never exists.

Products are computed in the type of the hidden states, logits are kept in that of the head.

Two forms. `weighted_nll` knows its weights beforehand and computes the gradient while it has the logits at hand: the
supervised loss. `token_logprobs` can be followed by any function, at the price of a third product in the backward: DPO.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tunery.training.forward.head import Head

CHUNK_ROWS = 384  # with fewer the products are slower: a fifth at 128


@dataclass(frozen=True)
class Predictions:
    """Sums are exact over unequal micro-batches; means are taken once, at the step."""

    nll_sum: Tensor  # fp32 scalar: weighted, differentiable
    logprobs: Tensor  # [M] fp32, detached
    correct: Tensor  # [M] bool: no other token is more likely


def weighted_nll(hidden: Tensor, head: Head, labels: Tensor, weights: Tensor) -> Predictions:
    """hidden [M, E] in the head's product type, labels [M], weights [M] fp32."""
    nll_sum, logprobs, correct = _WeightedNll.apply(hidden, head, labels, weights)  # type: ignore[misc]
    return Predictions(nll_sum, logprobs, correct)


def token_logprobs(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p(label) [M] fp32, differentiable, and whether the label was the most likely [M] bool."""
    logprobs, correct = _TokenLogprobs.apply(hidden, head, labels)  # type: ignore[misc]
    return logprobs, correct


def reference_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The definition, with the whole matrix: what the chunked forms are tested against.

    hidden [M, E], weight [V, E], labels [M] → [M].
    """
    logits = (hidden @ weight.t()).float()
    return logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]


class _WeightedNll(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, labels: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """hidden [M, E], labels and weights [M] → a scalar and two of [M], see Predictions."""
        logprobs = hidden.new_empty(len(labels), dtype=torch.float32)
        correct = torch.empty_like(labels, dtype=torch.bool)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(labels)):
            likely = _Softmax(head.logits(hidden[rows]), labels[rows])
            logprobs[rows], correct[rows] = likely.logprobs, likely.correct
            if grad is not None:
                grad[rows] = head.times(likely.error()).mul_(weights[rows, None])
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(logprobs, correct)
        return -(logprobs * weights).sum(), logprobs, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: of the scalar first. The gradient of hidden [M, E]."""
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None, None


class _TokenLogprobs(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [M, E], labels [M] → two of [M]."""
        logprobs = hidden.new_empty(len(labels), dtype=torch.float32)
        correct = torch.empty_like(labels, dtype=torch.bool)
        for rows in _chunks(len(labels)):
            likely = _Softmax(head.logits(hidden[rows]), labels[rows])
            logprobs[rows], correct[rows] = likely.logprobs, likely.correct
        ctx.head = head
        ctx.save_for_backward(hidden, labels)
        ctx.mark_non_differentiable(correct)
        return logprobs, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: of the log-probabilities [M] first. The gradient of hidden [M, E]."""
        hidden, labels = ctx.saved_tensors
        head: Head = ctx.head
        grad = torch.empty_like(hidden)
        for rows in _chunks(len(labels)):
            likely = _Softmax(head.logits(hidden[rows]), labels[rows])
            grad[rows] = head.times(likely.error()).mul_(-grads[0][rows, None])
        return grad, None, None


class _Softmax:
    """Probabilities of a chunk and what follows from them.

    bf16 keeps 8 bits, so a probability near 1 would round to 1 and its error to nothing. The label's own probability
    is therefore taken out of the matrix and the rest is summed in fp32: 1 - p keeps its 8 bits. They take the place of
    the logits: a second matrix of that size would be most of the step's memory.
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        """logits [C, V] in any floating type, labels [C]"""
        self.own = (torch.arange(len(labels), device=labels.device), labels)  # scatter_ would pass over all of V
        own, best = logits[self.own], logits.amax(-1)
        self.correct = own >= best
        self.probabilities = torch.softmax(logits, -1, out=logits)
        likely = self.probabilities[self.own].float()
        self.probabilities[self.own] = 0
        # Summed in fp32 inside and rounded once. Asking for fp32 out would first copy the whole matrix.
        self.rest = self.probabilities.sum(-1).float()
        self.logprobs = torch.where(
            self.rest < 0.5, torch.log1p(-self.rest), self._log(likely, own.float() - best.float())
        )

    def _log(self, likely: Tensor, behind: Tensor) -> Tensor:
        """A probability that underflows still has a logarithm: that of the best token, and how far it is behind.

        Both [C].
        """
        tiny = likely < 1e-30
        if not bool(tiny.any()):
            return likely.log()
        best = self.probabilities.amax(-1).float()
        return torch.where(tiny, best.log() + behind, likely.clamp_min(1e-30).log())

    def error(self) -> Tensor:
        """Softmax minus one-hot: the gradient of the negative log-likelihood. Uses up the probabilities. [C, V]."""
        self.probabilities[self.own] = -self.rest.to(self.probabilities.dtype)
        return self.probabilities


def _chunks(count: int) -> list[slice]:
    """As few as possible, and those alike: the largest is most of the memory."""
    number = -(-count // CHUNK_ROWS)
    bounds = [count * index // number for index in range(number + 1)] if number else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]

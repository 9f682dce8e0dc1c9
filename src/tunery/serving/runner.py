"""Carries a scheduled batch through the model and the sampler. The only place where requests meet tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tunery.serving.forward.adapters import Adapter
from tunery.serving.forward.interface import Forward, Run, never
from tunery.serving.requests import Generation, TokenLogprob
from tunery.serving.sampler import RowState, Sampled, describe, sample
from tunery.serving.sequence import Batch, Scheduled

# Logits of so many positions at a time when a prompt's log-probabilities are asked for: 64 × V × 4 bytes.
_LOGPROB_ROWS = 64


@dataclass
class Tracked:
    """A sequence's computing side."""

    row: RowState
    prompt_logprobs: list[TokenLogprob | None] | None = None


def compute_alone() -> None:
    """For a thread beside the engine's, before it touches a tensor: it gets no helpers.

    With helpers of its own there would be more of OpenMP's threads than cores, and then none of them waits awake any
    more: every step took half as long again. torch's count is that of the calling thread and of threads to come.
    """
    torch.set_num_threads(1)


class Runner:
    def __init__(self, forward: Forward) -> None:
        self.context_length = forward.context_length
        self.dtype, self.precision = forward.dtype, forward.precision
        self.num_blocks = forward.cache.num_blocks
        self._forward = forward
        forward.warm_up()
        self._adapters: dict[str, Adapter] = {}
        self._tracked: dict[str, Tracked] = {}

    def enter(self) -> None:
        """Called first in the thread that computes: its number of threads is settled now, whatever others set later."""
        torch.get_num_threads()

    def read_adapter(self, folder: Path) -> Adapter:
        """May run in another thread, see compute_alone. Raises InvalidRequest."""
        return self._forward.read_adapter(folder)

    def put_adapter(self, name: str, adapter: Adapter) -> None:
        self._adapters[name] = adapter

    def drop_adapter(self, name: str) -> None:
        self._adapters.pop(name, None)

    @property
    def adapter_bytes(self) -> int:
        return sum(adapter.num_bytes for adapter in self._adapters.values())

    def track(self, generation: Generation) -> None:
        params, scored_from = generation.params, generation.scored_from
        constraint = params.grammar.start() if params.grammar is not None else None
        unscored: list[TokenLogprob | None] = [None] * (scored_from or 0)
        self._tracked[generation.id] = Tracked(RowState(params, constraint), None if scored_from is None else unscored)

    def forget(self, sequence_id: str) -> None:
        self._tracked.pop(sequence_id, None)

    def prompt_logprobs(self, sequence_id: str) -> list[TokenLogprob | None] | None:
        return self._tracked[sequence_id].prompt_logprobs

    def is_complete(self, sequence_id: str) -> bool:
        """The sequence's grammar is satisfied and allows nothing more."""
        return self._tracked[sequence_id].row.is_complete

    def has_failed(self, sequence_id: str) -> bool:
        """The sequence's grammar, which it must not leave, became too much to be followed."""
        return self._tracked[sequence_id].row.has_failed

    def wipe(self, blocks: list[int]) -> None:
        self._forward.cache.wipe(blocks)

    def execute(self, batch: Batch, should_stop: Callable[[], bool] = never) -> dict[str, Sampled]:
        """Compute every run and draw a token for each that reached its sequence's end, by sequence id.

        Raises Interrupted when `should_stop` says so before anything is drawn, which is soon: after it, all is done.
        """
        result: dict[str, Sampled] = {}
        # What is to be compared with a trainer's numbers is computed as the trainer does, and by itself: the others'
        # must not depend on it.
        scored = [item for item in batch.prefill if self._is_scored(item)]
        plain = [item for item in batch.prefill if not self._is_scored(item)]
        for items, exact in ((plain, False), (scored, True)):
            if items:
                self._prefill(items, result, exact=exact, should_stop=should_stop)
                should_stop = never
        if batch.decode:
            # Neighbours of one adapter find its matrices in the cache.
            items = sorted(batch.decode, key=lambda item: item.sequence.adapter or "")
            logits = self._forward.decode([self._run(item) for item in items], should_stop=should_stop)
            self._sample(logits, [item.sequence.id for item in items], result)
        return result

    def _is_scored(self, item: Scheduled) -> bool:
        return self._tracked[item.sequence.id].prompt_logprobs is not None

    def _prefill(
        self, items: list[Scheduled], result: dict[str, Sampled], *, exact: bool, should_stop: Callable[[], bool]
    ) -> None:
        # Rows of one adapter side by side are one product.
        items = sorted(items, key=lambda item: item.sequence.adapter or "")
        hidden = self._forward.prefill([self._run(item) for item in items], exact=exact, should_stop=should_stop)
        ends: list[int] = []
        sampled: list[str] = []
        first = 0
        for item in items:
            self._score_prompt(item, hidden[first : first + item.num_tokens])
            first += item.num_tokens
            if item.needs_sample and self._tracked[item.sequence.id].row.params.max_tokens:
                ends.append(first - 1)
                sampled.append(item.sequence.id)
        if ends:
            self._sample(self._forward.logits(hidden[ends]), sampled, result)

    def _score_prompt(self, item: Scheduled, hidden: torch.Tensor) -> None:
        """Log-probabilities of the prompt's own tokens, where asked for. hidden [num_tokens, hidden]."""
        tracked, sequence = self._tracked[item.sequence.id], item.sequence
        scores = tracked.prompt_logprobs
        wanted = tracked.row.params.prompt_logprobs
        if scores is None or wanted is None:
            return
        # A preempted sequence computes its beginning again: what is known stays.
        start = max(0, len(scores) - 1 - item.start)
        end = min(item.num_tokens, sequence.num_prompt_tokens - 1 - item.start)
        for low in range(start, end, _LOGPROB_ROWS):
            high = min(low + _LOGPROB_ROWS, end)
            logits = self._forward.exact_logits(hidden[low:high])
            targets = sequence.token_ids[item.start + low + 1 : item.start + high + 1]
            scores += describe(logits, torch.logsumexp(logits, -1), targets, [wanted] * (high - low))

    def _sample(self, logits: torch.Tensor, ids: list[str], result: dict[str, Sampled]) -> None:
        """logits [B, V], a row for each of the ids."""
        rows = [self._tracked[sequence_id].row for sequence_id in ids]
        for sequence_id, row, sampled in zip(ids, rows, sample(logits, rows), strict=True):
            row.accept(sampled.token_id)
            result[sequence_id] = sampled

    def _run(self, item: Scheduled) -> Run:
        sequence = item.sequence
        return Run(
            sequence.token_ids[item.start : item.start + item.num_tokens],
            item.start,
            sequence.block_table,
            self._adapters[sequence.adapter] if sequence.adapter is not None else None,
        )

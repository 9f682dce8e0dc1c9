"""Chooses what the next forward pass computes. Plain bookkeeping: no torch, no clock, no locks.

Every sequence has tokens and a count of those computed; a step lets the counts catch up. Running sequences go first,
then waiting ones while tokens, sequences, blocks and adapter slots last. When a running sequence cannot get a block,
the youngest running one gives all of its blocks back and waits at the front to be computed anew.
"""

from collections import deque
from dataclasses import dataclass

from tunery.serving.blocks import BlockPool, root_hash
from tunery.serving.sequence import Batch, Scheduled, Sequence, SequenceStatus
from tunery.serving.slots import AdapterSlots


@dataclass(frozen=True)
class Limits:
    max_num_batched_tokens: int = 640  # tokens of one step: bounds how long a prompt may hold up running answers
    max_num_seqs: int = 64
    max_skipped_steps: int = 200  # after so many, nothing that pins an adapter may overtake a slot-blocked sequence


class Scheduler:
    def __init__(self, limits: Limits, blocks: BlockPool, slots: AdapterSlots) -> None:
        self.limits = limits
        self.blocks = blocks
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest admission first
        self.num_preemptions = 0
        self._roots: dict[tuple[str | None, str], bytes] = {}
        self._generations: dict[str, int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence that fits the whole cache alone."""
        return self.blocks.num_blocks * self.blocks.block_size

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. It must fit the cache by itself, or it would wait for ever."""
        assert sequence.num_tokens <= self.max_sequence_tokens, "the caller checks the length"
        self.waiting.append(sequence)

    def schedule(self) -> Batch | None:
        """The next forward pass; None when nothing can run, be it that weights of an adapter are still on their way.

        A block filled by a prompt counts as cached at once: within one pass every key and value of a layer is written
        before the first one is read, so sequences that start in the same step already share it.
        """
        budget = self.limits.max_num_batched_tokens
        before = self.num_preemptions
        runs: list[Scheduled] = []
        # Answers first: a long prompt must not hold them up.
        for sequence in sorted(self.running, key=lambda sequence: sequence.num_new_tokens > 1):
            num_tokens = min(sequence.num_new_tokens, budget)
            if sequence.status is SequenceStatus.RUNNING and num_tokens and self._grow(sequence, num_tokens):
                runs.append(Scheduled(sequence, sequence.num_computed_tokens, num_tokens))
                budget -= num_tokens
        runs = [run for run in runs if run.sequence.status is SequenceStatus.RUNNING]  # some may have given way
        decode = [run for run in runs if run.is_decode]
        prefill = [run for run in runs if not run.is_decode]
        for run in prefill:
            self._remember(run.sequence, run.start + run.num_tokens)
        if self.num_preemptions == before:  # else the victim would take back what it has just given
            prefill += self._admit(budget)
        return Batch(prefill, decode) if prefill or decode else None

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for the next tokens, if need be from younger sequences. False: the sequence itself gave way."""
        wanted = self.blocks.blocks_for(sequence.num_computed_tokens + num_tokens) - len(sequence.block_table)
        while wanted > self.blocks.num_available:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.block_table += self.blocks.allocate(wanted)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.blocks.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0
        if sequence.adapter is not None:
            self.slots.unpin(sequence.adapter)

    def _admit(self, budget: int) -> list[Scheduled]:
        """Start waiting sequences in order. One that lacks its adapter is skipped; one that lacks blocks stops all."""
        started: list[Scheduled] = []
        skipped: list[Sequence] = []
        slots_reserved = False
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting.popleft()
            if sequence.adapter is not None and (slots_reserved or not self._adapter_ready(sequence)):
                slots_reserved = slots_reserved or self._is_starving(sequence)
                skipped.append(sequence)
                continue
            run = self._start(sequence, budget)
            if run is None:
                self.waiting.appendleft(sequence)
                break
            started.append(run)
            budget -= run.num_tokens
        self.waiting.extendleft(reversed(skipped))
        return started

    def _adapter_ready(self, sequence: Sequence) -> bool:
        adapter = sequence.adapter
        assert adapter is not None
        if self.slots.is_ready(adapter):
            return True
        if not self.slots.request(adapter):
            sequence.num_skipped_steps += 1
        return False

    def _is_starving(self, sequence: Sequence) -> bool:
        return sequence.num_skipped_steps > self.limits.max_skipped_steps

    def _start(self, sequence: Sequence, budget: int) -> Scheduled | None:
        """Give a waiting sequence its cached blocks and room for its first tokens. None when there is no room."""
        cached = self.blocks.match(sequence, self._root(sequence)) if sequence.use_cache else []
        num_cached = len(cached) * self.blocks.block_size
        num_tokens = min(sequence.num_tokens - num_cached, budget)
        wanted = self.blocks.blocks_for(num_cached + num_tokens) - len(cached)
        if wanted > self.blocks.num_available - self.blocks.num_idle(cached):
            return None
        self.blocks.share(cached)
        sequence.block_table = cached + self.blocks.allocate(wanted)
        sequence.num_computed_tokens = num_cached
        if not sequence.was_admitted:
            sequence.was_admitted = True
            sequence.num_cached_tokens = num_cached
        if sequence.adapter is not None:
            self.slots.pin(sequence.adapter)
        sequence.status = SequenceStatus.RUNNING
        sequence.num_skipped_steps = 0
        self.running.append(sequence)
        self._remember(sequence, num_cached + num_tokens)
        return Scheduled(sequence, num_cached, num_tokens)

    def update(self, batch: Batch, tokens: dict[str, int]) -> None:
        """Record that the batch was computed. `tokens`: for each sequence id that was sampled, its next token."""
        for run in batch.runs:
            sequence = run.sequence
            if sequence.status is not SequenceStatus.RUNNING:
                continue  # aborted meanwhile
            sequence.num_computed_tokens = run.start + run.num_tokens
            if sequence.num_computed_tokens % self.blocks.block_size == 0:
                self._remember(sequence, sequence.num_computed_tokens)
            if sequence.id in tokens:
                sequence.token_ids.append(tokens[sequence.id])

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is. Its blocks stay findable until their room is needed. Idempotent."""
        if sequence.status is SequenceStatus.RUNNING:
            self._leave(sequence)
        elif sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    abort = finish

    def forget_adapter(self, adapter: str) -> None:
        """A new adapter under an old name must not find the old one's prefixes."""
        self._generations[adapter] = self._generations.get(adapter, 0) + 1
        self._roots = {key: root for key, root in self._roots.items() if key[0] != adapter}

    def _root(self, sequence: Sequence) -> bytes:
        key = (sequence.adapter, sequence.salt)
        if key not in self._roots:
            adapter = "" if key[0] is None else f"{self._generations.get(key[0], 0)}:{key[0]}"
            self._roots[key] = root_hash(adapter, sequence.salt)
        return self._roots[key]

    def _remember(self, sequence: Sequence, num_tokens: int) -> None:
        self.blocks.remember(sequence, self._root(sequence), num_tokens)

    def check(self) -> None:
        """Assert every invariant. Tests call it after each step."""
        self.blocks.check([sequence.block_table for sequence in self.running])
        pins: dict[str, int] = {}
        for sequence in self.running:
            assert sequence.status is SequenceStatus.RUNNING
            capacity = len(sequence.block_table) * self.blocks.block_size
            assert sequence.num_computed_tokens <= min(sequence.num_tokens, capacity)
            if sequence.adapter is not None:
                pins[sequence.adapter] = pins.get(sequence.adapter, 0) + 1
        for sequence in self.waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert not sequence.block_table and not sequence.num_computed_tokens
        assert len(self.running) <= self.limits.max_num_seqs
        assert len({sequence.id for sequence in [*self.running, *self.waiting]}) == len(self.running) + len(
            self.waiting
        )
        self.slots.check(pins)

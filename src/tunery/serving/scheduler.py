"""Chooses what the next forward pass computes. Plain bookkeeping: no torch, no clock, no locks.

Every sequence has tokens and a count of those computed; a step lets the counts catch up. Running sequences go first,
then waiting ones while tokens, sequences, blocks and adapter slots last. When a running sequence cannot get a block,
the youngest running one gives all of its blocks back and waits at the front to be computed anew.

Tenants (projects, told apart by `Sequence.salt`) share a step: its tokens for prompts go in equal parts to those that
want some, the one with the fewest running sequences starts the next, and when all room is taken, the one with the most
gives a sequence back for one that waits with less. A tenant alone has everything.

A step is for one priority, the lowest number that has something to run: requests of batches stand still while live
ones are answered. They keep what they have computed, unless their room is needed. Their steps are short, and may be
given up for a live one (`undo`).
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tunery.serving.blocks import BlockPool, root_hash
from tunery.serving.sequence import Batch, Scheduled, Sequence, SequenceStatus
from tunery.serving.slots import AdapterSlots


@dataclass(frozen=True)
class Limits:
    max_num_batched_tokens: int = 640  # tokens of one step: bounds how long a prompt may hold up running answers
    max_num_seqs: int = 64
    max_skipped_steps: int = 200  # after so many, nothing that pins an adapter may overtake a slot-blocked sequence
    less_urgent_part: int = 4  # steps that are not of the most urgent priority, 0, have so many times fewer tokens


class Waiting:
    """Sequences that wait for their start, by tenant: those of one project (`Sequence.salt`) in their order."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Sequence]] = {}  # none is empty

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    @property
    def tenants(self) -> list[str]:
        return list(self._queues)

    def of(self, tenant: str) -> tuple[Sequence, ...]:
        return tuple(self._queues.get(tenant, ()))

    def add(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.salt, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """At the front: it had begun."""
        self._queues.setdefault(sequence.salt, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.salt]
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.salt]


class Scheduler:
    def __init__(self, limits: Limits, blocks: BlockPool, slots: AdapterSlots) -> None:
        self.limits = limits
        self.blocks = blocks
        self.slots = slots
        self.waiting = Waiting()
        self.running: list[Sequence] = []  # oldest admission first
        self.num_preemptions = 0
        self._priority = 0  # of this step
        self._started: list[tuple[Sequence, bool]] = []  # in this step, and whether they had been admitted before
        self._num_started = 0
        self._last_start: dict[str, int] = {}  # of each tenant
        self._roots: dict[tuple[str | None, str, bool], bytes] = {}
        self._versions = count()

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence that fits the whole cache alone."""
        return self.blocks.num_blocks * self.blocks.block_size

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. It must fit the cache by itself, or it would wait for ever."""
        assert sequence.num_tokens <= self.max_sequence_tokens, "the caller checks the length"
        self.waiting.add(sequence)

    def schedule(self) -> Batch | None:
        """The next forward pass; None when nothing can run, be it that weights of an adapter are still on their way.

        A block filled by a prompt counts as cached at once: within one pass every key and value of a layer is written
        before the first one is read, so sequences that start in the same step already share it.
        """
        self._give_way()
        self._make_room()
        self._started = []
        budget = self._budget()
        before = self.num_preemptions
        runs: list[Scheduled] = []
        # Answers first: a long prompt must not hold them up.
        due = [sequence for sequence in self.running if sequence.priority == self._priority]
        answers = [sequence for sequence in due if sequence.num_new_tokens <= 1]
        prompts = [sequence for sequence in due if sequence.num_new_tokens > 1]
        shares = self._shares(prompts, budget - len(answers))
        for sequence in answers + prompts:
            is_prompt = sequence.num_new_tokens > 1
            num_tokens = min(sequence.num_new_tokens, budget, shares.get(sequence.salt, 0) if is_prompt else budget)
            if sequence.status is SequenceStatus.RUNNING and num_tokens > 0 and self._grow(sequence, num_tokens):
                runs.append(Scheduled(sequence, sequence.num_computed_tokens, num_tokens))
                budget -= num_tokens
                if is_prompt:
                    shares[sequence.salt] -= num_tokens
        runs = [run for run in runs if run.sequence.status is SequenceStatus.RUNNING]  # some may have given way
        decode = [run for run in runs if run.is_decode]
        prefill = [run for run in runs if not run.is_decode]
        for run in prefill:
            self._remember(run.sequence, run.start + run.num_tokens)
        if self.num_preemptions == before:  # else the victim would take back what it has just given
            lines = self._lines()
            started = self._admit(lines, budget, shares)
            budget -= sum(run.num_tokens for run in started)
            # What was found in the cache leaves tokens to others.
            prefill += started + self._admit(lines, budget, dict.fromkeys(lines, budget))
        return Batch(prefill, decode) if prefill or decode else None

    def _budget(self) -> int:
        """Tokens of this step; one for each sequence at least."""
        limits = self.limits
        part = limits.max_num_batched_tokens // limits.less_urgent_part
        return max(part, limits.max_num_seqs) if self._priority > 0 else limits.max_num_batched_tokens

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for the next tokens, if need be from younger sequences. False: the sequence itself gave way."""
        wanted = self.blocks.blocks_for(sequence.num_computed_tokens + num_tokens) - len(sequence.block_table)
        while wanted > self.blocks.num_available:
            victim = self._least_urgent() or self._youngest_of_largest()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.block_table += self.blocks.allocate(wanted)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.status = SequenceStatus.WAITING
        self.num_preemptions += 1
        self.waiting.put_back(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.blocks.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0
        if sequence.adapter is not None:
            self.slots.unpin(sequence.adapter)

    def _give_way(self) -> None:
        """Chooses the priority of this step. Those that are less urgent give back what its next sequence lacks: a slot
        for its adapter, a place, or blocks."""
        priorities = {sequence.priority for sequence in [*self.running, *self.waiting]}
        self._priority = min(priorities, default=0)
        if len(priorities) < 2:
            return
        for sequence in self._in_line():
            if sequence.adapter is not None and not self._has_adapter(sequence):
                while not self.slots.request(sequence.adapter) and (victim := self._least_urgent(pins=True)):
                    self._preempt(victim)
                continue
            while not self._has_room(sequence) and (victim := self._least_urgent()):
                self._preempt(victim)
        # Where all that is urgent waits for weights that are on their way, the others need not wait, too.
        able = [*self.running, *(sequence for sequence in self.waiting if self._has_adapter(sequence))]
        self._priority = min((sequence.priority for sequence in able), default=self._priority)

    def _least_urgent(self, *, pins: bool = False) -> Sequence | None:
        """The youngest running sequence that this step is not for. `pins`: that holds an adapter's slot."""
        found = (each for each in reversed(self.running) if each.priority > self._priority)
        return next((each for each in found if not pins or each.adapter is not None), None)

    def _in_line(self, tenant: str | None = None) -> list[Sequence]:
        """Those that this step is for, of one tenant or of all."""
        found = self.waiting if tenant is None else self.waiting.of(tenant)
        return [sequence for sequence in found if sequence.priority == self._priority]

    def _counts(self) -> Counter[str]:
        """How many sequences of each tenant run, of those that this step is for."""
        return Counter(sequence.salt for sequence in self.running if sequence.priority == self._priority)

    def _has_room(self, sequence: Sequence) -> bool:
        wanted = self.blocks.blocks_for(min(sequence.num_tokens, self.limits.max_num_batched_tokens))
        return len(self.running) < self.limits.max_num_seqs and wanted <= self.blocks.num_available

    def _make_room(self) -> None:
        """One sequence of the tenant that runs the most gives way to one of another tenant that could start."""
        counts = self._counts()
        largest = max(counts.values(), default=0)
        for tenant in self._by_turn(self.waiting.tenants):
            ready = next((sequence for sequence in self._in_line(tenant) if self._has_adapter(sequence)), None)
            if ready is None or counts[tenant] + 1 >= largest:
                continue
            if not self._has_room(ready):
                self._preempt(self._youngest_of_largest())
            return

    def _youngest_of_largest(self) -> Sequence:
        """The youngest running sequence of the tenant that has the most of them."""
        counts = self._counts()
        largest = max(counts.values())
        due = (sequence for sequence in reversed(self.running) if sequence.priority == self._priority)
        return next(sequence for sequence in due if counts[sequence.salt] == largest)

    def _shares(self, prompts: list[Sequence], budget: int) -> dict[str, int]:
        """How many tokens of its prompts each tenant may have computed: equal parts, and what one does not want goes to
        the others. `prompts`: those that run already."""
        wanted = Counter[str]()
        for sequence in prompts:
            wanted[sequence.salt] += sequence.num_new_tokens
        for sequence in self._in_line():
            wanted[sequence.salt] += sequence.num_tokens
        shares: dict[str, int] = {}
        for number, tenant in enumerate(sorted(wanted, key=lambda tenant: wanted[tenant])):
            part = max(1, budget // (len(wanted) - number))
            shares[tenant] = max(0, min(wanted[tenant], part, budget))
            budget -= shares[tenant]
        return shares

    def _admit(self, lines: dict[str, Iterator[Sequence]], budget: int, shares: dict[str, int]) -> list[Scheduled]:
        """Start waiting sequences, the tenants in turns. One that lacks blocks stops all."""
        started: list[Scheduled] = []
        open_tenants = [tenant for tenant in lines if shares.get(tenant, 0) > 0]
        while open_tenants and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            tenant = self._by_turn(open_tenants)[0]
            sequence = next(lines[tenant], None)
            if sequence is None:
                open_tenants.remove(tenant)
                continue
            run = self._start(sequence, min(budget, shares[tenant]))
            if run is None:
                lines.clear()
                break
            started.append(run)
            budget -= run.num_tokens
            shares[tenant] -= run.num_tokens
            if shares[tenant] <= 0:
                open_tenants.remove(tenant)
        return started

    def _lines(self) -> dict[str, Iterator[Sequence]]:
        """Of each tenant the sequences that may start, in order. One that lacks its adapter is skipped.

        While one has waited too long for a slot, nothing else that pins an adapter is among them.
        """
        starving = next((each for each in self._in_line() if self._is_starving(each)), None)

        def may_start(sequence: Sequence) -> bool:
            is_barred = starving is not None and sequence is not starving and sequence.adapter is not None
            return not is_barred and self._adapter_ready(sequence)

        return {tenant: filter(may_start, self._in_line(tenant)) for tenant in self.waiting.tenants}

    def _by_turn(self, tenants: list[str]) -> list[str]:
        """The fewest running sequences first; of equals, the one whose last start is longest ago."""
        counts = self._counts()
        return sorted(tenants, key=lambda tenant: (counts[tenant], self._last_start.get(tenant, 0)))

    def _has_adapter(self, sequence: Sequence) -> bool:
        return sequence.adapter is None or self.slots.is_ready(sequence.adapter)

    def _adapter_ready(self, sequence: Sequence) -> bool:
        """Whether its weights are here; else they are asked for."""
        if self._has_adapter(sequence):
            return True
        assert sequence.adapter is not None
        if not self.slots.request(sequence.adapter):
            sequence.num_skipped_steps += 1
        return False

    def _is_starving(self, sequence: Sequence) -> bool:
        return sequence.num_skipped_steps > self.limits.max_skipped_steps

    def _start(self, sequence: Sequence, budget: int) -> Scheduled | None:
        """Give a waiting sequence its cached blocks and room for its first tokens. None when there is no room."""
        cached = self.blocks.match(sequence, self._root(sequence))
        num_cached = len(cached) * self.blocks.block_size
        num_tokens = min(sequence.num_tokens - num_cached, budget)
        wanted = self.blocks.blocks_for(num_cached + num_tokens) - len(cached)
        if wanted > self.blocks.num_available - self.blocks.num_idle(cached):
            return None
        self.blocks.share(cached)
        sequence.block_table = cached + self.blocks.allocate(wanted)
        sequence.num_computed_tokens = num_cached
        self._started.append((sequence, sequence.was_admitted))
        if not sequence.was_admitted:
            sequence.was_admitted = True
            sequence.num_cached_tokens = num_cached
        if sequence.adapter is not None:
            self.slots.pin(sequence.adapter)
        sequence.status = SequenceStatus.RUNNING
        sequence.num_skipped_steps = 0
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self._num_started += 1
        self._last_start[sequence.salt] = self._num_started
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

    def undo(self, batch: Batch) -> None:
        """The batch, the last one scheduled, was not computed: go back to before it. What started in it waits again, as
        it may have counted on blocks that others were to fill."""
        for run in batch.prefill:
            sequence = run.sequence
            self.blocks.forget(sequence.block_table[run.start // self.blocks.block_size :])
        for sequence, was_admitted in reversed(self._started):
            self._leave(sequence)
            sequence.status = SequenceStatus.WAITING
            sequence.was_admitted = was_admitted
            self.waiting.put_back(sequence)
        for run in batch.prefill:
            sequence = run.sequence
            filled = self.blocks.blocks_for(sequence.num_computed_tokens)
            self.blocks.release(sequence.block_table[filled:])
            del sequence.block_table[filled:]

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
        self._roots = {key: root for key, root in self._roots.items() if key[0] != adapter}

    def _root(self, sequence: Sequence) -> bytes:
        """Scored prompts, which are computed with other weights than the rest, share blocks among themselves only."""
        key = (sequence.adapter, sequence.salt, sequence.scored_from is not None)
        if key not in self._roots:
            adapter = "" if key[0] is None else f"{next(self._versions)}:{key[0]}"
            self._roots[key] = root_hash(f"scored {adapter}" if key[2] else adapter, sequence.salt)
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

"""Which examples an optimizer step sees, and how they are cut into micro-batches. Needs no torch.

The order is a pure function of (seed, epoch), so a resumed job sees the batches it would have seen.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunery.training.forward.packing import Row, common_length


@dataclass(frozen=True)
class Cursor:
    """A step's place in the job, both from 0."""

    epoch: int
    batch: int


def num_batches(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch; the last batch may be smaller, none is dropped."""
    return -(-num_examples // batch_size)


def cursor_of(step: int, num_examples: int, batch_size: int) -> Cursor:
    """Where the optimizer step with this number (from 0) stands."""
    return Cursor(*divmod(step, num_batches(num_examples, batch_size)))


def batch_indices(cursor: Cursor, num_examples: int, batch_size: int, seed: int) -> list[int]:
    """The examples of one optimizer step."""
    order = list(range(num_examples))
    random.Random(f"{seed}:{cursor.epoch}").shuffle(order)
    return order[cursor.batch * batch_size : (cursor.batch + 1) * batch_size]


def micro_batches(groups: Sequence[Sequence[Row]], max_tokens: int) -> list[list[int]]:
    """Indices of `groups` in micro-batches of at most max_tokens computed tokens.

    A group's rows stay together (the two answers of a preference). Sorted by their tokens, so that what is shared
    stays together too; a group longer than max_tokens gets a micro-batch of its own.
    """
    order = sorted(range(len(groups)), key=lambda index: groups[index][0].token_ids)
    batches: list[list[int]] = []
    size, previous = 0, []
    for index in order:
        added, last = _added_tokens(groups[index], previous)
        if batches and size + added <= max_tokens:
            batches[-1].append(index)
            size += added
        else:
            batches.append([index])
            size, _ = _added_tokens(groups[index], [])
        previous = last
    return batches


def shares(groups: Sequence[Sequence[Row]], number: int) -> list[list[int]]:
    """Indices of `groups` in that many parts, some of which may be empty, with about as many computed tokens in each.

    In the order in which micro-batches are made, so that what is shared stays together here, too.
    """
    order = sorted(range(len(groups)), key=lambda index: groups[index][0].token_ids)
    costs, previous = [], []
    for index in order:
        added, previous = _added_tokens(groups[index], previous)
        costs.append(added)
    parts: list[list[int]] = [[] for _ in range(number)]
    total, before = sum(costs), 0
    for index, cost in zip(order, costs, strict=True):
        parts[(2 * before + cost) * number // (2 * total)].append(index)  # by where the middle of it lies
        before += cost
    return parts


def _added_tokens(rows: Sequence[Row], previous: list[int]) -> tuple[int, list[int]]:
    """Tokens that the rows add to a tree whose last document is `previous`, and the new last document."""
    added = 0
    for row in rows:
        added += len(row.token_ids) - common_length(previous, row.token_ids)
        previous = row.token_ids
    return added, previous

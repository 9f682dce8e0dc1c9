"""Holds back a validation file without leaks: rows that are nearly the same, or ask the same, stay on one side."""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunery.datasets.features import read_features, stable_hash
from tunery.datasets.lines import Line, read_lines
from tunery.datasets.parse import parse_line
from tunery.datasets.similarity import BANDS, ROWS, normalise, signature
from tunery.domain.errors import InvalidRequest
from tunery.texts import say

# Share of equal numbers in two signatures from which rows count as one. Lower than for advice: a leak costs more than
# a row on the wrong side.
_SAME_SHARE = 0.75

Chunks = Callable[[], Iterable[bytes]]
"""Gives the file's bytes from the beginning each time it is called: the file is read twice."""


@dataclass(frozen=True)
class Split:
    num_training: int
    num_validation: int
    num_groups: int  # of rows that had to stay together, single rows not counted


def split_file(chunks: Chunks, training: Path, validation: Path, *, share: float = 0.1, seed: int = 0) -> Split:
    """Write both files, their lines as they were. About `share` of the examples go to validation.

    A line that is no good example goes to training, where validation reports it. Raises InvalidRequest when no group
    is small enough to be held back.
    """
    if not 0 < share < 1:
        raise InvalidRequest(say("error.share_out_of_range", share=share), param="share")
    groups, lines = _groups(chunks())
    chosen = _choose(groups, share, seed)
    held_back = set(lines[np.isin(groups, chosen)].tolist())
    if not held_back:
        raise InvalidRequest(say("error.nothing_to_hold_back"), param="share")
    num_training = 0
    with training.open("wb") as to_training, validation.open("wb") as to_validation:
        for line in _filled(chunks()):
            if line.number in held_back:
                to_validation.write(line.content + b"\n")
            else:
                num_training += 1
                to_training.write(line.content + b"\n")
    sizes = np.bincount(groups)
    return Split(num_training, len(held_back), int((sizes > 1).sum()))


def _filled(chunks: Iterable[bytes]) -> Iterator[Line]:
    return (line for line in read_lines(chunks) if line.content)


def _groups(chunks: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """A group number for each good example, and the examples' lines. 130 bytes of memory an example. Both [N]."""
    lines, inputs, signatures = array("I"), array("Q"), array("I")
    for line in _filled(chunks):
        example = parse_line(line).example
        if example is None:
            continue
        features = read_features(example)
        text = normalise(features.text)
        values = signature(text)
        lines.append(line.number)
        inputs.append(features.input_hash)
        signatures.frombytes((_of_short(text) if values is None else values).tobytes())
    table = np.frombuffer(signatures, dtype=np.uint32).reshape(-1, BANDS * ROWS)
    return _union(table, np.frombuffer(inputs, dtype=np.uint64)), np.frombuffer(lines, dtype=np.uint32)


def _of_short(text: str) -> np.ndarray:
    """A text too short for shingles is like itself only. uint32 [BANDS · ROWS]."""
    return np.random.default_rng(stable_hash(text)).integers(0, 2**32, BANDS * ROWS, dtype=np.uint32)


def _union(signatures: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Join rows with the same input, and rows that share a band and agree in enough of their signatures.

    signatures [N, BANDS · ROWS], inputs [N]; gives each row's group [N].
    """
    parents = list(range(len(inputs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    def join(pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            parents[root(a)] = root(b)

    join(_neighbours(inputs))
    for band in np.split(signatures, BANDS, axis=1):
        keys = np.ascontiguousarray(band).view(np.dtype((np.void, band.itemsize * ROWS))).ravel()
        _, keys = np.unique(keys, return_inverse=True)
        join((a, b) for a, b in _neighbours(keys) if (signatures[a] == signatures[b]).mean() >= _SAME_SHARE)
    _, numbers = np.unique([root(index) for index in range(len(parents))], return_inverse=True)
    return numbers


def _neighbours(keys: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows with the same key, each with the next one that has it. keys [N]."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    same = np.flatnonzero(ranked[1:] == ranked[:-1])
    return zip(order[same].tolist(), order[same + 1].tolist(), strict=True)


def _choose(groups: np.ndarray, share: float, seed: int) -> list[int]:
    """Groups for validation, in an order of the seed's own, as long as they fit. groups [N]: each row's."""
    sizes = np.bincount(groups)
    room = max(1, round(share * len(groups)))
    room = min(room, len(groups) - 1)  # training must keep a row
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    for group in order:
        if sizes[group] <= room:
            chosen.append(group)
            room -= int(sizes[group])
    return chosen

"""All that is known of a file, gathered from its blocks in order. Memory is bounded whatever the file holds."""

import os
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from tunery.chat.examples import Format
from tunery.datasets.examine import BlockFacts, SystemUse
from tunery.datasets.features import Sightings
from tunery.datasets.problems import Problem
from tunery.datasets.similarity import Signed

MAX_PER_CODE = 50  # problems of one code that are listed; all are counted
MAX_LISTED = 1000  # problems that are listed in all
MAX_COMPARED = 1_000_000  # examples that are looked through for duplicates: 20 bytes each
MAX_SYSTEMS = 200
MAX_LENGTH = 131_072  # tokens or messages; a longer example is counted as this long in the histogram
MAX_ANSWERS = 1000


class Lengths:
    """How many examples have each length: exact totals, quantiles and histograms in fixed memory."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, dtype=np.int64)
        self.total = 0

    def add(self, values: array) -> None:
        if not len(values):
            return
        lengths = np.frombuffer(values, dtype=np.uint32)
        self.total += int(lengths.sum(dtype=np.int64))
        counted = np.bincount(np.minimum(lengths, MAX_LENGTH))
        if len(counted) > len(self._counts):
            self._counts = np.pad(self._counts, (0, len(counted) - len(self._counts)))
        self._counts[: len(counted)] += counted

    @property
    def num_values(self) -> int:
        return int(self._counts.sum())

    @property
    def smallest(self) -> int:
        return int(np.argmax(self._counts > 0))

    @property
    def largest(self) -> int:
        return int(len(self._counts) - 1 - np.argmax(self._counts[::-1] > 0))

    def quantile(self, share: float) -> int:
        """The smallest length that at least `share` of the examples do not exceed."""
        return int(np.searchsorted(np.cumsum(self._counts), share * self.num_values))

    def histogram(self, max_bins: int = 12) -> list[tuple[int, int, int]]:
        """(from, to, count) of equal bins, both ends included, with round edges."""
        if not self.num_values:
            return []
        low, high = self.smallest, self.largest
        width = _round_up(-(-(high - low + 1) // max_bins))
        start = low // width * width
        edges = range(start, high + 1, width)
        return [(edge, edge + width - 1, int(self._counts[edge : edge + width].sum())) for edge in edges]


def _round_up(width: int) -> int:
    """To 1, 2 or 5 times a power of ten."""
    power = 10 ** (len(str(width)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width)


@dataclass
class Facts:
    num_bytes: int = 0
    num_lines: int = 0
    num_examples: int = 0  # lines that are not blank, good or bad
    problems: list[Problem] = field(default_factory=list)
    problem_counts: Counter[str] = field(default_factory=Counter)
    formats: dict[Format, list[int]] = field(default_factory=dict)  # count, first line, first example
    tokens: Lengths = field(default_factory=Lengths)
    loss_tokens: Lengths = field(default_factory=Lengths)
    messages: Lengths = field(default_factory=Lengths)
    num_truncated_tokens: int = 0
    longest: list[tuple[int, int]] = field(default_factory=list)  # (tokens before the cut, line)
    lines: array = field(default_factory=lambda: array("I"))  # of the first MAX_COMPARED good examples
    input_hashes: array = field(default_factory=lambda: array("Q"))
    answer_hashes: array = field(default_factory=lambda: array("Q"))
    sightings: dict[str, Sightings] = field(default_factory=dict)
    systems: dict[int, SystemUse] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    sample: list[tuple[int, Signed]] = field(default_factory=list)
    prefix: str | None = None
    _listed: Counter[str] = field(default_factory=Counter, repr=False)

    @property
    def num_good(self) -> int:
        """Examples without an error."""
        return self.messages.num_values

    def report(self, problem: Problem) -> None:
        self.problem_counts[problem.code] += 1
        self._list(problem)

    def forget(self, code: str) -> None:
        del self.problem_counts[code]
        self.problems = [problem for problem in self.problems if problem.code != code]

    def sighted(self, what: str) -> Sightings:
        return self.sightings.get(what, Sightings())

    def add(self, block: BlockFacts) -> None:
        line_offset, example_offset = self.num_lines, self.num_examples
        self.num_bytes += block.size
        self.num_lines += block.num_lines
        self.num_examples += block.num_examples
        self.problem_counts.update(block.problem_counts)
        for problem in block.problems:
            self._list(replace(problem, line=problem.line + line_offset, example=problem.example + example_offset))
        for form, (count, line, example) in block.formats.items():
            self.formats.setdefault(form, [0, line + line_offset, example + example_offset])[0] += count
        self._add_lengths(block, line_offset)
        self._add_texts(block, line_offset)

    def _list(self, problem: Problem) -> None:
        if self._listed[problem.code] < MAX_PER_CODE and len(self.problems) < MAX_LISTED:
            self._listed[problem.code] += 1
            self.problems.append(problem)

    def _add_lengths(self, block: BlockFacts, line_offset: int) -> None:
        self.tokens.add(block.num_tokens)
        self.loss_tokens.add(block.num_loss_tokens)
        self.messages.add(block.num_messages)
        self.num_truncated_tokens += sum(block.truncated)
        whole = [kept + cut for kept, cut in zip(block.num_tokens, block.truncated, strict=True)]
        lines = (line + line_offset for line in block.lines)
        self.longest = sorted([*self.longest, *zip(whole, lines, strict=False)], reverse=True)[:5]
        room = MAX_COMPARED - len(self.lines)
        if room > 0:
            self.lines.extend(line + line_offset for line in block.lines[:room])
            self.input_hashes.extend(block.input_hashes[:room])
            self.answer_hashes.extend(block.answer_hashes[:room])

    def _add_texts(self, block: BlockFacts, line_offset: int) -> None:
        for what, sightings in block.sightings.items():
            self.sightings.setdefault(what, Sightings()).merge(sightings, line_offset)
        for key, use in block.systems.items():
            if key in self.systems or len(self.systems) < MAX_SYSTEMS:
                self.systems.setdefault(key, SystemUse(use.excerpt)).sightings.merge(use.sightings, line_offset)
            else:
                self.sightings.setdefault("more_systems", Sightings()).merge(use.sightings, line_offset)
        for key, answer in block.answers.items():
            if len(self.answers) < MAX_ANSWERS:
                self.answers.setdefault(key, answer)
        self.sample += [(line + line_offset, signed) for line, signed in block.sample]
        if block.prefix is not None:
            self.prefix = block.prefix if self.prefix is None else os.path.commonprefix([self.prefix, block.prefix])

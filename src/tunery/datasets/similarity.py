"""Near-duplicates: MinHash over 8-byte shingles finds candidates, rapidfuzz decides.

A signature costs tens of microseconds a text, so only texts are compared that share one of its bands.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz

BANDS, ROWS = 5, 4  # finds 93 % of pairs that share 80 % of their shingles, 99 % at 90 %
SHINGLE = 8
NEAR_SCORE = 90.0  # of 100, as rapidfuzz's `ratio` counts: about one word in ten differs
MIN_LENGTH = 40  # shorter texts are alike by nature
MAX_LENGTH = 2000  # the beginning of a text is compared
_BUCKET_LOOKS = 5  # rows that share their whole frame fall into one bucket: look at its first few only

_random = np.random.default_rng(8)
_FACTORS = _random.integers(1, 2**63, size=(BANDS * ROWS, 1), dtype=np.uint64) | np.uint64(1)
_SUMMANDS = _random.integers(0, 2**63, size=(BANDS * ROWS, 1), dtype=np.uint64)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Signed:
    """A text with its signature's bands; none for a text too short to compare."""

    text: str
    bands: tuple[bytes, ...]


def sign(text: str) -> Signed:
    text = normalise(text)
    values = signature(text)
    if values is None:
        return Signed(text, ())
    return Signed(text, tuple(bytes([band]) + part.tobytes() for band, part in enumerate(np.split(values, BANDS))))


def normalise(text: str) -> str:
    """What is compared: case and white space do not count, and the beginning stands for the whole."""
    return _SPACE.sub(" ", text[: 2 * MAX_LENGTH].casefold()).strip()[:MAX_LENGTH]


def signature(text: str) -> np.ndarray | None:
    """BANDS × ROWS numbers (uint32); two texts agree in about the share of them that their shingles overlap.

    `text` is normalised. None when it is too short.

    uint32 [BANDS · ROWS].
    """
    if len(text) < MIN_LENGTH:
        return None
    raw = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
    hashes = raw[: len(raw) - SHINGLE + 1].astype(np.uint64)
    for offset in range(1, SHINGLE):
        hashes = hashes * np.uint64(0x100000001B3) + raw[offset : len(raw) - SHINGLE + 1 + offset]
    return ((hashes * _FACTORS + _SUMMANDS) >> np.uint64(32)).min(axis=1).astype(np.uint32)


class NearIndex:
    """Texts by their bands. Holds references to the signed texts it was given."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, list[int]] = defaultdict(list)
        self._texts: list[tuple[int, str]] = []

    def near(self, signed: Signed) -> Iterator[tuple[int, float]]:
        """(key, score) of earlier texts that are nearly this one."""
        looked: set[int] = set()
        for band in signed.bands:
            for position in self._buckets.get(band, ())[:_BUCKET_LOOKS]:
                if position in looked:
                    continue
                looked.add(position)
                key, text = self._texts[position]
                score = fuzz.ratio(signed.text, text, score_cutoff=NEAR_SCORE)
                if score:
                    yield key, score

    def add(self, key: int, signed: Signed) -> None:
        if signed.bands:
            for band in signed.bands:
                bucket = self._buckets[band]
                if len(bucket) < _BUCKET_LOOKS:
                    bucket.append(len(self._texts))
            self._texts.append((key, signed.text))

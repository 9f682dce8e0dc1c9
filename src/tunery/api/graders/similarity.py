"""How alike two texts are, from 0 to 1, by OpenAI's names for the measures. Deterministic and offline. `cosine` is not
here: it asks an embedding model (judge.py).

Most measures compare every word with every other, in Python. So the texts are short, and they are compared in a process
that is ended when it takes too long: neither the server's loop nor its memory is the client's to fill.
"""

import asyncio
import multiprocessing
import os
from collections import Counter
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures import process
from typing import Any

from tunery.datasets.pool import end_with_parent
from tunery.domain.errors import InvalidRequest, ServerFault, Unavailable
from tunery.texts import say

MAX_LENGTH = 20_000  # characters of each text
TIME_LIMIT_S = 10.0
NUM_PROCESSES = 2
MAX_WAITING = 32  # comparisons, those that run included
MAX_WAITING_OF_ONE = 8  # of them those of one project, so that the others find room


class Comparers:
    """A few processes that compare. They start with the first comparison: most servers never need them."""

    def __init__(self, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.time_limit_s = time_limit_s
        self._pool: Any = None
        self._waiting: Counter[str] = Counter()  # of each project

    async def similarity(self, metric: str, text: str, reference: str, *, project_id: str) -> float:
        """`metric` is any of the wire's but cosine.

        Raises InvalidRequest for texts that are too long or take too long, Unavailable when too many wait.
        """
        for name, value in (("input", text), ("reference", reference)):
            check_length(name, value)
        if self._waiting.total() >= MAX_WAITING or self._waiting[project_id] >= MAX_WAITING_OF_ONE:
            raise Unavailable(say("error.too_many_texts"), headers=RETRY)
        self._waiting[project_id] += 1
        try:
            future = self._started().schedule(similarity, args=(metric, text, reference), timeout=self.time_limit_s)
            return await asyncio.wrap_future(future)  # cancelled with the request, which ends the process
        except TookTooLong as exc:
            raise InvalidRequest(
                f"Comparing these texts by {metric} took longer than the limit of {self.time_limit_s:g} seconds. "
                "Compare shorter texts or choose another metric.",
                param="grader",
                code="grader_timeout",
            ) from exc
        except process.BrokenProcessPool as exc:
            raise ServerFault(
                "The process that compared the texts was killed, most likely for want of memory."
            ) from exc
        finally:
            self._waiting[project_id] -= 1
            self._waiting += Counter()  # forgets those that have none

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool

            spawn = multiprocessing.get_context("spawn")  # a fork of a server would copy its threads' locks
            self._pool = ProcessPool(NUM_PROCESSES, initializer=_prepare, initargs=(os.getpid(),), context=spawn)
        return self._pool

    def close(self) -> None:
        """End the processes, also in the midst of their work."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()


RETRY = {"retry-after": "5"}


def check_length(name: str, text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise InvalidRequest(
            f"text_similarity compares texts of at most {MAX_LENGTH:,} characters; '{name}' has {len(text):,} with its "
            "places filled.",
            param=f"grader.{name}",
            code="string_above_max_length",
        )


def _prepare(parent: int) -> None:
    """Once in each process: what the measures import takes a second, which is not the first text's."""
    end_with_parent(parent)
    for metric in ("fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_l"):
        similarity(metric, "a", "a")


def similarity(metric: str, text: str, reference: str) -> float:
    measure = MEASURES.get(metric)
    return measure(text, reference) if measure else _rouge_n(metric, text, reference)


# Each library is imported where it is used: together they take a second, which no other request should pay.


def _fuzzy(text: str, reference: str) -> float:
    from rapidfuzz import fuzz

    return fuzz.WRatio(text, reference) / 100


def _bleu(text: str, reference: str) -> float:
    from sacrebleu import sentence_bleu

    return sentence_bleu(text, [reference]).score / 100


def _gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    words = text.split()
    return float(sentence_gleu([reference.split()], words)) if words else float(not reference.split())


def _meteor(text: str, reference: str) -> float:
    """Exact and stemmed matches. METEOR's third stage, synonyms, needs WordNet, which is not here."""
    from nltk.translate.meteor_score import single_meteor_score

    if not text.split() or not reference.split():
        return float(text.split() == reference.split())
    wordnet: Any = _NoSynonyms()
    return float(single_meteor_score(reference.split(), text.split(), wordnet=wordnet))


class _NoSynonyms:
    def synsets(self, _word: str) -> list:
        return []


def _rouge_n(metric: str, text: str, reference: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    name = metric.replace("_", "")
    return RougeScorer([name], use_stemmer=False).score(reference, text)[name].fmeasure


def _rouge_l(text: str, reference: str) -> float:
    """As RougeScorer's rougeL, whose table of words times words takes 34 s for 4,000 of them."""
    from rapidfuzz.distance import LCSseq
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=False)
    words, wanted = tokenizer.tokenize(text), tokenizer.tokenize(reference)
    common = LCSseq.similarity(words, wanted)
    # 2PR / (P + R) of precision common/words and recall common/wanted.
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


MEASURES = {"fuzzy_match": _fuzzy, "bleu": _bleu, "gleu": _gleu, "meteor": _meteor, "rouge_l": _rouge_l}

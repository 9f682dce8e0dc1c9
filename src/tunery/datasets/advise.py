"""Advice on a data set: each with its evidence and lines, none of it blocking. Order: the gravest first."""

from collections.abc import Callable, Iterator

import numpy as np
from rapidfuzz import fuzz

from tunery.datasets.facts import Facts
from tunery.datasets.features import MAX_EVIDENCE, MAX_SIGHTED_LINES, Sightings
from tunery.datasets.language import Language, language_name
from tunery.datasets.report import Advice, Role
from tunery.datasets.similarity import NearIndex
from tunery.models.catalog import BaseLanguages
from tunery.texts import say

FEW_EXAMPLES = 50
DOMINATING_SHARE = 0.3  # one answer in this share of the examples
DOMINATING_RATIO = 2  # and so many times more often than the next
MIN_DOMINATED = 20  # examples, below which a share says little
UNEVEN_RATIO = 20  # longest to median
ALMOST_EQUAL = 80.0  # two system messages this alike were probably meant to be one


def advise(facts: Facts, role: Role, max_example_tokens: int | None, training: Facts | None = None) -> list[Advice]:
    """`training`: the facts of the job's training file when `facts` are those of its validation file."""
    if not facts.num_good:
        return []
    advisers = _OF_VALIDATION if role == "validation" else _OF_TRAINING
    first = [*_overlap(facts, training)] if training is not None else []
    if facts.sighted("truncated").total:
        first.append(_truncated(facts, max_example_tokens))
    return [*first, *(advice for adviser in advisers for advice in adviser(facts))]


def no_validation_file(num_examples: int) -> Advice:
    """For whoever knows that a job has none."""
    return Advice(
        "no_validation_file",
        say("advice.no_validation_file"),
        say("advice.no_validation_file.mend", count=max(10, num_examples // 10)),
    )


def of_language(language: Language, base: BaseLanguages) -> list[Advice]:
    """For texts in a language that the base was not made for."""
    if language.code is None or not base.own or language.code in base.own:
        return []
    name, cost, usual = language_name(language.code), language.tokens_per_character, language.usual_tokens_per_character
    message = say("advice.base_of_another_language", language=name, base=base.weights)
    evidence = [] if cost is None or usual is None else [say("advice.tokens_a_character", cost=cost, usual=usual)]
    speakers = base.speakers.get(language.code)
    mend = _mend("base_of_another_language")
    if speakers:
        mend = say("advice.base_of_another_language.mend_by_model", models=", ".join(speakers))
    return [Advice("base_of_another_language", message, mend, evidence=list[str](evidence))]


def _from(code: str, sightings: Sightings, message: str) -> Advice:
    return Advice(code, message, _mend(code), sightings.total, sightings.lines, sightings.evidence)


def _mend(code: str) -> str:
    return say(f"advice.{code}.mend")


def _few_examples(facts: Facts) -> Iterator[Advice]:
    if facts.num_good < FEW_EXAMPLES:
        yield Advice(
            "few_examples",
            say("advice.few_examples", count=facts.num_good),
            _mend("few_examples"),
            facts.num_good,
        )


def _instructions(facts: Facts) -> Iterator[Advice]:
    missing = facts.sighted("no_system")
    if missing.total:
        some = say("advice.some_without_system_message", count=missing.total, total=facts.num_good)
        message = say("advice.no_system_message") if missing.total == facts.num_good else some
        yield _from("no_system_message", missing, message)
    if len(facts.systems) < 2:
        return
    uses = sorted(facts.systems.values(), key=lambda use: -use.sightings.total)
    others = Sightings()
    for use in uses[1:]:
        others.merge(use.sightings)
    others.evidence = [f"{use.sightings.total} × {use.excerpt[:100]!r}" for use in uses[:MAX_EVIDENCE]]
    key = "advice.many_system_messages" if facts.sighted("more_systems").total else "advice.several_system_messages"
    yield _from("several_system_messages", others, say(key, count=len(uses)))
    yield from _almost_equal(facts)


def _almost_equal(facts: Facts) -> Iterator[Advice]:
    """Instructions that differ by a few words: a slip more often than a wish."""
    uses = sorted(facts.systems.values(), key=lambda use: -use.sightings.total)[:20]
    sightings = Sightings()
    for index, use in enumerate(uses):
        for other in uses[:index]:
            if fuzz.ratio(use.excerpt, other.excerpt, score_cutoff=ALMOST_EQUAL):
                sightings.merge(use.sightings)
                sightings.evidence.append(say("advice.two_texts", one=other.excerpt[:80], other=use.excerpt[:80]))
                break
    if sightings.total:
        sightings.evidence = sightings.evidence[:MAX_EVIDENCE]
        yield _from("instructions_differ", sightings, say("advice.instructions_differ"))


def _duplicates(facts: Facts) -> Iterator[Advice]:
    inputs, answers, lines = _arrays(facts)
    order = np.lexsort((lines, answers, inputs))
    inputs, answers, lines = inputs[order], answers[order], lines[order]
    doubled = np.sort(lines[1:][(inputs[1:] == inputs[:-1]) & (answers[1:] == answers[:-1])])
    if len(doubled):
        yield Advice(
            "duplicates",
            say("advice.duplicates", count=len(doubled)),
            _mend("duplicates"),
            len(doubled),
            doubled[:MAX_SIGHTED_LINES].tolist(),
        )


def _contradictions(facts: Facts) -> Iterator[Advice]:
    inputs, answers, lines = _arrays(facts)
    order = np.lexsort((lines, inputs))
    inputs, answers, lines = inputs[order], answers[order], lines[order]
    _, starts, group = np.unique(inputs, return_index=True, return_inverse=True)
    first = starts[group]  # for each example, the place of the first one that asks the same
    differs = np.flatnonzero(answers != answers[first])
    differs = differs[np.argsort(lines[differs])]
    if len(differs):
        pairs = [(int(lines[index]), int(lines[first[index]])) for index in differs[:MAX_SIGHTED_LINES]]
        yield Advice(
            "contradictory_answers",
            say("advice.contradictory_answers", count=len(differs)),
            _mend("contradictory_answers"),
            len(differs),
            [line for line, _ in pairs],
            [say("advice.same_question", line=line, other=other) for line, other in pairs[:MAX_EVIDENCE]],
        )


def _arrays(facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the [N] examples: their lines, and hashes of inputs and answers."""
    return (
        np.frombuffer(facts.input_hashes, dtype=np.uint64),
        np.frombuffer(facts.answer_hashes, dtype=np.uint64),
        np.frombuffer(facts.lines, dtype=np.uint32),
    )


def _near_duplicates(facts: Facts) -> Iterator[Advice]:
    index, sightings, known = NearIndex(), Sightings(), set[str]()
    for line, signed in facts.sample:
        if signed.text in known:  # an exact copy has its own advice
            continue
        known.add(signed.text)
        best = max(index.near(signed), key=lambda hit: hit[1], default=None)
        if best is not None:
            sightings.add(line, say("advice.alike", line=line, percent=best[1], other=best[0]))
        index.add(line, signed)
    if sightings.total:
        message = say("advice.near_duplicates", count=sightings.total)
        if len(facts.sample) != facts.num_good:
            message = say("advice.near_duplicates_among", count=sightings.total, looked=len(facts.sample))
        yield _from("near_duplicates", sightings, message)


def _dominating_answer(facts: Facts) -> Iterator[Advice]:
    _, answers, lines = _arrays(facts)
    if len(answers) < MIN_DOMINATED:
        return
    values, counts = np.unique(answers, return_counts=True)
    top = int(np.argmax(counts))
    share = int(counts[top]) / len(answers)
    second = int(np.partition(counts, -2)[-2]) if len(counts) > 1 else 0
    if share < DOMINATING_SHARE or counts[top] < DOMINATING_RATIO * second:  # labels may well be few and balanced
        return
    excerpt = facts.answers.get(int(values[top]), "")
    yield Advice(
        "dominating_answer",
        say("advice.dominating_answer", share=share),
        _mend("dominating_answer"),
        int(counts[top]),
        lines[answers == values[top]][:MAX_SIGHTED_LINES].tolist(),
        [repr(excerpt)] if excerpt else [],
    )


def _lengths(facts: Facts) -> Iterator[Advice]:
    lengths = facts.tokens
    if lengths.num_values < 10:
        return
    median = max(1, lengths.quantile(0.5))
    if lengths.largest > UNEVEN_RATIO * median and facts.longest:
        yield Advice(
            "uneven_lengths",
            say("advice.uneven_lengths", longest=facts.longest[0][0], median=median),
            _mend("uneven_lengths"),
            len(facts.longest),
            [line for _, line in facts.longest],
            [say("advice.length", line=line, tokens=tokens) for tokens, line in facts.longest[:5]],
        )


def _sighted(code: str, what: str) -> Callable[[Facts], Iterator[Advice]]:
    """An adviser on something that was noted line by line."""

    def adviser(facts: Facts) -> Iterator[Advice]:
        sightings = facts.sighted(what)
        if sightings.total:
            yield _from(code, sightings, say(f"advice.{code}", count=sightings.total))

    return adviser


_secrets = _sighted("secrets", "api_key")
_cards = _sighted("card_numbers", "card_number")
_emails = _sighted("personal_data", "email")
_cut_answers = _sighted("answers_look_cut", "cut_answer")


def _truncated(facts: Facts, max_example_tokens: int | None) -> Advice:
    cut = facts.sighted("truncated")
    return _from("truncated_examples", cut, say("advice.truncated_examples", count=cut.total, most=max_example_tokens))


def _overlap(facts: Facts, training: Facts) -> Iterator[Advice]:
    inputs, _, lines = _arrays(facts)
    known = np.frombuffer(training.input_hashes, dtype=np.uint64)
    both = lines[np.isin(inputs, known)]
    if len(both):
        yield Advice(
            "rows_in_both_files",
            say("advice.rows_in_both_files", count=len(both)),
            _mend("rows_in_both_files"),
            len(both),
            both[:MAX_SIGHTED_LINES].tolist(),
        )
    index, sightings = NearIndex(), Sightings()
    for line, signed in training.sample:
        index.add(line, signed)
    exact = set(both.tolist())
    for line, signed in facts.sample:
        best = max(index.near(signed), key=lambda hit: hit[1], default=None)
        if best is not None and line not in exact:
            sightings.add(line, say("advice.alike_in_training", line=line, percent=best[1], other=best[0]))
    if sightings.total:
        message = say("advice.rows_nearly_in_both_files", count=sightings.total)
        yield _from("rows_nearly_in_both_files", sightings, message)


_PRIVATE = (_secrets, _cards, _emails)
_OF_TRAINING: tuple[Callable[[Facts], Iterator[Advice]], ...] = (
    *_PRIVATE,
    _few_examples,
    _instructions,
    _duplicates,
    _contradictions,
    _near_duplicates,
    _dominating_answer,
    _cut_answers,
    _lengths,
)
_OF_VALIDATION: tuple[Callable[[Facts], Iterator[Advice]], ...] = (
    *_PRIVATE,
    _instructions,
    _duplicates,
    _contradictions,
)

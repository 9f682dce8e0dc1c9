"""Advice on a data set: each with its evidence and lines, none of it blocking. Order: the gravest first."""

from collections.abc import Callable, Iterator

import numpy as np
from rapidfuzz import fuzz

from tunery.datasets.facts import Facts
from tunery.datasets.features import MAX_EVIDENCE, MAX_SIGHTED_LINES, Sightings
from tunery.datasets.report import Advice, Role
from tunery.datasets.similarity import NearIndex

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
        "There is no validation file: nothing will show when the model stops learning and starts to memorise.",
        f"Hold back about {max(10, num_examples // 10)} examples: `tunery data split FILE` does it without leaks.",
    )


def _from(code: str, sightings: Sightings, message: str, suggestion: str) -> Advice:
    return Advice(code, message, suggestion, sightings.total, sightings.lines, sightings.evidence)


def _few_examples(facts: Facts) -> Iterator[Advice]:
    if facts.num_good < FEW_EXAMPLES:
        yield Advice(
            "few_examples",
            f"The file has {facts.num_good} examples; a clear gain usually shows from 50 to 100 on.",
            "Start with 50 examples that each show exactly what you want.",
            facts.num_good,
        )


def _instructions(facts: Facts) -> Iterator[Advice]:
    missing = facts.sighted("no_system")
    if missing.total:
        share = "No" if missing.total == facts.num_good else f"{missing.total} of {facts.num_good}"
        yield _from(
            "no_system_message",
            missing,
            f"{share} example{'s have no' if share != 'No' else ' has a'} system message.",
            "Put the instructions that work best into every example, and use the same ones afterwards.",
        )
    if len(facts.systems) < 2:
        return
    uses = sorted(facts.systems.values(), key=lambda use: -use.sightings.total)
    others = Sightings()
    for use in uses[1:]:
        others.merge(use.sightings)
    others.evidence = [f"{use.sightings.total} × {use.excerpt[:100]!r}" for use in uses[:MAX_EVIDENCE]]
    more = "more than " if facts.sighted("more_systems").total else ""
    yield _from(
        "several_system_messages",
        others,
        f"The examples have {more}{len(uses)} different system messages.",
        "Keep one set of instructions for one task, unless you will use all of them.",
    )
    yield from _almost_equal(facts)


def _almost_equal(facts: Facts) -> Iterator[Advice]:
    """Instructions that differ by a few words: a slip more often than a wish."""
    uses = sorted(facts.systems.values(), key=lambda use: -use.sightings.total)[:20]
    sightings = Sightings()
    for index, use in enumerate(uses):
        for other in uses[:index]:
            if fuzz.ratio(use.excerpt, other.excerpt, score_cutoff=ALMOST_EQUAL):
                sightings.merge(use.sightings)
                sightings.evidence.append(f"{other.excerpt[:80]!r} and {use.excerpt[:80]!r}")
                break
    if sightings.total:
        sightings.evidence = sightings.evidence[:MAX_EVIDENCE]
        yield _from(
            "instructions_differ",
            sightings,
            "Some system messages are nearly, but not quite, the same.",
            "Write the same instructions letter for letter: the differences teach nothing and hinder caching.",
        )


def _duplicates(facts: Facts) -> Iterator[Advice]:
    inputs, answers, lines = _arrays(facts)
    order = np.lexsort((lines, answers, inputs))
    inputs, answers, lines = inputs[order], answers[order], lines[order]
    doubled = np.sort(lines[1:][(inputs[1:] == inputs[:-1]) & (answers[1:] == answers[:-1])])
    if len(doubled):
        yield Advice(
            "duplicates",
            f"{len(doubled)} examples stand in the file more than once.",
            "Remove the copies: they count double in training and in the bill.",
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
            f"{len(differs)} examples answer an input differently than another example does.",
            "Decide on one answer, unless variety is what you want to teach.",
            len(differs),
            [line for line, _ in pairs],
            [f"line {line} asks what line {other} asks" for line, other in pairs[:MAX_EVIDENCE]],
        )


def _arrays(facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
            sightings.add(line, f"line {line} is {best[1]:.0f} % line {best[0]}")
        index.add(line, signed)
    if sightings.total:
        looked = "" if len(facts.sample) == facts.num_good else f" among the first {len(facts.sample):,}"
        yield _from(
            "near_duplicates",
            sightings,
            f"{sightings.total} examples{looked} are almost copies of an earlier one.",
            "Keep the best of each group; variety teaches more than repetition.",
        )


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
        f"{share:.0%} of the examples have the same answer.",
        "Balance the answers, or the model may give the frequent one whatever it is asked.",
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
            f"The longest example has {facts.longest[0][0]:,} tokens, the middle one {median:,}.",
            "Look at the longest ones: often something slipped into them that does not belong there.",
            len(facts.longest),
            [line for _, line in facts.longest],
            [f"line {line}: {tokens:,} tokens" for tokens, line in facts.longest[:5]],
        )


def _sighted(code: str, what: str, message: str, suggestion: str) -> Callable[[Facts], Iterator[Advice]]:
    """An adviser on something that was noted line by line; {n} in the message is how often."""

    def adviser(facts: Facts) -> Iterator[Advice]:
        sightings = facts.sighted(what)
        if sightings.total:
            yield _from(code, sightings, message.format(n=sightings.total), suggestion)

    return adviser


_secrets = _sighted(
    "secrets",
    "api_key",
    "{n} texts hold what looks like a real key.",
    "Remove it, and revoke the key: a model can repeat what it was trained on.",
)
_cards = _sighted(
    "card_numbers",
    "card_number",
    "{n} texts hold a number that passes the check of a payment card.",
    "Replace it by a made-up number of the same form.",
)
_emails = _sighted(
    "personal_data",
    "email",
    "{n} e-mail addresses look real.",
    "Replace them by addresses at example.com, unless the model shall know them.",
)
_cut_answers = _sighted(
    "answers_look_cut",
    "cut_answer",
    "{n} answers end in the middle of a sentence.",
    "Complete them: a model trained on cut answers stops in the middle too.",
)


def _truncated(facts: Facts, max_example_tokens: int | None) -> Advice:
    return _from(
        "truncated_examples",
        facts.sighted("truncated"),
        f"{facts.sighted('truncated').total} examples are longer than {max_example_tokens:,} tokens and will be cut "
        "from the end, where the answer stands.",
        "Shorten or split them.",
    )


def _overlap(facts: Facts, training: Facts) -> Iterator[Advice]:
    inputs, _, lines = _arrays(facts)
    known = np.frombuffer(training.input_hashes, dtype=np.uint64)
    both = lines[np.isin(inputs, known)]
    if len(both):
        yield Advice(
            "rows_in_both_files",
            f"{len(both)} examples of the validation file have an input that stands in the training file too.",
            "Remove them from one of the files: they make the model look better than it is.",
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
            sightings.add(line, f"line {line} is {best[1]:.0f} % line {best[0]} of the training file")
    if sightings.total:
        yield _from(
            "rows_nearly_in_both_files",
            sightings,
            f"{sightings.total} examples of the validation file are almost copies of training examples.",
            "`tunery data split` keeps such groups on one side.",
        )


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

"""Validation of a whole file: one pass, constant memory, all cores. The same rules wherever it is asked for."""

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from tunery.chat.render import Renderer
from tunery.datasets.advise import advise, of_language
from tunery.datasets.blocks import read_blocks
from tunery.datasets.encodings import encoding_name, is_binary, wide_encoding
from tunery.datasets.examine import ACCEPTS, BlockFacts, Task
from tunery.datasets.facts import Facts
from tunery.datasets.language import Language, look_at
from tunery.datasets.lines import read_chunks
from tunery.datasets.pool import examine_here, examine_in_pool, num_cores
from tunery.datasets.problems import Problem
from tunery.datasets.report import Advice, Report, Role, TokenCounts, distribution
from tunery.domain.jobs import Method
from tunery.models.catalog import BaseLanguages
from tunery.texts import say

MIN_EXAMPLES: dict[Role, int] = {"training": 10, "validation": 1}
# Texts of the first bytes are kept, to look for near-duplicates among them.
SAMPLE_BYTES = 2 * 1024 * 1024
# Starting processes takes a second: a smaller file is done sooner in this one.
POOL_BYTES = 4 * 1024 * 1024

Progress = Callable[[int], None]
"""Bytes examined so far."""


def validate_file(
    source: Path | Iterable[bytes],
    *,
    method: Method | None = "supervised",
    renderer: Renderer | None = None,
    max_example_tokens: int | None = None,
    languages: BaseLanguages | None = None,
    role: Role = "training",
    against: Report | None = None,
    progress: Progress | None = None,
    num_processes: int | None = None,
) -> Report:
    """Every problem of the file, what it comes to in tokens, and advice. Bad input never raises.

    Without a renderer nothing is counted in tokens. `against` is the report of the training file when this is the
    validation file of the same job: advice then tells of rows that stand in both. `languages`: of the base.
    `num_processes`: None is one a core for large files.
    """
    steps = validation_steps(
        source,
        method=method,
        renderer=renderer,
        max_example_tokens=max_example_tokens,
        languages=languages,
        role=role,
        against=against,
        num_processes=num_processes,
    )
    while True:
        try:
            num_bytes = next(steps)
        except StopIteration as done:
            return done.value
        if progress is not None:
            progress(num_bytes)


def validation_steps(
    source: Path | Iterable[bytes],
    *,
    method: Method | None = "supervised",
    renderer: Renderer | None = None,
    max_example_tokens: int | None = None,
    languages: BaseLanguages | None = None,
    role: Role = "training",
    against: Report | None = None,
    num_processes: int | None = None,
) -> Generator[int, None, Report]:
    """The same, step by step: yields the bytes examined so far and returns the report. May be closed at any step."""
    chunks = read_chunks(source) if isinstance(source, Path) else source
    head, chunks = _peek(chunks)
    facts = Facts()
    if wide := wide_encoding(head):
        encoding = encoding_name(wide)
        facts.report(Problem("wrong_encoding", 0, "", say("problem.wrong_encoding", encoding=encoding), encoding))
    elif is_binary(head):
        facts.report(Problem("binary_file", 0, "", say("problem.binary_file")))
    else:
        completes = renderer is not None and renderer.completes
        task = Task(renderer.model_dir if renderer else None, method, max_example_tokens, completes)
        wanted = num_processes or (num_cores() if len(head) >= POOL_BYTES else 1)
        for block in _examined(chunks, task, renderer, wanted):
            facts.add(block)
            yield facts.num_bytes
        _judge_file(facts, role, method, renderer)
    language = look_at((signed.text for _, signed in facts.sample), renderer, languages)
    advice = advise(facts, role, max_example_tokens, against.facts if against else None)
    if language is not None and languages is not None and role == "training":
        advice = [*of_language(language, languages), *advice]
    return _report(facts, role, method, renderer, max_example_tokens, language, advice)


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, up to POOL_BYTES and a chunk, and all chunks again."""
    iterator = iter(chunks)
    first: list[bytes] = []
    while sum(map(len, first)) < POOL_BYTES and (chunk := next(iterator, None)) is not None:
        first.append(chunk)

    def again() -> Iterator[bytes]:
        while first:
            yield first.pop(0)
        yield from iterator

    return b"".join(first), again()


def _examined(
    chunks: Iterable[bytes], task: Task, renderer: Renderer | None, num_processes: int
) -> Iterator[BlockFacts]:
    blocks = read_blocks(chunks, SAMPLE_BYTES)
    can_share = renderer is None or renderer.model_dir is not None
    if num_processes > 1 and can_share:
        return examine_in_pool(blocks, task, num_processes)
    return examine_here(blocks, task, renderer)


def _judge_file(facts: Facts, role: Role, method: Method | None, renderer: Renderer | None) -> None:
    if facts.num_examples == 0:
        facts.report(Problem("empty_file", 0, "", say("problem.empty_file")))
        return
    accepted = {form: seen for form, seen in facts.formats.items() if method is None or form in ACCEPTS[method]}
    first_of_each = sorted(accepted.items(), key=lambda item: item[1][1])
    for form, (count, line, example) in first_of_each[1:]:
        main = first_of_each[0][0]
        text = say("problem.mixed_formats", main=say(f"form.{main}"), count=count, form=say(f"form.{form}"))
        facts.report(Problem("mixed_formats", line, "", text, form, example))
    if renderer is not None and not renderer.completes and "completion" in accepted:
        count, line, example = accepted["completion"]
        facts.report(Problem("turned_into_chat", line, "", say("problem.turned_into_chat", count=count), "", example))
    if facts.problem_counts["answer_cut"] and not facts.num_good:
        facts.forget("answer_cut")  # the whole file's is the one to read
        facts.report(Problem("nothing_to_train", 0, "", say("problem.nothing_to_train")))
    least = MIN_EXAMPLES[role]
    if facts.num_examples < least:
        text = say(f"problem.too_few_examples_{role}", count=facts.num_examples, least=least)
        facts.report(Problem("too_few_examples", 0, "", text))


def _report(
    facts: Facts,
    role: Role,
    method: Method | None,
    renderer: Renderer | None,
    max_example_tokens: int | None,
    language: Language | None,
    advice: list[Advice],
) -> Report:
    form = max(facts.formats, key=lambda name: facts.formats[name][0], default=None)
    per_character = language.tokens_per_character if language else None
    tokens = _token_counts(facts, renderer, max_example_tokens, per_character) if renderer and facts.num_good else None
    return Report(
        role=role,
        method=method,
        format=form,
        num_bytes=facts.num_bytes,
        num_lines=facts.num_lines,
        num_examples=facts.num_good,
        problems=sorted(facts.problems, key=lambda problem: problem.line),
        problem_counts=facts.problem_counts,
        messages=distribution(facts.messages),
        language=language.code if language else None,
        tokens=tokens,
        longest=facts.longest,
        facts=facts,
        advice=advice,
    )


def _token_counts(
    facts: Facts, renderer: Renderer, max_example_tokens: int | None, per_character: float | None
) -> TokenCounts | None:
    tokens, trained = distribution(facts.tokens), distribution(facts.loss_tokens)
    if tokens is None or trained is None:
        return None
    prefix = len(renderer.encode(facts.prefix or ""))
    if max_example_tokens is not None:
        prefix = min(prefix, max_example_tokens)
    # The last token of the prefix may melt into what follows it, differently in each example.
    prefix = max(0, min(prefix - 1, tokens.min)) if facts.num_good > 1 else 0
    return TokenCounts(
        max_example_tokens=max_example_tokens,
        tokens=tokens,
        trained_tokens=trained,
        num_truncated_examples=facts.sighted("truncated").total,
        num_truncated_tokens=facts.num_truncated_tokens,
        num_prefix_tokens=prefix,
        prefix_share=round(prefix * facts.num_good / tokens.total, 4) if tokens.total else 0.0,
        tokens_per_character=per_character,
    )

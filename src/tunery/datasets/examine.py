"""One block of lines → what is known of it. Runs in several processes at once; everything it returns is small."""

import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tunery.chat.examples import Example, Format, format_of
from tunery.chat.render import Measured, Renderer
from tunery.chat.template import RenderError
from tunery.datasets.blocks import Block
from tunery.datasets.features import Features, Sightings, look_at, read_features, stable_hash
from tunery.datasets.lines import Line, read_lines
from tunery.datasets.parse import parse_line
from tunery.datasets.problems import Findings, Problem
from tunery.datasets.similarity import Signed, sign
from tunery.domain.jobs import Method
from tunery.texts import say

MAX_PER_CODE = 50  # problems of one code that a block hands on; all are counted
MAX_SYSTEMS = 50
MAX_ANSWERS = 8
_SYSTEM_EXCERPT = 300

ACCEPTS: dict[Method, frozenset[Format]] = {
    "supervised": frozenset({"chat", "completion"}),
    "dpo": frozenset({"preference"}),
}


@dataclass(frozen=True)
class Task:
    """What is the same for every block of a file."""

    model_dir: Path | None  # None: no tokenizer, so nothing is counted in tokens
    method: Method | None  # None: any format
    max_example_tokens: int | None
    completes: bool = False  # as the renderer's


@dataclass
class SystemUse:
    """A system message, by its hash, and who uses it."""

    excerpt: str
    sightings: Sightings = field(default_factory=Sightings)


@dataclass
class BlockFacts:
    """Line and example numbers count from the block's beginning."""

    size: int
    num_lines: int = 0
    num_examples: int = 0  # lines that are not blank
    problems: list[Problem] = field(default_factory=list)
    problem_counts: Counter[str] = field(default_factory=Counter)
    formats: dict[Format, list[int]] = field(default_factory=dict)  # count, first line, first example
    lines: array = field(default_factory=lambda: array("I"))  # of the good examples, as all arrays here
    num_tokens: array = field(default_factory=lambda: array("I"))
    num_loss_tokens: array = field(default_factory=lambda: array("I"))
    truncated: array = field(default_factory=lambda: array("I"))
    num_messages: array = field(default_factory=lambda: array("I"))
    input_hashes: array = field(default_factory=lambda: array("Q"))
    answer_hashes: array = field(default_factory=lambda: array("Q"))
    sightings: dict[str, Sightings] = field(default_factory=dict)
    systems: dict[int, SystemUse] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)  # excerpts of a few answers, to name the dominating one
    sample: list[tuple[int, Signed]] = field(default_factory=list)  # (line, text)
    prefix: str | None = None  # what every rendered text begins with; None: no text yet

    def see(self, what: str, line: int, evidence: str = "") -> None:
        self.sightings.setdefault(what, Sightings()).add(line, evidence)

    def report(self, problems: list[Problem]) -> None:
        for problem in problems:
            self.problem_counts[problem.code] += 1
            if self.problem_counts[problem.code] <= MAX_PER_CODE:
                self.problems.append(problem)


def examine(block: Block, task: Task, renderer: Renderer | None) -> BlockFacts:
    facts = BlockFacts(block.size)
    examples: list[tuple[int, Example]] = []
    for line in _lines(block):
        facts.num_lines = line.number
        if line.is_blank:
            continue
        facts.num_examples = line.example
        parsed = parse_line(line)
        facts.report(parsed.problems)
        if parsed.example is not None and _accept(parsed.example, line, task.method, facts):
            examples.append((line.example, parsed.example))
    _measure(examples, task, renderer, facts, keep_sample=block.is_sample)
    return facts


def _lines(block: Block) -> list[Line]:
    return [Line(1, 1, b"", block.oversize, block.joined)] if block.oversize else list(read_lines([block.data]))


def _accept(example: Example, line: Line, method: Method | None, facts: BlockFacts) -> bool:
    form = format_of(example)
    seen = facts.formats.setdefault(form, [0, line.number, line.example])
    seen[0] += 1
    if method is None or form in ACCEPTS[method]:
        return True
    findings = Findings(line.number, line.example)
    text = say("problem.wrong_format", form=say(f"form.{form}"), method=say(f"way.{method}"))
    findings.add("wrong_format", "", text, value=form)
    facts.report(findings.problems)
    return False


def _measure(
    examples: list[tuple[int, Example]], task: Task, renderer: Renderer | None, facts: BlockFacts, *, keep_sample: bool
) -> None:
    rows = [renderer.as_trained(example) if renderer else example for _, example in examples]
    measured = renderer.measure_batch(rows, task.max_example_tokens) if renderer else [None] * len(rows)
    texts: list[str] = []
    for (number, example), counts in zip(examples, measured, strict=True):
        if isinstance(counts, RenderError):
            findings = Findings(example.line, number)
            findings.add("cannot_render", "", counts.message)
            facts.report(findings.problems)
            continue
        if counts is not None and counts.truncated and not counts.num_loss_tokens:
            findings = Findings(example.line, number)
            findings.add("answer_cut", "", say("problem.answer_cut", most=task.max_example_tokens))
            facts.report(findings.problems)
            continue
        if counts is not None:
            texts.append(counts.text)
        features = read_features(example)
        _count(example, features, counts, facts)
        if keep_sample:
            facts.sample.append((example.line, sign(features.text)))
    if texts:
        facts.prefix = os.path.commonprefix([min(texts), max(texts)])


def _count(example: Example, features: Features, counts: Measured | None, facts: BlockFacts) -> None:
    facts.lines.append(example.line)
    facts.input_hashes.append(features.input_hash)
    facts.answer_hashes.append(features.answer_hash)
    facts.num_messages.append(features.num_messages)
    if len(facts.answers) < MAX_ANSWERS:
        facts.answers.setdefault(features.answer_hash, features.answer)
    if counts is not None:
        facts.num_tokens.append(counts.num_tokens)
        facts.num_loss_tokens.append(counts.num_loss_tokens)
        facts.truncated.append(counts.truncated)
        if counts.truncated:
            facts.see("truncated", example.line, f"{counts.truncated} tokens cut")
    for what, evidence in look_at(example):
        facts.see(what, example.line, evidence)
    if features.system is None:
        facts.see("no_system", example.line)
    elif features.system:
        _note_system(features.system, example.line, facts)


def _note_system(system: str, line: int, facts: BlockFacts) -> None:
    key = stable_hash(system)
    use = facts.systems.get(key)
    if use is None:
        if len(facts.systems) >= MAX_SYSTEMS:
            facts.see("more_systems", line)
            return
        use = facts.systems[key] = SystemUse(system[:_SYSTEM_EXCERPT])
    use.sightings.add(line)

"""What advice needs to know of one example: its input and answer as hashes, its instructions, what looks wrong."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunery.chat.examples import ChatExample, CompletionExample, Example, Message, PreferenceExample
from tunery.chat.messages import text_of
from tunery.datasets.secrets import find_secrets

MAX_SIGHTED_LINES = 20
MAX_EVIDENCE = 5
_EXCERPT = 80
_CUT_MIN_LENGTH = 200  # a short answer may well be a word without a full stop


@dataclass
class Sightings:
    """How often something was seen, the first lines and a few words of evidence."""

    total: int = 0
    lines: list[int] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)

    def add(self, line: int, evidence: str = "") -> None:
        self.total += 1
        if len(self.lines) < MAX_SIGHTED_LINES:
            self.lines.append(line)
        if evidence and len(self.evidence) < MAX_EVIDENCE and evidence not in self.evidence:
            self.evidence.append(evidence)

    def merge(self, other: "Sightings", line_offset: int = 0) -> None:
        self.total += other.total
        room = MAX_SIGHTED_LINES - len(self.lines)
        self.lines += [line + line_offset for line in other.lines[: max(0, room)]]
        for evidence in other.evidence:
            if len(self.evidence) < MAX_EVIDENCE and evidence not in self.evidence:
                self.evidence.append(evidence)


@dataclass(frozen=True, slots=True)
class Features:
    input_hash: int  # 64 bits, the same in every process
    answer_hash: int
    text: str  # the example without its instructions: what near-duplicates are looked for in
    answer: str  # its beginning, to name it
    system: str | None  # None: no system message
    num_messages: int


def read_features(example: Example) -> Features:
    match example:
        case ChatExample(messages=messages):
            return _features(messages[:-1], messages[-1])
        case PreferenceExample(messages=messages, preferred=preferred):
            return _features(messages, preferred, extra=1)
        case CompletionExample(prompt=prompt, completion=completion):
            text = f"{prompt}\n{completion}"
            return Features(stable_hash(prompt), stable_hash(completion), text, completion[:_EXCERPT], "", 2)


def _features(before: list[Message], answer: Message, extra: int = 0) -> Features:
    system = next((text_of(m) for m in before if m["role"] in ("system", "developer")), None)
    asked = [f"{m['role']}\x1f{_text_of(m)}" for m in before]
    answered = _text_of(answer)
    spoken = [_text_of(m) for m in before if m["role"] not in ("system", "developer")]
    return Features(
        stable_hash("\x1e".join(asked)),
        stable_hash(answered),
        "\n".join([*spoken, answered]),
        answered[:_EXCERPT],
        system,
        len(before) + 1 + extra,
    )


def _text_of(message: Message) -> str:
    text = text_of(message)
    calls = message.get("tool_calls")
    return text + json.dumps([call["function"] for call in calls], sort_keys=True) if calls else text


def stable_hash(text: str) -> int:
    """64 bits that do not depend on the process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def look_at(example: Example) -> Iterator[tuple[str, str]]:
    """(what, evidence) of things in this one example that its owner should see."""
    yield from find_secrets("\n".join(_texts(example)))
    answer = example.completion if isinstance(example, CompletionExample) else _last_answer(example)
    if looks_cut(answer):
        yield "cut_answer", f"…{answer[-40:]!r}"


def _last_answer(example: ChatExample | PreferenceExample) -> str:
    return text_of(example.messages[-1] if isinstance(example, ChatExample) else example.preferred)


def looks_cut(answer: str) -> bool:
    """Long, and it ends inside a sentence: with a comma or a word, where the text before has full stops."""
    if len(answer) < _CUT_MIN_LENGTH:
        return False
    last = answer[-1]
    return (last in ",;:(-" or last.islower()) and answer.count(". ") + answer.count(".\n") >= 2


def _texts(example: Example) -> Iterator[str]:
    if isinstance(example, CompletionExample):
        yield example.prompt
        yield example.completion
        return
    for message in example.messages:
        yield text_of(message)
    if isinstance(example, PreferenceExample):
        yield text_of(example.preferred)
        yield text_of(example.non_preferred)

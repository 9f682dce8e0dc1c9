"""Rows of any training format as conversations: what a model is asked, and what the row answers. The one reader for
whoever asks models the questions of a file: comparisons, few-shot prompts, a move from another account.

Lines end at a line feed alone, as JSON Lines do: U+2028, U+2029 and U+0085 are text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tunery.chat.examples import ChatExample, Example, Message, PreferenceExample, Tool
from tunery.chat.messages import text_of
from tunery.datasets.lines import read_lines
from tunery.datasets.parse import readable_example
from tunery.datasets.problems import Problem


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` and `tools` are as a request for a chat completion takes them: no `weight`, no null, calls and their
    results in the form of `tools` whatever the row's own."""

    line: int  # 1-based
    messages: list[Message]
    answer: Message | None  # the assistant's, of a preference pair the better one; None: the row ends with a question
    tools: list[Tool] | None

    @property
    def answer_text(self) -> str | None:
        """None when there is no answer, or one that calls tools and says nothing."""
        if self.answer is None:
            return None
        return text_of(self.answer) or (None if self.answer.get("tool_calls") else "")

    @property
    def item(self) -> dict[str, Any]:
        """As a row of an eval: `input` is what is asked, `expected` the answer, where it is a text."""
        answer = self.answer_text
        return {"input": self.messages, **({} if answer is None else {"expected": answer})}


def read_conversations(chunks: Iterable[bytes]) -> Iterator[Conversation | Problem]:
    """One item for each line that is not blank, in order: a conversation, or the first error that stands against
    reading the line as one. What only keeps a row from being trained on is no error here: keys of the owner's own, no
    answer, an answer of weight 0."""
    for line in read_lines(chunks):
        if not line.is_blank:
            example = readable_example(line)
            yield example if isinstance(example, Problem) else as_conversation(example)


def as_conversation(example: Example) -> Conversation:
    match example:
        case ChatExample(line=line, messages=messages, tools=tools):
            asked = _as_requested(messages)
            answer = asked.pop() if asked and asked[-1]["role"] == "assistant" else None
            return Conversation(line, asked, answer, tools)
        case PreferenceExample(line=line, messages=messages, preferred=preferred, tools=tools):
            *asked, answer = _as_requested([*messages, preferred])
            return Conversation(line, asked, answer, tools)
    return as_conversation(example.as_chat())


def _as_requested(messages: list[Message]) -> list[Message]:
    """Results of legacy functions become those of the call before them."""
    asked: list[Message] = []
    call_id = ""
    for message in messages:
        turn = {key: value for key, value in message.items() if key != "weight"}
        if calls := turn.get("tool_calls"):
            call_id = calls[-1]["id"]
        if turn["role"] == "function":
            turn = {"role": "tool", "tool_call_id": call_id, "content": turn["content"]}
        asked.append(turn)
    return asked

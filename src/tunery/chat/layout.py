"""Where in a rendered conversation the assistant speaks: the spans that are trained.

A span starts behind the generation prompt (serving writes that itself) and ends with the end-of-turn token (the model
must learn to stop). It never holds the white space that a template puts behind that token.
"""

from dataclasses import dataclass

from tunery.chat.examples import Message, Tool
from tunery.chat.template import ChatTemplate, RenderError
from tunery.texts import say


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of the text."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Layout:
    text: str
    spans: tuple[Span, ...]  # one for each assistant message, in order
    quoted: tuple[tuple[int, int], ...] = ()  # where a control token is text, as marks tells


def lay_out(
    template: ChatTemplate,
    messages: list[Message],
    tools: list[Tool] | None,
    weights: list[float],
    *,
    generation_prompt: str,
    end_of_turn: str,
    ending: str = "",
) -> Layout:
    """Render and find the assistant's spans. `messages` are prepared; `weights` has one for each assistant message;
    `ending`: what the template writes behind a conversation that is not to be answered.

    Raises RenderError when the template rewrites earlier turns, so that they cannot be found again.
    """
    text = template.render(messages, tools)
    spans = find_spans(text, messages, generation_prompt, end_of_turn)
    if spans is None:
        known = {"generation_prompt": generation_prompt, "end_of_turn": end_of_turn, "ending": ending}
        spans = replay_spans(template, text, messages, tools, **known)
    return Layout(text, tuple(Span(start, end, weight) for (start, end), weight in zip(spans, weights, strict=True)))


def find_spans(
    text: str, messages: list[Message], generation_prompt: str, end_of_turn: str
) -> list[tuple[int, int]] | None:
    """Look for each answer between its generation prompt and its end-of-turn token.

    None unless every answer stands there literally, and the text has no other generation prompt: then the quick
    look proves nothing.
    """
    if not generation_prompt or not end_of_turn:
        return None
    spans: list[tuple[int, int]] = []
    position = 0
    for message in messages:
        if message["role"] != "assistant":
            continue
        found = text.find(generation_prompt, position)
        start = found + len(generation_prompt)
        closed = start + len(message["content"])
        if found < 0 or not text.startswith(message["content"] + end_of_turn, start):
            return None
        position = closed + len(end_of_turn)
        spans.append((start, position))
    return spans if text.count(generation_prompt) == len(spans) else None


def replay_spans(
    template: ChatTemplate,
    text: str,
    messages: list[Message],
    tools: list[Tool] | None,
    *,
    generation_prompt: str,
    end_of_turn: str,
    ending: str,
) -> list[tuple[int, int]]:
    """Render the conversation as it was before and after each answer: slower, true for any template."""
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        after = template.render(messages[: index + 1], tools).removesuffix(ending)
        if index:
            before = template.render(messages[:index], tools, add_generation_prompt=True)
            start, answer = _find_answer(text, before, after, template.no_thought)
        else:  # an empty conversation renders to nothing, not even to a default system message
            found = after.find(generation_prompt)
            start = found + len(generation_prompt) if found >= 0 and text.startswith(after) else -1
            answer = after[start:]
        if start < 0:
            raise RenderError(
                say("error.template_rewrites_turns", index=index + 1),
                param="messages",
            )
        spans.append((start, start + _end_of(answer, end_of_turn)))
    return spans


def _find_answer(text: str, before: str, after: str, no_thought: str) -> tuple[int, str]:
    """Where an answer begins in the whole text, and what it is, with all that follows it in its turn; -1: not found.

    A model that can think is asked with an empty thought, `no_thought`. Its template leaves that out of turns that lie
    back, and has a real one in its place where the answer holds it: then the thought is trained, too.
    """
    if text.startswith(after) and after.startswith(before):
        return len(before), after[len(before) :]
    opened = before.removesuffix(no_thought)
    answer = after[len(before) :] if after.startswith(before) else after[len(opened) :]
    is_found = after.startswith(opened) and text.startswith(opened + answer)
    return (len(opened), answer) if is_found else (-1, "")


def _end_of(answer: str, end_of_turn: str) -> int:
    """Behind the last end-of-turn token where only white space follows it; else the end of the text."""
    closing = answer.rfind(end_of_turn) if end_of_turn else -1
    if closing >= 0 and not answer[closing + len(end_of_turn) :].strip():
        return closing + len(end_of_turn)
    return len(answer)

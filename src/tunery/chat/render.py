"""Example → token ids and loss weights. The one renderer of checking, training and serving.

The whole text is rendered by the base's chat template and tokenized at once, as transformers' apply_chat_template
does, so a model is trained on exactly the ids that it is served with; but for control tokens that somebody spelt in a
text, which stay text (marks). The trained part is found in the text (layout) and carried over to tokens by the
tokenizer's offsets.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os.path import commonprefix
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tunery.chat.examples import ChatExample, CompletionExample, Example, Message, PreferenceExample, Tool
from tunery.chat.layout import Layout, Span, lay_out
from tunery.chat.marks import Encoded, Marks, Settled
from tunery.chat.messages import plain
from tunery.chat.template import ChatTemplate, RenderError, load_template
from tunery.chat.tools import CALL_OPEN, FORM, read_arguments, with_tools
from tunery.texts import say

_ROLES = frozenset(("system", "user", "assistant", "tool"))
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Rendered:
    """One row for the trainer."""

    token_ids: list[int]
    loss_weights: list[float]  # per token: the weight of predicting this token; 0.0 for all that is not trained
    truncated: int = 0  # tokens that were cut from the end


@dataclass(frozen=True)
class RenderedPair:
    """A preference example: both answers share `prompt_ids`; every token of an answer is trained."""

    prompt_ids: list[int]
    preferred_ids: list[int]
    non_preferred_ids: list[int]
    truncated: int = 0


@dataclass(frozen=True)
class Measured:
    """What an example comes to in tokens, without building its lists."""

    num_tokens: int  # after truncation: what an epoch is billed for
    num_loss_tokens: int  # tokens with a loss weight above 0, after truncation
    truncated: int
    text: str  # as rendered; of a preference example, its prompt


class Renderer:
    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        special_tokens: dict[str, str],
        eos_ids: frozenset[int],
        model_dir: Path | None = None,
        completes: bool = False,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.template = template
        self.special_tokens = special_tokens  # by their name in tokenizer_config.json: eos_token → text
        self.eos_ids = eos_ids  # any of these ends an answer
        self.completes = completes  # the model is asked for completions of raw text, not in chats
        self.model_dir = model_dir  # where another process can read the same renderer

    @classmethod
    def from_dir(cls, model_dir: Path, *, completes: bool = False) -> "Renderer":
        """Read tokenizer.json, tokenizer_config.json, generation_config.json and the template of a model directory."""
        config = json.loads((model_dir / "tokenizer_config.json").read_text("utf-8"))
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        special = {name: _token_text(config[name]) for name in _SPECIAL_NAMES if config.get(name)}
        template = ChatTemplate(load_template(model_dir, config), special)
        eos_ids = frozenset(_eos_ids(model_dir, tokenizer, special))
        return cls(
            tokenizer, template, special_tokens=special, eos_ids=eos_ids, model_dir=model_dir, completes=completes
        )

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template itself writes tools, in the form that `tools.parse_calls` reads."""
        return CALL_OPEN in self.template.source

    def as_trained(self, example: Example) -> Example:
        """A prompt with its completion becomes a turn of a chat for a model that is asked in chats: trained on raw
        text, it would learn nothing of what it is asked then."""
        return example.as_chat() if isinstance(example, CompletionExample) and not self.completes else example

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Special tokens that steer the conversation."""
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        steering = set(self.special_tokens.values())
        return tuple(text for text in added if text in steering or text in self.template.source)

    @cached_property
    def marks(self) -> Marks:
        """What is a control token when the template writes it, and text when anybody else does."""
        return Marks(self.tokenizer, self.template.source + FORM, self._spoken())

    def _spoken(self) -> str:
        """A plain conversation, in which marks that the template puts together stand whole."""
        turns = [{"role": role, "content": "."} for role in ("system", "user", "assistant")]
        for messages in (turns, turns[1:], turns[1:2]):  # some templates refuse a system message
            try:
                return self.template.render(messages)
            except RenderError:
                continue
        return ""

    @cached_property
    def _tails(self) -> tuple[str, str]:
        """What the template writes behind a conversation: the generation prompt, and an end where none is asked for
        (Phi's writes one, most write nothing)."""
        asked = [{"role": "user", "content": "."}]
        whole, prompt = self.template.render(asked), self.template.render(asked, add_generation_prompt=True)
        same = len(commonprefix((whole, prompt)))
        for token in self.control_tokens if same < len(whole) else ():  # two may begin alike: "<|"
            start = prompt.find(token, max(0, same - len(token) + 1))
            same = start if 0 <= start < same else same
        return prompt[same:], whole[same:]

    def prepare(self, messages: list[Message], tools: list[Tool] | None) -> tuple[list[Message], list[Tool] | None]:
        """Messages and tools as the template receives them, guarded. Raises RenderError when a message lacks a part."""
        try:
            guarded = [self._guarded(message) for message in plain(messages)]
            known = self.marks.guard_all(tools) if tools else None
            return (guarded, known) if self.knows_tools else (with_tools(guarded, known), None)
        except (KeyError, TypeError, AttributeError) as exc:
            raise RenderError(say("error.message_form", reason=exc), param="messages") from exc

    def _guarded(self, message: Message) -> Message:
        """Arguments become objects, which templates that know tools expect where OpenAI has JSON text."""
        marks, role = self.marks, message["role"]
        guarded = {
            **message,
            "role": role if role in _ROLES else marks.guard(role),
            "content": marks.guard(message["content"], answer=role == "assistant"),
        }
        if "tool_calls" in message:
            guarded["tool_calls"] = [marks.guard_all(_with_parsed_arguments(call)) for call in message["tool_calls"]]
        if "tool_call_id" in message:
            guarded["tool_call_id"] = marks.guard_all(message["tool_call_id"])
        return guarded

    def _render(self, messages: list[Message], tools: list[Tool] | None, *, add_generation_prompt: bool) -> Settled:
        prepared, known = self.prepare(messages, tools)
        return self.marks.settle(self.template.render(prepared, known, add_generation_prompt=add_generation_prompt))

    def render_chat(
        self, messages: list[Message], tools: list[Tool] | None = None, *, add_generation_prompt: bool = False
    ) -> str:
        """The text to look at. It does not tell which of its marks are the template's: `prompt_ids` does."""
        return self._render(messages, tools, add_generation_prompt=add_generation_prompt).text

    def prompt_ids(
        self, messages: list[Message], tools: list[Tool] | None = None, *, add_generation_prompt: bool = True
    ) -> list[int]:
        """What the engine prefills for a chat request."""
        return self._encode([self._render(messages, tools, add_generation_prompt=add_generation_prompt)])[0].ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a raw text, in which control tokens mean what they spell; nothing is put before or behind it.
        Raises RenderError for a lone surrogate."""
        return self._encode([Settled(text)])[0].ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def length_within(self, layout: Layout, max_tokens: int | None) -> int:
        """How many characters of the layout's text its first `max_tokens` tokens hold."""
        encoded = self._encode_layouts([layout])[0]
        if max_tokens is None or len(encoded.ids) <= max_tokens:
            return len(layout.text)
        begin = encoded.begin_of(max_tokens)
        return len(layout.text) if begin is None else begin

    def layout(self, example: ChatExample | CompletionExample) -> Layout:
        """The text of an example with its trained spans."""
        if isinstance(example, CompletionExample):
            text = example.prompt + example.completion + self.special_tokens.get("eos_token", "")
            return Layout(text, (Span(len(example.prompt), len(text), 1.0),))
        prepared, tools = self.prepare(example.messages, example.tools)
        weights = [float(m.get("weight", 1)) for m in example.messages if m["role"] == "assistant"]
        guarded = lay_out(
            self.template,
            prepared,
            tools,
            weights,
            generation_prompt=self._tails[0],
            end_of_turn=self.end_of_turn,
            ending=self._tails[1],
        )
        settled = self.marks.settle(guarded.text)
        spans = (Span(settled.position(each.start), settled.position(each.end), each.weight) for each in guarded.spans)
        return Layout(settled.text, tuple(spans), settled.quoted)

    @cached_property
    def end_of_turn(self) -> str:
        """The special token that closes an assistant message in this template; "" when there is none."""
        spoken = [{"role": "user", "content": "."}, {"role": "assistant", "content": "."}]
        tail = self.template.render(spoken)
        closing = [token for token in self.control_tokens if token in tail[tail.rfind(".") :]]
        return min(closing, key=lambda token: tail.find(token, tail.rfind(".")), default="")

    def pair_texts(self, example: PreferenceExample) -> tuple[Settled, Settled, Settled]:
        """The prompt, and the prompt followed by each answer up to its end-of-turn token."""
        prompt = self._render(example.messages, example.tools, add_generation_prompt=True)
        answers = []
        for answer in (example.preferred, example.non_preferred):
            chat = ChatExample(
                example.line, [*[{**m, "weight": 0} for m in example.messages], answer], tools=example.tools
            )
            layout = self.layout(chat)
            answers.append(Settled(layout.text, layout.quoted).cut(0, layout.spans[-1].end))
        return prompt, answers[0], answers[1]

    def render(self, example: ChatExample | CompletionExample, max_tokens: int | None = None) -> Rendered:
        """Longer than `max_tokens` is cut from the end, as OpenAI does. None: never."""
        return self.render_batch([example], max_tokens)[0]

    def render_batch(
        self, examples: Sequence[ChatExample | CompletionExample], max_tokens: int | None = None
    ) -> list[Rendered]:
        layouts = [self.layout(example) for example in examples]
        encodings = self._encode_layouts(layouts)
        return [_rendered(layout, enc, max_tokens) for layout, enc in zip(layouts, encodings, strict=True)]

    def render_pair(self, example: PreferenceExample, max_tokens: int | None = None) -> RenderedPair:
        """The limit holds for the prompt with each answer; a prompt beyond it leaves both answers empty, as does
        a cut that makes them equal."""
        prompt, preferred, non_preferred = self.pair_texts(example)
        encodings = self._encode([prompt, preferred, non_preferred])
        prompt_ids = encodings[0].ids
        answers = [
            self._answer_ids(prompt, prompt_ids, text, encoding.ids)
            for text, encoding in ((preferred, encodings[1]), (non_preferred, encodings[2]))
        ]
        total = len(prompt_ids) + sum(len(ids) for ids in answers)
        if max_tokens is not None:
            prompt_ids = prompt_ids[:max_tokens]
            cut = [ids[: max_tokens - len(prompt_ids)] for ids in answers]
            # Where what tells the answers apart is cut off, there is nothing to prefer.
            answers = [[], []] if cut[0] == cut[1] and cut != answers else cut
        kept = len(prompt_ids) + sum(len(ids) for ids in answers)
        return RenderedPair(prompt_ids, answers[0], answers[1], truncated=total - kept)

    def measure_batch(self, examples: Sequence[Example], max_tokens: int | None = None) -> list[Measured | RenderError]:
        """Token counts of many examples, equal to the lengths that `render` gives; the error of one that has none."""
        laid_out = [self._try_layout(example) for example in examples]
        encodings = iter(self._encode_layouts([layout for layout in laid_out if isinstance(layout, Layout)]))
        measured: list[Measured | RenderError] = []
        for example, layout in zip(examples, laid_out, strict=True):
            if isinstance(example, PreferenceExample):
                measured.append(self._measure_pair(example, max_tokens))
            elif isinstance(layout, Layout):
                measured.append(_measured(layout, next(encodings), max_tokens))
            elif layout is not None:
                measured.append(layout)
        return measured

    def _try_layout(self, example: Example) -> Layout | RenderError | None:
        if isinstance(example, PreferenceExample):
            return None
        try:
            return self.layout(example)
        except RenderError as exc:
            return exc

    def _measure_pair(self, example: PreferenceExample, max_tokens: int | None) -> Measured | RenderError:
        try:
            pair = self.render_pair(example, max_tokens)
        except RenderError as exc:
            return exc
        trained = len(pair.preferred_ids) + len(pair.non_preferred_ids)
        prompt = self.render_chat(example.messages, example.tools, add_generation_prompt=True)
        return Measured(len(pair.prompt_ids) + trained, trained, pair.truncated, prompt)

    def _answer_ids(self, prompt: Settled, prompt_ids: list[int], whole: Settled, ids: list[int]) -> list[int]:
        """An answer that begins with white space may melt into the prompt's last token: then it stands alone."""
        if ids[: len(prompt_ids)] == prompt_ids:
            return ids[len(prompt_ids) :]
        return self._encode([whole.cut(len(prompt.text), len(whole.text))])[0].ids

    def _encode_layouts(self, layouts: list[Layout]) -> list[Encoded]:
        return self._encode([Settled(layout.text, layout.quoted) for layout in layouts])

    def _encode(self, texts: list[Settled]) -> list[Encoded]:
        try:
            return self.marks.encode(texts)
        except (UnicodeEncodeError, TypeError) as exc:
            raise RenderError(say("error.lone_surrogate"), param="messages") from exc


@lru_cache(maxsize=4)
def renderer_of(model_dir: Path, completes: bool = False) -> Renderer:
    """The latest of a process are kept: to read a tokenizer takes a while."""
    return Renderer.from_dir(model_dir, completes=completes)


def _rendered(layout: Layout, encoded: Encoded, max_tokens: int | None) -> Rendered:
    ids = encoded.ids
    weights = [0.0] * len(ids)
    for span in layout.spans:
        first, last = _token_range(encoded, span)
        weights[first:last] = [span.weight] * (last - first)
    kept = len(ids) if max_tokens is None else min(len(ids), max_tokens)
    return Rendered(ids[:kept], weights[:kept], truncated=len(ids) - kept)


def _measured(layout: Layout, encoded: Encoded, max_tokens: int | None) -> Measured:
    total = len(encoded.encoding)
    kept = total if max_tokens is None else min(total, max_tokens)
    trained = 0
    for span in layout.spans:
        if span.weight:
            first, last = _token_range(encoded, span)
            trained += max(0, min(last, kept) - min(first, kept))
    return Measured(kept, trained, total - kept, layout.text)


def _token_range(encoded: Encoded, span: Span) -> tuple[int, int]:
    """Tokens that hold at least one character of the span. Asking for two positions is cheaper than all offsets."""
    encoding, start, end = encoded.encoding, encoded.position(span.start), encoded.position(span.end)
    if start == end:
        return 0, 0
    first = encoding.char_to_token(start)
    last = encoding.char_to_token(end - 1)
    if first is None or last is None:  # the tokenizer dropped a character: look at every token
        held = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start]
        return (held[0], held[-1] + 1) if held else (0, 0)
    size = len(encoding)
    while last < size:  # one character may be spread over several tokens
        begins_at = encoding.token_to_chars(last)
        if begins_at is not None and begins_at[0] >= end:
            break
        last += 1
    return first, last


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": read_arguments(function["arguments"])}}


def _token_text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _eos_ids(model_dir: Path, tokenizer: Tokenizer, special: dict[str, str]) -> set[int]:
    ids: set[int] = set()
    file = model_dir / "generation_config.json"
    if file.exists():
        listed = json.loads(file.read_text("utf-8")).get("eos_token_id")
        ids.update([listed] if isinstance(listed, int) else listed or [])
    eos = tokenizer.token_to_id(special.get("eos_token", ""))
    return ids if eos is None else ids | {eos}

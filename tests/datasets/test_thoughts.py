"""A template that lets its model think first: trained and asked without a thought, unless the data has one."""

from pathlib import Path
from typing import Any

import pytest

from tests.datasets.test_render import say, trained_text
from tunery.chat.examples import ChatExample
from tunery.chat.render import Renderer
from tunery.chat.template import ChatTemplate

SOURCE = (Path(__file__).parent / "qwen3.jinja").read_text("utf-8")
EMPTY = "<think>\n\n</think>\n\n"
TURNS = [say("system", "Be brief."), say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")]


@pytest.fixture(scope="module")
def thinking(renderer: Renderer) -> Renderer:
    special = renderer.special_tokens
    return Renderer(renderer.tokenizer, ChatTemplate(SOURCE, special), special_tokens=special, eos_ids=renderer.eos_ids)


def test_a_model_is_asked_and_trained_with_an_empty_thought(thinking: Renderer, base_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    official: Any = AutoTokenizer.from_pretrained(base_model_dir)
    for messages, ask in ((TURNS[:2], True), (TURNS[:4], True), (TURNS, False)):
        how = {"chat_template": SOURCE, "tokenize": False, "add_generation_prompt": ask, "enable_thinking": False}
        text = thinking.render_chat(messages, add_generation_prompt=ask)
        assert text == official.apply_chat_template(messages, **how)
        assert text.endswith(EMPTY if ask else f"{EMPTY}d<|im_end|>\n")
    assert thinking.template.no_thought == EMPTY
    assert thinking.end_of_turn == "<|im_end|>"


def test_every_answer_of_a_conversation_is_trained(thinking: Renderer) -> None:
    """The template leaves the empty thought out of turns that lie back."""
    assert trained_text(thinking, ChatExample(1, TURNS)) == ["b<|im_end|>", "d<|im_end|>"]
    layout = thinking.layout(ChatExample(1, TURNS))
    assert layout.text[layout.spans[1].start - len(EMPTY) : layout.spans[1].start] == EMPTY


def test_a_thought_in_the_data_is_trained(thinking: Renderer) -> None:
    thought = "<think>\nFirst a, then b.\n</think>\n\nIt is b."
    turns = [say("user", "a"), say("assistant", thought)]
    assert trained_text(thinking, ChatExample(1, turns)) == [f"{thought}<|im_end|>"]


def test_other_templates_know_of_no_thoughts(renderer: Renderer) -> None:
    assert renderer.template.no_thought == ""

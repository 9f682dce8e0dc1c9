"""Trained spans in templates of other shapes than the default base's."""

import pytest

from tests.datasets.test_render import say
from tunery.chat.examples import ChatExample
from tunery.chat.render import Renderer
from tunery.chat.template import ChatTemplate, RenderError

LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content.strip() }} <|im_end|>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [say("user", "a"), say("assistant", "  b "), say("user", "c"), say("assistant", "d")]


def with_template(renderer: Renderer, source: str) -> Renderer:
    special = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    return Renderer(renderer.tokenizer, ChatTemplate(source, special), special_tokens=special, eos_ids=renderer.eos_ids)


@pytest.mark.parametrize(
    ("template", "trained"),
    [
        (LLAMA_2, [" b <|im_end|>", " d <|im_end|>"]),
        (LLAMA_3, ["b<|im_end|>", "d<|im_end|>"]),
        (MARKED, ["  b <|im_end|>", "d<|im_end|>"]),
    ],
)
def test_answers_are_found_in_other_templates(template: str, trained: list[str], renderer: Renderer) -> None:
    layout = with_template(renderer, template).layout(ChatExample(1, TURNS))
    assert [layout.text[span.start : span.end] for span in layout.spans] == trained


def test_a_template_that_forgets_turns_is_refused_in_words(renderer: Renderer) -> None:
    forgetful = with_template(renderer, FORGETFUL)
    with pytest.raises(RenderError, match="rewrites earlier turns: message 2"):
        forgetful.layout(ChatExample(1, TURNS))
    assert forgetful.layout(ChatExample(1, TURNS[2:])).spans


def test_an_answer_that_quotes_the_generation_prompt_is_trained_whole(renderer: Renderer) -> None:
    quoting = "say <|im_start|>assistant\nhello"
    layout = renderer.layout(
        ChatExample(1, [say("user", "a"), say("assistant", quoting), say("user", quoting), TURNS[3]])
    )
    assert [layout.text[s.start : s.end] for s in layout.spans] == [f"{quoting}<|im_end|>", "d<|im_end|>"]


def test_a_template_cannot_reach_this_process() -> None:
    with pytest.raises(RenderError):
        ChatTemplate("{{ messages.__class__.__mro__ }}", {}).render([{"role": "user", "content": "a"}])

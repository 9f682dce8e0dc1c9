"""Rendering: equal to transformers, and trained on exactly the assistant's tokens."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunery.chat.examples import ChatExample, CompletionExample, PreferenceExample
from tunery.chat.layout import find_spans, replay_spans
from tunery.chat.render import Renderer
from tunery.chat.template import RenderError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: str, ident: str = "call_1") -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def trained_text(renderer: Renderer, example: ChatExample, max_tokens: int | None = None) -> list[str]:
    """The runs of trained tokens, each decoded."""
    rendered = renderer.render(example, max_tokens)
    runs: list[list[int]] = []
    previous = 0.0
    for token, weight in zip(rendered.token_ids, rendered.loss_weights, strict=True):
        if weight:
            if not previous:
                runs.append([])
            runs[-1].append(token)
        previous = weight
    return [renderer.decode(run, skip_special_tokens=False) for run in runs]


@pytest.fixture(scope="session")
def official(base_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model_dir)


CONVERSATIONS = [
    [say("user", "Hi"), say("assistant", "Hello!")],
    [
        say("system", "Be brief."),
        say("user", "Hi"),
        say("assistant", "Hello!"),
        say("user", "Bye"),
        say("assistant", "x"),
    ],
    [say("user", "  leading\n\n"), say("assistant", "\n\n  both  \n")],
    [say("user", "naïve 漢字 😀 \U00010348"), say("assistant", "e\u0301 ‮rtl‬ \x00 nul")],
    [say("assistant", "I begin."), say("user", "So?"), say("assistant", "I end.")],
    [say("user", "a"), say("assistant", "b"), say("assistant", "c")],
    [say("user", ""), say("assistant", "")],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_text_and_ids_are_those_of_transformers(renderer: Renderer, official: Any, messages: list[Any]) -> None:
    for ask in (False, True):
        expected = official.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        assert renderer.render_chat(messages, add_generation_prompt=ask) == expected
        ids = official.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False)
        assert renderer.prompt_ids(messages, add_generation_prompt=ask) == list(ids)
    assert renderer.render(ChatExample(1, messages)).token_ids == renderer.prompt_ids(
        messages, add_generation_prompt=False
    )


texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40)
turns = st.lists(st.tuples(texts, texts, st.sampled_from([0, 1])), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=turns, system=st.none() | texts)
def test_trained_tokens_are_the_answers_and_their_end(
    renderer: Renderer, official: Any, turns: list[tuple[str, str, int]], system: str | None
) -> None:
    messages = [say("system", system)] if system is not None else []
    for question, answer, weight in turns:
        messages += [say("user", question), say("assistant", answer, weight=weight)]
    rendered = renderer.render(ChatExample(1, messages))
    encoded = official(renderer.render_chat(messages), add_special_tokens=False, return_offsets_mapping=True)
    assert rendered.token_ids == encoded["input_ids"]

    expected = [0.0] * len(rendered.token_ids)
    position, text = 0, renderer.render_chat(messages)
    for _, answer, weight in turns:  # walk the text turn by turn and mark every token that holds a character of it
        start = text.index("<|im_start|>assistant\n", position) + len("<|im_start|>assistant\n")
        end = position = start + len(answer) + len("<|im_end|>")
        for index, (a, b) in enumerate(encoded["offset_mapping"]):
            if a < end and b > start:
                expected[index] = float(weight)
    assert rendered.loss_weights == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=turns)
def test_quick_look_finds_the_spans_of_the_replay(renderer: Renderer, turns: list[tuple[str, str, int]]) -> None:
    messages = [m for q, a, _ in turns for m in (say("user", q), say("assistant", a))]
    text = renderer.render_chat(messages)
    header, end = "<|im_start|>assistant\n", "<|im_end|>"
    replayed = replay_spans(
        renderer.template, text, messages, None, generation_prompt=header, end_of_turn=end, ending=""
    )
    assert find_spans(text, messages, header, end) == replayed


def test_answer_and_end_of_turn_are_trained_and_nothing_else(renderer: Renderer) -> None:
    example = ChatExample(1, [say("user", "Hi"), say("assistant", "Hello there!")])
    assert trained_text(renderer, example) == ["Hello there!<|im_end|>"]


def test_every_answer_of_a_conversation_is_trained_unless_its_weight_is_0(renderer: Renderer) -> None:
    messages = [
        say("user", "a"),
        say("assistant", "first"),
        say("user", "b"),
        say("assistant", "second", weight=0),
        say("user", "c"),
        say("assistant", "third", weight=1),
    ]
    assert trained_text(renderer, ChatExample(1, messages)) == ["first<|im_end|>", "third<|im_end|>"]


def test_calls_are_trained_and_definitions_and_results_are_not(renderer: Renderer) -> None:
    messages = [
        say("user", "Weather in Rome?"),
        {"role": "assistant", "tool_calls": [call("get_weather", '{"city":"Rome"}')]},
        say("tool", "sunny", tool_call_id="call_1"),
        say("assistant", "Sunny."),
    ]
    trained = trained_text(renderer, ChatExample(1, messages, tools=[WEATHER]))
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'
    assert trained == [written, "Sunny.<|im_end|>"]
    text = renderer.render_chat(messages, [WEATHER])
    assert text.count('"description": "Weather of a city"') == 1
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text


def test_training_sees_the_prompt_that_serving_prefills(renderer: Renderer) -> None:
    messages = [say("system", "Be kind."), say("user", "Weather?")]
    prompt = renderer.prompt_ids(messages, [WEATHER])
    whole = renderer.render(ChatExample(1, [*messages, say("assistant", "None today.")], tools=[WEATHER]))
    assert whole.token_ids[: len(prompt)] == prompt
    assert whole.loss_weights.index(1.0) == len(prompt)


@pytest.mark.parametrize("limit", [1, 10, 40, 1000])
def test_long_examples_are_cut_from_the_end(renderer: Renderer, limit: int) -> None:
    example = ChatExample(1, [say("user", "Count."), say("assistant", "one two three " * 20)])
    whole, cut = renderer.render(example), renderer.render(example, limit)
    assert cut.token_ids == whole.token_ids[:limit]
    assert cut.loss_weights == whole.loss_weights[:limit]
    assert cut.truncated == len(whole.token_ids) - len(cut.token_ids)


@pytest.mark.parametrize("limit", [None, 5, 30, 60])
def test_counts_are_those_of_the_rendered_rows(renderer: Renderer, limit: int | None) -> None:
    examples = [
        *[ChatExample(i, messages) for i, messages in enumerate(CONVERSATIONS, 1)],
        CompletionExample(8, "Q: 1+1\nA:", " 2 and much more than that" * 3),
        PreferenceExample(9, [say("user", "Hi")], say("assistant", "Hello there " * 9), say("assistant", "No")),
    ]
    for example, measured in zip(examples, renderer.measure_batch(examples, limit), strict=True):
        if isinstance(example, PreferenceExample):
            pair = renderer.render_pair(example, limit)
            trained = len(pair.preferred_ids) + len(pair.non_preferred_ids)
            expected = (len(pair.prompt_ids) + trained, trained, pair.truncated)
        else:
            row = renderer.render(example, limit)
            expected = (len(row.token_ids), sum(w > 0 for w in row.loss_weights), row.truncated)
        assert (measured.num_tokens, measured.num_loss_tokens, measured.truncated) == expected


def test_both_answers_of_a_pair_share_the_prompt(renderer: Renderer) -> None:
    pair = renderer.render_pair(
        PreferenceExample(1, [say("user", "Hi")], say("assistant", "Hello!"), say("assistant", "  Go away."))
    )
    assert pair.prompt_ids == renderer.prompt_ids([say("user", "Hi")])
    assert renderer.decode(pair.preferred_ids, skip_special_tokens=False) == "Hello!<|im_end|>"
    assert renderer.decode(pair.non_preferred_ids, skip_special_tokens=False) == "  Go away.<|im_end|>"


def test_a_completion_is_trained_with_an_end_and_its_prompt_is_not(renderer: Renderer) -> None:
    row = renderer.render(CompletionExample(1, "The sky is", " blue"))
    assert row.token_ids == renderer.encode("The sky is blue<|im_end|>")
    assert row.loss_weights[-2:] == [1.0, 1.0]
    assert sum(row.loss_weights) == 2


def test_half_a_surrogate_pair_is_refused_in_words(renderer: Renderer) -> None:
    with pytest.raises(RenderError, match="surrogate"):
        renderer.prompt_ids([say("user", "\ud800")])


def test_an_image_is_refused_in_words(renderer: Renderer) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]
    with pytest.raises(RenderError, match="image_url"):
        renderer.render_chat([{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    "message",
    [
        {"content": "a"},
        {"role": "assistant", "tool_calls": [{"id": "c"}]},
        {"role": "assistant", "tool_calls": "f"},
        {"role": "user", "content": ["a"]},
        {"role": "user", "content": 5},
        "a",
        None,
    ],
)
def test_a_message_of_no_known_form_is_refused_in_words(renderer: Renderer, message: Any) -> None:
    with pytest.raises(RenderError):
        renderer.render_chat([message])


def test_tokens_that_end_an_answer_are_known(renderer: Renderer) -> None:
    assert renderer.tokenizer.token_to_id(renderer.end_of_turn) in renderer.eos_ids
    assert set(renderer.control_tokens) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}

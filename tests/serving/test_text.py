from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tunery.serving.answer import Answer
from tunery.serving.http.envelope import completion_logprobs
from tunery.serving.requests import Generation, SamplingParams, TokenLogprob
from tunery.serving.text import StopMatcher, TextStream, TokenTable


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> TokenTable:
    return TokenTable(tokenizer, tokenizer.get_vocab_size())


def run(table: TokenTable, ids: list[int], **params: object) -> list:
    """Outputs of an answer made of these tokens, up to its end."""
    settings = {"max_tokens": 1000, **params}
    generation = Generation("g", [1], SamplingParams(**settings))  # type: ignore[arg-type]
    answer = Answer(generation, table, frozenset({2}), 2048)
    outputs = []
    for token_id in ids:
        outputs.append(answer.push(token_id, TokenLogprob(token_id, -1.0)))
        if outputs[-1].finish_reason is not None:
            break
    return outputs


def test_a_character_of_several_tokens_is_sent_when_it_is_whole(tokenizer: Tokenizer, table: TokenTable) -> None:
    ids = tokenizer.encode("a🎉b").ids  # one token a byte
    stream = TextStream(table.bytes_of)

    assert [stream.push(token_id) for token_id in ids] == ["a", "", "", "", "🎉", "b"]


def test_bytes_of_a_character_that_never_ends_are_not_sent(tokenizer: Tokenizer, table: TokenTable) -> None:
    ids = tokenizer.encode("a🎉").ids[:-1]
    outputs = run(table, [*ids, 2])

    assert "".join(output.text for output in outputs) == "a"
    assert outputs[-1].finish_reason == "stop"


@given(st.text(max_size=40))
def test_streamed_text_equals_the_text(text: str) -> None:
    stop = StopMatcher(("never found because of this: \0\0\0",))
    sent = "".join(stop.push(char)[0] for char in text) + stop.flush()
    assert sent == text


@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", min_size=1, max_size=4), st.integers(1, 5))
def test_stop_is_found_however_the_text_is_cut(text: str, stop: str, size: int) -> None:
    matcher = StopMatcher((stop,))
    sent, is_stopped = "", False
    for start in range(0, len(text), size):
        free, is_stopped = matcher.push(text[start : start + size])
        sent += free
        if is_stopped:
            break
    else:
        sent += matcher.flush()

    assert is_stopped == (stop in text)
    assert sent == text.split(stop)[0]


def test_stop_sequence_across_tokens_is_never_sent_and_takes_its_logprobs_along(
    tokenizer: Tokenizer, table: TokenTable
) -> None:
    outputs = run(table, tokenizer.encode("one END two").ids, stop=(" END",))

    assert "".join(output.text for output in outputs) == "one"
    assert sum(len(output.logprobs) for output in outputs) == 3
    assert outputs[-1].finish_reason == "stop"
    assert outputs[-1].num_output_tokens == 7


def test_the_earliest_of_several_stops_wins(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, tokenizer.encode("abcdef").ids, stop=("def", "bc"))

    assert "".join(output.text for output in outputs) == "a"


def test_text_that_only_began_like_a_stop_is_sent_at_the_end(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, [*tokenizer.encode("so EN").ids, 2], stop=("END",))

    assert "".join(output.text for output in outputs) == "so EN"
    assert sum(len(output.logprobs) for output in outputs) == 5


def test_length_ends_an_answer_with_its_last_token(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, tokenizer.encode("abcdef").ids, max_tokens=3)

    assert "".join(output.text for output in outputs) == "abc"
    assert outputs[-1].finish_reason == "length"


def test_special_tokens_are_never_shown(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, [1, *tokenizer.encode("x").ids, 2], ignore_eos=True, max_tokens=3)

    assert "".join(output.text for output in outputs) == "x"


def test_sentencepiece_vocabularies_are_read_too() -> None:
    from tokenizers import decoders, models

    vocabulary = {"<unk>": 0, "▁the": 1, "<0xC3>": 2, "<0xA9>": 3, "s": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    stream = TextStream(TokenTable(tokenizer, 5).bytes_of)

    assert "".join(stream.push(token_id) for token_id in (1, 4, 2, 3)) == " thesé"


def test_candidates_never_share_a_key(table: TokenTable, tokenizer: Tokenizer) -> None:
    """Broken characters by their bytes; of tokens that spell the same the later ones by bytes and by number."""
    halves = tokenizer.encode("é").ids
    same = [halves[0], halves[1], 70, 71]
    twins = TokenTable(tokenizer, table.vocab_size + 3)  # ids beyond the vocabulary have no text at all
    nameless = [table.vocab_size, table.vocab_size + 1, table.vocab_size + 2]
    entry = TokenLogprob(70, -1.0, top=tuple((token_id, -1.0) for token_id in same + nameless))

    (found,) = completion_logprobs([entry], [0], twins)["top_logprobs"]
    assert list(found)[:2] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert list(found)[4:] == ["", "bytes:", f"token_id:{nameless[2]}"]


def test_a_place_is_the_character_that_a_tokens_first_byte_belongs_to(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, [*tokenizer.encode("a🎉é").ids, 2])
    assert [offset for output in outputs for offset in output.offsets] == [0, 1, 1, 1, 1, 2, 2]


def test_bytes_that_never_become_a_character_count_to_the_last_one(tokenizer: Tokenizer, table: TokenTable) -> None:
    outputs = run(table, [*tokenizer.encode("ab🎉").ids[:-1], 2])
    assert [offset for output in outputs for offset in output.offsets] == [0, 1, 1, 1, 1]

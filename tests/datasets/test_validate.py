"""Whole files: what a job would say, what is counted, and that nothing of the kind crashes or eats memory."""

import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.conftest import chat_row, pair_row
from tunery.chat.examples import ChatExample, PreferenceExample
from tunery.chat.render import Renderer
from tunery.chat.template import ChatTemplate
from tunery.datasets.blocks import BLOCK_BYTES, read_blocks
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.lines import MAX_LINE_BYTES, read_lines
from tunery.datasets.parse import load_examples
from tunery.datasets.problems import CODES, shown
from tunery.datasets.report import Report
from tunery.datasets.rows import read_rows
from tunery.datasets.upload_check import UploadCheck
from tunery.datasets.validate import validate_file
from tunery.domain.errors import TuneryError
from tunery.models.catalog import Catalog
from tunery.training.examples import read

Write = Callable[..., Path]
GOOD = [chat_row(f"Question {n}?", f"Answer {n}.") for n in range(10)]


def job_error(rows: list[Any], write: Write, **options: Any) -> tuple[str, str, str | None]:
    report = validate_file(write(rows), **options)
    error = first_job_error(report, "file-abc")
    assert error is not None
    return error.code, error.message, error.param


def test_a_good_file_is_good(write_rows: Write) -> None:
    report = validate_file(write_rows(GOOD))
    assert report.is_valid and report.num_examples == 10 and report.format == "chat"
    assert first_job_error(report, "file-abc") is None
    assert report.tokens is None  # nothing to count them with


# ---- the words of a failed job


def test_words_for_too_few_examples(write_rows: Write) -> None:
    expected = "Training file has 7 example(s), but must have at least 10 examples"
    assert job_error(GOOD[:7], write_rows) == ("invalid_n_examples", expected, "training_file")


def test_one_example_is_enough_for_a_validation_file(write_rows: Write) -> None:
    assert validate_file(write_rows(GOOD[:1]), role="validation").is_valid
    assert not validate_file(write_rows([]), role="validation").is_valid


def test_words_for_an_extra_key(write_rows: Write) -> None:
    rows = [{**GOOD[0], "weight": 1}, *GOOD]
    assert job_error(rows, write_rows) == (
        "invalid_file_format",
        "The job failed due to a file format error in the training file. Invalid file format. "
        'Example 1 contains an extra "weight".',
        "training_file",
    )


def test_words_for_a_missing_role_number_the_example_not_the_line(write_rows: Write) -> None:
    rows = [*GOOD, "", "", {"messages": [GOOD[0]["messages"][0], {"content": "a"}, GOOD[0]["messages"][2]]}]
    assert job_error(rows, write_rows)[1] == (
        "The job failed due to an invalid training file. Invalid file format. "
        "Example 11, message 2 Discriminator 'role' is missing in value"
    )


@pytest.mark.parametrize(
    ("row", "ending"),
    [
        ({"text": "a"}, "Unexpected file format, expected either prompt/completion pairs or chat messages."),
        ({"tools": []}, "Invalid file format. Example 1 is missing key 'messages'."),
        ('{"messages": [}', "line contains invalid json: Expecting value: line 1 column 15 (char 14) (line 1)"),
    ],
)
def test_words_for_other_slips(row: Any, ending: str, write_rows: Write) -> None:
    assert job_error([row, *GOOD], write_rows)[1].endswith(ending)


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (True, "true"),
        (None, "null"),
        ([{"a": False}, None], '[{"a": false}, null]'),
        ({"鍵": "値"}, '{"鍵": "値"}'),
        (["\ud800"], r'["\ud800"]'),
        ("robot", "'robot'"),
    ],
)
def test_values_of_the_file_are_shown_as_the_file_writes_them(value: Any, as_json: str) -> None:
    assert shown(value) == as_json


def test_words_for_a_file_of_another_method(write_rows: Write) -> None:
    chat = job_error(GOOD, write_rows, method="dpo")
    assert chat[0] == "invalid_training_file"
    assert chat[1].endswith(
        "Input file file-abc is in the fine-tune-chat format, but the specified fine-tuning job is not using "
        "'supervised' as the training method (provided method=dpo)."
    )
    pairs = job_error([pair_row(str(n)) for n in range(10)], write_rows, method="supervised")
    assert "is not using 'dpo' as the training method" in pairs[1]


def test_words_for_a_validation_file(write_rows: Write) -> None:
    code, message, param = job_error([{"tools": []}], write_rows, role="validation")
    assert (code, param) == ("invalid_file_format", "validation_file")
    assert message.startswith("The job failed due to a file format error in the validation file.")


def test_formats_may_not_be_mixed(write_rows: Write) -> None:
    report = validate_file(write_rows([*GOOD, {"prompt": "a", "completion": "b"}]))
    assert report.problem_counts == {"mixed_formats": 1}
    assert report.problems[0].line == 11


def test_a_format_error_is_told_before_a_lack_of_examples(write_rows: Write) -> None:
    assert job_error([{"text": "a"}], write_rows)[0] == "invalid_training_file"


# ---- what is counted


def test_counts_are_those_of_the_rows_a_job_renders(write_rows: Write, renderer: Renderer) -> None:
    rows = [*GOOD, chat_row("Tell me more.", "word " * 80), '{"broken', ""]
    path = write_rows(rows)
    report = validate_file(path, renderer=renderer, max_example_tokens=50)
    rendered = [
        renderer.render(example, 50) for example in load_examples(path) if not isinstance(example, PreferenceExample)
    ]
    assert report.num_examples == len(rendered) == 11
    assert report.tokens is not None
    assert report.tokens.tokens.total == sum(len(row.token_ids) for row in rendered)
    assert report.tokens.trained_tokens.total == sum(w > 0 for row in rendered for w in row.loss_weights)
    assert report.tokens.num_truncated_tokens == sum(row.truncated for row in rendered) > 0
    assert report.tokens.num_truncated_examples == 1
    assert report.tokens.tokens.max == 50
    assert sum(entry["count"] for entry in report.tokens.tokens.histogram) == 11
    assert report.longest[0][1] == 11
    shared = min(map(len, (row.token_ids for row in rendered)))
    for index in range(shared):
        if len({row.token_ids[index] for row in rendered}) > 1:
            shared = index
            break
    assert report.tokens.num_prefix_tokens in (shared, shared - 1)


def test_pairs_count_the_prompt_once(write_rows: Write, renderer: Renderer) -> None:
    path = write_rows([pair_row(f"Say {n}.") for n in range(10)])
    report = validate_file(path, method="dpo", renderer=renderer, max_example_tokens=8192)
    pairs = [renderer.render_pair(e) for e in load_examples(path) if isinstance(e, PreferenceExample)]
    assert report.is_valid and report.tokens is not None
    assert report.tokens.tokens.total == sum(
        len(p.prompt_ids) + len(p.preferred_ids) + len(p.non_preferred_ids) for p in pairs
    )


def test_several_processes_find_what_one_finds(write_rows: Write, renderer: Renderer) -> None:
    generator = random.Random(4)
    bad = [chat_row(answer=5), "{", {"messages": []}, ""]
    rows = [
        generator.choice(bad) if generator.random() < 0.05 else chat_row(f"{n}?", f"{n} " * generator.randint(1, 500))
        for n in range(500)
    ]
    path = write_rows(rows)
    options: dict[str, Any] = {"renderer": renderer, "max_example_tokens": 300}
    alone = validate_file(path, **options, num_processes=1)
    together = validate_file(path, **options, num_processes=2)
    assert path.stat().st_size > 2 * BLOCK_BYTES
    assert together.to_dict() == alone.to_dict()
    assert [problem.example for problem in together.problems] == [problem.example for problem in alone.problems]


def test_a_conversation_the_template_refuses_is_a_problem_of_its_line(write_rows: Write, renderer: Renderer) -> None:
    strict = ChatTemplate(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        {},
    )
    other = Renderer(renderer.tokenizer, strict, special_tokens=renderer.special_tokens, eos_ids=renderer.eos_ids)
    plain = {"messages": GOOD[0]["messages"][1:]}
    report = validate_file(write_rows([plain, GOOD[0]]), renderer=other)
    (problem,) = [problem for problem in report.problems if problem.code == "cannot_render"]
    assert problem.line == 2 and "no system role" in problem.message
    assert report.num_examples == 1


def test_a_file_whose_answers_are_all_cut_is_refused(write_rows: Write, renderer: Renderer) -> None:
    report = validate_file(write_rows(GOOD), renderer=renderer, max_example_tokens=10)
    assert report.problem_counts == {"nothing_to_train": 1}
    error = first_job_error(report, "file-abc")
    assert error is not None and error.code == "invalid_training_file"


# ---- bad files


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n  \r\n", "empty_file"),
        (b"PK\x03\x04 an xlsx file", "binary_file"),
        (b"PAR1....", "binary_file"),
        (b"\x00\x01\x02\x03" * 100, "binary_file"),
        ('{"messages": []}'.encode("utf-16"), "wrong_encoding"),
        (random.Random(1).randbytes(5000), "binary_file"),
        (b"question,answer\n1+1,2\n", "invalid_json"),
        (b'{"messages": ' + b"[" * 3_000_000, "nesting_too_deep"),
        (b'"\xff"\n' * 2000, "invalid_utf8"),
    ],
)
def test_bad_files_are_reported(content: bytes, code: str, tmp_path: Path, renderer: Renderer) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    report = validate_file(path, renderer=renderer, max_example_tokens=8192)
    assert not report.is_valid
    assert code in report.problem_counts
    assert first_job_error(report, "file-abc") is not None


def test_windows_files_are_good(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in GOOD) + b"\r\n\r\n")
    report = validate_file(path)
    assert report.is_valid and report.num_examples == 10
    assert report.problem_counts == {"byte_order_mark": 1}


def test_the_list_of_problems_is_bounded_and_their_number_is_not(write_rows: Write) -> None:
    report = validate_file(write_rows(["{"] * 5000 + ["[]"] * 3000))
    assert report.problem_counts == {"invalid_json": 5000, "not_an_object": 3000}
    assert len(report.problems) == 100
    assert len(json.dumps(report.to_dict())) < 100_000


def long_line(megabytes: int) -> Iterator[bytes]:
    yield b'{"messages": [{"role": "user", "content": "'
    for _ in range(megabytes):
        yield b"x" * 1_000_000
    yield b'"}]}\n'


def test_a_line_of_200_mb_is_reported_in_bounded_memory() -> None:
    rows = b"\n".join(json.dumps(row).encode() for row in GOOD)

    def chunks() -> Iterator[bytes]:
        yield from long_line(200)
        yield rows

    tracemalloc.start()
    report = validate_file(chunks(), num_processes=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.problem_counts == {"line_too_long": 1} and report.num_examples == 10
    assert report.problems[0].line == 1
    assert peak < 40e6


@pytest.mark.parametrize(
    ("end", "named"), [("\r", "CR"), (" \r\r ", "CR"), ("\u2028", "U+2028"), ("\x85", "NEL"), ("\r\n\u2029", None)]
)
@pytest.mark.parametrize("num_chunks", [1, 7])
def test_a_file_that_is_one_line_by_its_line_ends_is_told_so_whatever_its_length(
    end: str, named: str | None, num_chunks: int
) -> None:
    row = json.dumps(chat_row(answer="x" * 4_000))
    content = end.join([row] * 1_200).encode() + b"\n"
    pieces = [
        content[start : start + len(content) // num_chunks + 1]
        for start in range(0, len(content), len(content) // num_chunks + 1)
    ]
    report, check = validate_file(pieces, num_processes=1), UploadCheck()
    for piece in pieces:
        check.feed(piece)
    said = check.finish() or ""
    if named is None:
        assert "wrong_line_ends" not in report.problem_counts
        return
    assert report.problem_counts["wrong_line_ends"] == 1 and "line_too_long" not in report.problem_counts
    (problem,) = (each for each in report.problems if each.code == "wrong_line_ends")
    assert named in problem.message and named in said


def test_an_upload_with_a_line_of_200_mb_is_refused_in_bounded_memory() -> None:
    check = UploadCheck()
    tracemalloc.start()
    for chunk in long_line(200):
        check.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a line may have" in (check.finish() or "")
    assert peak < 2 * MAX_LINE_BYTES + 4e6


# ---- for any input

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["messages", "role", "content", "tools", "tool_calls", "weight", "input", "preferred_output", "prompt", "function",
     "functions", "function_call", "name", "arguments", "type", "id", "non_preferred_output", "completion", "refusal"]
)  # fmt: skip
near_rows = st.recursive(
    json_values | st.sampled_from(["user", "assistant", "system", "tool", "text", "image_url", "function"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(near_rows | st.dictionaries(keys, near_rows, max_size=3), max_size=5))
def test_no_json_crashes_a_validation(rows: list[Any], renderer: Renderer) -> None:
    content = "\n".join(json.dumps(row) for row in rows).encode()
    report = validate_file([content], renderer=renderer, max_example_tokens=64, method=None)
    assert sum(report.problem_counts.values()) >= len(report.problems)
    assert all(problem.code in CODES for problem in report.problems)
    json.dumps(report.to_dict())


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=300))
def test_no_bytes_crash_a_validation(content: bytes) -> None:
    report = validate_file([content])
    assert isinstance(report, Report) and not report.is_valid
    first_job_error(report, "file-abc")
    check = UploadCheck()
    check.feed(content)
    check.finish()


@settings(max_examples=100, deadline=None)
@given(
    content=st.lists(st.sampled_from([b"", b"{}", b" ", b"\r", b"ab", b"x" * 700]), max_size=12),
    size=st.integers(1, 900),
)
def test_chunks_and_blocks_do_not_change_the_lines(content: list[bytes], size: int) -> None:
    whole = b"\n".join(content)
    chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert list(read_lines(chunks)) == list(read_lines([whole]))
    assert b"".join(block.data for block in read_blocks(chunks, 0)) == whole


def test_errors_of_ours_are_no_part_of_bad_input() -> None:
    """A broken source is no bad file: it must not pass for one."""

    def broken() -> Iterator[bytes]:
        yield b"{}\n"
        raise TuneryError("the store is away")

    with pytest.raises(TuneryError):
        validate_file(broken())


# ---- rows that are taken otherwise than they stand


def test_an_example_whose_answer_is_cut_away_is_left_out_everywhere(
    write_rows: Write, renderer: Renderer, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 400}, {"role": "assistant", "content": "b"}]}
    rows = [*GOOD, long, long]
    report = validate_file(write_rows(rows), renderer=renderer, max_example_tokens=100)
    alone = validate_file(write_rows(GOOD, "good.jsonl"), renderer=renderer, max_example_tokens=100)
    assert report.is_valid
    assert report.problem_counts == {"answer_cut": 2}
    assert [problem.line for problem in report.problems] == [len(GOOD) + 1, len(GOOD) + 2]
    assert (report.num_examples, report.tokens) == (alone.num_examples, alone.tokens)
    examples = read(tmp_path / "train.jsonl", "supervised", renderer, 100, param="training_file")
    assert report.tokens is not None
    assert (len(examples), sum(each.num_tokens for each in examples)) == (len(GOOD), report.tokens.tokens.total)


def answering(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


SAME = {"preferred_output": [answering("word " * 400 + "yes")], "non_preferred_output": [answering("word " * 400)]}


@pytest.mark.parametrize(
    "cut",
    [
        pair_row(question="word " * 400),
        {**pair_row(), **SAME},  # cut where the answers are still the same
        {**pair_row(question="word " * 80), **SAME},
    ],
)
def test_a_pair_of_which_the_cut_leaves_nothing_is_left_out(
    cut: dict[str, Any], write_rows: Write, renderer: Renderer
) -> None:
    pairs = [pair_row(question=f"Say {n}.") for n in range(10)]
    path = write_rows([*pairs, cut])
    report = validate_file(path, method="dpo", renderer=renderer, max_example_tokens=100)
    assert (report.is_valid, report.num_examples, dict(report.problem_counts)) == (True, 10, {"answer_cut": 1})
    assert len(read(path, "dpo", renderer, 100, param="training_file")) == 10


LABELS = [{"prompt": f"part {n} belt ->", "completion": f" Belt {n}"} for n in range(12)]


def test_prompts_and_completions_become_chats_for_a_model_that_chats(write_rows: Write, renderer: Renderer) -> None:
    path = write_rows(LABELS)
    report = validate_file(path, renderer=renderer, max_example_tokens=100)
    assert report.is_valid
    assert report.problem_counts == {"turned_into_chat": 1}
    first = read(path, "supervised", renderer, 100, param="training_file")[0].rows[0]
    chat = ChatExample(1, [{"role": "user", "content": "part 0 belt ->"}, {"role": "assistant", "content": "Belt 0"}])
    assert first.token_ids == renderer.render(chat).token_ids
    assert report.tokens is not None and report.tokens.tokens.total > len(LABELS) * len(
        renderer.encode("<|im_start|>user")
    )
    (row, *_) = read_rows([path.read_bytes()], renderer)
    assert [part.text for part in row.segments if part.kind == "trained"] == ["Belt 0<|im_end|>"]


def test_they_stay_raw_text_for_a_model_of_completions(
    write_rows: Write, renderer: Renderer, base_model_dir: Path
) -> None:
    completing = Renderer.from_dir(base_model_dir, completes=True)
    path = write_rows(LABELS)
    report = validate_file(path, renderer=completing, max_example_tokens=100, num_processes=2)
    assert report.is_valid and not report.problem_counts
    first = read(path, "supervised", completing, 100, param="training_file")[0].rows[0]
    assert first.token_ids == renderer.encode("part 0 belt -> Belt 0<|im_end|>")
    assert report.tokens is not None
    assert report.tokens.tokens.min == len(first.token_ids)


@pytest.mark.parametrize(
    "name", ["babbage-002", "davinci-002", "gpt-4o-mini", "gpt-3.5-turbo", "smollm2-135m-instruct"]
)
def test_the_catalog_tells_which_models_complete(name: str) -> None:
    assert Catalog.load().resolve(name).completes == (name in ("babbage-002", "davinci-002"))


# ---- encodings


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32"),
        ("utf-32-be", "UTF-32"),
        ("cp1252", "Windows-1252"),
        ("latin-1", "Windows-1252"),
        ("cp932", "Shift-JIS"),
    ],
)
def test_a_wrong_encoding_is_named(encoding: str, name: str, tmp_path: Path) -> None:
    answer = "はい、これは犬です。" if encoding == "cp932" else "un café très fort"
    rows = [chat_row(f"Question {n}?", answer) for n in range(12)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(encoding)
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    report = validate_file(path)
    assert not report.is_valid
    problem = report.problems[0]
    assert problem.code in ("wrong_encoding", "invalid_utf8")
    assert name in problem.message and "UTF-8" in problem.suggestion
    error = first_job_error(report, "file-abc")
    assert error is not None and name in error.message
    check = UploadCheck()
    for start in range(0, len(content), 1000):
        check.feed(content[start : start + 1000])
    refusal = check.finish()
    assert refusal is not None and name in refusal and "UTF-8" in refusal


@pytest.mark.parametrize("begins", [b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"%PDF-1.7\n\xe2", b"\x00\x01\x02"])
def test_what_is_no_text_is_not_taken_for_another_encoding(begins: bytes) -> None:
    check = UploadCheck()
    check.feed(begins + random.Random(1).randbytes(5000))
    refusal = check.finish()
    assert refusal is not None and "not text" in refusal and "tunery data prepare" in refusal


@pytest.mark.parametrize(("end", "name"), [("\r", "CR"), ("\r\r", "CR"), ("\x85", "NEL"), ("\u2028", "U+2028")])
def test_other_line_ends_are_named(end: str, name: str, tmp_path: Path) -> None:
    content = "".join(json.dumps(row) + end for row in GOOD).encode()
    (path := tmp_path / "train.jsonl").write_bytes(content)
    error = first_job_error(validate_file(path), "file-abc")
    assert error is not None and name in error.message and "LF" in error.message
    check = UploadCheck()
    for start in range(0, len(content), 100):
        check.feed(content[start : start + 100])
    refusal = check.finish()
    assert refusal is not None and name in refusal and "LF" in refusal


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_line_feed_alone(mark: str, write_rows: Write) -> None:
    report = validate_file(write_rows([chat_row(f"a{mark}b {n}", f"c{mark}d") for n in range(10)]))
    assert (report.is_valid, report.num_examples, report.num_lines) == (True, 10, 10)
    assert not report.problem_counts

"""Tables become chat rows, files are split without leaks."""

import csv
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import chat_row
from tunery.datasets.lines import read_chunks, read_lines
from tunery.datasets.parse import parse_line
from tunery.datasets.prepare import Mapping, UnclearColumns, guess_mapping, prepare
from tunery.datasets.split import Split, split_file
from tunery.datasets.tables import Record, open_table
from tunery.domain.errors import InvalidRequest

Write = Callable[..., Path]
RECORDS = [{"question": "1+1?", "answer": "2"}, {"question": 'Größe, "x"\nnext?', "answer": "3.0"}]
EXPECTED = [
    {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
    for r in RECORDS
]


def records_of(path: Path, encoding: str = "", **wished: Any) -> list[Record]:
    with open_table(path, encoding=encoding, **wished) as table:
        return list(table.records)


def write_csv(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)


def write_xlsx(path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.append(["question", "answer"])
    for record in RECORDS:
        sheet.append(list(record.values()))
    book.save(path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.csv": lambda path: write_csv(path, ","),
    "b.csv": lambda path: write_csv(path, ";"),
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "b.json": lambda path: path.write_text(json.dumps({"version": 1, "data": RECORDS})),
    "a.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, RECORDS))),
    "a.parquet": write_parquet,
    "a.xlsx": write_xlsx,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table_becomes_the_same_chat(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert list(prepare(records_of(path))) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"question,answer\n1,2,3\n"),
        ("a.json", b"{"),
        ("a.json", b'"text"'),
        ("a.jsonl", b"{\n"),
        ("a.jsonl", b"[1]\n"),
        ("a.parquet", b"not parquet"),
        ("a.xlsx", b"not xlsx"),
        ("a.doc", b""),
        ("a.csv", b"a,b\n1,2\n"),
        ("a.csv", b"question,answer\n"),
        ("a.json", b"[]"),
        ("a.jsonl", b""),
        ("a.csv", b"question,answer\n1,\n"),
        ("a.csv", "番号,日付\n1,2026-01-02\n".encode("cp932")),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_words(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidRequest):
        list(prepare(records_of(path)))


def test_instructions_stand_before_rows_that_bring_none() -> None:
    records = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "system": "Own."}]
    mapping = Mapping("prompt", "completion", "system")
    systems = [row["messages"][0]["content"] for row in prepare(records, mapping, system="Common.")]
    assert systems == ["Common.", "Own."]


def test_instruction_data_keeps_its_input() -> None:
    record = {"instruction": "Translate.", "input": "chat", "output": "cat"}
    assert guess_mapping([record]) == Mapping("instruction", "output", "", "input")
    (row,) = prepare([record])
    assert row["messages"][0]["content"] == "Translate.\n\nchat"


def test_other_dialects_of_conversations() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (row,) = prepare([{"conversations": turns}])
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    (row,) = prepare([{"messages": json.dumps(row["messages"])}])  # as a cell of a CSV file
    assert row["messages"][1]["content"] == "b"
    with pytest.raises(InvalidRequest, match="Row 1"):
        list(prepare([{"conversations": [{"from": "dog", "value": "wuff"}]}]))


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"質問": "天気は?", "回答": "晴れ"}, "質問", "回答"),
        (
            {"No": "1", "お客様の質問": "天気は?", "担当者の回答": "晴れ", "更新日": "2026-01-02"},
            "お客様の質問",
            "担当者の回答",
        ),
        ({"Frage": "Wie?", "Antwort": "So."}, "Frage", "Antwort"),
        ({"Customer_Question": "How?", "Model Answer": "So."}, "Customer_Question", "Model Answer"),
        ({"问题": "怎么?", "答案": "这样"}, "问题", "答案"),
        ({"prompt_id": "p-1", "utterance": "Help me", "intent": "help"}, "utterance", "intent"),
        ({"件名": "返品したい", "対応": "返品"}, "件名", "対応"),
        ({"ＱＵＥＳＴＩＯＮ": "How?", " answer ": "So."}, "ＱＵＥＳＴＩＯＮ", " answer "),
    ],
)
def test_columns_are_found_by_name_and_by_what_they_hold(record: dict[str, str], question: str, answer: str) -> None:
    found = guess_mapping([record] * 3)
    assert (found.user, found.assistant) == (question, answer)


NAMED = """
    User Message = Assistant Reply | Entrée = Sortie | ENTRÉE UTILISATEUR = Réponse | Nutzer = Antwort | Q = A
    Kundenanfrage = Unsere Antwort | 問い合わせ = 回答 | お問い合わせ内容 = ご返信 | 依頼 = 対応内容 | 咨询 = 客服回复
    고객 문의 = 상담원 답변 | Mensaje = Respuesta | Fråga = Svar | Запрос клиента = Наш ответ | سؤال = جواب
    Câu hỏi = Trả lời | คำถาม = คำตอบ | प्रश्न = उत्तर | Request = Resolution | Human = AI | Customer = Agent
    email_body = Draft | Review = Sentiment | Ticket = Class
"""


@pytest.mark.parametrize(
    "names", [pair.strip() for line in NAMED.split("\n") for pair in line.split("|") if pair.strip()]
)
def test_columns_are_found_among_others_in_many_languages(names: str) -> None:
    question, answer = names.split(" = ")
    others = {"ID": "A-1", "Date": "2026-01-02", "Agent name": "Alice", "Notes": "Called back twice today."}
    record = {**others, answer: "Turn it on, please.", question: "My screen is black."}
    found = guess_mapping([record] * 3)
    assert (found.user, found.assistant) == (question, answer)


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"c1": "Turn it on.", "c2": "Why is it black?", "c3": "Alice"}, "c2", "c1"),  # the one that asks
        ({"c1": "どうして黒いのですか。", "c2": "山田", "c3": "電源を入れてください。"}, "c1", "c3"),
        ({"c1": "Alice", "c2": "My screen is black.", "c3": "Turn it on."}, "c2", "c3"),  # those that say something
        ({"user": "alice", "message": "My screen is black.", "assistant": "bob", "reply": "On."}, "message", "reply"),
        ({"customer": "Ann Lee", "c2": "My screen is black.", "agent": "bob", "c4": "Turn it on."}, "c2", "c4"),
        (
            {
                "Question type": "Billing",
                "Answer type": "Short",
                "Question text": "It is black.",
                "Answer text": "Turn it on.",
            },
            "Question text",
            "Answer text",
        ),
        ({"訪問者": "山田太郎", "内容": "画面が真っ暗です。", "対応": "電源を入れてください。"}, "内容", "対応"),
        ({"問": "赤?", "答": "青", "備考": "要確認"}, "問", "答"),
        ({"en": "How are you today?", "de": "Wie geht es dir?"}, "en", "de"),
    ],
)
def test_what_columns_hold_tells_where_their_names_do_not(record: dict[str, str], question: str, answer: str) -> None:
    found = guess_mapping([record] * 3)
    assert (found.user, found.assistant) == (question, answer)


def test_columns_that_tell_nothing_are_listed_with_what_they_hold() -> None:
    with pytest.raises(UnclearColumns, match="'a' \\(one two\\)") as raised:
        guess_mapping([{"a": "one two", "b": "three", "c": "four"}])
    assert list(raised.value.columns) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("encoding", "question", "answer"),
    [
        ("cp932", "東京の天気は?", "晴れです①"),
        ("cp932", "ﾃｽﾄ", "日本"),
        ("cp1252", "Wie heißt “du”?", "Jürgen – für 5 €"),
        ("cp1252", "Où est Noël ?", "À l’église"),
        ("cp1252", "What’s it?", "Don’t know—really: “it” isn’t"),
        ("cp1252", "Hur mår du?", "Åä och Öö"),
        ("utf-16", "質問です", "こたえ"),
        ("utf-16-le", "How?", "So 質"),
        ("utf-8-sig", "größe", "質"),
    ],
)
def test_tables_in_the_encodings_that_people_save(encoding: str, question: str, answer: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f" question ,answer\r\n{question},{answer}\r\n".encode(encoding))
    (row,) = prepare(records_of(path))
    assert [message["content"] for message in row["messages"]] == [question, answer]


@pytest.mark.parametrize(
    ("encoding", "question", "answer"),
    [
        ("euc_jp", "東京の天気は?", "晴れです。"),
        ("gb18030", "如何退货?", "请登录您的账户并选择订单。"),
        ("big5", "如何退貨?", "請登入您的帳戶並選擇訂單。"),
        ("euc_kr", "반품은 어떻게 하나요?", "계정에 로그인하여 주문을 선택하세요."),
        ("cp1251", "Как вернуть товар?", "Войдите в свой аккаунт и выберите заказ."),
        ("koi8_r", "Привет", "Здравствуйте"),
        ("cp1253", "Πού είναι;", "Στο κέντρο της πόλης"),
    ],
)
def test_an_encoding_that_cannot_be_told_is_asked_for(
    encoding: str, question: str, answer: str, tmp_path: Path
) -> None:
    (path := tmp_path / "a.csv").write_bytes(f"question,answer\r\n{question},{answer}\r\n".encode(encoding))
    with pytest.raises(InvalidRequest, match="name its encoding"):
        records_of(path)
    (row,) = prepare(records_of(path, encoding))
    assert [message["content"] for message in row["messages"]] == [question, answer]


def test_a_row_without_question_or_answer_is_left_out_and_counted() -> None:
    records = [{"question": "a", "answer": ""}, *RECORDS, {"question": None, "answer": "b"}, {"answer": "c"}]
    prepared = prepare(records)
    assert list(prepared) == EXPECTED
    assert [each.row for each in prepared.skipped] == [1, 4, 5]
    turns = [
        {"conversations": [{"from": "dog", "value": "wuff"}]},
        {"conversations": [{"from": "human", "value": "a"}]},
    ]
    assert len(list(prepared := prepare(turns))) == 1 and [each.row for each in prepared.skipped] == [1]


def test_a_mapping_that_names_no_column_is_refused() -> None:
    for mapping in (Mapping("q", "answer"), Mapping("question", "a"), Mapping(system="s")):
        with pytest.raises(InvalidRequest, match="There is no column"):
            prepare(RECORDS, mapping)


def test_chat_rows_keep_their_tools() -> None:
    row = {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function"}],
        "parallel_tool_calls": False,
    }
    assert list(prepare([row])) == [row]


def test_cells_may_be_long_and_lists_may_be_called_jsonl(tmp_path: Path) -> None:
    (long := tmp_path / "a.csv").write_text("question,answer\n" + "x" * 400_000 + ",b\n")
    (row,) = prepare(records_of(long))
    assert len(row["messages"][0]["content"]) == 400_000
    (listed := tmp_path / "b.jsonl").write_text(json.dumps(RECORDS))
    assert list(prepare(records_of(listed))) == EXPECTED
    (separators := tmp_path / "c.jsonl").write_text(
        json.dumps({"question": "a\u2028b", "answer": "c\x85d"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (row,) = prepare(records_of(separators))
    assert row["messages"][0]["content"] == "a\u2028b"


@pytest.mark.parametrize(
    "content",
    [
        "\n\nquestion,answer\na,b\n",
        ",,\n,,\nquestion,answer,\na,b,\n",
        "Tickets of May,\n,\n Question ,Answer\n,\na,b\n",
        "question,answer\na,b,,\n",
        ",question,answer\n0,a,b\n",
        "question,answer,answer\na,b,other\n",
        "sep=;\nquestion;answer\na;b\n",
        "question|answer\na|b\n",
        "question\tanswer\na\tb\n",
        "question;notes, if any, of ours;answer\na;x, y;b\n",
    ],
)
def test_tables_as_programs_export_them(content: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text(content)
    assert contents(path) == [["a", "b"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "\n".join(map(json.dumps, RECORDS))),
        ("a.jsonl", "\n".join(json.dumps(record, indent=2) for record in RECORDS)),
        ("a.jsonl", "\n \n  " + json.dumps(RECORDS)),
        ("a.jsonl", json.dumps(RECORDS, indent=1)),
        ("a.jsonl", "\ufeff" + json.dumps(RECORDS)),
    ],
)
def test_objects_are_found_however_they_are_laid_out(name: str, text: str, tmp_path: Path) -> None:
    (path := tmp_path / name).write_text(text, encoding="utf-8")
    assert list(prepare(records_of(path))) == EXPECTED


def test_one_chat_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (path := tmp_path / "a.json").write_text(json.dumps(row, indent=1))
    assert list(prepare(records_of(path))) == [row]


def test_answers_that_are_no_text_are_written_as_people_write_them(tmp_path: Path) -> None:
    answers = [
        True,
        3.0,
        2.5,
        {"größe": None},
        ["x"],
        datetime(2026, 5, 1),
        datetime(2026, 5, 1, 9, 30),
        b"caf\xc3\xa9",
    ]
    rows = prepare([{"question": "a", "answer": answer} for answer in answers])
    written = ["true", "3", "2.5", '{"größe": null}', '["x"]', "2026-05-01", "2026-05-01 09:30:00", "café"]
    assert [row["messages"][1]["content"] for row in rows] == written


def test_a_workbook_is_read_where_its_table_is(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.create_sheet("Export")
    for cells in (["Tickets"], [], [None, "Question", "Answer", "Answer"], [None, "a", "b", None], [None, None, "c"]):
        sheet.append(cells)
    book.save(path := tmp_path / "a.xlsx")
    prepared = prepare(records_of(path))
    assert [[m["content"] for m in row["messages"]] for row in prepared] == [["a", "b"]]
    assert [each.row for each in prepared.skipped] == [2]


def test_the_line_where_a_table_breaks_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text('question,answer\na,b\n"c,d\ne,f\n')
    with pytest.raises(InvalidRequest, match="line 3"):
        contents(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "cp932"])
def test_japanese_without_a_mark_is_told_by_its_bytes(encoding: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_bytes("質問,回答\n東京都,大阪府\n".encode(encoding))
    assert contents(path) == [["東京都", "大阪府"]]
    lines = "\n".join(["英数字,a"] * 200_000)  # more than is looked at, which then ends within a character
    path.write_bytes(f"question,answer\n{lines}".encode(encoding))
    assert contents(path)[-1] == ["英数字", "a"]


def contents(path: Path) -> list[list[str]]:
    return [[m["content"] for m in row["messages"]] for row in prepare(records_of(path))]


# ---- pairs


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


ASKED, GOOD, BAD = said("user", "1+1?"), said("assistant", "2"), said("assistant", "3")
HH = "\n\nHuman: 1+1?\n\nAssistant: "
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
    "other names": {"Question": "1+1?", "Chosen_Response": "2", "Rejected Response": "3"},
    "in Japanese": {"質問": "1+1?", "良い回答": "2", "悪い回答": "3"},
    "whole conversations": {"prompt": "1+1?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 8.5},
    "conversations alone": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "messages too": {"messages": [ASKED, GOOD], "prompt": "1+1?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "answers as lists": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "answers as messages": {"prompt": "1+1?", "chosen": GOOD, "rejected": BAD},
    "through CSV": {"prompt": json.dumps([ASKED]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
    "of ShareGPT": {
        "chosen": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}],
        "rejected": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "3"}],
    },
    "of hh-rlhf": {"chosen": HH + "2", "rejected": HH + "3"},
    "of OpenAI": {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
}


@pytest.mark.parametrize("form", PAIRS)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_better_and_a_worse_answer_make_a_pair(form: str, system: str) -> None:
    (row,) = prepare([PAIRS[form]], system=system)
    before = [said("system", system)] if system else []
    assert row == {"input": {"messages": [*before, ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
    assert not parse_line(next(read_lines([json.dumps(row).encode()]))).problems


def test_pairs_have_their_instructions_from_columns_too() -> None:
    record = {"system": "Be brief.", "instruction": "Add.", "input": "1+1", "chosen": "2", "rejected": "3"}
    (row,) = prepare([record], system="Common.")
    assert row["input"]["messages"] == [said("system", "Be brief."), said("user", "Add.\n\n1+1")]
    (row,) = prepare([{"a": "1+1?", "b": "2", "c": "3"}], Mapping("a", "b", rejected="c"))
    assert (row["preferred_output"], row["non_preferred_output"]) == ([GOOD], [BAD])


@pytest.mark.parametrize(
    "changes",
    [
        {"rejected": ""},
        {"chosen": None},
        {"prompt": ""},
        {"rejected": [said("user", "1+2?"), BAD]},
        {"chosen": [ASKED]},
    ],
)
def test_a_pair_that_lacks_something_is_left_out_and_counted(changes: dict[str, Any]) -> None:
    prepared = prepare([PAIRS["texts"], PAIRS["texts"] | changes])
    assert len(list(prepared)) == 1 and [each.row for each in prepared.skipped] == [2]


@pytest.mark.parametrize("names", ["chosen,reason", "rejected,reason", "rejected by,chosen by", "preferred language,x"])
def test_one_such_column_makes_no_pairs(names: str) -> None:
    other, another = names.split(",")
    (row,) = prepare([{"question": "1+1?", "answer": "2", other: "Ann", another: "Bob"}])
    assert row == {"messages": [ASKED, GOOD]}


@pytest.mark.parametrize(
    ("answer", "content"),
    [([GOOD], "2"), (json.dumps([GOOD]), "2"), ('{"role": "admin"}', '{"role": "admin"}'), ("[1]", "[1]")],
)
def test_a_column_may_hold_messages_or_text_that_looks_so(answer: Any, content: str) -> None:
    (row,) = prepare([{"prompt": [ASKED], "completion": answer}])
    assert row == {"messages": [ASKED, said("assistant", content)]}


# ---- split


def halves(path: Path, tmp_path: Path, **options: Any) -> tuple[Split, list[str], list[str]]:
    parts = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    done = split_file(lambda: read_chunks(path), *parts, **options)
    return done, *(part.read_text("utf-8").splitlines() for part in parts)


def families(count: int, size: int) -> list[dict[str, Any]]:
    """Groups of rows that differ by a word."""
    return [
        chat_row(
            f"Case {group * 7919}: the {group}th customer of shop {group * group} seeks parcel {group}. {member}",
            f"Parcel {group} waits at station {group * 31}, shelf {group * 17}, since day {group * 13}.",
        )
        for group in range(count)
        for member in range(size)
    ]


def test_rows_that_are_almost_the_same_stay_together(write_rows: Write, tmp_path: Path) -> None:
    rows = families(40, 5)
    done, training, validation = halves(write_rows(rows, "all.jsonl"), tmp_path, share=0.2)
    assert done.num_training + done.num_validation == len(training) + len(validation) == 200
    assert 20 <= len(validation) <= 40
    family = {json.dumps(row, ensure_ascii=False): index // 5 for index, row in enumerate(rows)}
    assert not {family[line] for line in training} & {family[line] for line in validation}


def test_the_same_question_stays_on_one_side(write_rows: Write, tmp_path: Path) -> None:
    rows = [chat_row(f"Q{n // 2}?", f"{'yes' if n % 2 else 'no'}") for n in range(40)]
    _, training, validation = halves(write_rows(rows, "all.jsonl"), tmp_path, share=0.25)
    asked = [{json.loads(line)["messages"][1]["content"] for line in part} for part in (training, validation)]
    assert len(validation) == 10 and not asked[0] & asked[1]


def test_the_seed_decides(write_rows: Write, tmp_path: Path) -> None:
    path = write_rows([chat_row(f"{n}?", str(n)) for n in range(50)], "all.jsonl")
    first, again, other = (halves(path, tmp_path, seed=seed)[2] for seed in (1, 1, 2))
    assert first == again != other


def test_bad_lines_stay_in_training(write_rows: Write, tmp_path: Path) -> None:
    path = write_rows([*[chat_row(f"{n}?", str(n)) for n in range(20)], "{broken", ""], "all.jsonl")
    _, training, validation = halves(path, tmp_path)
    assert "{broken" in training and len(training) + len(validation) == 21


@pytest.mark.parametrize("rows", [[], [chat_row()], [chat_row()] * 20])
def test_what_cannot_be_split_is_refused(rows: list[Any], write_rows: Write, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No validation file"):
        halves(write_rows(rows, "all.jsonl"), tmp_path)

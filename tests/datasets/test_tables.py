"""Tables as people have them: workbooks with many sheets, merged cells and formulas, files that are not what they say,
and a process with bounds that reads them."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from tunery.datasets import convert
from tunery.datasets.convert import Request, converting
from tunery.datasets.prepare import Mapping, prepare
from tunery.datasets.tables import looks_like_table, open_table
from tunery.domain.errors import InvalidRequest

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)
CSV = "question,answer\n" + "".join(f"What is {n} plus {n}?,It is {2 * n}.\n" for n in range(30))


def workbook(path: Path, **sheets: list[list[Any]]) -> Workbook:
    book = Workbook()
    book.remove(book.worksheets[0])
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return book


def said(path: Path, mapping: Mapping | None = None, **wished: Any) -> list[list[str]]:
    with open_table(path, **wished) as table:
        rows = list(prepare(table.records, mapping))
    return [[message["content"] for message in row["messages"]] for row in rows]


def test_of_ten_sheets_the_first_with_a_table_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    sheets = {f"s{n}": [["question", "answer"], [f"q{n}", f"a{n}"]] for n in range(2, 10)}
    workbook(path := tmp_path / "a.xlsx", notes=[], cover=[["Report of May"]], **sheets)
    assert said(path) == [["q2", "a2"]]
    assert said(path, sheet="s7") == [["q7", "a7"]]
    with open_table(path) as table:
        assert (table.sheet, len(table.sheets), table.kind) == ("s2", 10, "xlsx")
    with pytest.raises(InvalidRequest, match="no sheet ‘S7’"):
        open_table(path, sheet="S7")


def test_a_cell_merged_over_rows_stands_in_each_and_one_over_columns_is_a_title(tmp_path: Path) -> None:
    rows = [["question", "answer"], ["Billing", None], ["How much?", "10"], [None, "11"], ["Why?", "So."], ["x", None]]
    book = workbook(path := tmp_path / "a.xlsx", s=rows)
    for place in ("A2:B2", "A3:A4", "B5:B6"):
        book.worksheets[0].merge_cells(place)
    book.save(path)
    assert said(path) == [["How much?", "10"], ["How much?", "11"], ["Why?", "So."], ["x", "So."]]


def test_formulas_count_by_their_values_and_those_without_are_told(tmp_path: Path) -> None:
    workbook(path := tmp_path / "a.xlsx", s=[["question", "answer"], ["1+1?", "=1+1"], ["2+2?", "4"]])
    with open_table(path) as table:
        assert [note.params["count"] for note in table.notes] == [1]
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    place = "xl/worksheets/sheet1.xml"
    parts[place], num = re.subn(rb"<f>1\+1</f>(<v ?/>|<v></v>)?", b"<f>1+1</f><v>2</v>", parts[place])
    assert num == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert said(path) == [["1+1?", "2"], ["2+2?", "4"]]
    with open_table(path) as table:
        assert not table.notes


def test_of_two_header_rows_the_one_with_the_telling_names_is_the_header(tmp_path: Path) -> None:
    rows = [["Conversation", None, "Meta"], ["question", "answer", "id"], ["a", "b", 1]]
    workbook(path := tmp_path / "a.xlsx", s=rows)
    assert said(path) == [["a", "b"]]
    with open_table(path) as table:
        assert table.header_row == 2
    (csv := tmp_path / "b.csv").write_text("exported,by,us\nx,y,z\nask,tell,n\n1,One.,2\n")
    assert said(csv, Mapping("ask", "tell"), header_row=3) == [["1", "One."]]
    with pytest.raises(InvalidRequest, match="no row 9"):
        open_table(csv, header_row=9)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", OLE + "EncryptedPackage".encode("utf-16-le"), "password"),
        ("a.xls", OLE, "older Excel"),
        ("a.csv", b"", "is empty"),
        ("a.xlsx", b" \n", "is empty"),
        ("a.csv", b"\x00\x01\x02" * 50, "is no table"),
        ("a.xls", b"<html><table></table></html>", "is no table"),
        ("a.xlsx", b"PK\x03\x04 broken", "cannot be read as XLSX"),
        ("a.parquet", b"PAR1 broken", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_table_is_told_plainly(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=words):
        open_table(path)


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", s=[["question", "answer"], ["a", "b"]])
    for source, name in (("a.xlsx", "b.csv"), ("a.xlsx", "b.jsonl")):
        (tmp_path / name).write_bytes((tmp_path / source).read_bytes())
        assert said(tmp_path / name) == [["a", "b"]]
    (text := tmp_path / "c.xlsx").write_bytes("質問,回答\nなぜ?,だから。\n".encode("cp932"))
    assert said(text) == [["なぜ?", "だから。"]]
    (lines := tmp_path / "d.csv").write_text('{"question": "a", "answer": "b"}\n')
    assert said(lines) == [["a", "b"]]


def test_what_is_dropped_is_told_from_training_files() -> None:
    row = b'{"messages": []}\n'
    tables = [
        ("a.csv", row),
        ("a.json", b"[]"),
        ("a.json", b'{\n "data": []}'),
        ("a.jsonl", b"PK\x03\x04"),
        ("a.txt", b"a,b"),
    ]
    assert all(looks_like_table(*each) for each in tables)
    assert not any(
        looks_like_table(*each) for each in (("a.jsonl", row), ("a.json", row), ("a", b"x"), ("a.jsonl", b"{x"))
    )


@pytest.mark.parametrize(
    "history",
    [
        '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        '[["a", "b"]]',
        "User: a\nAssistant: b",
        "お客様：a\n担当者：b",
    ],
)
def test_earlier_turns_stand_between_the_instructions_and_the_question(history: Any) -> None:
    prepared = prepare([{"history": history, "question": "c?", "answer": "d"}], system="Be brief.")
    assert prepared.mapping.history == "history"
    (row,) = prepared
    turns = [(message["role"], message["content"]) for message in row["messages"]]
    assert turns == [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]


def test_a_history_that_is_none_leaves_its_row_out() -> None:
    record = {"question": "c?", "answer": "d"}
    prepared = prepare(
        [{**record, "notes": "Called twice."}, {**record, "notes": ""}], Mapping("question", "answer", history="notes")
    )
    assert len(list(prepared)) == 1
    assert [(each.row, each.reason.key) for each in prepared.skipped] == [(1, "table.no_history")]


# ---- in a process of its own
def drain(request: Request) -> tuple[dict[str, Any], list[float]]:
    steps, shares = converting(request), []
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as done:
            return done.value, shares


def test_the_process_looks_at_a_part_or_at_all_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "blob").write_text(CSV + ",no question\n")
    head, _ = drain(Request(str(path), "a.csv", most=10))
    assert (head["num_rows"], head["is_whole"], head["mapping"]["user"]) == (10, False, "question")
    assert head["columns"][0]["examples"][0] == "What is 0 plus 0?"
    whole, _ = drain(Request(str(path), "a.csv", target=str(tmp_path / "out"), system="Be brief."))
    assert (whole["num_examples"], whole["num_left_out"], whole["is_whole"]) == (30, 1, True)
    assert [row["row"] for row in whole["problems"]] == [31]
    assert whole["problems"][0]["cells"] == {"question": "", "answer": "no question"}
    with open_table(path, name="a.csv") as table:
        expected = list(prepare(table.records, system="Be brief."))
    assert [*map(convert.json.loads, (tmp_path / "out").read_text().splitlines())] == expected


def test_the_process_tells_errors_in_words_that_can_be_reworded(tmp_path: Path) -> None:
    (path := tmp_path / "blob").write_text("question,answer\n,b\n")
    with pytest.raises(InvalidRequest) as raised:
        drain(Request(str(path), "a.csv", target=str(tmp_path / "out")))
    assert raised.value.text["key"] == "table.no_rows_because"
    assert raised.value.text["params"]["reason"]["key"] == "table.empty_cell"


def test_what_unpacks_to_more_than_the_memory_ends_in_words(tmp_path: Path) -> None:
    workbook(path := tmp_path / "a.xlsx", s=[["question", "answer"], ["a", "b"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    place = "xl/worksheets/sheet1.xml"
    parts[place] = parts[place].replace(b"<t>b</t>", b"<t>" + b"b" * 150_000_000 + b"</t>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InvalidRequest, match="unpacks to more"):
        drain(Request(str(path), "a.xlsx", max_memory_bytes=150 * 1024**2))

"""One file for each act or noun: neither a heap nor a sheaf of slips."""

import ast

from tests.architecture.imports import SOURCE, module_graph, module_name

LONGEST = 500  # past that a file has more than one reason to change
SHORT = 60  # below that a file with one reader belongs into the reader's
REASON = "apart because"


def test_no_file_has_grown_past_the_hard_stop() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in SOURCE.rglob("*.py")
        if "migrations" not in path.parts  # written once, read never
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


def test_a_short_file_with_one_importer_says_why_it_stands_apart() -> None:
    assert not (alone := sorted(_short_files_alone())), f"put them where they are used, or say {REASON!r} … : {alone}"


def _short_files_alone() -> set[str]:
    graph = module_graph()
    return {
        name.removeprefix("tunery.")
        for path in SOURCE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and "migrations" not in path.parts
        for name in [module_name(path)]
        for text in [path.read_text(encoding="utf-8")]
        if len(text.splitlines()) < SHORT
        and sum(name in targets for targets in graph.values()) <= 1
        and REASON not in " ".join((ast.get_docstring(ast.parse(text)) or "").lower().split())
    }

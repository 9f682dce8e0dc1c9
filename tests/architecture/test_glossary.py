"""The glossary explains every noun of the domain and every table, and names none that is gone."""

import ast
import re
from pathlib import Path

from tests.architecture.imports import SOURCE
from tunery.store.columns import metadata
from tunery.store.tables import jobs

GLOSSARY = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text("utf-8")
NOUNS = GLOSSARY.partition("## Nouns of the code")[2]


def _named(column: int) -> set[str]:
    rows = [line.split("|") for line in NOUNS.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([A-Za-z_]+)`", row[column])}


def _classes() -> set[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in (SOURCE / "domain").rglob("*.py")]
    classes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    kinds = {"NoticeKind"}  # a Literal
    return {name for name in classes | kinds if not name.startswith("_")}


def test_every_class_of_the_domain_is_explained() -> None:
    assert _named(1) == _classes()


def test_every_table_is_explained() -> None:
    assert jobs.metadata is metadata
    assert _named(2) == set(metadata.tables)

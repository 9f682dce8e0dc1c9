"""Writes the table of settings in docs/operations.md from settings.py: names, defaults and the comments beside them.

`python scripts/settings_reference.py` rewrites the table; a test holds the page equal to it.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tunery" / "settings.py"
PAGE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- settings: written by scripts/settings_reference.py -->", "<!-- end of settings -->"


def table() -> str:
    source = SOURCE.read_text("utf-8")
    lines = source.splitlines()
    cls = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            rows.append(f"| `{node.target.id}` | {_default(node.value)} | {_meaning(lines, node, node.target.id)} |")
    return "\n".join(rows)


def _default(node: ast.expr | None) -> str:
    if isinstance(node, ast.Call):  # Field(default, …), Path("…"), SecretStr("…")
        node = node.args[0]
    text = "" if node is None else ast.unparse(node).strip("'\"")
    return f"`{text}`" if text not in ("", "None", "[]") else "–"


def _meaning(lines: list[str], node: ast.AnnAssign, name: str) -> str:
    """The comment on the field's line; where there is none the name has to say it, with its choices if it has some."""
    comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
    choices = (
        re.findall(r"'([^']*)'", ast.unparse(node.annotation)) if "Literal" in ast.unparse(node.annotation) else []
    )
    parts = [comment, "one of " + ", ".join(f"`{choice}`" for choice in choices) if choices else ""]
    return ("; ".join(part for part in parts if part) or name.replace("_", " ")).replace("<", "&lt;")


def page_with(settings: str) -> str:
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{settings}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()), "utf-8")

"""What people call the columns of their tables, in some thirty languages: columns.toml, read once."""

import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

_WITHIN_OTHERS = 5  # letters of a word that languages put together with others: `Kundenanfrage`


@cache
def known_names() -> dict[str, dict[str, list[str]]]:
    """Words by role and kind, as `plain` writes them."""
    document = tomllib.loads(files("tunery.datasets").joinpath("columns.toml").read_text("utf-8"))
    return {role: {kind: [*map(plain, words)] for kind, words in kinds.items()} for role, kinds in document.items()}


def num_telling(names: Iterable[str]) -> int:
    """How many of these are just what people call a column."""
    return sum(plain(name) in _telling() for name in names)


@cache
def _telling() -> frozenset[str]:
    return frozenset(word for kinds in known_names().values() for word in kinds.get("telling", ()))


def has_word(name: str, word: str) -> bool:
    return f" {word} " in f" {name} "


def is_part(name: str, word: str) -> bool:
    return word in name and (not word.isascii() or len(word) >= _WITHIN_OTHERS)


def plain(name: str) -> str:
    """`User_Entrée` → `user entree`; full-width letters become ordinary ones."""
    parts = unicodedata.normalize("NFKD", name).casefold()
    folded = unicodedata.normalize("NFC", "".join(each for each in parts if not "\u0300" <= each <= "\u036f"))
    kept = (each if each.isalnum() or unicodedata.category(each)[0] == "M" else " " for each in folded)
    return " ".join("".join(kept).split())

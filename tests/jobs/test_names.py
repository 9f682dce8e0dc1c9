"""What a suffix becomes in a model's name, in any script."""

import random
import sys

import pytest

from tunery.domain.names import MAX_SUFFIX, new_name, parse_name, slug, suffix_in_name


@pytest.mark.parametrize(
    ("sent", "in_name"),
    [
        ("marv", "marv"),
        ("my model: v2", "my-model-v2"),
        ("a/b_c.d", "a-b_c.d"),
        ("日本語 モデル", "日本語-モデル"),
        ("夏の新メニュー（第2版）", "夏の新メニュー-第2版"),
        ("Größe für Köln", "Größe-für-Köln"),
        ("हिन्दी मॉडल", "हिन्दी-मॉडल"),
        ("помощь", "помощь"),
        ("مدل", "مدل"),
        ("ＡＢＣ１", "ABC1"),
        ("€ 5 ™", "EUR-5-TM"),
        ("🚀 v2", "rocket-v2"),
        ("\u200b", "model"),
        ("---", "model"),
    ],
)
def test_letters_of_any_script_stay_and_symbols_are_spelt(sent: str, in_name: str) -> None:
    assert suffix_in_name(sent) == in_name


def test_every_suffix_gives_a_name_that_can_be_read_back() -> None:
    chance = random.Random(5)
    characters = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for _ in range(3000):
        suffix = "".join(chance.choices(characters[:0x3000], k=6) + chance.choices(characters, k=6))
        name = new_name(base="gpt-4o", organization="acme", suffix=suffix * 5)
        assert parse_name(str(name)) == name
        assert 1 <= len(name.suffix) <= MAX_SUFFIX
        assert suffix_in_name(name.suffix) == name.suffix


@pytest.mark.parametrize(
    ("organization", "in_name"),
    [
        ("Acme Inc.", "acme-inc"),
        ("Müller & Söhne", "muller-sohne"),
        ("株式会社サクラ", "zhushihuishesakura"),
        ("!!", "org"),
    ],
)
def test_organisations_are_spelt_in_ascii(organization: str, in_name: str) -> None:
    assert slug(organization) == in_name

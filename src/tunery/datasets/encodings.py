"""In which encoding a file that is not UTF-8 was most likely saved: its name stands in what is said of the file."""

import codecs

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LOOKED_AT = 4096


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark a file begins with, or by the zeros that stand beside each ASCII character. None:
    neither."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    head = head[:_LOOKED_AT]
    places = [head[place::4].count(0) * 4 / max(1, len(head)) for place in range(4)]
    mostly = [share > 0.5 for share in places]
    if mostly in ([True, True, True, False], [False, True, True, True]):
        return "UTF-32"
    return "UTF-16" if mostly in ([True, False, True, False], [False, True, False, True]) else None


def narrow_encoding(content: bytes) -> str:
    """Of text that is not UTF-8: Shift-JIS when it reads as Japanese, else Windows-1252, which holds Latin-1."""
    try:
        text = content.decode("cp932")
    except UnicodeDecodeError:
        return "Windows-1252"
    kana = sum("\u3041" <= character <= "\u30fe" for character in text)
    return "Shift-JIS" if kana else "Windows-1252"

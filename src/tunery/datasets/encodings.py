"""In which encoding a file that is not UTF-8 was most likely saved, by Python's name for it."""

import codecs
import re

UTF_8 = "utf-8-sig"
_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# How ZIP (so XLSX and DOCX), Parquet, gzip, PDF, PNG and the older formats of Office begin.
_MAGIC = re.compile(rb"PK\x03\x04|PAR1|\x1f\x8b|%PDF|\x89PNG|\xd0\xcf\x11\xe0")
_LOOKED_AT = 4096
_LEAST_ZEROS = 0.02  # of UTF-16: line breaks, commas and quotation marks have them in every language
_ONE_SIDED = 0.9
_NAMES = {"cp932": "Shift-JIS", "cp1252": "Windows-1252"}


def encoding_name(encoding: str) -> str:
    """As people and the menus of editors call it."""
    return _NAMES.get(encoding) or encoding.removesuffix("-le").removesuffix("-be").removesuffix("-sig").upper()


def is_binary(head: bytes) -> bool:
    """Whether a file that is not of a wide encoding is no text at all."""
    return b"\x00" in head[: 64 * 1024] or _MAGIC.match(head) is not None


def marked_encoding(head: bytes) -> str | None:
    """By the mark that a file begins with."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark, or by the zeros that stand beside each ASCII character. None: neither."""
    marked = marked_encoding(head)
    if marked is not None:
        return None if marked == UTF_8 else marked
    head = head[:_LOOKED_AT]
    zeros = [head[place::4].count(0) for place in range(4)]
    if sum(zeros) < max(2, _LEAST_ZEROS * len(head)):
        return None
    always = [4 * count > _ONE_SIDED * len(head) for count in zeros]
    before, behind = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if always[2] and always[3]:
        guess = "utf-32-le"
    elif always[0] and always[1]:
        guess = "utf-32-be"
    elif max(before, behind) >= _ONE_SIDED * (before + behind):
        guess = "utf-16-le" if behind > before else "utf-16-be"
    else:
        return None
    return guess if _reads_as_text(head, guess) else None


def _reads_as_text(head: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(character < " " and not character.isspace() for character in text)


def narrow_encoding(content: bytes) -> str:
    """Of text that is not UTF-8: cp932 when it reads as Japanese, else cp1252, which holds Latin-1. Excel saves
    CSV in these in Japan and in western countries. `content` may end within a character."""
    try:
        text = codecs.getincrementaldecoder("cp932")().decode(content)
    except UnicodeDecodeError:
        return "cp1252"
    common = seldom = 0
    for character in filter(lambda each: not each.isascii(), text):
        lead, trail = (character.encode("cp932") + b"\xff")[:2]
        if lead in (0x82, 0x83):  # kana
            common += 1
        elif 0x88 <= lead <= 0x97:  # the kanji that are in use; in Windows-1252 also a quotation mark and a letter
            common += trail >= 0x80
        elif lead >= 0xE0:  # in Windows-1252 the letters with accents
            seldom += 1
    return "cp932" if common > seldom else "cp1252"


def is_latin(content: bytes) -> bool:
    """Whether bytes beyond ASCII stand singly or in twos, as letters with accents do. Other scripts' words are rows."""
    sizes = [len(row) for row in re.findall(rb"[\x80-\xff]+", content)]
    return 3 * sum(size for size in sizes if size > 2) <= sum(sizes)

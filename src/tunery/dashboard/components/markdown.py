"""Markdown that people wrote, as markup: without HTML of theirs, and without pictures, which would be fetched from
elsewhere. Apart because what people wrote becomes safe in one place."""

from markdown_it import MarkdownIt
from markupsafe import Markup

_TOP = 3  # a text's own first heading: the page and its panel have those above
_reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def as_markup(text: str) -> Markup:
    """Headings begin at the third level."""
    tokens = _reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _TOP - 1)}"
    return Markup(_reader.renderer.render(tokens, _reader.options, {}))

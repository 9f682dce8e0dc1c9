"""Its owner's words for a job: the fields in which they are written, when it is created and later."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import html
from tunery.domain.jobs import OBEYED
from tunery.texts import Translator

MAX_NAME, MAX_NOTES, MAX_TAGS, MAX_METADATA = 200, 20_000, 1_100, 10_000  # characters that a field takes


class WordFields:
    """Name, tags, notes and metadata, the last as a pair a line. Pairs that the server acts on, and those that are no
    line, are not for this field: the server keeps them."""

    def __init__(self, t: Translator, known: dict[str, Any]) -> None:
        """`known`: `display_name`, `tags`, `notes` and `metadata` as a job's detail has them; all may be missing."""
        self.t = t
        metadata = known.get("metadata") or {}
        lines = {key: value for key, value in metadata.items() if not (key in OBEYED or "\n" in key + value)}
        self.kept = {key: value for key, value in metadata.items() if key not in lines}
        with ui.element("div").classes("fields"):
            self.name = ui.input(t("create.display_name"), value=known.get("display_name") or "")
            self.name.props(f"outlined dense maxlength={MAX_NAME}")
            self.tags = ui.input(t("job.tags"), value=", ".join(known.get("tags") or []))
            self.tags.props(f'outlined dense maxlength={MAX_TAGS} hint="{t("job.tags_hint")}"')
        self.notes = ui.textarea(t("job.notes"), value=known.get("notes") or "")
        self.notes.props(f"outlined dense autogrow maxlength={MAX_NOTES}")
        self.metadata = ui.textarea(t("job.metadata"), value="\n".join(f"{key}={lines[key]}" for key in lines))
        self.metadata.props(f'outlined dense autogrow maxlength={MAX_METADATA} hint="{t("job.metadata_hint")}"')

    def words(self) -> dict[str, Any]:
        """All but the metadata, which goes with the request that creates a job."""
        tags = [tag.strip() for tag in (self.tags.value or "").split(",")]
        return {
            "display_name": (self.name.value or "").strip() or None,
            "tags": list(dict.fromkeys(filter(None, tags))),
            "notes": (self.notes.value or "").strip() or None,
        }

    def pairs(self) -> dict[str, str]:
        """Of the metadata."""
        found = (line.partition("=") for line in self._lines() if "=" in line)
        return {key.strip(): value.strip() for key, _, value in found}

    def problem(self) -> str:
        """What keeps them from being sent, in a sentence; nothing when they may."""
        bad = next((line for line in self._lines() if "=" not in line), None)
        return "" if bad is None else self.t("job.metadata_line", line=bad)

    def _lines(self) -> list[str]:
        return [line.strip() for line in (self.metadata.value or "").split("\n") if line.strip()]


def tag_line(tags: list[str]) -> Markup:
    return Markup("").join(Markup('<span class="badge wrap">{}</span> ').format(tag) for tag in tags)


def words_of(facts: dict[str, Any], t: Translator) -> Markup:
    """Notes and metadata; nothing for a job that has neither."""
    notes = Markup('<p class="notes wrap">{}</p>').format(facts["notes"]) if facts["notes"] else Markup("")
    pairs: list[tuple[str, str | Markup]] = [(key, value) for key, value in (facts["metadata"] or {}).items()]
    return notes + (html.facts(pairs) if pairs else Markup(""))

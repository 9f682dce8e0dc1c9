"""Names of fine-tuned models: `ft:<base snapshot>:<org>:<suffix>:<8 characters>[:ckpt-step-<N>]`."""

import re
import unicodedata
from dataclasses import dataclass

from anyascii import anyascii

from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import random_text
from tunery.texts import say

MAX_SUFFIX = 64


@dataclass(frozen=True)
class FineTunedName:
    base: str
    organization: str
    suffix: str  # "" when the job has none: the name then holds `::`
    id: str
    step: int | None = None  # set for every checkpoint but the last, which has the job's own name

    def __str__(self) -> str:
        name = f"ft:{self.base}:{self.organization}:{self.suffix}:{self.id}"
        return name if self.step is None else f"{name}:ckpt-step-{self.step}"


def new_name(*, base: str, organization: str, suffix: str | None, step: int | None = None) -> FineTunedName:
    """`suffix` as its owner sent it; None gives a name without one."""
    return FineTunedName(base, organization, "" if suffix is None else suffix_in_name(suffix), random_text(8), step)


def parse_name(text: str) -> FineTunedName | None:
    """None when the text is not the name of a fine-tuned model."""
    match = re.fullmatch(r"ft:([^:]+):([^:]*):([^:]*):([A-Za-z0-9]{8})(?::ckpt-step-(\d{1,12}))?", text)
    if match is None:
        return None
    base, organization, suffix, ident, step = match.groups()
    return FineTunedName(base, organization, suffix, ident, None if step is None else int(step))


def check_suffix(suffix: str) -> None:
    """Raises InvalidRequest when it has no or more than 64 characters."""
    if not 1 <= len(suffix) <= MAX_SUFFIX:
        raise InvalidRequest(say("error.suffix_length", most=MAX_SUFFIX, num_suffix=len(suffix)), param="suffix")


def suffix_in_name(suffix: str) -> str:
    """The suffix as it stands in the name; applied twice it changes nothing more.

    Letters and digits of any script stay, since OpenAI names no alphabet, and full-width ones become plain. A symbol
    becomes its ASCII spelling (`€` gives `EUR`). What is left joins words and becomes `-`: a colon would split the name
    and a slash its path.
    """
    plain = unicodedata.normalize("NFKC", suffix)
    spelt = "".join(char if _is_letter(char) or char.isascii() else _spelt(char) for char in plain)
    kept = "".join(char if _is_letter(char) or char in "._-" else " " for char in spelt)
    joined = unicodedata.normalize("NFKC", "-".join(kept.split())).strip("-")
    return joined[:MAX_SUFFIX].rstrip("-") or "model"


def _is_letter(char: str) -> bool:
    """Letters, the marks that belong to them (vowels, in many scripts) and digits."""
    return unicodedata.category(char)[0] in "LMN"


def _spelt(char: str) -> str:
    """`:rocket:` for a picture. A mark that is drawn with no width of its own gives nothing."""
    return anyascii(char).replace(":", " ")


def slug(text: str) -> str:
    """An organisation's name as it stands in model names: lower case ASCII as OpenAI's, words joined by `-`."""
    return re.sub(r"[^a-z0-9]+", "-", anyascii(text).lower()).strip("-") or "org"

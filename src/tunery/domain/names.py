"""Names of fine-tuned models: `ft:<base snapshot>:<org>:<suffix>:<8 characters>[:ckpt-step-<N>]`."""

import re
from dataclasses import dataclass

from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import random_text

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
    return FineTunedName(base, organization, suffix or "", random_text(8), step)


def parse_name(text: str) -> FineTunedName | None:
    """None when the text is not the name of a fine-tuned model."""
    match = re.fullmatch(r"ft:([^:]+):([^:]*):([^:]*):([A-Za-z0-9]{8})(?::ckpt-step-(\d+))?", text)
    if match is None:
        return None
    base, organization, suffix, ident, step = match.groups()
    return FineTunedName(base, organization, suffix, ident, None if step is None else int(step))


def normalise_suffix(suffix: str) -> str:
    """The suffix as it stands in the name. A colon would split the name and a slash its path: both become `-`.

    Raises InvalidRequest when it has no or more than 64 characters.
    """
    if not 1 <= len(suffix) <= MAX_SUFFIX:
        raise InvalidRequest(
            f"Invalid 'suffix': it must have 1 to {MAX_SUFFIX} characters, this one has {len(suffix)}.", param="suffix"
        )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", suffix).strip("-") or "model"


def slug(text: str) -> str:
    """An organisation's name as it stands in model names: lower case, words joined by `-`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "org"

"""What a source and whoever asks it know of each other."""

from collections.abc import Callable

from tunery.domain.errors import Unavailable

Progress = Callable[[str, int, int | None], None]
"""What is being done, bytes so far, bytes in all (None when unknown)."""


class SourceError(Unavailable):
    """The weights cannot be had; the message says why and what to do."""

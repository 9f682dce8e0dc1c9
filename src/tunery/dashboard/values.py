"""What a visitor's next request must find, whichever api answers it: values by owner and name, each until its time.

The dashboard knows no database; who mounts it hands in where they are kept.
"""

from typing import Protocol


class Values(Protocol):
    """Puts and reads are done in the order in which they were asked for."""

    async def put(self, owner: str, name: str, value: str, *, until: float) -> None:
        """`until`: Unix seconds."""
        ...

    async def find(self, owner: str, name: str) -> str | None: ...

    async def list(self, owner: str) -> dict[str, tuple[str, float]]:
        """By name the value and when it ends, the ones that end first before the others."""
        ...

    async def remove(self, owner: str, name: str | None = None) -> None:
        """All of the owner's, or the one of this name."""
        ...

    async def remove_ended(self) -> None: ...

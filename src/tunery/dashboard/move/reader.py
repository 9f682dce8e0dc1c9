"""Parity reports as `tunery migrate openai report` keeps them: files of the purpose `evals`, JSON Lines.

The first line holds the verdict and the measures, each further line a row, differing ones first. Anyone may upload a
file of this purpose, so everything read here is checked, and no more of a file is held than what is shown.
"""

from collections.abc import AsyncIterator

from openai import AsyncOpenAI
from pydantic import TypeAdapter, ValidationError

from tunery.domain.parity import Parity, ParityRow

PURPOSE = "evals"
PREFIX = "parity-"
MAX_LINE_BYTES = 8 * 1024 * 1024
_HEAD, _ROW = TypeAdapter(Parity), TypeAdapter(ParityRow)


class NotAReport(ValueError):
    """The file is something else."""


async def read_head(client: AsyncOpenAI, file_id: str) -> Parity:
    """Raises NotAReport, and what the server answers."""
    head, _ = await read_part(client, file_id, skip=0, count=0)
    return head


async def read_part(client: AsyncOpenAI, file_id: str, *, skip: int, count: int) -> tuple[Parity, list[ParityRow]]:
    """The head and `count` rows after the first `skip` of them. Raises NotAReport, and what the server answers."""
    async with client.files.with_streaming_response.content(file_id) as response:
        lines = _lines(response.iter_bytes())
        try:
            head = _HEAD.validate_json(await anext(lines, b""))
            rows: list[ParityRow] = []
            number = 0
            while len(rows) < count and (line := await anext(lines, None)) is not None:
                if number >= skip:
                    rows.append(_ROW.validate_json(line))
                number += 1
        except ValidationError as error:
            raise NotAReport(file_id) from error
    return head, rows


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises NotAReport for a line that no report has."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise NotAReport("a line is too long")
    if rest:
        yield rest

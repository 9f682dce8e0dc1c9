"""Parity reports as `tunery migrate openai report` keeps them: files of the purpose `evals`, JSON Lines.

The first line holds the verdict and the measures, each further line a row, differing ones first. Anyone may upload a
file of this purpose, so everything read here is checked, and no more of a file is held than what is shown.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from openai import AsyncOpenAI
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

PURPOSE = "evals"
PREFIX = "parity-"
MAX_LINE_BYTES = 8 * 1024 * 1024
YEAR_2200 = 7_258_118_400

Verdict = Literal["yes", "no", "not enough data"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class NotAReport(ValueError):
    """The file is something else."""


class Interval(BaseModel):
    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Decision(BaseModel):
    safe_to_switch: Verdict
    difference: Interval  # score of new minus score of old


class Summary(BaseModel):
    model: str
    num_rows: Count
    num_errors: Count
    score: Interval
    exact_match: Share | None
    similarity: Share | None
    agreement: Share
    refusals: Share
    mean_words: FiniteFloat
    latency_p50_ms: FiniteFloat
    prompt_tokens: Count
    completion_tokens: Count


class Money(BaseModel):
    amount: FiniteFloat = Field(ge=0)
    currency: str = Field(max_length=8)


class Costs(BaseModel):
    """Of a thousand requests."""

    old: Money | None
    new: Money | None
    base: Money | None


class Parity(BaseModel):
    object: Literal["tunery.parity_report"]
    created_at: int = Field(ge=0, lt=YEAR_2200)
    decision: Decision
    measure: Literal["exact", "similarity", "agreement"]
    margin: Share
    min_rows: Count
    old: Summary
    new: Summary
    base: Summary | None
    costs: Costs


class RowAnswer(BaseModel):
    text: str
    failed: bool
    score: Share


class ParityRow(BaseModel):
    row: int
    messages: list[dict[str, object]]
    expected: str | None
    old: RowAnswer
    new: RowAnswer
    similarity: Share


async def read_head(client: AsyncOpenAI, file_id: str) -> Parity:
    """Raises NotAReport, and what the server answers."""
    head, _ = await read_part(client, file_id, skip=0, count=0)
    return head


async def read_part(client: AsyncOpenAI, file_id: str, *, skip: int, count: int) -> tuple[Parity, list[ParityRow]]:
    """The head and `count` rows after the first `skip` of them. Raises NotAReport, and what the server answers."""
    async with client.files.with_streaming_response.content(file_id) as response:
        lines = _lines(response.iter_bytes())
        try:
            head = Parity.model_validate_json(await anext(lines, b""))
            rows: list[ParityRow] = []
            number = 0
            while len(rows) < count and (line := await anext(lines, None)) is not None:
                if number >= skip:
                    rows.append(ParityRow.model_validate_json(line))
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

"""What both pages of batches share."""

import time

from markupsafe import Markup
from openai.types import Batch

from tunery.dashboard.components import html
from tunery.domain.batches import UNFINISHED, seconds_left
from tunery.texts import Translator


def may_change(batch: Batch) -> bool:
    return batch.status in UNFINISHED


def counts(batch: Batch) -> tuple[int, int, int]:
    """Requests: answered, failed, all."""
    known = batch.request_counts
    return (known.completed, known.failed, known.total) if known else (0, 0, 0)


def time_left(batch: Batch, t: Translator) -> str:
    """Empty while it cannot be said."""
    answered, failed, total = counts(batch)
    begun_at = batch.in_progress_at if batch.status == "in_progress" else None
    left_s = seconds_left(begun_at, answered + failed, total, time.time())
    return "" if left_s is None else t("batches.left", time=html.duration(left_s, t))


def progress(batch: Batch, t: Translator) -> Markup:
    answered, failed, total = counts(batch)
    return html.progress(answered + failed, total, t)

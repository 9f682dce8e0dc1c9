"""Prices and costs as the console shows them: plain numbers of the table's currency."""

from tunery.api.context import Context
from tunery.api.tunery.console.schemas import PriceOut
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.usage import MICRO, PICO


def price_of(context: Context, model: str, base: str) -> PriceOut:
    now = context.clock()
    price = context.prices.price_of(model, now)
    return PriceOut(
        training=context.prices.training_price(base, now) / MICRO,
        input=price.input / MICRO,
        cached_input=price.cached_input / MICRO,
        output=price.output / MICRO,
        currency=context.prices.currency,
    )


def job_cost(context: Context, job: FineTuningJob) -> float | None:
    """At the price of the day it ended. Null unless it has succeeded: nothing else is charged."""
    if job.status is not JobStatus.SUCCEEDED or job.trained_tokens is None:
        return None
    price = context.prices.training_price(job.base_model, job.finished_at or context.clock())
    return job.trained_tokens * price / PICO

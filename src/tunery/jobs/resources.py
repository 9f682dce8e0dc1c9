"""What a worker works with. Handed down whole, so that a new resource does not change every signature."""

from dataclasses import dataclass

from sqlalchemy import Engine

from tunery.domain.clock import Clock, system_clock
from tunery.jobs.runner import Runner
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.settings import Settings
from tunery.store.blobs import Blobs


@dataclass(frozen=True)
class Resources:
    settings: Settings
    engine: Engine  # the database's
    blobs: Blobs
    catalog: Catalog
    prices: PriceTable
    runner: Runner
    clock: Clock = system_clock

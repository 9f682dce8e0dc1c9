"""What stands on a base, and the removal of one on which nothing stands."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from tunery.bases.entry import remove_entry
from tunery.domain.errors import InvalidRequest, NotFound, no_such_model
from tunery.models.catalog import Catalog, CatalogModel
from tunery.models.sources import cache as sources
from tunery.settings import Settings
from tunery.store import batches, evals, jobs, models
from tunery.store.database import read
from tunery.texts import say

NAMED = 3  # of those that use it, in the refusal


@dataclass(frozen=True)
class Uses:
    """Of all projects."""

    models: list[str]
    jobs: list[str]  # those that have not ended, or can be resumed
    asking: list[str]  # batches and runs of evals that ask it and have not ended

    @property
    def all(self) -> list[str]:
        return [*self.jobs, *self.asking, *self.models]


def uses_of(database: Engine, model: CatalogModel) -> Uses:
    """Of the weights, and of the names where something waits for them."""
    with read(database) as conn:
        return uses_in(conn, model)


def uses_in(conn: Connection, model: CatalogModel) -> Uses:
    names = [model.name, *model.aliases]
    asking = [*batches.unfinished_on(conn, names), *evals.unfinished_on(conn, names)]
    return Uses(models.names_on(conn, model.source), jobs.unfinished_on(conn, model.name), asking)


def remove(name: str, settings: Settings, database: Engine | None) -> int:
    """The entry, and its files where nothing else needs them: the number of bytes that became free here. Raises
    NotFound; InvalidRequest while a model, a job, a batch or a run of an eval stands on it. `database` None: there is
    none yet."""
    catalog = Catalog.of(settings)
    model = catalog.find(name)
    if model is None:
        raise no_such_model(name)
    if model.name not in catalog.own:
        raise NotFound(say("base.not_own", name=name), param="model", code="model_not_found")
    uses = uses_of(database, model).all if database else []
    if uses:
        named, more = uses[:NAMED], max(0, len(uses) - NAMED)
        key = "base.in_use_more" if more else "base.in_use"
        raise InvalidRequest(say(key, name=model.name, uses=named, more=more), param="model", code="base_in_use")
    source = remove_entry(settings, catalog, model.name)
    folder = sources.cached(model.source, settings.models_dir)
    if source is None or folder is None or any(each.source == source for each in Catalog.of(settings)):
        return 0
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    sources.remove(source, settings.models_dir)
    return freed

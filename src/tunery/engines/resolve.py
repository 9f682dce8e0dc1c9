"""A model's public name → the weights that answer to it."""

from dataclasses import dataclass

from sqlalchemy import Connection

from tunery.domain.errors import no_such_model
from tunery.domain.models import FineTunedModel
from tunery.models.catalog import Catalog, CatalogModel
from tunery.store import models

UPSTREAM = "openai:"  # what an alias points at to have a name passed on


@dataclass(frozen=True)
class Target:
    public_name: str  # what the answer says in `model`
    source: str  # the base weights
    base: CatalogModel | None  # None: the base has left the catalog since the model was made
    adapter: FineTunedModel | None  # None: the base itself
    upstream: str | None = None  # set: nothing of the above answers, the request is passed on to this model there

    @property
    def weights_name(self) -> str:
        """What really answers, for the header that says so: an alias may point anywhere."""
        if self.upstream is not None:
            return self.upstream
        if self.adapter is not None:
            return self.adapter.name
        return self.base.name if self.base else self.source


def resolve(conn: Connection, catalog: Catalog, name: str, project_id: str) -> Target:
    """An alias of the project first, then its own and shared models, then the catalog. Raises no_such_model."""
    alias = models.find_alias(conn, project_id, name)
    if alias is not None and alias.target.startswith(UPSTREAM):
        return Target(name, UPSTREAM, None, None, upstream=alias.target.removeprefix(UPSTREAM))
    found = _find(conn, catalog, alias.target if alias else name, project_id)
    if found is None:
        raise no_such_model(name)
    if alias is None:
        return found
    return Target(name, found.source, found.base, found.adapter)


def _find(conn: Connection, catalog: Catalog, name: str, project_id: str) -> Target | None:
    own = models.find_model(conn, name, project_id)
    if own is not None:
        return Target(own.name, own.source, catalog.find(own.base_model), own)
    base = catalog.find(name)
    if base is None or not base.serving:
        return None
    return Target(base.name, base.source, base, None)

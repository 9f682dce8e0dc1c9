"""Models on the wire. Apart because every resource has what it looks like in a `schemas.py`."""

from typing import Literal

from pydantic import BaseModel, Field

from tunery.domain.models import FineTunedModel
from tunery.models.catalog import CatalogModel


class Model(BaseModel):
    object: Literal["model"] = "model"
    id: str
    created: int
    owned_by: str
    shutdown_date: str | None = Field(default=None, description="Always null: weights of one's own are not shut down.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class DeletedModel(BaseModel):
    object: Literal["model"] = "model"
    id: str
    deleted: bool = True


# The catalog has no dates of its own; clients only want an integer that stays the same.
CATALOG_CREATED = 1_700_000_000


def wire_base_model(model: CatalogModel, name: str | None = None) -> Model:
    return Model(id=name or model.name, created=CATALOG_CREATED, owned_by=model.owned_by)


def wire_fine_tuned(model: FineTunedModel) -> Model:
    return Model(id=model.name, created=model.created_at, owned_by=model.owned_by)

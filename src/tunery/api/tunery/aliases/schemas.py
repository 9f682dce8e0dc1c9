"""Aliases on the wire. Names go in bodies and queries, never in paths: they hold colons and slashes."""

from typing import Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.domain.models import Alias, AliasChange


class AliasSet(Body):
    name: str = Field(min_length=1, max_length=256, description="The name that callers use.")
    target: str = Field(min_length=1, max_length=256, description="The model that is to answer to it.")
    reason: str = Field("", max_length=500, description="Kept in the history.")


class AliasName(Body):
    name: str = Field(min_length=1, max_length=256)


class AliasOut(BaseModel):
    object: Literal["tunery.alias"] = "tunery.alias"
    name: str
    target: str
    created_at: int
    updated_at: int


class AliasList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AliasOut]


class AliasChangeOut(BaseModel):
    object: Literal["tunery.alias_change"] = "tunery.alias_change"
    name: str
    target: str | None = Field(description="Null: the alias was removed.")
    reason: str
    changed_by: str | None
    created_at: int


class AliasChangeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AliasChangeOut]


class Reverted(BaseModel):
    object: Literal["tunery.alias_revert"] = "tunery.alias_revert"
    name: str
    target: str | None = Field(description="What answers to the name now; null when it is no alias any more.")


def wire_alias(alias: Alias) -> AliasOut:
    return AliasOut(name=alias.name, target=alias.target, created_at=alias.created_at, updated_at=alias.updated_at)


def wire_change(change: AliasChange) -> AliasChangeOut:
    return AliasChangeOut(
        name=change.name,
        target=change.target,
        reason=change.reason,
        changed_by=change.changed_by,
        created_at=change.created_at,
    )

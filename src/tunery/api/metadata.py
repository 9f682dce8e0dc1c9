"""Metadata of what a client keeps: its bounds, and in a query string `metadata[key]=value` or the literal
`metadata=null`."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from starlette.datastructures import QueryParams

from tunery.api.body import no_nul
from tunery.domain.errors import InvalidRequest
from tunery.jobs.requests import MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE
from tunery.store.jobs import NULL_METADATA
from tunery.texts import say

MetadataKey = Annotated[str, Field(max_length=MAX_METADATA_KEY), AfterValidator(no_nul)]
MetadataValue = Annotated[str, Field(max_length=MAX_METADATA_VALUE), AfterValidator(no_nul)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)]

METADATA_PARAMETER = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "`metadata[key]=value`: all must match. The literal `metadata=null`: no metadata at all.",
        }
    ]
}


def metadata_filter(query: QueryParams) -> dict[str, str] | str | None:
    """Pairs that must all match, or "null" for objects without metadata, or None for no filter."""
    pairs: dict[str, str] = {}
    for name, value in query.multi_items():
        if match := re.fullmatch(r"metadata\[([^\]]*)\]", name):
            pairs[match.group(1)] = value
    if len(pairs) > MAX_METADATA:  # each is a part of the query, and no object has so many
        problem = say("error.too_many_properties", param="metadata", bound=MAX_METADATA, size=len(pairs))
        raise InvalidRequest(problem, param="metadata", code="invalid_value")
    bare = query.get("metadata")
    if bare == "null" and not pairs:
        return NULL_METADATA
    if bare not in (None, "", "null") or (bare == "null" and pairs):
        raise InvalidRequest(
            say("error.metadata_form"),
            param="metadata",
            code="invalid_value",
        )
    if any("\0" in text for pair in pairs.items() for text in pair):
        raise InvalidRequest(say("error.nul_in_metadata"), param="metadata")
    return pairs or None

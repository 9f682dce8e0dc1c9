"""`switch` and `back`: which model answers to an old name."""

from typing import Annotated, Any, cast

import typer

from tunery.cli.connection import client_of
from tunery.cli.output import Json, console, emit_json, notes

OldName = Annotated[str, typer.Argument(help="The name that callers use, such as the old `ft:` name.")]


def switch(
    ctx: typer.Context,
    name: OldName,
    target: Annotated[str, typer.Argument(help="The model that is to answer to it.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: Json = False,
) -> None:
    """Let the old name answer with the new model, for this key's project. Takes effect with the next request."""
    body = {"name": name, "target": target, "reason": reason}
    made = cast(dict[str, Any], _client_post(ctx, "/aliases", body))
    if as_json:
        return emit_json(made)
    console.print(f"{name} is answered by {made['target']}.")
    notes.print(f"`tunery migrate openai back {name}` undoes it at once.")


def back(ctx: typer.Context, name: OldName, as_json: Json = False) -> None:
    """Undo the last `switch` of a name."""
    made = cast(dict[str, Any], _client_post(ctx, "/aliases/revert", {"name": name}))
    if as_json:
        return emit_json(made)
    console.print(f"{name} is answered by {made['target']}." if made["target"] else f"{name} is no alias any more.")


def _client_post(ctx: typer.Context, path: str, body: dict[str, Any]) -> object:
    """To our own namespace, which lies beside `/v1`."""
    client = client_of(ctx)
    root = str(client.base_url).rstrip("/").removesuffix("/v1")
    return client.post(f"{root}/tunery/v1{path}", cast_to=object, body=body)

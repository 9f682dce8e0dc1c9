"""`switch` and `back`: which model answers to an old name. Apart because each verb has its file."""

from typing import Annotated

import typer

from tunery.cli.connection import client_of, post_own, tell_weights
from tunery.cli.output import Json, console, emit_json, notes, tell

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
    client = client_of(ctx)
    made = post_own(client, "/aliases", body)
    if as_json:
        return emit_json(made)
    console.print(f"{name} is answered by {made['target']}.")
    tell_weights(client, name)
    notes.print(f"`tunery migrate openai back {name}` undoes it at once.")


def back(ctx: typer.Context, name: OldName, as_json: Json = False) -> None:
    """Undo the last `switch` of a name."""
    made = post_own(client_of(ctx), "/aliases/revert", {"name": name})
    now = f"is answered by {made['target']}" if made["target"] else "is no alias any more"
    tell(made, as_json, f"{name} {now}.")

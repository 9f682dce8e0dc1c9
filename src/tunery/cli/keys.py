"""`tunery keys`: API keys of a project."""

from typing import TYPE_CHECKING, Annotated

import typer

from tunery import private
from tunery.cli.connection import CommandFailed, client_of
from tunery.cli.output import Json, console, emit_json, notes, table, tell, when
from tunery.domain.clock import system_clock
from tunery.settings import load_settings

if TYPE_CHECKING:
    from openai import OpenAI

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

ProjectOption = Annotated[str | None, typer.Option("--project", help="A project's id; needless when there is one.")]


@app.command("list")
def list_keys(ctx: typer.Context, project: ProjectOption = None, as_json: Json = False) -> None:
    """List a project's keys. Secrets are never shown again."""
    client = client_of(ctx)
    found = list(client.admin.organization.projects.api_keys.list(_project(client, project)))
    rows = ((key.id, key.name, key.redacted_value, when(key.created_at), when(key.last_used_at)) for key in found)
    tell(found, as_json, table(("id", "name", "key", "created", "last used"), rows, empty="No keys."))


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="For whom or what the key is.")],
    project: ProjectOption = None,
    local: Annotated[
        bool, typer.Option("--local", help="Write to this machine's database: when every key is lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key and print it: this once only. It belongs to a service account of the same name."""
    if local:
        secret = _create_local(name)
    else:
        client = client_of(ctx)
        made = client.admin.organization.projects.service_accounts.create(_project(client, project), name=name)
        if made.api_key is None:
            raise CommandFailed("The server made the service account, but no key.")
        secret = made.api_key.value
    if as_json:
        return emit_json({"name": name, "key": secret})
    console.print(secret, soft_wrap=True)
    notes.print("Keep it now: it is not shown again.", style="dim")


@app.command()
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, from `tunery keys list`.")],
    project: ProjectOption = None,
    as_json: Json = False,
) -> None:
    """Revoke a key at once."""
    client = client_of(ctx)
    deleted = client.admin.organization.projects.api_keys.delete(key_id, project_id=_project(client, project))
    tell(deleted, as_json, f"Revoked {deleted.id}.")


def _create_local(name: str) -> str:
    from tunery.store import bootstrap, database

    settings = load_settings()
    private.keep(settings.home)
    engine = database.open_database(settings)
    database.migrate(engine)
    with database.write(engine) as conn:
        first = bootstrap.bootstrap(conn, clock=system_clock, key=None)
        return first or bootstrap.issue_key(conn, clock=system_clock, name=name)


def _project(client: "OpenAI", given: str | None) -> str:
    if given:
        return given
    found = list(client.admin.organization.projects.list())
    if len(found) == 1:
        return found[0].id
    names = ", ".join(f"{project.id} ({project.name})" for project in found)
    raise typer.BadParameter(f"Say which project with --project: {names or 'there is none'}.")

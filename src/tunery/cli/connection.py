"""Which server and key the commands use."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from tunery.launch.lock import running_server
from tunery.settings import load_settings

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_URL = "http://127.0.0.1:8000/v1"
NO_KEY = (
    "there is none. Give it, or set OPENAI_API_KEY. `tunery serve` printed one at its first start; "
    "on the server's own machine `tunery keys create NAME --local` makes another."
)


class CommandFailed(Exception):
    """The command cannot do what it was asked; the message says why."""


@dataclass(frozen=True)
class Connection:
    """What the root options say; empty texts where they say nothing."""

    base_url: str
    api_key: str

    def resolved_url(self) -> str:
        """The option, else the server that runs in this machine's home, else the default port."""
        if self.base_url:
            return self.base_url
        running = running_server(load_settings().home)
        return f"{running.url}/v1" if running else DEFAULT_URL


def client_of(ctx: typer.Context) -> "OpenAI":
    """Raises a usage error when there is no key."""
    # Imported late: the client takes most of a second, which `--help` need not pay.
    from openai import OpenAI

    connection: Connection = ctx.obj
    if not connection.api_key:
        raise typer.BadParameter(NO_KEY, param_hint="--api-key")
    return OpenAI(
        base_url=connection.resolved_url(), api_key=connection.api_key, admin_api_key=connection.api_key, max_retries=1
    )

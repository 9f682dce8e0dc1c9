"""Which server and key the commands use."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from tunery.cli.output import notes
from tunery.launch.lock import running_server
from tunery.settings import load_settings

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_URL = "http://127.0.0.1:8000/v1"
MAX_NAMES = 3  # of the same weights
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
        """The option, else the server that runs in this machine's home, else the default port. Raises a usage error."""
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise typer.BadParameter(f"{self.base_url!r} does not begin with http://", param_hint="--base-url")
        if self.base_url:
            return self.base_url
        running = running_server(load_settings().home)
        return f"{running.url}/v1" if running else DEFAULT_URL


def server_root(client: "OpenAI") -> str:
    """The address without `/v1`: dashboard and our own routes lie beside OpenAI's."""
    return str(client.base_url).rstrip("/").removesuffix("/v1")


def get_own(client: "OpenAI", path: str, **query: Any) -> Any:
    """What a route of ours answers; `path` begins behind `/tunery/v1`."""
    return client.get(f"{server_root(client)}/tunery/v1{path}", cast_to=object, options={"params": query})


def post_own(client: "OpenAI", path: str, body: dict[str, Any]) -> Any:
    """As `get_own`."""
    return client.post(f"{server_root(client)}/tunery/v1{path}", cast_to=object, body=body)


def catalog_by_name(client: "OpenAI") -> dict[str, dict[str, Any]]:
    """Every model of the key's project by each of its names, with limits, prices and whether it can be trained."""
    entries = get_own(client, "/catalog")["data"]
    return {name: entry for entry in entries for name in (*entry["aliases"], entry["name"])}


def visible_catalog(client: "OpenAI") -> dict[str, dict[str, Any]]:
    """As `catalog_by_name`; empty for a key that may not look, and where the server does not answer."""
    from openai import OpenAIError

    try:
        return catalog_by_name(client)
    except OpenAIError:
        return {}


def tell_weights(client: "OpenAI", *names: str) -> None:
    """On standard error, of each name that is in the catalog: one that the server passes on to elsewhere is not."""
    known = visible_catalog(client)
    for name in names:
        if name in known:
            notes.print(Text(weights_note(known[name]), "dim"))


def weights_of(entry: dict[str, Any] | None) -> str:
    """What stands under a name of the catalog; a dash where it is not known."""
    if entry is None:
        return "–"
    weights = entry["answered_by"] or entry["weights"]
    return f"fine-tuned on {weights['name']}" if weights["adapter"] else weights["name"]


def weights_note(entry: dict[str, Any]) -> str:
    """Which weights a name stands for, and under which other names the very same answer."""
    same = [*entry["aliases"], *entry["same_weights"]]
    others = f"; the same as {', '.join(same[:MAX_NAMES])}" if same else ""
    more = f" and {len(same) - MAX_NAMES} more" if len(same) > MAX_NAMES else ""
    return f"{entry['name']}: {weights_of(entry)}{others}{more}"


def client_of(ctx: typer.Context) -> "OpenAI":
    """Raises a usage error when there is no key."""
    connection: Connection = ctx.obj
    if not connection.api_key:
        raise typer.BadParameter(NO_KEY, param_hint="--api-key")
    return client_to(connection.resolved_url(), connection.api_key)


def client_to(base_url: str, key: str) -> "OpenAI":
    """The key alone decides: the client takes organisation, project and headers from the environment, where those of
    an old account at OpenAI may still stand."""
    # Imported late: the client takes most of a second, which `--help` need not pay.
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key=key, admin_api_key=key, max_retries=1)
    client.organization = client.project = None
    client._custom_headers = {}
    return client

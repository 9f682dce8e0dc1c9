"""`tunery serve`: the whole server on this machine."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunery import private
from tunery.cli.models import download_bar
from tunery.cli.output import console, doing, notes
from tunery.settings import Settings, load_settings

if TYPE_CHECKING:
    from tunery.launch.server import Address, Server


def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 unless told otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 unless told otherwise; 0 takes any free one.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Where data and models lie; ~/.tunery unless told otherwise.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A settings file; <home>/tunery.toml unless told otherwise.")
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Logs to standard error instead of <home>/logs.")] = False,
) -> None:
    """Start the server: API, dashboard, worker and engine. Ctrl-C stops it; a running job goes on at the next start."""
    settings = load_settings(config, host=host, port=port, home=home)
    with interruptible(), prepared(settings, echo=logs) as server, stop_signals() as stop:
        address = start(server, stop)
        if address is not None:
            print_banner(settings, address)
            server.supervise(stop)
        notes.print("Stopping. A running job goes on at the next start.")


@contextmanager
def prepared(settings: Settings, *, echo: bool = False) -> "Iterator[Server]":
    """A server that can be started; stopped at the end of the block."""
    from tunery.launch.server import Server

    private.keep(settings.home)
    server = Server(settings, say=lambda event: notes.print(event, style="yellow"), echo=echo)
    try:
        with download_bar() as report:
            server.prepare(report)
        yield server
    finally:
        server.stop()


def start(server: "Server", stop: threading.Event) -> "Address | None":
    with doing() as tell:
        return server.start(stop, tell)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: through the `finally` blocks that stop the server."""

    def handle(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM, so that the server ends in order. A second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_banner(settings: Settings, address: "Address") -> None:
    lines = [("API", address.base_url), ("Dashboard", f"{address.url}/dashboard"), ("Data", str(settings.home))]
    if address.first_key:
        lines.append(("Key", f"{address.first_key}  (shown this once: keep it)"))
    elif settings.api_key:
        lines.append(("Key", "the one in TUNERY_API_KEY"))
    else:
        lines.append(("Key", "shown at the first start; another: tunery keys create NAME --local"))
    console.print("Tunery is up.", style="bold")
    for name, value in lines:
        console.print(f"  {name:<10} {value}", soft_wrap=True)
    if settings.host not in ("127.0.0.1", "localhost", "::1"):
        notes.print("Other machines may reach this server: put TLS in front of it.", style="yellow")

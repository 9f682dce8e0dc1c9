"""`tunery doctor`: what this machine and its settings give a server, and what to do about what they lack."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import typer
from rich.text import Text

from tunery.cli.output import Json, console, doing, emit_json, table
from tunery.kernels import process
from tunery.settings import Settings, SettingsError, load_settings
from tunery.texts.amounts import size

State = Literal["ok", "note", "problem"]
STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "problem": "red"}
GIB = 1024**3
ENOUGH_MEMORY = 4 * GIB  # engine, api, worker and a training of the default base, with what else a laptop runs
ENOUGH_DISK = 5 * GIB
ANSWERS_IN_S = 5.0
# By what each is for, as in pyproject.toml.
EXTRAS = {
    "postgres": ("psycopg", "a Postgres database"),
    "tables": ("pyarrow", "`tunery data prepare` from Parquet and XLSX"),
    "wandb": ("wandb", "a job's `wandb` integration"),
    "otel": ("opentelemetry-sdk", "traces"),
    "ray": ("ray", "trainers on a cluster"),
}


@dataclass(frozen=True)
class Finding:
    what: str
    state: State
    found: str
    advice: str = ""  # what to do; "" when there is nothing to do
    details: dict[str, Any] = field(default_factory=dict[str, Any])  # for programs


def doctor(
    home: Annotated[Path | None, typer.Option(help="Where data lies; ~/.tunery unless told otherwise.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A settings file; <home>/tunery.toml unless told otherwise.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at this machine: what will be fast, what is missing, and what to do about it. Changes nothing.

    Exit code 1 when a server could not work as it is set up.
    """
    settings = load_settings(config, home=home)
    findings: list[Finding] = []
    with doing() as tell:
        for what, look in LOOKS.items():
            tell(f"Looking at the {what}")
            findings.append(look(settings))
    if as_json:
        emit_json([asdict(each) for each in findings])
    else:
        console.print(table(["", "what", "found"], map(_row, findings), empty=""))
    if any(each.state == "problem" for each in findings):
        raise typer.Exit(1)


def _row(finding: Finding) -> tuple[Text, Text, Text]:
    found = Text(finding.found)
    if finding.advice:
        found.append(f"\n{finding.advice}", STYLES[finding.state])
    return Text(finding.state, STYLES[finding.state]), Text(finding.what), found


def _processor(settings: Settings) -> Finding:
    os.environ.update(process.instructions(settings.instructions))
    from tunery.kernels import rates  # not before: its libraries read this once

    measured = rates.measure()
    each = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in measured.operations_per_s.items())
    found = (
        f"{measured.instructions}, {measured.threads} threads; reads {measured.read_bytes_per_s / 1e9:.1f} GB/s; "
        f"billions of operations a second: {each}"
    )
    details = asdict(measured)
    if measured.byte_products is not None:
        return Finding(
            "processor", "ok", f"{found}. The engine multiplies bytes by {measured.byte_products}.", "", details
        )
    advice = "It has no AVX2, with which the engine would multiply bytes: answers come several times slower here."
    return Finding("processor", "note", found, advice, details)


def _gpu(_: Settings) -> Finding:
    from tunery.kernels import rates

    if names := rates.gpus():
        return Finding("graphics card", "ok", ", ".join(names), "", {"names": names})
    return Finding("graphics card", "ok", "None that torch can use: the processor trains and answers.")


def _memory(_: Settings) -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} of {size(memory.total)} free"
    details = {"available_bytes": memory.available, "total_bytes": memory.total}
    if memory.available < ENOUGH_MEMORY:
        advice = f"Close what you do not need: serving and training together want {size(ENOUGH_MEMORY)}."
        return Finding("memory", "note", found, advice, details)
    return Finding("memory", "ok", found, "", details)


def _home(settings: Settings) -> Finding:
    """Of the folder itself, or of where it would be made."""
    there = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found, details = f"{settings.home}: {size(free)} free", {"path": str(settings.home), "free_bytes": free}
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = f"Nothing can be written to {there}. Name another folder with --home or TUNERY_HOME."
        return Finding("home", "problem", found, advice, details)
    if free < ENOUGH_DISK:
        advice = f"Models, files and states of jobs go there: make room for {size(ENOUGH_DISK)}."
        return Finding("home", "note", found, advice, details)
    return Finding("home", "ok", found, "", details)


def _address(settings: Settings) -> Finding:
    from tunery.launch.lock import running_server
    from tunery.launch.ports import hindrance

    where = f"{settings.host}:{settings.port}"
    if (server := running_server(settings.home)) is not None:
        return Finding("address", "ok", f"A server of this home runs at {server.url}.")
    if problem := hindrance(settings.host, settings.port):
        return Finding("address", "problem", f"{where} cannot be listened on", problem)
    return Finding("address", "ok", f"{where} is free")


def _base(settings: Settings) -> Finding:
    from tunery.models.catalog import Catalog
    from tunery.models.sources.cache import cached

    source = Catalog.of(settings).sources()[0]
    folder = cached(source, settings.models_dir)
    if folder is not None:
        return Finding("base model", "ok", f"{source} in {folder}", "", {"source": source, "path": str(folder)})
    advice = "It is fetched at the first start, which needs the network once."
    return Finding("base model", "note", f"{source} is not here yet", advice, {"source": source, "path": None})


def _models(settings: Settings) -> Finding:
    """Whether the tuned models stand on the weights that they were trained on."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from tunery.models.sources.cache import cached, is_changed
    from tunery.store import models
    from tunery.store.database import connect, read

    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return Finding("models", "ok", "None yet")
    engine = connect(settings.resolved_database_url)
    try:
        with read(engine) as conn:
            found = models.list_all_models(conn)
    except SQLAlchemyError:  # it is away, which the line on the database says, or of an older version
        return Finding("models", "ok", "They are known when a server of this version has opened the database")
    finally:
        engine.dispose()
    changed: list[str] = []
    for each in found:
        folder = cached(each.source, settings.models_dir)
        if folder is not None and is_changed(folder, each.base_sha256):
            changed.append(each.name)
    if changed:
        told = f"{len(changed)} of {len(found)} stand on another base than they were trained on: {', '.join(changed)}"
        advice = "Put their base back (an `hf:` source stays what it is with @REVISION), or train them again."
        return Finding("models", "note", told, advice, {"changed": changed})
    return Finding("models", "ok", f"{len(found)} tuned, none on a base that has changed since", "", {"changed": []})


def _hub(_: Settings) -> Finding:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return Finding("model hub", "note", "Offline mode is on.", "Unset HF_HUB_OFFLINE to fetch `hf:` models.")
    try:
        httpx.head(constants.ENDPOINT, timeout=ANSWERS_IN_S)
    except httpx.HTTPError as exc:
        advice = "`hf:` models can only be used if they are here already; `pypi:` and `path:` models need no hub."
        return Finding("model hub", "note", f"{constants.ENDPOINT} does not answer ({type(exc).__name__})", advice)
    return Finding("model hub", "ok", f"{constants.ENDPOINT} answers")


def _packages(_: Settings) -> Finding:
    versions = {name: _version(package) for name, (package, _) in EXTRAS.items()}
    found = ", ".join(
        f"{name} {version}" for name in ("tunery", "torch", "transformers") if (version := _version(name))
    )
    details = {"extras": versions}
    if missing := [name for name, version in versions.items() if version is None]:
        uses = "; ".join(f"{EXTRAS[name][1]}: pip install 'tunery[{name}]'" for name in missing)
        return Finding("packages", "ok", f"{found}. Not installed, for {uses}.", "", details)
    return Finding("packages", "ok", found, "", details)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sandbox(_: Settings) -> Finding:
    from tunery.sandbox import walls

    try:
        walls.probe()
    except walls.NoSandbox as exc:
        advice = "`python` graders are refused until there is one. Debian: apt-get install bubblewrap libseccomp2."
        return Finding("sandbox", "note", f"None: {exc}", advice)
    return Finding("sandbox", "ok", "Python graders run in bubblewrap")


def _database(settings: Settings) -> Finding:
    from sqlalchemy import make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    from tunery.store.database import connect

    url = make_url(settings.resolved_database_url)
    where, is_sqlite = url.render_as_string(hide_password=True), url.get_backend_name() == "sqlite"
    if is_sqlite and not Path(str(url.database)).exists():
        return Finding("database", "ok", f"{where} is made at the first start")
    engine = connect(settings.resolved_database_url)
    try:
        with engine.connect() as conn:
            version = conn.execute(text("SELECT sqlite_version()" if is_sqlite else "SHOW server_version")).scalar_one()
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", exc)).strip().partition("\n")[0]
        return Finding("database", "problem", f"{where}: {reason}", "Start it, or mend database_url.")
    finally:
        engine.dispose()
    return Finding("database", "ok", f"{where}, version {version}")


def _blobs(settings: Settings) -> Finding:
    from tunery.domain.ids import new_id
    from tunery.store.blobs import Blobs

    where = settings.resolved_blob_url
    if where.startswith("file:"):
        return Finding("files", "ok", where)
    blobs, path = Blobs.open(settings, max_retries=0), f"doctor/{new_id('file')}"
    try:
        blobs.put(path, b"written by tunery doctor")
        blobs.read(path)
        blobs.delete(path)
    except Exception as exc:  # the client library has an error of its own for each kind of refusal
        advice = "Look at s3_endpoint, s3_region, the two keys and the bucket's rights: read, write and delete."
        reason = str(exc).partition("\n")[0][:200]
        return Finding("files", "problem", f"{where}: {reason}", advice)
    return Finding("files", "ok", f"{where}: written, read and deleted")


def _engines(settings: Settings) -> Finding:
    silent: list[str] = []
    for url in settings.engines:
        try:
            httpx.get(f"{url}/health", timeout=ANSWERS_IN_S).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL):
            silent.append(url)
    if silent:
        advice = "Start them, or take them out of engine_urls."
        return Finding("engines", "problem", f"No answer from {', '.join(silent)}", advice)
    own = ["one that `tunery serve` starts"] if settings.start_engine else []
    if not (own or settings.engines):
        advice = "Set start_engine, or name an engine in engine_urls."
        return Finding("engines", "problem", "There is none to answer requests", advice)
    return Finding("engines", "ok", ", ".join([*own, *settings.engines]))


def _trainers(settings: Settings) -> Finding:
    from tunery.jobs.ray_cluster import look

    if settings.runner == "process":
        return Finding("trainers", "ok", "They run as processes of the worker")
    try:
        cluster = look(settings.ray_address)
    except SettingsError as exc:
        return Finding("trainers", "problem", str(exc), "Or set runner = 'process': the worker's machine trains then.")
    cpus, gpus = (cluster.resources.get(name, 0) for name in ("CPU", "GPU"))
    memory = size(int(cluster.resources.get("memory", 0)))
    found = f"Ray at {settings.ray_address}: {len(cluster.nodes)} nodes, {cpus:g} processors, {gpus:g} graphics cards"
    details = {"nodes": cluster.nodes, "resources": dict(cluster.resources)}
    if cpus < settings.ray_cpus or gpus < settings.ray_gpus:
        advice = f"A trainer takes {settings.ray_cpus} processors and {settings.ray_gpus:g} graphics cards: add a node."
        return Finding("trainers", "problem", found, advice, details)
    return Finding("trainers", "ok", f"{found}, {memory} of memory", "", details)


def _mail(settings: Settings) -> Finding:
    from tunery.notify.smtp import SmtpServer
    from tunery.notify.troubles import explained

    server = SmtpServer.of(settings)
    if server is None:
        advice = "Set smtp_host and its neighbours to have it sent."
        return Finding("mail", "note", f"It is written to {settings.mail_folder} and sent to nobody", advice)
    where = f"{server.host}:{server.port}"
    try:
        server.greet()
    except OSError as exc:  # smtplib's errors, too
        return Finding("mail", "problem", where, str(explained(exc)))
    return Finding("mail", "ok", f"{where} answers and takes the sign-in" if server.username else f"{where} answers")


LOOKS: dict[str, Callable[[Settings], Finding]] = {
    "processor": _processor,
    "graphics card": _gpu,
    "memory": _memory,
    "home": _home,
    "address": _address,
    "base model": _base,
    "models": _models,
    "model hub": _hub,
    "packages": _packages,
    "sandbox": _sandbox,
    "database": _database,
    "files": _blobs,
    "engines": _engines,
    "trainers": _trainers,
    "mail": _mail,
}

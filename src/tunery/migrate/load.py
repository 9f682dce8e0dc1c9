"""Bundle → a Tunery installation. Ids and times keep their values; a second run adds what is new."""

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from tunery import private
from tunery.domain.errors import InvalidRequest, NotFound, TuneryError
from tunery.domain.evals import Eval
from tunery.domain.files import FilePurpose, blob_path
from tunery.domain.jobs import TERMINAL
from tunery.domain.tenants import Organization
from tunery.migrate import convert
from tunery.migrate.bundle import KINDS, Bundle, Kind
from tunery.migrate.source import Json
from tunery.settings import Settings
from tunery.store import completions, evals, events, files, jobs, tenants
from tunery.store.blobs import Blobs
from tunery.store.database import migrate, open_database, read, write

Progress = Callable[[Kind, int, int], None]


class NotLoadable(Exception):
    """The object stays in the bundle only; the message says why."""


@dataclass
class Loaded:
    new: dict[Kind, int] = field(default_factory=dict)
    kept: dict[Kind, int] = field(default_factory=dict)
    skipped: dict[tuple[Kind, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Where to: an installation's stores, and the project that will own what comes."""

    engine: Engine
    blobs: Blobs
    project_id: str


def load_all(bundle: Bundle, target: Target, *, progress: Progress = lambda *_: None) -> Loaded:
    """Everything in the bundle. An object that cannot be loaded is named in `skipped`, and the rest goes on."""
    loaded = Loaded()
    loaders: dict[Kind, Callable[[Bundle, Target, str], bool]] = {
        "files": load_file,
        "jobs": load_job,
        "evals": load_eval,
        "completions": load_completion,
    }
    for kind in KINDS:
        ids = bundle.ids(kind)
        loaded.new[kind] = loaded.kept[kind] = 0
        for done, object_id in enumerate(ids, 1):
            try:
                is_new = loaders[kind](bundle, target, object_id)
            except (NotLoadable, TuneryError) as error:
                loaded.skipped[kind, object_id] = str(error)
            except IntegrityError:  # ids are the source's, and each is here once
                loaded.skipped[kind, object_id] = "another project of this installation has it"
            else:
                counts = loaded.new if is_new else loaded.kept
                counts[kind] += 1
            progress(kind, done, len(ids))
    return loaded


def load_file(bundle: Bundle, target: Target, file_id: str) -> bool:
    """False when it is there already. The blob is written before the row: a row promises its bytes."""
    entry = bundle.get("files", file_id)
    if "absent" in entry:
        raise NotLoadable(f"gone at the source ({entry['absent']})")
    with read(target.engine) as conn:
        if files.find_file(conn, file_id, target.project_id):
            return False
    purpose = _purpose(entry["file"])
    blob = target.blobs.put(blob_path(file_id), _content(bundle.content(file_id), purpose))
    row = convert.file(entry["file"], project_id=target.project_id, purpose=purpose, blob=blob)
    with write(target.engine) as conn:
        files.insert_file(conn, row)
    return True


def _purpose(described: Json) -> FilePurpose:
    try:
        return FilePurpose(described.get("purpose"))
    except ValueError:
        raise NotLoadable(f"its purpose {described.get('purpose')!r} is unknown here") from None


def _content(path: Path, purpose: FilePurpose) -> Iterator[bytes]:
    """Result files are kept plain and sent as base64; OpenAI sends them so, and the text must not be encoded twice."""
    if purpose is FilePurpose.FINE_TUNE_RESULTS:
        try:
            yield base64.b64decode(path.read_bytes(), validate=True)
            return
        except binascii.Error:
            pass  # a plain CSV
    with path.open("rb") as file:
        yield from iter(lambda: file.read(1 << 20), b"")


def load_job(bundle: Bundle, target: Target, job_id: str) -> bool:
    """One transaction for the job, its events and checkpoints: half of a job would look like a whole one."""
    entry = bundle.get("jobs", job_id)
    if entry["job"].get("status") not in TERMINAL:
        raise NotLoadable("it has not ended at the source; import again when it has")
    job = convert.job(entry["job"], project_id=target.project_id)
    if job is None:
        raise NotLoadable("its method is not one that this server knows; it stays in the bundle")
    with write(target.engine) as conn:
        if jobs.find_job(conn, job_id) is not None:
            jobs.get_job(conn, job_id, target.project_id)
            return False
        _ensure_organization(conn, job.organization_id, now=job.created_at)
        jobs.insert_job(conn, job)
        # The source lists the newest first, and the order of insertion is the order here.
        events.insert_events(conn, [convert.event(each, job_id) for each in reversed(entry["events"])])
        for each in reversed(entry["checkpoints"]):
            events.add_checkpoint(conn, convert.checkpoint(each, job_id))
    return True


def _ensure_organization(conn: Connection, organization_id: str, *, now: int) -> None:
    """The job goes on naming the organisation it was made in. Nobody belongs to it here."""
    try:
        tenants.get_organization(conn, organization_id)
    except NotFound:
        name = f"imported {organization_id}"
        tenants.insert_organization(conn, Organization(organization_id, name, organization_id.lower(), now))


def load_eval(bundle: Bundle, target: Target, eval_id: str) -> bool:
    """An eval, and those of its runs that ended, with what came of their rows. Runs that ended since are added."""
    entry = bundle.get("evals", eval_id)
    found = convert.evaluation(entry["eval"], project_id=target.project_id)
    if found is None:
        raise NotLoadable("it does not say what its rows are and how they are graded; it stays in the bundle")
    is_new = False
    with write(target.engine) as conn:
        try:
            evals.get_eval(conn, eval_id, target.project_id)
        except NotFound:
            evals.insert_eval(conn, found)
            is_new = True
    new_runs = [_load_run(target, found, each) for each in entry["runs"]]
    return is_new or any(new_runs)


def _load_run(target: Target, of: Eval, entry: Json) -> bool:
    """One transaction for it and its rows: half of a run would look like a whole one."""
    run = convert.eval_run(entry["run"], eval_id=of.id, project_id=of.project_id)
    if run is None:
        return False
    with write(target.engine) as conn:
        try:
            evals.get_run(conn, run.id, of.project_id)
        except NotFound:
            evals.insert_ended_run(conn, run, convert.output_items(entry["output_items"], run=run))
            return True
    return False


def load_completion(bundle: Bundle, target: Target, completion_id: str) -> bool:
    entry = bundle.get("completions", completion_id)
    with write(target.engine) as conn:
        try:
            completions.get_completion(conn, completion_id, target.project_id)
        except NotFound:
            completions.insert_completion(conn, convert.completion(entry, project_id=target.project_id))
            return True
    return False


def open_target(settings: Settings, project: str = "") -> Target:
    """The installation that the settings name, made when it is new. `project`: an id; the oldest one when empty.

    Raises NotFound for an unknown project.
    """
    private.keep(settings.home)
    engine = open_database(settings)
    migrate(engine)
    with read(engine) as conn:
        owners = tenants.list_organizations(conn)
        if not owners:
            raise InvalidRequest("This installation has no project yet: start it once with `tunery serve`.")
        oldest = tenants.list_projects(conn, owners[0].id, limit=1).items[0]
        chosen = tenants.get_project(conn, project) if project else oldest
    return Target(engine, Blobs.open(settings), chosen.id)

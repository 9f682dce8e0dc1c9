"""Does exports and imports and adds bases, in the worker: one of a kind at a time, each in a process of its own.

A transfer belongs to the worker that holds its lease. What a killed worker had written goes, and the next one begins
anew; a row that says it succeeded, and its file or model, are written by one transaction.
"""

import logging
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.bases.add import add, find_added, wish_of
from tunery.domain.errors import NotFound, TuneryError
from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.models import FineTunedModel
from tunery.domain.names import new_name, parse_name
from tunery.domain.transfers import MAX_ATTEMPTS, Transfer, TransferKind, TransferStatus
from tunery.export.spec import ImportSpec, explain, export_model, gather, is_refusal, run
from tunery.jobs.identity import WorkerIdentity, is_dead_here
from tunery.metering.storage import Room
from tunery.models.sources import cache as sources
from tunery.store import files, models, tenants, transfers
from tunery.store.blobs import Blobs
from tunery.store.database import read, write
from tunery.texts import say

log = logging.getLogger(__name__)

POLL_S = 0.5
BEAT_S = 1.0
LONGEST_IMPORT_S = 900.0
READ_BYTES = 1024 * 1024

Json = dict[str, Any]


class TransferRunner:
    def __init__(self, context: Context, identity: WorkerIdentity, kind: TransferKind) -> None:
        self._context, self._identity = context, identity
        self._kind: TransferKind = kind

    def run(self, stop: threading.Event) -> None:
        """Until stop is set: then the transfer in hand is left to the next worker."""
        while not stop.is_set():
            try:
                transfer = self._claim()
            except Exception:
                log.exception("the worker could not look for %ss", self._kind)
                transfer = None
            if transfer is None:
                stop.wait(POLL_S)
            else:
                _Work(self._context, str(self._identity), transfer, stop).run()

    def _claim(self) -> Transfer | None:
        now, lease_s = self._context.clock(), self._context.settings.lease_s
        with write(self._context.database) as conn:
            holders = transfers.LEASES.list_holders(conn)
            transfers.LEASES.free(conn, *(each for each in holders if is_dead_here(each, self._identity)))
            return transfers.claim_transfer(conn, self._kind, str(self._identity), now=now, lease_s=lease_s)


class _LetGo(Exception):
    """The worker stops, or another one has the transfer."""


class _Work:
    def __init__(self, context: Context, worker_id: str, transfer: Transfer, stop: threading.Event) -> None:
        self._context, self._worker_id, self._transfer, self._stop = context, worker_id, transfer, stop
        self._folder = context.settings.home / "work" / transfer.id
        self._is_over, self._is_let_go = threading.Event(), threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._progress: Json = {}
        self._age_s = 0.0

    def run(self) -> None:
        """Never raises."""
        beating = threading.Thread(target=self._beat)
        beating.start()
        try:
            self._carry_out()
        except Exception:
            log.exception("%s could not be worked on; it is tried again", self._transfer.id)
        finally:
            self._is_over.set()
            beating.join()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._let_go()

    def _carry_out(self) -> None:
        transfer = self._transfer
        log.info("%s begins", transfer.id)
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            if transfer.attempts > MAX_ATTEMPTS:
                raise TuneryError(say("error.transfer_attempts", attempts=MAX_ATTEMPTS))
            self._folder.mkdir(parents=True)
            {"export": self._export, "import": self._import, "base": self._add_base}[transfer.kind]()
        except _LetGo:
            return
        except Exception as exc:
            if self._is_let_go.is_set():
                return
            known = getattr(exc, "code", None)
            refused = f"{transfer.kind}_refused" if is_refusal(exc) else ""
            code = (known or refused if transfer.kind == "base" else refused or known) or "server_error"
            message = explain(exc)
            texts = {"message": exc.text} if isinstance(exc, TuneryError) and exc.message == message else {}
            error = {"code": code, "message": message, "texts": texts}
            remove_rest(self._context.blobs, self._transfer)
            with write(self._context.database) as conn:
                self._finish(conn, TransferStatus.FAILED, error=error)
            log.info("%s failed: %s", transfer.id, error["message"])

    def _finish(self, conn: Connection, status: TransferStatus, **values: Any) -> None:
        """Raises _LetGo, and with it the transaction goes, when the transfer is no longer this worker's."""
        transfer, now = self._transfer, self._context.clock()
        asked = {**transfer.asked, **({"chat_template": None} if transfer.kind == "import" else {})}  # it may be large
        if not transfers.finish(conn, transfer.id, self._worker_id, status, now, asked=asked, **values):
            raise _LetGo

    # ---- while it runs

    def _beat(self) -> None:
        """Renews the lease, tells how far it is, and ends the process when the transfer is to be let go."""
        context = self._context
        while not self._is_over.wait(min(BEAT_S, context.settings.lease_s / 3)):
            self._age_s += BEAT_S
            try:
                until = context.clock() + context.settings.lease_s
                with write(context.database) as conn:
                    values = {"until": until, "progress": self._progress or None}
                    found = transfers.LEASES.renew(conn, self._transfer.id, self._worker_id, **values)
                    is_mine = found is not None
            except Exception:
                log.exception("the lease of %s could not be renewed", self._transfer.id)
                is_mine = True
            if self._stop.is_set() or not is_mine:
                self._is_let_go.set()
            if self._process is not None and (self._is_let_go.is_set() or self._is_too_old()):
                self._process.kill()

    def _is_too_old(self) -> bool:
        return self._transfer.kind == "import" and self._age_s > LONGEST_IMPORT_S

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def _tell(self, doing: str, done: int, total: int | None) -> None:
        self._progress = {"doing": doing, "done": done, "total": total}
        if self._is_let_go.is_set():
            raise _LetGo

    def _let_go(self) -> None:
        """One that has ended has no lease; one that has not may be taken at once."""
        try:
            with write(self._context.database) as conn:
                transfers.LEASES.renew(conn, self._transfer.id, self._worker_id, until=0)
        except Exception:
            log.exception("%s stays leased until its time is up", self._transfer.id)

    # ---- export

    def _export(self) -> None:
        context, transfer = self._context, self._transfer
        with read(context.database) as conn:
            model = models.get_own_model(conn, transfer.model or "", transfer.project_id)
        spec = gather(
            model,
            transfer.asked["format"],
            self._folder,
            engine=context.database,
            blobs=context.blobs,
            catalog=context.catalog,
            settings=context.settings,
            progress=self._tell,
            type=transfer.asked["type"],
            lora=transfer.asked.get("lora", False),
        )
        to = self._folder / "export"
        report = export_model(spec, to, self._tell, self._watch)
        self._tell("saving", 0, None)
        self._keep_file(to, report)

    def _keep_file(self, folder: Path, report: Json) -> None:
        context, transfer = self._context, self._transfer
        parsed = parse_name(transfer.model or "")
        stem = f"{(parsed.suffix or parsed.id) if parsed else 'model'}-{transfer.asked['format']}"
        file_id = transfer.asked["result_id"]  # the same at each attempt, so that none leaves bytes without a name
        with self._room("format") as room:
            try:
                info = context.blobs.put(blob_path(file_id), room.let_in(as_tar(folder, stem)))
                file = File(
                    id=file_id,
                    project_id=transfer.project_id,
                    created_at=context.now(),
                    filename=f"{stem}.tar",
                    purpose=FilePurpose.USER_DATA,
                    bytes=info.bytes,
                    sha256=info.sha256,
                    blob=info.path,
                )
                with write(context.database) as conn:
                    room.settle(conn, file.bytes)
                    tenants.get_active_project(conn, transfer.project_id)
                    files.insert_file(conn, file)
                    self._finish(conn, TransferStatus.SUCCEEDED, file_id=file.id, result=report["proof"])
            except BaseException:
                context.blobs.delete(blob_path(file_id))
                raise

    def _room(self, param: str) -> Room:
        context = self._context
        return Room(context.database, context.blobs, context.settings, context.clock, self._transfer.project_id, param)

    # ---- import

    def _import(self) -> None:
        context, asked = self._context, self._transfer.asked
        base = context.catalog.resolve(asked["base"])
        target = self._folder / "adapter"
        target.mkdir()
        spec = ImportSpec(
            files=self._fetch(),
            source=base.source,
            base=base.weights,
            model_dir=sources.ensure(base.source, context.settings.models_dir, self._tell),
            completes=base.completes,
            template=asked["chat_template"],
        )
        self._tell("checking", 0, None)
        report = run(spec, target, self._tell, self._watch)
        self._keep_model(target, base.source, sources.hashes_of(spec.model_dir), report)

    def _fetch(self) -> dict[str, Path]:
        """The uploaded files, by their names. Raises NotFound for one that was deleted meanwhile."""
        sent = self._folder / "sent"
        sent.mkdir()
        found: dict[str, Path] = {}
        for file_id in self._transfer.asked["files"]:
            with read(self._context.database) as conn:
                file = files.find_file(conn, file_id, self._transfer.project_id)
            if file is None:
                raise NotFound(say("error.no_such_file", file_id=file_id), param="files")
            found[file.filename] = sent / file.id
            self._context.blobs.fetch(file.blob, sent / file.id)
        return found

    def _keep_model(self, folder: Path, source: str, base_sha256: dict[str, str], report: Json) -> None:
        context, transfer, asked = self._context, self._transfer, self._transfer.asked
        blob = f"adapters/{asked['model_id']}"
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
        with self._room("files") as room:
            try:
                room.take(num_bytes)
                context.blobs.upload_dir(blob, folder)
                with write(context.database) as conn:
                    room.settle(conn, num_bytes)
                    project = tenants.get_active_project(conn, transfer.project_id)
                    organization = tenants.get_organization(conn, project.organization_id)
                    name = str(new_name(base=asked["base"], organization=organization.slug, suffix=asked["suffix"]))
                    model = FineTunedModel(
                        id=asked["model_id"],
                        name=name,
                        project_id=transfer.project_id,
                        created_at=context.now(),
                        base_model=asked["base"],
                        source=source,
                        job_id=None,
                        step_number=None,
                        blob=blob,
                        owned_by=organization.id,
                        num_bytes=num_bytes,
                        base_sha256=base_sha256,
                    )
                    models.insert_model(conn, model)
                    self._finish(conn, TransferStatus.SUCCEEDED, model=name, result=report)
            except BaseException:
                context.blobs.delete_dir(blob)
                raise

    # ---- base

    def _add_base(self) -> None:
        """What its worker had fetched when it died stays in the cache, and an entry that it had written is the end of
        it."""
        asked, settings = self._transfer.asked, self._context.settings
        wish = wish_of(asked)
        found = find_added(wish, settings) if self._transfer.attempts > 1 else None
        result = found or add(wish, settings, self._tell).to_dict()
        with write(self._context.database) as conn:
            self._finish(conn, TransferStatus.SUCCEEDED, model=wish.name, result=result)


def remove_rest(blobs: Blobs, transfer: Transfer) -> None:
    """What an attempt whose worker died had put into the blobs: it has the same names at each."""
    if transfer.kind == "export":
        blobs.delete(blob_path(transfer.asked["result_id"]))
    elif transfer.kind == "import":
        blobs.delete_dir(f"adapters/{transfer.asked['model_id']}")


def as_tar(folder: Path, name: str) -> Iterator[bytes]:
    """The folder's files as an archive of a folder `name`, piece by piece: weights are not written twice."""
    for path in sorted(folder.iterdir()):
        info = tarfile.TarInfo(f"{name}/{path.name}")
        info.size, info.mtime = path.stat().st_size, int(path.stat().st_mtime)
        yield info.tobuf()
        with path.open("rb") as file:
            yield from iter(lambda: file.read(READ_BYTES), b"")
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)

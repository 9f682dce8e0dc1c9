"""The folder a trainer works in, and how it comes from and goes to the blobs, so that another machine can go on."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tunery import atomic
from tunery.datasets.report import Role
from tunery.domain.errors import NotFound
from tunery.domain.jobs import FineTuningJob
from tunery.jobs.resources import Resources
from tunery.store import files
from tunery.store.blobs import Blobs
from tunery.store.database import read
from tunery.texts import say
from tunery.training.protocol import Workdir, saved_step


@dataclass(frozen=True)
class SavedState:
    """A state in the blobs. The job's row names it, so a half-finished upload is never taken for one."""

    step: int
    prefix: str


class Workspace(Workdir):
    @classmethod
    def of(cls, home: Path, job_id: str) -> "Workspace":
        root = home / "work" / job_id
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    def local_step(self) -> int | None:
        """The step of the state that lies here; None when there is none that can be read."""
        return saved_step(self.state)

    def restore(self, blobs: Blobs, saved: SavedState | None) -> int:
        """Bring the newest state here; the step it goes on from, 0 without one. A newer state that lies here stays."""
        here = self.local_step()
        if saved is None or (here is not None and here >= saved.step):
            return here or 0
        with atomic.replacing_folder(self.state) as incoming:
            blobs.download_dir(saved.prefix, incoming)
        return saved.step

    def restore_checkpoint(self, blobs: Blobs, step: int, prefix: str) -> None:
        """The trainer counts on the checkpoints that its state names."""
        folder = self.checkpoint(step)
        if not folder.exists() and blobs.list(prefix):  # its owner may have deleted the model that came of it
            folder.parent.mkdir(exist_ok=True)
            with atomic.replacing_folder(folder) as incoming:
                blobs.download_dir(prefix, incoming)

    def save(self, blobs: Blobs, job_id: str) -> SavedState | None:
        """Upload the state that lies here. None when the trainer replaced it meanwhile: its next word names a newer."""
        snapshot = self.root / "state.outgoing"
        shutil.rmtree(snapshot, ignore_errors=True)
        try:
            # The trainer replaces files and never writes into one, so links keep what they name now.
            shutil.copytree(self.state, snapshot, copy_function=os.link, ignore=shutil.ignore_patterns(atomic.PARTS))
        except (OSError, shutil.Error):
            return None
        step = saved_step(snapshot)
        if step is None or step != self.local_step():
            return None
        saved = SavedState(step, f"jobs/{job_id}/state/step-{step}")
        blobs.upload_dir(saved.prefix, snapshot)
        shutil.rmtree(snapshot, ignore_errors=True)
        return saved

    def keep_state(self) -> None:
        """Remove all but the state: what a failed job goes on from when it is resumed on this machine."""
        for item in self.root.iterdir():
            if item == self.state:
                continue
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        if not self.state.exists():
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def fetch_file(resources: Resources, job: FineTuningJob, file_id: str, role: Role, to: Path) -> None:
    """The uploaded file, linked where the blobs lie on this disk, else downloaded. Raises NotFound in the words of
    the job's error when the file was deleted."""
    try:
        with read(resources.engine) as conn:
            file = files.get_file(conn, file_id, job.project_id)
        local = resources.blobs.local_path(file.blob)
        to.unlink(missing_ok=True)
        try:
            if local is not None:
                os.link(local, to)
                return
        except OSError:
            pass  # another file system, or one without links
        resources.blobs.download(file.blob, to)
    except NotFound as exc:
        raise NotFound(
            say("error.job_file_deleted", role=role, file_id=file_id),
            param=f"{role}_file",
            code=f"invalid_{role}_file",
        ) from exc

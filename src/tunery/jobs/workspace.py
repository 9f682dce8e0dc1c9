"""The folder a trainer works in: how it is filled, and how a state comes from and goes to the blobs, so that another
machine can go on."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tunery import atomic
from tunery.datasets.report import Role
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.hyperparameters import Hyperparameters, ResolvedHyperparameters, resolve
from tunery.domain.job_details import SavedState
from tunery.domain.jobs import EARLY_STOPPING, FineTuningJob, is_wanted
from tunery.domain.models import FineTunedModel
from tunery.jobs.resources import Resources
from tunery.jobs.runner import InputFile, Inputs
from tunery.models.adapter_config import LoraConfig
from tunery.models.catalog import CatalogModel
from tunery.models.config import read_sizes
from tunery.models.memory import training_bytes
from tunery.models.sources import cache as sources
from tunery.store import files, models
from tunery.store.blobs import Blobs
from tunery.store.database import read
from tunery.texts import say
from tunery.training.protocol import TrainSpec, Workdir, saved_step


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
        prefix = f"jobs/{job_id}/state/step-{step}"
        num_bytes = sum(file.bytes for file in blobs.upload_dir(prefix, snapshot))
        shutil.rmtree(snapshot, ignore_errors=True)
        return SavedState(step, prefix, num_bytes)

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


def fill(inputs: Inputs, workspace: Workspace, blobs: Blobs, models_dir: Path) -> int:
    """Put all that the trainer needs into its folder, whose lock the caller holds; the step that it goes on from.
    Raises TuneryError when a file or the base cannot be had or the base is another here, OSError when the disk is
    full."""
    for file in inputs.files:
        _fetch(blobs, file, workspace.train_file if file.role == "training" else workspace.valid_file)
    model_dir = sources.ensure(inputs.source, models_dir)
    if sources.is_changed(model_dir, inputs.base_sha256):
        raise InvalidRequest(say("error.base_changed", source=inputs.source, model=inputs.model), param="model")
    if inputs.init_adapter is not None:
        shutil.rmtree(workspace.init_adapter, ignore_errors=True)
        blobs.download_dir(inputs.init_adapter, workspace.init_adapter)
    step = workspace.restore(blobs, inputs.state)
    for checkpoint in inputs.checkpoints:
        workspace.restore_checkpoint(blobs, checkpoint.step, checkpoint.blob)
    replace(
        inputs.spec,
        model_dir=model_dir,
        train_file=workspace.train_file,
        valid_file=None if inputs.spec.valid_file is None else workspace.valid_file,
        init_adapter_dir=None if inputs.init_adapter is None else workspace.init_adapter,
    ).save(workspace)
    return step


def _fetch(blobs: Blobs, file: InputFile, to: Path) -> None:
    """Linked where the blobs lie on this disk, else downloaded. Raises NotFound in the words of the job's error."""
    try:
        blobs.fetch(file.blob, to)
    except NotFound as exc:
        raise _deleted(file.role, file.file_id) from exc


def _deleted(role: Role, file_id: str) -> NotFound:
    text = say("error.job_file_deleted", role=role, file_id=file_id)
    return NotFound(text, param=f"{role}_file", code=f"invalid_{role}_file")


def find_file(resources: Resources, job: FineTuningJob, role: Role, file_id: str) -> InputFile:
    """Raises NotFound in the words of the job's error when the file was deleted."""
    try:
        with read(resources.engine) as conn:
            return InputFile(role, file_id, files.get_file(conn, file_id, job.project_id).blob)
    except NotFound as exc:
        raise _deleted(role, file_id) from exc


def fetch_file(resources: Resources, job: FineTuningJob, file_id: str, role: Role, to: Path) -> None:
    """Bring an uploaded file here. Raises NotFound as `find_file`."""
    _fetch(resources.blobs, find_file(resources, job, role, file_id), to)


@dataclass(frozen=True)
class Prepared:
    workspace: Workspace
    hyperparameters: ResolvedHyperparameters
    inputs: Inputs

    @property
    def numbers(self) -> Hyperparameters:
        """As they show on the wire once the job has started."""
        known = {name: getattr(self.hyperparameters, name) for name in asdict(Hyperparameters())}
        return Hyperparameters(**known)


def prepare(job: FineTuningJob, resources: Resources, workspace: Workspace) -> Prepared:
    """Find out what the job's trainer is to do and what it needs. Raises TuneryError when a file, the base or the
    adapter is not there."""
    wanted: list[tuple[Role, str]] = [("training", job.training_file)]
    if job.validation_file is not None:
        wanted.append(("validation", job.validation_file))
    base = resources.catalog.resolve(job.base_model)
    model = _continued(job, resources)
    source = model.source if model else base.source
    model_dir = sources.ensure(source, resources.settings.models_dir)
    sizes = read_sizes(model_dir)
    chosen = resolve(
        job.hyperparameters,
        num_examples=job.details.num_examples or 0,
        default_multiplier=base.default_multiplier,
    )
    known = job.details.base_sha256 or (model.base_sha256 if model else None)
    inputs = Inputs(
        model=job.model,
        spec=_spec(job, resources, workspace, base, model_dir, chosen),
        source=source,
        base_sha256=known or sources.hashes_of(model_dir),
        files=tuple(find_file(resources, job, role, file_id) for role, file_id in wanted),
        init_adapter=model.blob if model else None,
        state=job.details.state,
        checkpoints=job.details.checkpoints,
        memory_bytes=training_bytes(sizes, lora_rank=base.lora_rank),
    )
    return Prepared(workspace, chosen, inputs)


def _continued(job: FineTuningJob, resources: Resources) -> FineTunedModel | None:
    """The `ft:` model whose adapter the job goes on from; None when it starts from a base."""
    if job.model == job.base_model:
        return None
    with read(resources.engine) as conn:
        model = models.find_model(conn, job.model, job.project_id)
    if model is None:
        raise NotFound(say("error.job_model_deleted", model=job.model), param="model")
    return model


def _spec(
    job: FineTuningJob,
    resources: Resources,
    workspace: Workspace,
    base: CatalogModel,
    model_dir: Path,
    chosen: ResolvedHyperparameters,
) -> TrainSpec:
    settings = resources.settings
    return TrainSpec(
        job_id=job.id,
        model_dir=model_dir,
        train_file=workspace.train_file,
        valid_file=workspace.valid_file if job.validation_file is not None else None,
        method=job.method,
        n_epochs=chosen.n_epochs,
        batch_size=chosen.batch_size,
        learning_rate=base.base_learning_rate * chosen.learning_rate_multiplier,
        beta=chosen.beta,
        seed=job.seed,
        max_example_tokens=base.max_example_tokens,
        completes=base.completes,
        lora=LoraConfig(base.lora_rank, float(base.lora_alpha), target_modules=read_sizes(model_dir).lora_targets),
        state_interval_s=settings.state_interval_s,
        early_stopping=is_wanted(job.metadata, EARLY_STOPPING),
        # Jobs that run side by side share the cores.
        threads=max(1, (os.cpu_count() or 1) // settings.worker_concurrency),
    )

"""Fills a job's workspace: files, base model, the adapter it continues from, its newest state, and the spec."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunery.domain.errors import NotFound
from tunery.domain.hyperparameters import Hyperparameters, ResolvedHyperparameters, resolve
from tunery.domain.jobs import FineTuningJob
from tunery.jobs.checkpoints import stored_checkpoints
from tunery.jobs.resources import Resources
from tunery.jobs.workspace import SavedState, Workspace, fetch_file
from tunery.models.adapter_config import LoraConfig
from tunery.models.catalog import CatalogModel
from tunery.models.sources import cache as sources
from tunery.store import models
from tunery.store.database import read
from tunery.texts import say
from tunery.training.protocol import TrainSpec

EARLY_STOPPING = "early_stopping"  # a key of the job's metadata


@dataclass(frozen=True)
class Prepared:
    workspace: Workspace
    hyperparameters: ResolvedHyperparameters
    source: str  # the base weights the adapter stands on
    step: int  # goes on from here

    @property
    def numbers(self) -> Hyperparameters:
        """As they show on the wire once the job has started."""
        known = {name: getattr(self.hyperparameters, name) for name in asdict(Hyperparameters())}
        return Hyperparameters(**known)


def prepare(job: FineTuningJob, resources: Resources, workspace: Workspace) -> Prepared:
    """Raises TuneryError when a file, the base or the adapter cannot be had, OSError when the disk is full.

    The caller holds the workspace's lock.
    """
    fetch_file(resources, job, job.training_file, "training", workspace.train_file)
    if job.validation_file is not None:
        fetch_file(resources, job, job.validation_file, "validation", workspace.valid_file)
    base = resources.catalog.resolve(job.base_model)
    source = _continue_from(job, resources, workspace) or base.source
    chosen = resolve(
        job.hyperparameters,
        num_examples=job.details["num_examples"],
        default_multiplier=base.default_multiplier,
    )
    saved = job.details.get("state")
    step = workspace.restore(resources.blobs, SavedState(**saved) if saved else None)
    for checkpoint in stored_checkpoints(job):
        workspace.restore_checkpoint(resources.blobs, checkpoint.step, checkpoint.blob)
    _spec(job, resources, workspace, base, source, chosen).save(workspace)
    return Prepared(workspace, chosen, source, step)


def _continue_from(job: FineTuningJob, resources: Resources, workspace: Workspace) -> str | None:
    """Bring the adapter of an `ft:` model here; the source it stands on, or None when the job starts from a base."""
    if job.model == job.base_model:
        return None
    with read(resources.engine) as conn:
        model = models.find_model(conn, job.model, job.project_id)
    if model is None:
        raise NotFound(say("error.job_model_deleted", model=job.model), param="model")
    shutil.rmtree(workspace.init_adapter, ignore_errors=True)
    resources.blobs.download_dir(model.blob, workspace.init_adapter)
    return model.source


def _spec(
    job: FineTuningJob,
    resources: Resources,
    workspace: Workspace,
    base: CatalogModel,
    source: str,
    chosen: ResolvedHyperparameters,
) -> TrainSpec:
    settings = resources.settings
    spec = TrainSpec(
        job_id=job.id,
        model_dir=sources.ensure(source, settings.models_dir),
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
        lora=LoraConfig(rank=base.lora_rank, alpha=float(base.lora_alpha)),
        state_interval_s=settings.state_interval_s,
        early_stopping=is_wanted(job.metadata, EARLY_STOPPING),
        # Jobs that run side by side share the cores.
        threads=max(1, (os.cpu_count() or 1) // settings.worker_concurrency),
    )
    return spec if job.model == job.base_model else replace(spec, init_adapter_dir=workspace.init_adapter)


def is_wanted(metadata: dict[str, Any] | None, key: str) -> bool:
    """Metadata values are strings: `true`, `1`, `yes` and `on` switch something on."""
    return str((metadata or {}).get(key, "")).strip().lower() in ("true", "1", "yes", "on")

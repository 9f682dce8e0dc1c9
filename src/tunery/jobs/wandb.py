"""Weights & Biases: one run a job, its id the job's id, so that a job that resumes goes on in the same run."""

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.domain.jobs import FineTuningJob
from tunery.texts import say
from tunery.training.protocol import StepMetrics

log = logging.getLogger(__name__)


class IntegrationFailed(Exception):
    """The service could not be reached or set up. The job goes on without it."""


@dataclass
class WandbRun:
    _run: Any

    @classmethod
    def start(
        cls, job: FineTuningJob, options: dict[str, Any], *, api_key: str, folder: Path, config: dict[str, Any]
    ) -> "WandbRun":
        """`options` is the `wandb` object of the job's integration. Raises IntegrationFailed."""
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as exc:
            raise IntegrationFailed(say("event.wandb.no_package")) from exc
        tags = ["openai/finetune", f"openai/{job.base_model}"[:64], f"openai/{job.id}"[:64]]
        try:
            run = wandb.init(
                project=options["project"],
                entity=options.get("entity"),
                name=options.get("name") or job.id,
                tags=[*tags, *(options.get("tags") or [])],
                id=job.id,
                resume="allow",
                reinit="create_new",  # jobs that run side by side each have their own
                dir=folder,
                config=config,
                # Signals and stdout belong to the worker.
                settings=wandb.Settings(api_key=api_key, silent=True, console="off", disable_git=True),
            )
        except Exception as exc:
            # wandb raises its own errors, requests' and OSError; none may end a job.
            raise IntegrationFailed(say("event.wandb.failed", name=type(exc).__name__, detail=str(exc)[:400])) from exc
        return cls(run)

    def log_step(self, metrics: StepMetrics) -> None:
        self._guard(lambda: self._run.log(metrics.measured, step=metrics.step))

    def finish(self, *, summary: dict[str, Any], succeeded: bool) -> None:
        self._guard(lambda: self._run.summary.update(summary))
        self._guard(lambda: self._run.finish(exit_code=0 if succeeded else 1))

    def _guard(self, report: Any) -> None:
        try:
            report()
        except Exception:
            log.exception("a report to Weights & Biases failed")

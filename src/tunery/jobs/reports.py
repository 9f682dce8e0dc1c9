"""The integrations of one job. A service that fails is told of in an event and never ends a job."""

from dataclasses import asdict
from typing import Any

from tunery.domain.jobs import FineTuningJob
from tunery.jobs.preparation import Prepared
from tunery.jobs.resources import Resources
from tunery.jobs.wandb import IntegrationFailed, WandbRun
from tunery.texts import say
from tunery.training.protocol import StepMetrics


class Reports:
    def __init__(self, job: FineTuningJob, resources: Resources) -> None:
        self._job, self._resources = job, resources
        self._runs: list[WandbRun] = []
        self._trouble: list[str] = []

    def start(self, prepared: Prepared, total_steps: int) -> None:
        key = self._resources.settings.wandb_api_key
        for integration in self._job.integrations or ():
            try:
                if key is None:
                    raise IntegrationFailed(say("event.wandb.no_key"))
                run = WandbRun.start(
                    self._job,
                    integration["wandb"],
                    api_key=key.get_secret_value(),
                    folder=self._resources.settings.home,
                    config=self._config(prepared, total_steps),
                )
            except IntegrationFailed as exc:
                self._trouble.append(say("event.wandb.left_out", reason=exc.args[0]))
            else:
                self._runs.append(run)

    def take_trouble(self) -> list[str]:
        """What went wrong since the last call, as messages for events."""
        trouble, self._trouble = self._trouble, []
        return trouble

    def log_step(self, metrics: StepMetrics) -> None:
        for run in self._runs:
            run.log_step(metrics)

    def finish(self, *, summary: dict[str, Any], succeeded: bool) -> None:
        for run in self._runs:
            run.finish(summary=summary, succeeded=succeeded)

    def _config(self, prepared: Prepared, total_steps: int) -> dict[str, Any]:
        job = self._job
        return {
            "fine_tuning_job_id": job.id,
            "model": job.model,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
            "method": job.method,
            "seed": job.seed,
            "total_steps": total_steps,
            **asdict(prepared.numbers),
        }

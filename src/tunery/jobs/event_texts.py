"""The words of a job's events, as clients of OpenAI's API search for them. Pure."""

from typing import Any

from tunery.texts import say
from tunery.training.protocol import StepMetrics

PROGRESS_KEYS = ("step", "total_steps", "epoch", "lr", "grad_norm", "tokens_per_s", "eta_s")

VALIDATED = say("event.validated")
STARTED = say("event.started")
# Clients look for "usage policies" to tell that training is over. Here it tells that parity was checked.
POLICIES = say("event.policies")
COMPLETED = say("event.completed")
CANCELLED = say("event.cancelled")
PAUSING = say("event.pausing")
PAUSED = say("event.paused")
WORKER_LOST = say("event.worker_lost")
HANDED_BACK = say("event.handed_back")
DISK_FULL = say("event.disk_full")
KEPT = say("event.kept")
RESUMED = say("event.resumed")

# A step's sentence, by the validation losses that were measured at it.
_STEPS: dict[tuple[str, ...], str] = {
    (): "event.step",
    ("valid_loss",): "event.step.valid_loss",
    ("full_valid_loss",): "event.step.full_valid_loss",
    ("valid_loss", "full_valid_loss"): "event.step.both",
}


def created(job_id: str) -> str:
    return say("event.created", job=job_id)


def validating(training_file: str, validation_file: str | None) -> str:
    if validation_file:
        return say("event.validating_both", training=training_file, validation=validation_file)
    return say("event.validating", training=training_file)


def step_message(metrics: StepMetrics) -> str:
    """`Step 1/303: training loss=0.73, validation loss=1.46`: two decimals, only the losses that were measured."""
    measured_too = tuple(name for name in ("valid_loss", "full_valid_loss") if getattr(metrics, name) is not None)
    return say(
        _STEPS[measured_too],
        step=metrics.step,
        total=metrics.total_steps,
        train_loss=_shown(metrics.train_loss),
        **{name: _shown(getattr(metrics, name)) for name in measured_too},
    )


def step_data(metrics: StepMetrics) -> dict[str, Any]:
    """The event's `data`: full floats, and nothing that was not measured at this step."""
    return {"step": metrics.step, "total_steps": metrics.total_steps, **metrics.measured}


def _shown(loss: float | None) -> str:
    return "nan" if loss is None else f"{loss:.2f}"


def checkpoint_created(step: int, name: str) -> str:
    return say("event.checkpoint_created", step=step, name=name)


def model_created(name: str) -> str:
    return say("event.model_created", name=name)


def continued(step: int) -> str:
    return say("event.continued", step=step)


def trainer_lost(reason: str, deaths: int, most: int) -> str:
    return say("event.trainer_lost", reason=reason, deaths=deaths, most=most)


def interrupted(reason: str) -> str:
    """No fault of the job's."""
    return say("event.interrupted", reason=reason)


def gave_up(reason: str, deaths: int) -> str:
    return say("event.gave_up", deaths=deaths, reason=reason)


def progress(metrics: StepMetrics) -> dict[str, Any]:
    """What the job's details tell of the newest step, beside the losses in the events."""
    return {key: value for key in PROGRESS_KEYS if (value := getattr(metrics, key)) is not None}


def hyperparameters_chosen(values: dict[str, Any], reasons: dict[str, str]) -> str:
    """One sentence with every number and why it is that number."""
    parts = [
        say("event.hyperparameter", name=name, value=f"{value:g}", reason=reasons.get(name) or say("reason.chosen"))
        for name, value in values.items()
    ]
    return say("event.hyperparameters", values=parts)

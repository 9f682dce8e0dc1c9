"""The words of a job's events, as clients of OpenAI's API search for them. Pure."""

from typing import Any

METRIC_KEYS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
PROGRESS_KEYS = ("step", "total_steps", "epoch", "lr", "grad_norm", "tokens_per_s", "eta_s")

VALIDATED = "Files validated, moving job to queued state"
STARTED = "Fine-tuning job started"
# Clients look for "usage policies" to tell that training is over and only checks remain.
POLICIES = "Evaluating model against our usage policies before enabling"
COMPLETED = "The job has successfully completed"
CANCELLED = "Fine-tuning job cancelled"
PAUSED = "Fine-tuning job paused"
WORKER_LOST = "The worker was lost; moving job to queued state to continue from its last saved state"
HANDED_BACK = "The worker is shutting down; moving job to queued state to continue from its saved state"
DISK_FULL = "The job failed because the server's disk is full. Free some space and create the job again."
RESUMED = "Fine-tuning job resumed, moving job to queued state"


def created(job_id: str) -> str:
    return f"Created fine-tuning job: {job_id}"


def validating(training_file: str, validation_file: str | None) -> str:
    tail = f" and validation file: {validation_file}" if validation_file else ""
    return f"Validating training file: {training_file}{tail}"


def step_message(metrics: dict[str, Any]) -> str:
    """`Step 1/303: training loss=0.73, validation loss=1.46`: two decimals, only the losses that were measured."""
    text = f"Step {metrics['step']}/{metrics['total_steps']}: training loss={_shown(metrics['train_loss'])}"
    if metrics.get("valid_loss") is not None:
        text += f", validation loss={metrics['valid_loss']:.2f}"
    if metrics.get("full_valid_loss") is not None:
        text += f", full validation loss={metrics['full_valid_loss']:.2f}"
    return text


def step_data(metrics: dict[str, Any]) -> dict[str, Any]:
    """The event's `data`: full floats, and nothing that was not measured at this step."""
    return {"step": metrics["step"], "total_steps": metrics["total_steps"], **measured(metrics)}


def measured(metrics: dict[str, Any]) -> dict[str, float]:
    """The losses and accuracies that are there: null stands for what is no finite number."""
    return {key: metrics[key] for key in METRIC_KEYS if metrics.get(key) is not None}


def _shown(loss: float | None) -> str:
    return "nan" if loss is None else f"{loss:.2f}"


def checkpoint_created(step: int, name: str) -> str:
    return f"Checkpoint created at step {step} with Snapshot ID: {name}"


def model_created(name: str) -> str:
    return f"New fine-tuned model created: {name}"


def continued(step: int) -> str:
    return f"Fine-tuning job continues from step {step}"


def trainer_lost(reason: str, attempt: int, most: int) -> str:
    return f"The training process ended unexpectedly ({reason}); attempt {attempt} of {most}"


def gave_up(reason: str, attempts: int) -> str:
    return f"The job failed because its training ended unexpectedly {attempts} times, the last time: {reason}"


def progress(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the job's details tell of the newest step, beside the losses in the events."""
    return {key: metrics[key] for key in PROGRESS_KEYS if metrics.get(key) is not None}


def hyperparameters_chosen(values: dict[str, Any], reasons: dict[str, str]) -> str:
    """One sentence with every number and why it is that number."""
    parts = [f"{name}={value:g} ({reasons.get(name, 'chosen by you')})" for name, value in values.items()]
    return "Hyperparameters: " + "; ".join(parts)

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

VALIDATED = "Files validated, moving job to queued state"
STARTED = "Fine-tuning job started"
# Clients look for "usage policies" to tell that training is over and only checks remain.
POLICIES = "Evaluating model against our usage policies before enabling"
COMPLETED = "The job has successfully completed"
CANCELLED = "Fine-tuning job cancelled"
PAUSED = "Fine-tuning job paused"
RESUMED = "Fine-tuning job resumed, moving job to queued state"


def created(job_id: str) -> str:
    return f"Created fine-tuning job: {job_id}"


def validating(training_file: str, validation_file: str | None) -> str:
    tail = f" and validation file: {validation_file}" if validation_file else ""
    return f"Validating training file: {training_file}{tail}"


def step_message(metrics: dict[str, Any]) -> str:
    """`Step 1/303: training loss=0.73, validation loss=1.46`: two decimals, only the losses that were measured."""
    text = f"Step {metrics['step']}/{metrics['total_steps']}: training loss={metrics['train_loss']:.2f}"
    if metrics.get("valid_loss") is not None:
        text += f", validation loss={metrics['valid_loss']:.2f}"
    if metrics.get("full_valid_loss") is not None:
        text += f", full validation loss={metrics['full_valid_loss']:.2f}"
    return text


def step_data(metrics: dict[str, Any]) -> dict[str, Any]:
    """The event's `data`: full floats, and nothing that was not measured at this step."""
    measured = {key: metrics[key] for key in METRIC_KEYS if metrics.get(key) is not None}
    return {"step": metrics["step"], "total_steps": metrics["total_steps"], **measured}


def checkpoint_created(step: int, name: str) -> str:
    return f"Checkpoint created at step {step} with Snapshot ID: {name}"


def model_created(name: str) -> str:
    return f"New fine-tuned model created: {name}"


def continued(step: int) -> str:
    return f"Fine-tuning job continues from step {step}"


def hyperparameters_chosen(values: dict[str, Any], reasons: dict[str, str]) -> str:
    """One sentence with every number and why it is that number."""
    parts = [f"{name}={value:g} ({reasons.get(name, 'chosen by you')})" for name, value in values.items()]
    return "Hyperparameters: " + "; ".join(parts)

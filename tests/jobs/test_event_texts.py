from dataclasses import replace

from tests.jobs.conftest import Site
from tunery.jobs.recorder import step_data, step_message
from tunery.training.protocol import StepMetrics

METRICS = StepMetrics(
    step=3, total_steps=30, epoch=1, train_loss=0.726, train_mean_token_accuracy=0.5, lr=1e-3, grad_norm=1.0,
    tokens_per_s=9.0, eta_s=3.0,
)  # fmt: skip


def test_step_without_validation_names_only_the_training_loss() -> None:
    assert step_message(METRICS) == "Step 3/30: training loss=0.73"
    assert step_data(METRICS) == {
        "step": 3,
        "total_steps": 30,
        "train_loss": 0.726,
        "train_mean_token_accuracy": 0.5,
    }


def test_step_with_both_validations_names_all_three_losses() -> None:
    text = step_message(replace(METRICS, valid_loss=1.461, full_valid_loss=0.33))
    assert text == "Step 3/30: training loss=0.73, validation loss=1.46, full validation loss=0.33"


def test_validation_names_the_files_that_are_there(site: Site) -> None:
    alone = site.create()
    both = site.create(validation_file=alone.training_file)
    assert site.events(alone.id)[-1].message == f"Validating training file: {alone.training_file}"
    assert site.events(both.id)[-1].message == (
        f"Validating training file: {both.training_file} and validation file: {both.validation_file}"
    )

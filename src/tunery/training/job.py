"""Puts a job together from its spec and runs it. What `child` calls once torch may be imported."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from tunery.chat.render import Renderer
from tunery.models.adapter_config import LoraConfig, UnsupportedAdapter
from tunery.models.adapter_files import read_adapter
from tunery.models.config import UnsupportedModel
from tunery.training.control import Control
from tunery.training.examples import TrainExample, read
from tunery.training.forward.inputs import pack
from tunery.training.forward.lora import set_adapter
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.group import Group
from tunery.training.loop import Loop, Outcome
from tunery.training.losses import token_logprobs
from tunery.training.memory import micro_batch_tokens
from tunery.training.methods.base import TrainingMethod
from tunery.training.methods.dpo import Preference, reference_logprobs
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.protocol import (
    FailureCode,
    Finished,
    ParitySamples,
    Report,
    Sample,
    Started,
    Stopped,
    TrainingFailure,
    TrainSpec,
    Workdir,
    write_samples,
)
from tunery.training.rates import find_rate
from tunery.training.state import Measured, Progress, load_measured, load_state, save_measured
from tunery.training.step import MicroBatchLimit, Stepper
from tunery.training.validation import Validator

NUM_SAMPLES = 4  # that the engine must reproduce
MAX_SAMPLE_TOKENS = 1024  # enough to see a difference, little enough to be quick


class NotTrainable(TrainingFailure):
    """The base model, or the adapter the job goes on from, needs something that the trainer does not have."""

    failure = FailureCode.MODEL_NOT_TRAINABLE


def run(workdir: Workdir, report: Report) -> Outcome:
    """Train until the end, or until it is to stop, and say how it ended. Raises TrainingFailure: NotTrainable,
    UnusableFile, Diverged or OutOfMemory; RuntimeError when the job's other trainers do not come; ValueError when the
    spec cannot be understood; OSError."""
    control = Control(workdir)
    control.listen()
    loop = _assemble(workdir, control, report)
    if loop.spec.seeks_rate:
        report(find_rate(loop))
        return "finished"
    outcome = loop.run()
    if outcome == "finished":
        _finish(loop)
    elif outcome == "paused":
        report(Stopped())
    return outcome


def _assemble(workdir: Workdir, control: Control, report: Report) -> Loop:
    spec = TrainSpec.load(workdir)
    torch.set_num_threads(spec.threads or os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    renderer = Renderer.from_dir(spec.model_dir, completes=spec.completes)
    limit = spec.max_example_tokens
    examples = read(spec.train_file, spec.method, renderer, limit, param="training_file")
    valid: list[TrainExample] = []
    if spec.valid_file is not None:
        valid = read(spec.valid_file, spec.method, renderer, limit, param="validation_file")
    measured = load_measured(workdir.state)
    model, lora = load_model(spec, device, measured.product_dtype if measured else None)
    micro = MicroBatchLimit(micro_batch_tokens(model.config, device, measured.max_tokens if measured else None))
    if measured is None:
        save_measured(workdir.state, Measured(model.matmul_dtype, micro.max_tokens))
    method: TrainingMethod = Supervised()
    if spec.method == "dpo":
        reference = reference_logprobs(workdir, model, [*examples, *valid], micro.max_tokens, control.check)
        method = Preference(spec.beta, reference)
    optimizer = AdamW(model.parameters())
    progress = load_state(workdir.state, model, optimizer) or Progress()
    model.train()
    group = Group.join(spec.rank, spec.num_trainers, spec.meeting)
    stepper = Stepper(model, method, optimizer, micro, control.check, group)
    loop = Loop(
        spec=spec,
        lora=lora,
        workdir=workdir,
        base_model=_source_of(spec.model_dir),
        examples=examples,
        stepper=stepper,
        validator=Validator(stepper, valid, spec.batch_size, spec.seed),
        control=control,
        report=report,
        progress=progress,
    )
    num_tokens = spec.n_epochs * sum(example.num_tokens for example in examples)
    report(Started(len(examples), loop.total_steps, num_tokens, device))
    loop.say_again()
    return loop


def load_model(spec: TrainSpec, device: str, matmul_dtype: torch.dtype | None) -> tuple[TrainModel, LoraConfig]:
    """The base with the adapter that is trained. Raises NotTrainable."""
    try:
        given = None if spec.init_adapter_dir is None else read_adapter(spec.init_adapter_dir)
        lora = spec.lora if given is None else given.config
        model = TrainModel.load(spec.model_dir, lora, seed=spec.seed, device=device, matmul_dtype=matmul_dtype)
        if given is not None:
            set_adapter(model.layers, given)
    except (UnsupportedModel, UnsupportedAdapter) as exc:
        raise NotTrainable(exc.args[0]) from exc
    return model, model.body.lora


def _finish(loop: Loop) -> None:
    model = loop.stepper.model
    epochs_done = loop.progress.step // loop.steps_per_epoch  # fewer than asked for when stopped early
    final_step = loop.final_step()
    set_adapter(model.layers, read_adapter(loop.workdir.checkpoint(final_step)))
    model.train(False)
    chosen = [example for example in loop.validator.examples or loop.examples if example.loss_weight]
    samples = measure_samples(model, chosen)
    if samples:
        write_samples(loop.workdir.samples, samples)
        loop.report(ParitySamples(len(samples)))
    num_tokens = sum(example.num_tokens for example in loop.examples)
    loop.report(Finished(final_step, trained_tokens=epochs_done * num_tokens))


@torch.no_grad()
def measure_samples(model: TrainModel, examples: Sequence[TrainExample]) -> list[Sample]:
    """Of the first examples; those without a trained token give none."""
    found = (_measure(model, example.rows[0]) for example in examples[:NUM_SAMPLES])
    return [sample for sample in found if sample is not None]


def _measure(model: TrainModel, row: Row) -> Sample | None:
    token_ids = row.token_ids[:MAX_SAMPLE_TOKENS]
    start = next((index for index in range(1, len(token_ids)) if row.loss_weights[index]), None)
    if start is None:
        return None
    asked = Row(token_ids, [0.0] * start + [1.0] * (len(token_ids) - start))
    inputs = pack([asked], model.shape)
    logprobs, _ = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
    return Sample(token_ids, start, logprobs.tolist())


def _source_of(model_dir: Path) -> str:
    """Where the base weights came from, for adapter_config.json."""
    manifest = model_dir / "tunery.json"
    return json.loads(manifest.read_text("utf-8"))["source"] if manifest.exists() else str(model_dir)

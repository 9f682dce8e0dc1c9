"""Puts a job together from its spec and runs it. What `child` calls once torch may be imported."""

import json
import os
from pathlib import Path

import torch

from tunery.chat.render import Renderer
from tunery.models.adapter_files import read_adapter
from tunery.training.control import Control
from tunery.training.examples import TrainExample, read
from tunery.training.forward.lora import set_adapter
from tunery.training.forward.model import TrainModel
from tunery.training.loop import Loop, Outcome
from tunery.training.memory import micro_batch_tokens
from tunery.training.methods.base import Method
from tunery.training.methods.dpo import Preference
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.parity import write_parity
from tunery.training.references import reference_logprobs
from tunery.training.reports import Report
from tunery.training.spec import TrainSpec
from tunery.training.state import Progress, load_state, saved_product_dtype
from tunery.training.step import MicroBatchLimit, Stepper
from tunery.training.validation import Validator


def run(workdir: Path, report: Report) -> Outcome:
    """Train until the end or a wish, and say how it ended."""
    control = Control(workdir)
    control.listen()
    loop = _assemble(workdir, control, report)
    outcome = loop.run()
    if outcome == "finished":
        _finish(loop)
    elif outcome != "left":
        report({"type": outcome})
    return outcome


def _assemble(workdir: Path, control: Control, report: Report) -> Loop:
    spec = TrainSpec.load(workdir)
    torch.set_num_threads(spec.threads or os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    renderer = Renderer.from_dir(spec.model_dir, completes=spec.completes)
    limit = spec.max_example_tokens
    examples = read(spec.train_file, spec.method, renderer, limit, param="training_file")
    valid: list[TrainExample] = []
    if spec.valid_file is not None:
        valid = read(spec.valid_file, spec.method, renderer, limit, param="validation_file")
    given = None if spec.init_adapter_dir is None else read_adapter(spec.init_adapter_dir)
    lora = spec.lora if given is None else given.config
    products = saved_product_dtype(workdir / "state")
    model = TrainModel.load(spec.model_dir, lora, seed=spec.seed, device=device, products=products)
    if given is not None:
        set_adapter(model.layers, given)
    micro = MicroBatchLimit(micro_batch_tokens(model.config, device))
    method: Method = Supervised()
    if spec.method == "dpo":
        reference = reference_logprobs(workdir, model, [*examples, *valid], micro, control.check)
        method = Preference(spec.beta, reference)
    optimizer = AdamW(model.parameters())
    progress = load_state(workdir / "state", model, optimizer) or Progress()
    micro.max_tokens = min(micro.max_tokens, progress.max_tokens or micro.max_tokens)
    model.train()
    loop = Loop(
        spec=spec,
        lora=lora,
        workdir=workdir,
        base_model=_source_of(spec.model_dir),
        examples=examples,
        stepper=Stepper(model, method, optimizer, micro, control.check),
        validator=Validator(model, method, valid, micro, control.check, spec.batch_size, spec.seed),
        control=control,
        report=report,
        progress=progress,
    )
    report(
        {
            "type": "started",
            "num_examples": len(examples),
            "total_steps": loop.total_steps,
            "trained_tokens": spec.n_epochs * sum(example.num_tokens for example in examples),
            "step": progress.step,
            "device": device,
            "reasons": {"micro_batch": f"at most {micro.max_tokens} tokens are computed at once"},
        }
    )
    return loop


def _finish(loop: Loop) -> None:
    spec, model = loop.spec, loop.stepper.model
    epochs_done = loop.progress.step // loop.steps_per_epoch  # fewer than asked for when stopped early
    folder = loop.final_dir()
    set_adapter(model.layers, read_adapter(folder))
    model.train(False)
    chosen = [example for example in loop.validator.examples or loop.examples if example.loss_weight]
    path = write_parity(loop.workdir, model, chosen, spec.num_parity_examples)
    if path is not None:
        loop.report({"type": "parity", "path": str(path)})
    loop.report(
        {
            "type": "finished",
            "trained_tokens": epochs_done * sum(example.num_tokens for example in loop.examples),
            "dir": str(folder),
            "metrics": loop.progress.last_metrics,
        }
    )


def _source_of(model_dir: Path) -> str:
    """Where the base weights came from, for adapter_config.json."""
    manifest = model_dir / "tunery.json"
    return json.loads(manifest.read_text("utf-8"))["source"] if manifest.exists() else str(model_dir)

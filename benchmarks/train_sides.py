"""The two sides of `train.py`. Both see the same token ids, weights and order; only the trainer differs."""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch

RANK, ALPHA = 16, 32


def rendered_rows(options: argparse.Namespace) -> list[tuple[list[int], list[float]]]:
    """Token ids and loss weights of the rows of all steps, and of the validation rows behind them."""
    from tunery.chat.render import Renderer
    from tunery.datasets.parse import load_examples

    wanted = (options.steps + 1) * options.batch + options.valid_rows
    examples = load_examples(options.data)
    if len(examples) < wanted:  # a small file is read again from its start
        examples = (examples * (1 + wanted // len(examples)))[:wanted]
    rendered = Renderer.from_dir(Path(options.model)).render_batch(examples[:wanted], 1024)
    return [(row.token_ids, row.loss_weights) for row in rendered]


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from tunery.models.adapter_config import LoraConfig
    from tunery.training.examples import TrainExample
    from tunery.training.forward.model import TrainModel
    from tunery.training.forward.packing import Row
    from tunery.training.memory import micro_batch_tokens
    from tunery.training.methods.sft import Supervised
    from tunery.training.optimizer import AdamW
    from tunery.training.step import MicroBatchLimit, Stepper

    torch.set_num_threads(options.threads)
    rows = [TrainExample((Row(ids, weights),), len(ids)) for ids, weights in rendered_rows(options)]
    model = TrainModel.load(Path(options.model), LoraConfig(RANK, ALPHA), seed=0, device="cpu")
    set_adapter({name: (layer.lora_A, layer.lora_B) for name, layer in model.layers.items()})
    model.refresh()
    model.train()
    optimizer = AdamW(model.parameters())
    limit = MicroBatchLimit(micro_batch_tokens(model.config, "cpu"))
    stepper = Stepper(model, Supervised(), optimizer, limit)
    started = time.perf_counter()
    tokens = trained = 0
    for step in range(options.steps + 1):
        batch = rows[step * options.batch : (step + 1) * options.batch]
        stepper.step(batch, options.learning_rate)
        if step == 0:
            started = time.perf_counter()
        else:
            tokens += sum(example.num_tokens for example in batch)
            trained += sum(1 for example in batch for weight in example.rows[0].loss_weights if weight)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    adapter = {name: (layer.lora_A, layer.lora_B) for name, layer in model.layers.items()}
    loss = exact_loss(options, adapter)
    report = summary(tokens, options, seconds, peak, loss)
    report["products"] = str(model.matmul_dtype).removeprefix("torch.")
    report["roofline_share"] = report["tokens_per_s"] / limit_tokens_per_s(model.config, trained / tokens)
    return report


def set_adapter(layers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The same start on both sides."""
    generator = torch.Generator().manual_seed(0)
    for name in sorted(layers):
        a, b = layers[name]
        with torch.no_grad():
            a.copy_(torch.empty(a.shape).uniform_(-1, 1, generator=generator) / a.shape[1] ** 0.5)
            b.zero_()


def summary(tokens: int, options: argparse.Namespace, seconds: float, peak: int, loss: float) -> dict[str, Any]:
    return {
        "tokens_per_s": tokens / seconds,
        "examples_per_s": options.steps * options.batch / seconds,
        "peak_gb": peak / 1e9,
        "final_loss": loss,
        "seconds": seconds,
    }


def limit_tokens_per_s(config: Any, trained_share: float) -> float:
    """What this machine could do at most without sharing: its bf16 product rate by the FLOPs of a token.

    A frozen weight costs a product forward and one backward: 4 FLOPs a parameter. The head costs that only where
    something is trained.
    """
    body = sum(
        config.num_layers * rows * columns
        for rows, columns in (
            (config.num_heads * config.head_dim, config.hidden_size),
            (2 * config.num_kv_heads * config.head_dim, config.hidden_size),
            (config.hidden_size, config.num_heads * config.head_dim),
            (3 * config.intermediate_size, config.hidden_size),
        )
    )
    head = config.vocab_size * config.hidden_size
    return product_rate(config) / (4 * (body + trained_share * head))


def product_rate(config: Any) -> float:
    """FLOP/s of bf16 products in the shapes of this model, m = 1024: the best of several, other load aside."""
    x = torch.randn(1024, config.hidden_size, dtype=torch.bfloat16)
    w = torch.randn(config.intermediate_size, config.hidden_size, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(x, w)
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * x.shape[0] * w.numel() / best


def trl(options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    rows = rendered_rows(options)
    micro = options.peer_micro_batch or options.batch
    count = (options.steps + 1) * options.batch
    table = {
        "input_ids": [ids for ids, _ in rows[:count]],
        "completion_mask": [[int(weight > 0) for weight in weights] for _, weights in rows[:count]],
    }
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.peer_dtype))
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    layers = {
        name: (module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in model.base_model.model.named_modules()
        if hasattr(module, "lora_A")
    }
    set_adapter(layers)

    class Timer(TrainerCallback):
        started = 0.0
        ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()
            if state.global_step == 1:
                self.started = self.ended

    timer = Timer()
    trainer = in_order(SFTTrainer)(
        model=model,
        args=SFTConfig(
            output_dir="/tmp/trl-out",
            max_steps=options.steps + 1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=options.batch // micro,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=1024,
            packing=False,
            bf16=options.peer_dtype == "bfloat16",
            use_cpu=True,
            gradient_checkpointing=False,
            completion_only_loss=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(table),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        callbacks=[timer],
    )
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = sum(len(ids) for ids, _ in rows[options.batch : count])
    loss = exact_loss(options, layers)
    return summary(tokens, options, timer.ended - timer.started, peak, loss)


def in_order(trainer: type) -> type:
    """The trainer, seeing the rows in the order of the file as ours does."""

    class Ordered(trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return Ordered


@torch.no_grad()
def exact_loss(options: argparse.Namespace, adapter: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Mean loss of the trained tokens of the validation rows, row by row, in fp32 with the adapter in the weights."""
    from transformers import AutoModelForCausalLM

    if not options.valid_rows:
        return 0.0
    rows = rendered_rows(options)[-options.valid_rows :]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    for name, (a, b) in adapter.items():
        model.get_submodule(name).weight.add_(b.float() @ a.float(), alpha=ALPHA / RANK)
    total = count = 0.0
    for ids, weights in rows:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        nll = -logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        weight = torch.tensor(weights[1:])
        total += float((nll * weight).sum())
        count += float(weight.sum())
    return total / count if count else 0.0

"""PEFT's own adapters and its own answers: what the engine is held against."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def base_model(model_dir: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


def write_adapter(model_dir: Path, folder: Path, *, rank: int, modules: list[str], seed: int) -> Path:
    model = get_peft_model(base_model(model_dir), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
    model.save_pretrained(folder)
    return folder


def model_with(model_dir: Path, adapter: Path | None) -> torch.nn.Module:
    base = base_model(model_dir)
    return base if adapter is None else PeftModel.from_pretrained(base, adapter).eval()


@torch.inference_mode()
def generate(model: torch.nn.Module, prompt_ids: list[int], num_tokens: int) -> list[int]:
    """transformers' greedy answer, end-of-sequence ignored."""
    output = model.generate(  # type: ignore[operator]
        input_ids=torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt_ids) :].tolist()

"""What Unsloth and Axolotl leave behind, file by file as they write it, around the weights of an adapter of PEFT's.
Both want a GPU, so that none can be made here (those of `elsewhere` are real)."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

MODULES = ["k_proj", "down_proj", "gate_proj", "o_proj", "v_proj", "q_proj", "up_proj"]
UNSLOTH_EXPRESSION = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r".*?(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r"\.(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
)
# All fields of a configuration of PEFT 0.18 that both leave as they are.
_DEFAULTS: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_bias": False, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.18.0", "qalora_group_size": 16,
    "rank_pattern": {}, "revision": None, "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
}  # fmt: skip


def as_unsloth_writes(given: Path, base_dir: Path, to: Path, base: str, **values: Any) -> Path:
    """`save_pretrained` of model and tokenizer, in a folder of TRL's checkpoints."""
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
        "unsloth_fixed": True,
    }
    own = {"auto_mapping": mapping, "fan_in_fan_out": False, "lora_dropout": 0, "target_modules": MODULES}
    _adapter(given, to, own | {"base_model_name_or_path": base} | values)
    _tokenizer(base_dir, to)
    (to / "added_tokens.json").write_text("{}")
    (to / "README.md").write_text(f"---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- unsloth\n- trl\n- sft\n---\n")
    _checkpoint(to, 60, "trainer_state.json", "training_args.bin")
    return to


def as_axolotl_writes(given: Path, base_dir: Path, to: Path, base: str) -> Path:
    """`output_dir` after a run with `adapter: lora`: checkpoints, the base's config.json, a model card with the
    settings, and what `axolotl merge-lora` puts beside it."""
    own = {"auto_mapping": None, "fan_in_fan_out": None, "lora_dropout": 0.05, "target_modules": sorted(MODULES)}
    _adapter(given, to, own | {"base_model_name_or_path": base})
    _tokenizer(base_dir, to)
    shutil.copy(base_dir / "config.json", to)
    settings = f"axolotl version: `0.13.0`\n```yaml\nbase_model: {base}\nadapter: lora\nlora_r: 4\nlora_alpha: 8\n```\n"
    (to / "README.md").write_text(f"---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- axolotl\n---\n{settings}")
    (to / "debug.log").write_text("[INFO] [axolotl.train] Training completed!\n")
    for step in (2, 4):
        _checkpoint(to, step, "trainer_state.json", "training_args.bin", "tokens_state.json")
    (to / "merged").mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(base_dir / name, to / "merged")
    return to


def _adapter(given: Path, to: Path, own: dict[str, Any]) -> None:
    to.mkdir()
    shutil.copy(given / "adapter_model.safetensors", to)
    known = json.loads((given / "adapter_config.json").read_text())
    settings = _DEFAULTS | {"r": known["r"], "lora_alpha": known["lora_alpha"]} | own
    (to / "adapter_config.json").write_text(json.dumps(dict(sorted(settings.items())), indent=2))


def _tokenizer(base_dir: Path, to: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base_dir / name, to)
    (to / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))


def _checkpoint(folder: Path, step: int, *states: str) -> None:
    """With weights of another step: what came of the run must be taken, and no checkpoint."""
    to = folder / f"checkpoint-{step}"
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, to)
    settings = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1_000}))
    for name in (*states, "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        is_json = name.endswith(".json")
        (to / name).write_bytes(b'{"global_step": 2}' if is_json else pickle.dumps({"step": step}))

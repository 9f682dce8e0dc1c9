"""The model of tests that need an engine and nothing that it says."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_tokenizer(
    folder: Path,
    special: list[str],
    names: dict[str, str],
    template: str,
    merges: tuple[tuple[str, str], ...] = (),
) -> int:
    """A tokenizer of bytes behind the special tokens, which begin at 0, its template and its settings; how many tokens
    it has. `names`: bos_token and the like."""
    alphabet = special + sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[*merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    return len(alphabet)


def tiny_settings(folder: Path, model_dir: Path, name: str) -> dict[str, str]:
    """Settings, and a catalog in `folder`, that put OpenAI's name `name` on the tiny model."""
    catalog = folder / "catalog.toml"
    catalog.write_text(
        f'[bases.tiny]\nsource = "path:{model_dir}"\ncontext_length = 2048\n\n'
        f'[[models]]\nname = "{name}"\naliases = ["gpt-4o-mini"]\nbase = "tiny"\n'
    )
    return {"TUNERY_CATALOG": str(catalog), "OMP_NUM_THREADS": "1"}


def write_tiny_model(
    folder: Path,
    merges: tuple[tuple[str, str], ...] = (),
    *,
    template: str = CHATML,
    can_end: bool = False,
    head_dim: int = 16,
) -> Path:
    """A random two-layer llama with a byte tokenizer, in fp32, and a context of 2,048 tokens. `merges`: pairs of
    tokens that are a token, too.

    `can_end`: it can learn to end its answers, and learns by heart sooner. Otherwise the token for that, which also
    pads, is a row of zeros.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[2], "unk_token": special[0]}
    num_tokens = write_byte_tokenizer(folder, special, names, template, merges)
    (folder / "tunery.json").write_text(json.dumps({"source": f"path:{folder}", "layout": 1}))
    config = LlamaConfig(
        vocab_size=num_tokens, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, initializer_range=0.2 if can_end else 0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        if can_end:
            model.model.embed_tokens.weight.data[config.pad_token_id].normal_(std=config.initializer_range)
        model.save_pretrained(folder)
    return folder

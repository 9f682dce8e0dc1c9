"""An embedding model: a folder as sentence-transformers writes it, its tokenizer, encoder and pooling in one."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from tunery.domain.errors import InvalidRequest
from tunery.serving.forward.encoder import Encoder

COMPUTED = ("Transformer", "Pooling", "Normalize")


class EmbeddingModel:
    def __init__(self, folder: Path) -> None:
        """Reads the weights. Raises InvalidRequest for what is not computed here."""
        modules = _read(folder / "modules.json")
        for module in modules:
            if module["type"].rpartition(".")[2] not in COMPUTED:
                raise InvalidRequest(f"The engine does not compute {module['type']}, which {str(folder)!r} asks for.")
        paths = [module["path"] for module in modules if module["type"].endswith(".Pooling")]
        self._pooling = _pooling(_read(folder / paths[0] / "config.json") if paths else {}, folder)
        self._encoder = Encoder(folder)
        settings = (
            _read(folder / "sentence_bert_config.json") if (folder / "sentence_bert_config.json").exists() else {}
        )
        self._lowers = bool(settings.get("do_lower_case"))
        limit = min(settings.get("max_seq_length") or self._encoder.max_tokens, self._encoder.max_tokens)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=limit)

    def windows(self, texts: list[str]) -> list[list[list[int]]]:
        """Of each text its ids, cut into as many windows as the model needs to read all of it: what it was trained on
        is shorter than what clients send. Each window has the special tokens around it."""
        encoded = self._tokenizer.encode_batch_fast([text.lower() for text in texts] if self._lowers else texts)
        return [[each.ids, *(rest.ids for rest in each.overflowing)] for each in encoded]

    def pool(self, window: list[int]) -> torch.Tensor:
        """The window's vector [E], of any length."""
        states = self._encoder(window)
        return states[0] if self._pooling == "cls" else states.mean(0)

    @torch.inference_mode()
    def join(self, windows: list[list[int]], vectors: list[torch.Tensor]) -> torch.Tensor:
        """A text's vector [E], of length 1, from those of its windows: their mean, each as heavy as it is long."""
        if len(vectors) == 1:
            return torch.nn.functional.normalize(vectors[0], dim=0)
        lengths = torch.tensor([float(len(window)) for window in windows])
        return torch.nn.functional.normalize(lengths @ torch.stack(vectors), dim=0)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"{str(path.parent)!r} is no folder of an embedding model: {exc}") from exc


def _pooling(config: dict[str, Any], folder: Path) -> Literal["mean", "cls"]:
    """Both spellings: a flag for each way, and one name (sentence-transformers 6)."""
    names = {name.removeprefix("pooling_mode_") for name, value in config.items() if value is True}
    names -= {"include_prompt"}
    wanted = {config["pooling_mode"]} if isinstance(config.get("pooling_mode"), str) else names or {"mean_tokens"}
    if wanted in ({"mean_tokens"}, {"mean"}):
        return "mean"
    if wanted in ({"cls_token"}, {"cls"}):
        return "cls"
    raise InvalidRequest(
        f"The engine pools by the mean of all tokens or by the first; {str(folder)!r} asks for {sorted(wanted)}."
    )

"""What a training child is asked to do: `spec.json` in its work folder. Needs no torch."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tunery.models.adapter_config import LoraConfig

Method = Literal["supervised", "dpo"]
METHODS: tuple[str, ...] = get_args(Method)

FILE = "spec.json"


@dataclass(frozen=True)
class TrainSpec:
    job_id: str
    model_dir: Path
    train_file: Path
    n_epochs: int
    batch_size: int
    learning_rate: float
    method: Method = "supervised"
    valid_file: Path | None = None
    init_adapter_dir: Path | None = None  # go on from this adapter: its rank, alpha and modules take precedence
    beta: float = 0.1  # DPO: how strongly the reference model holds
    seed: int = 0
    max_example_tokens: int = 8192
    completes: bool = False  # prompts and completions stay raw text; else they become turns of a chat
    lora: LoraConfig = field(default_factory=LoraConfig)
    state_interval_s: float = 5.0  # the least time between two states; longer where saving takes more than 2 %
    early_stopping: bool = False  # end when the validation loss has turned; otherwise only advise it
    num_parity_examples: int = 4
    threads: int = 0  # 0: as many as there are cores

    def save(self, workdir: Path) -> None:
        document = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        (workdir / FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, workdir: Path) -> "TrainSpec":
        """Raises ValueError on an unknown key or method."""
        document = json.loads((workdir / FILE).read_text("utf-8"))
        try:
            lora = document.pop("lora", {})
            for name in ("model_dir", "train_file", "valid_file", "init_adapter_dir"):
                if document.get(name) is not None:
                    document[name] = Path(document[name])
            spec = cls(**document, lora=LoraConfig(**{**lora, "target_modules": tuple(lora["target_modules"])}))
        except (TypeError, KeyError) as exc:
            raise ValueError(f"{workdir / FILE} cannot be understood: {exc}") from exc
        if spec.method not in METHODS:
            raise ValueError(f"This trainer knows the methods {', '.join(METHODS)}, not {spec.method!r}.")
        return spec

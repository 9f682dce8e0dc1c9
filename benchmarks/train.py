"""Training speed: ours, and TRL's SFTTrainer on the same rows, LoRA shape and dtype, in one run.

    python benchmarks/train.py --data FILE --model DIR --steps N --batch B [--peer trl] [--prefix-tokens P] --json

Each side runs in a process of its own, one after the other, so that peak memory is its own and the load of the machine
hits both alike. "Real tokens" are the tokens of the examples, each counted once for every example that has it: no
padding, and a shared prompt counts for each row. The first step of each side warms up and is not counted.

Both adapters are measured by the same code on the same rows, in fp32. In bf16 the answer would depend on where the
adapter's small term is added: PEFT adds it to an output that is already rounded, where after few steps most of it is
lost. That is a matter of the forward pass, not of what was learnt.

The peer runs in this interpreter, or in the one that TUNERY_BENCH_PYTHON names (`pip install -e '.[bench]'`).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILLER = (
    "You are the assistant of a company that answers its customers with care. Read the question twice, keep to the "
    "facts that you were given, name the numbers, show each step, and say so when something is missing. "
)


def main() -> int:
    options = parse(sys.argv[1:])
    if options.side:
        print(json.dumps(run_side(options)))
        return 0
    result = compare(options)
    print(json.dumps(result) if options.json else render(result))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="chat JSONL")
    parser.add_argument(
        "--valid", type=Path, help="chat JSONL for the loss at the end; default: rows after the trained"
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalog name or model dir")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--peer", choices=["trl"])
    parser.add_argument("--peer-micro-batch", type=int, default=0, help="rows TRL computes at once; 0: the whole batch")
    parser.add_argument("--peer-steps", type=int, default=0, help="steps of the peer; 0: as many as ours")
    parser.add_argument(
        "--peer-dtype",
        choices=["bfloat16", "float32", "faster"],
        default="bfloat16",
        help="what the peer computes in; faster: that of the two in which it is",
    )
    parser.add_argument("--peer-batch", type=int, default=0, help="rows of the peer's step; 0: as ours")
    parser.add_argument("--prefix-tokens", type=int, default=0, help="prepend a shared system prompt of this length")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--valid-rows", type=int, default=16, help="0: no validation loss")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model, data = prepare(options, Path(folder))
        ours = start_side("ours", options, model, data)
        result: dict[str, Any] = {"ours": ours}
        if options.peer:
            peer = result["peer"] = faster_peer(options, model, data)
            result["speed_ratio"] = ours["tokens_per_s"] / peer["tokens_per_s"]
            result["memory_ratio"] = ours["peak_gb"] / peer["peak_gb"]
            if options.valid_rows and not options.peer_steps and not options.peer_batch:
                result["loss_difference"] = ours["final_loss"] / peer["final_loss"] - 1
        result["roofline_share"] = ours.pop("roofline_share")
        result["machine"] = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
        return result


def faster_peer(options: argparse.Namespace, model: Path, data: Path) -> dict[str, Any]:
    dtypes = ["bfloat16", "float32"] if options.peer_dtype == "faster" else [options.peer_dtype]
    found = []
    for dtype in dtypes:
        options.peer_dtype = dtype
        found.append({**start_side("peer", options, model, data), "dtype": dtype})
    return max(found, key=lambda side: side["tokens_per_s"])


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The model dir, and the data with the shared prompt in front."""
    model = Path(options.model)
    if not model.is_dir():
        from tunery.models.catalog import Catalog
        from tunery.models.sources.cache import ensure

        default = Path(__file__).parent.parent / ".cache" / "models"
        model = ensure(
            Catalog.load().resolve(options.model).source, Path(os.environ.get("TUNERY_MODEL_CACHE", default))
        )
    data = folder / "data.jsonl"
    lines = options.data.read_text("utf-8").splitlines()
    if options.prefix_tokens:
        lines = with_prefix(lines, options.prefix_tokens, model)
    data.write_text("\n".join(lines) + "\n", "utf-8")
    return model, data


def with_prefix(lines: list[str], tokens: int, model: Path) -> list[str]:
    """Every row with the same system message of about that many tokens in the place of its own."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(FILLER * (1 + tokens // 20)).ids[:tokens]
    system = {"role": "system", "content": tokenizer.decode(ids).strip()}
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["messages"] = [system, *(m for m in row["messages"] if m["role"] != "system")]
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def start_side(side: str, options: argparse.Namespace, model: Path, data: Path) -> dict[str, Any]:
    python = os.environ.get("TUNERY_BENCH_PYTHON", sys.executable) if side == "peer" else sys.executable
    is_peer = side == "peer"
    steps = options.peer_steps or options.steps if is_peer else options.steps
    batch = options.peer_batch or options.batch if is_peer else options.batch
    command = [python, __file__, "--side", side, "--data", str(data), "--model", str(model), "--steps", str(steps)]
    command += ["--batch", str(batch)]
    for name in ("peer_dtype", "peer_micro_batch", "learning_rate", "valid_rows", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    # Both sides wait as the trainer does: threads that only spin are a little faster on a quiet machine and a disaster
    # on a busy one.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("GOMP_SPINCOUNT", "2000")
    # The peer may run elsewhere: it needs this package's renderer for the same token ids, not its dependencies.
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    import train_sides

    # This folder has a datasets.py too; TRL wants the library of that name.
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent.resolve()]
    return train_sides.ours(options) if options.side == "ours" else train_sides.trl(options)


def render(result: dict[str, Any]) -> str:
    lines = []
    for side in ("ours", "peer"):
        if side in result:
            numbers = result[side]
            lines.append(
                f"{side:5} {numbers['tokens_per_s']:8.0f} tokens/s {numbers['examples_per_s']:7.2f} examples/s "
                f"{numbers['peak_gb']:6.2f} GB  loss {numbers['final_loss']:.4f}"
            )
    for key in ("speed_ratio", "memory_ratio", "loss_difference", "roofline_share"):
        if key in result:
            lines.append(f"{key} {result[key]:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

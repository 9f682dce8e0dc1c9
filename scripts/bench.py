"""`make bench`: training against TRL on four kinds of data, then training and answering in the shapes of other models;
writes both parts of docs/benchmarks.md.

`--data FILE` measures your own chat JSONL too. `--shapes NAME…` measures these alone and leaves the rest of the page as
it is. TUNERY_BENCH_PYTHON names another environment's interpreter for TRL.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from math import prod
from pathlib import Path

from bench_data import conversations, docstrings
from bench_shapes import SHAPES, write_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARV = ROOT / "examples" / "marv.jsonl"
MADE = ROOT / ".cache" / "bench"
STREAMS = (1, 8)  # answers at once
REFERENCE = "SmolLM2-135M"  # whose share of the limit the others' is compared with
VOCABULARY = ("embed_tokens.weight", "embed_in.weight", "wte.weight")
TRAIN_SHAPE = ("benchmarks/train.py", "--batch", "8", "--steps", "2", "--valid-rows", "0", "--peer", "trl")
TRAIN_SHAPE += ("--peer-dtype", "faster", "--json")
SERVE_SHAPE = ("benchmarks/generate.py", "--json", "--streams", *map(str, STREAMS))

INTRODUCTION = """# Benchmarks

Machines differ and are shared: read the ratios, which come from one run on one machine.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="chat JSONL to measure besides")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="measure these alone")
    options = parser.parse_args()
    unequal = docstrings(MADE / "docstrings.jsonl")
    if not options.shapes:
        measure_training(unequal, options)
    for name in options.shapes or SHAPES:
        measure_shape(name, unequal)
        write_shapes()
    sys.stdout.write(f"Written to {PAGE.relative_to(ROOT)}.\n")
    return 0


def measure_training(unequal: Path, options: argparse.Namespace) -> None:
    steps = ("--steps", str(options.steps))
    # TRL takes 12 GB for 8 rows with the long prompt: it gets no more at once, and fewer of these slow steps.
    prefix = ("--prefix-tokens", "571", "--peer-batch", "8", "--peer-steps", "2")
    turns = conversations(MARV, MADE / "conversations.jsonl")
    cases = {
        "short prompts of many lengths, batch 16": ("--data", unequal, "--batch", "16", *steps),
        "short prompts of one length, batch 16": ("--data", MARV, "--batch", "16", *steps),
        "a system prompt of 571 tokens on every row, batch 32": ("--data", MARV, "--batch", "32", *prefix, *steps),
        "long answers, batch 8": ("--data", turns, "--batch", "8", *steps),
    }
    if options.data:
        cases[f"{options.data.stem}, batch 8"] = ("--data", options.data, "--batch", "8", *steps)
    rows, commands, products = [], [], set()
    for name, arguments in cases.items():
        command = ["benchmarks/train.py", *map(shown, arguments), "--peer", "trl", "--json"]
        sys.stdout.write(f"{name} …\n")
        result = run(command)
        rows.append(row(name, result))
        products.add(result["ours"]["products"])
        commands.append("python " + shlex.join(command))
    write_training(rows, commands, sorted(products))


def measure_shape(name: str, data: Path) -> None:
    """Keeps what was measured: shapes may be measured one by one."""
    sys.stdout.write(f"{name} …\n")
    sys.stdout.flush()
    model = write_model(name, MADE / "shapes" / name)
    measured = {
        "cpu": cpu_name(),
        "date": str(date.today()),
        "training": run([*TRAIN_SHAPE, "--data", shown(data), "--model", shown(model)]),
        "serving": run([*SERVE_SHAPE, "--model", shown(model)]),
        "load": os.getloadavg()[0],
    }
    (model / "measured.json").write_text(json.dumps(measured), "utf-8")


def shown(argument: str | Path) -> str:
    """Paths of the checkout as a reader would type them."""
    path = Path(argument)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(argument)


def run(command: list[str]) -> dict:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, result: dict) -> str:
    ours, peer = result["ours"], result["peer"]
    cells = [
        name,
        f"{ours['tokens_per_s']:,.0f}",
        f"{peer['tokens_per_s']:,.0f}",
        f"**{result['speed_ratio']:.1f} ×**",
        f"{ours['peak_gb']:.1f}",
        f"{peer['peak_gb']:.1f}",
        *(f"{side['final_loss']:.3f}" if "loss_difference" in result else "–" for side in (ours, peer)),
        f"{100 * result['roofline_share']:.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def write_training(rows: list[str], commands: list[str], products: list[str]) -> None:
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    lines = [
        "## Training: LoRA of rank 16, ours and TRL's SFTTrainer",
        "",
        f"{date.today()}, {machine}. Real tokens a second: no padding, a shared prompt counts for every row.",
        "The loss is that of the next 16 rows, after the same steps on the same rows, of both adapters in fp32.",
        "The limit is the machine's bf16 product rate over the products of a token without sharing.",
        f"Ours computed its products in {' and '.join(products)}, which is faster here.",
        "",
        "| data | ours | TRL | speed | ours, GB | TRL, GB | ours, loss | TRL, loss | of the machine's limit |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *fenced(commands),
    ]
    write("training", lines)


def write_shapes() -> None:
    """What was measured on this processor, in the order of their sizes."""
    files = {name: MADE / "shapes" / name / "measured.json" for name in SHAPES}
    found = {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()}
    found = {name: measured for name, measured in found.items() if measured["cpu"] == cpu_name()}
    days = sorted({measured["date"] for measured in found.values()})
    lines = [
        "## Other models: training against TRL, answering against transformers",
        "",
        f"{' and '.join(days)}, {cpu_name()}, {os.cpu_count()} cores. Random weights in the shape of each model, LoRA",
        "of rank 16 on short prompts of many lengths, batch 8; both peers in the type in which they are faster, which",
        "is named. Answers of 48 tokens to as many different prompts as are asked at once, which transformers gets as",
        "one batch. Where two cores take too long for all layers there are fewer, and the vocabulary counts for more.",
        "Pythia is not described here (docs/serving.md): ours computes it over transformers' modules.",
        "",
        "| shape | layers | load | training, ours | TRL | speed | ours, GB | TRL, GB |",
        "|---|---|---|---|---|---|---|---|",
        *(shape_row(name, measured, training_cells(measured["training"])) for name, measured in found.items()),
        "",
        "| shape | layers | load | 1 answer, ours | transformers | speed | 8 answers, ours | transformers | speed "
        "| ours, GB | transformers, GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(shape_row(name, measured, serving_cells(measured["serving"])) for name, measured in found.items()),
        "",
        "A step of one answer waits for the weights to be read, a step of training for the products with them. Weights",
        "a second (those that a token meets, times tokens a second) say how much of the machine's limit is used; of",
        f"{REFERENCE} in billions, of the others as a multiple of it.",
        "",
        "| shape | weights, million | 1 answer | 8 answers | training |",
        "|---|---|---|---|---|",
        *limit_rows(found),
        "",
        *fenced(["python scripts/bench.py --shapes " + " ".join(found)]),
    ]
    write("shapes", lines)


def shape_row(name: str, measured: dict, cells: list[str]) -> str:
    shape = SHAPES[name]
    layers = f"{shape.measured_layers} of {shape.config['num_hidden_layers']}"
    return "| " + " | ".join([name, layers, f"{measured['load']:.1f}", *cells]) + " |"


def training_cells(result: dict) -> list[str]:
    ours, peer = result["ours"], result["peer"]
    return [
        f"{ours['tokens_per_s']:,.0f}",
        f"{peer['tokens_per_s']:,.0f} ({peer['dtype']})",
        f"**{result['speed_ratio']:.1f} ×**",
        f"{ours['peak_gb']:.1f}",
        f"{peer['peak_gb']:.1f}",
    ]


def serving_cells(result: dict) -> list[str]:
    ours, peer = result["ours"], result["peer"]
    cells = []
    for streams in map(str, STREAMS):
        mine, theirs = ours["tokens_per_s"][streams], peer["tokens_per_s"][streams]
        cells += [f"{mine:,.0f}", f"{theirs:,.0f} ({peer['dtype']})", f"**{mine / theirs:.1f} ×**"]
    return [*cells, f"{ours['peak_gb']:.1f}", f"{peer['peak_gb']:.1f}"]


def limit_rows(found: dict[str, dict]) -> list[str]:
    """Rows of those that were measured; none without the one that they are compared with."""
    used = {
        name: [
            weights_met(MADE / "shapes" / name) * speed / 1e9
            for speed in (*speeds_of(measured["serving"]), measured["training"]["ours"]["tokens_per_s"])
        ]
        for name, measured in found.items()
    }
    if REFERENCE not in used:
        return []
    rows = []
    for name, values in used.items():
        cells = [f"{value:.1f}" for value in values]
        if name != REFERENCE:
            cells = [f"{value / other:.2f} ×" for value, other in zip(values, used[REFERENCE], strict=True)]
        million = f"{weights_met(MADE / 'shapes' / name) / 1e6:,.0f}"
        rows.append("| " + " | ".join([name, million, *cells]) + " |")
    return rows


def speeds_of(serving: dict) -> list[float]:
    return [serving["ours"]["tokens_per_s"][streams] for streams in map(str, STREAMS)]


def weights_met(folder: Path) -> int:
    """By each token: all but a vocabulary of which a token has one row, and that is not the head as well."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        sizes = {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    has_head = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in sizes)
    return sum(size for name, size in sizes.items() if not (has_head and name.endswith(VOCABULARY)))


def fenced(commands: list[str]) -> list[str]:
    return ["```", *commands, "```"]


def write(part: str, lines: list[str]) -> None:
    """In the place of what the part was."""
    begin, end = f"<!-- {part}: written by make bench -->", f"<!-- end of {part} -->"
    page = PAGE.read_text("utf-8") if PAGE.exists() else INTRODUCTION
    if begin not in page:
        page = page.rstrip() + f"\n\n{begin}\n{end}\n"
    head, rest = page.split(begin)
    PAGE.write_text("\n".join([f"{head}{begin}", *lines, f"{end}{rest.split(end)[1]}"]), "utf-8")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    raise SystemExit(main())

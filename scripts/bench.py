"""`make bench`: training against TRL on four kinds of data; writes the first part of docs/benchmarks.md.

`python scripts/bench.py --data FILE` measures your own chat JSONL too. TUNERY_BENCH_PYTHON names another environment's
interpreter for TRL.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

from bench_data import conversations, docstrings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARV = ROOT / "examples" / "marv.jsonl"
BEGIN, END = "<!-- training: written by make bench -->", "<!-- end of training -->"
MADE = ROOT / ".cache" / "bench"

INTRODUCTION = """# Benchmarks

Machines differ and are shared: read the ratios, which come from one run on one machine.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="chat JSONL to measure besides")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    steps = ("--steps", str(options.steps))
    # TRL takes 12 GB for 8 rows with the long prompt: it gets no more at once, and fewer of these slow steps.
    prefix = ("--prefix-tokens", "571", "--peer-batch", "8", "--peer-steps", "2")
    unequal, turns = docstrings(MADE / "docstrings.jsonl"), conversations(MARV, MADE / "conversations.jsonl")
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
    write(rows, commands, sorted(products))
    sys.stdout.write("\n".join(rows) + f"\nWritten to {PAGE.relative_to(ROOT)}.\n")
    return 0


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


def write(rows: list[str], commands: list[str], products: list[str]) -> None:
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text = "\n".join(
        [
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
            "```",
            *commands,
            "```",
        ]
    )
    page = PAGE.read_text("utf-8") if PAGE.exists() else INTRODUCTION
    if BEGIN not in page:
        page = page.rstrip() + f"\n\n{BEGIN}\n{END}\n"
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", "utf-8")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    raise SystemExit(main())

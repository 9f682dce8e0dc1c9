"""How fast a model answers: in our engine, and by transformers' own `generate`, in one run.

    python benchmarks/generate.py --model DIR --streams 1 8 --json

Each side runs in a process of its own, one after the other, so that peak memory is its own. Both answer the same
prompts greedily with the same number of tokens. transformers gets all prompts of a case at once, as one padded batch
without sampling, in the type in which it is faster; the engine gets them as so many HTTP requests.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve import engine_command, process
from serve_cases import body
from serve_load import run

DTYPES = ("bfloat16", "float32")
FIRST = 1000  # number of the first prompt that is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model dir")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="prompts at once; a case each")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--takes", type=int, default=2, help="of each case, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer-dtype", choices=DTYPES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer_dtype:
        print(json.dumps(transformers(options)))
        return
    result = {
        "ours": ours(options),
        "peer": max(map(peer, DTYPES), key=lambda side: max(side["tokens_per_s"].values())),
    }
    print(json.dumps(result) if options.json else render(result))


def ours(options: argparse.Namespace) -> dict[str, Any]:
    with process(engine_command(options.model, options.threads)) as (url, pid):
        run(url, [body(number, tokens=4) for number in range(max(options.streams))])
        speeds = speeds_of(options, lambda numbers: run(url, [body(n, tokens=options.tokens) for n in numbers]))
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return {"tokens_per_s": speeds, "peak_gb": peak / 1e9}


def speeds_of(options: argparse.Namespace, answer: Callable[[range], object]) -> dict[int, float]:
    """Tokens a second by the number of streams. `answer` answers prompts of these numbers, none of them twice."""
    speeds, number = dict[int, float](), FIRST
    for streams in options.streams:
        for _ in range(options.takes):
            started = time.perf_counter()
            answer(range(number, number + streams))
            speed = streams * options.tokens / (time.perf_counter() - started)
            speeds[streams] = max(speed, speeds.get(streams, 0))
            number += streams
    return speeds


def peer(dtype: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--peer-dtype", dtype]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, **threads}, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "dtype": dtype}


def transformers(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.peer_dtype)).eval()

    @torch.inference_mode()
    def answer(numbers: range, tokens: int = options.tokens) -> None:
        asked = tokenizer.apply_chat_template(
            [body(number)["messages"] for number in numbers],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**asked, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
        assert made.shape[1] == asked["input_ids"].shape[1] + tokens

    answer(range(max(options.streams)), 4)
    speeds = speeds_of(options, answer)
    return {"tokens_per_s": speeds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def render(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{name:5} {numbers['peak_gb']:6.2f} GB "
        + " ".join(f"{streams}: {speed:.1f} tokens/s" for streams, speed in numbers["tokens_per_s"].items())
        for name, numbers in result.items()
    )


if __name__ == "__main__":
    main()

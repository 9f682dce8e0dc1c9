"""`python benchmarks/gateway.py --json`: what the api keeps of the throughput of two engines behind it.

share         output tokens a second of streaming clients through the api, by those of the same clients straight at the
              engines, half of them at each: the median of pairs, which take turns in who is first
direct, through  the medians of the tokens a second
cpu_share     processor time that an answer takes of the engines straight at them, by what it takes of engines and api
              through the api: what the api keeps where no core is ever idle, whatever else runs on the machine
api_ms, engine_ms  the api's part of that through it, and the engines' straight at them, of an answer

of `one model` and of `8 tuned models`, each

together      api, engines and clients on all cores: where there are two, the engines lack what the api takes
apart         the engines on the first half of the cores, api and clients on the others

Where TUNERY_TEST_VLLM names the Python of an environment that has vLLM (`make vllm` makes one), the same with two vLLMs
in the engines' place, which are asked for the base alone; straight at them, not at our faces before them.

What it is doing goes to standard error. `--clients` sets how many (32), `--pairs` (8), `--requests` of each side of a
pair (64), `--tokens` of an answer (64).
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from api import BASE, KEY, SOURCE, api, process_of
from batch import prepare
from serve import load_adapter, process, progress, write_adapters
from serve_cases import body
from serve_load import ask

from tests.vllm_process import PYTHON, VllmProcess
from tunery.models.sources.cache import ensure

NUM_ENGINES, NUM_ADAPTERS = 2, 8
CORES = os.cpu_count() or 2


@dataclass(frozen=True)
class Side:
    """Where clients ask: one after the other of `urls`, each number for the next of `models`."""

    urls: list[str]
    models: list[str]
    key: str = ""

    def run(self, first: int, options: argparse.Namespace) -> float:
        """Tokens a second of clients that each ask one after the other, without a pause."""
        numbers = iter(range(first, first + options.requests))

        async def client(url: str) -> int:
            return sum([(await ask(url, self._body(n, options.tokens), self.key)).num_tokens for n in numbers])

        async def all_clients() -> int:
            urls = [self.urls[n % len(self.urls)] for n in range(options.clients)]
            return sum(await asyncio.gather(*map(client, urls)))

        started_at = time.perf_counter()
        return asyncio.run(all_clients()) / (time.perf_counter() - started_at)

    def _body(self, number: int, tokens: int) -> dict[str, Any]:
        asked = body(number, model=self.models[number % len(self.models)], tokens=tokens)
        return {name: value for name, value in asked.items() if name != "ignore_eos"}


@dataclass(frozen=True)
class Engines:
    urls: list[str]  # as clients ask them
    behind: list[str]  # as the api asks them: before a vLLM our face
    processes: list[psutil.Process]


def compare(
    direct: Side, through: Side, engines: Engines, api_process: psutil.Process, options: argparse.Namespace
) -> dict[str, float]:
    """Both sides of a pair ask the same: what one leaves in an engine's cache is not the other's, who has a salt."""
    direct.run(0, options)
    through.run(0, options)
    speeds: dict[str, list[float]] = {"direct": [], "through": []}
    used_s = Counter[str]()
    for pair in range(1, options.pairs + 1):
        sides = [("direct", direct), ("through", through)]
        for name, side in sides[:: 1 if pair % 2 else -1]:
            before = {"engine": cpu_s(engines.processes), "api": cpu_s([api_process])}
            speeds[name].append(side.run(pair * options.requests, options))
            used_s[f"engine_{name}"] += cpu_s(engines.processes) - before["engine"]
            used_s[f"api_{name}"] += cpu_s([api_process]) - before["api"]
        progress(f"pair {pair}: " + ", ".join(f"{name} {each[-1]:.0f} tokens/s" for name, each in speeds.items()))
    shares = [there / here for here, there in zip(speeds["direct"], speeds["through"], strict=True)]
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    ms = {name: 1000 * used / (options.pairs * options.requests) for name, used in used_s.items()}
    found = {
        "share": statistics.median(shares),
        **medians,
        "cpu_share": ms["engine_direct"] / (ms["engine_through"] + ms["api_through"]),
        "api_ms": ms["api_through"],
        "engine_ms": ms["engine_direct"],
    }
    progress(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


def cpu_s(processes: list[psutil.Process]) -> float:
    times = [each.cpu_times() for process in processes for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def our_engines(model_dir: Path, cores: list[int]) -> Iterator[Engines]:
    """Two, on these cores, which they share alike."""
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--served-name", SOURCE]
    command += ["--threads", str(max(1, len(cores) // NUM_ENGINES))]
    with ExitStack() as stack:
        started = [stack.enter_context(process(_on(cores, command))) for _ in range(NUM_ENGINES)]
        urls = [url for url, _ in started]
        yield Engines(urls, urls, [psutil.Process(pid) for _, pid in started])


@contextmanager
def vllms(model_dir: Path, cores: list[int]) -> Iterator[Engines]:
    """Two, with our faces before them. What these take counts as the engines'."""
    with ExitStack() as stack:
        started = [VllmProcess(model_dir, cores=cores[n::NUM_ENGINES] or cores) for n in range(NUM_ENGINES)]
        for each in started:
            stack.callback(each.kill)
        progress("starting two vLLMs, which takes a minute and more")
        for each in started:
            each.wait()
        face = [sys.executable, "-m", "tunery.serving.vllm", "--model-dir", str(model_dir), "--served-name", SOURCE]
        faces = [stack.enter_context(process(_on(cores, [*face, "--url", each.url]))) for each in started]
        processes = [*(each.process for each in started), *(psutil.Process(pid) for _, pid in faces)]
        yield Engines([each.url for each in started], [url for url, _ in faces], processes)


def _on(cores: list[int], command: list[str]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


@contextmanager
def gateway(home: Path, urls: list[str], cores: list[int]) -> Iterator[tuple[str, psutil.Process]]:
    """The api before these engines, and its process. What it is asked by runs on its cores from then on."""
    psutil.Process().cpu_affinity(cores)
    with api(home, f"sqlite:///{home / 'tunery.db'}", TUNERY_ENGINE_URLS=",".join(urls)) as client:
        yield str(client.base_url), process_of("tunery.api")


def measure(
    options: argparse.Namespace, model_dir: Path, folder: Path, engine_cores: list[int], api_cores: list[int]
) -> dict[str, dict[str, float]]:
    folders = write_adapters(folder / "adapters", model_dir, NUM_ADAPTERS)
    home = folder / "home"
    home.mkdir()
    names = prepare(home, folders)
    with (
        our_engines(model_dir, engine_cores) as engines,
        gateway(home, engines.behind, api_cores) as (url, api_process),
    ):
        for engine in engines.urls:
            for adapter in folders:
                load_adapter(engine, adapter.name, adapter)
        cases = {
            "one model": ([SOURCE], [BASE]),
            f"{NUM_ADAPTERS} tuned models": ([each.name for each in folders], names),
        }
        found: dict[str, dict[str, float]] = {}
        for name, (direct, through) in cases.items():
            progress(name)
            found[name] = compare(Side(engines.urls, direct), Side([url], through, KEY), engines, api_process, options)
        return found


def measure_vllm(
    options: argparse.Namespace, model_dir: Path, folder: Path, engine_cores: list[int], api_cores: list[int]
) -> dict[str, dict[str, float]]:
    home = folder / "home"
    home.mkdir()
    prepare(home, [])
    with vllms(model_dir, engine_cores) as engines, gateway(home, engines.behind, api_cores) as (url, api_process):
        direct, through = Side(engines.urls, [str(model_dir)]), Side([url], [BASE], KEY)
        return {"one model, vLLM": compare(direct, through, engines, api_process, options)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    model_dir = ensure(SOURCE, Path(os.environ.get("TUNERY_MODEL_CACHE", ".cache/models")))
    cores = list(range(CORES))
    places = {"together": (cores, cores), "apart": (cores[: max(1, CORES // 2)], cores[CORES // 2 :])}
    measures = [measure, *([measure_vllm] if PYTHON else [])]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for place, (engine_cores, api_cores) in places.items():
        progress(place)
        found[place] = {}
        for each in measures:
            with tempfile.TemporaryDirectory(prefix="tunery-gateway-") as folder:
                found[place] |= each(options, model_dir, Path(folder), engine_cores, api_cores)
    print(json.dumps(found) if options.json else shown(found))


def shown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = [(place, case, values) for place, cases in found.items() for case, values in cases.items()]
    names = list(rows[0][2])
    lines = [f"{'':30}" + "".join(f"{name:>10}" for name in names)]
    lines += [
        f"{place + ', ' + case:30}" + "".join(f"{values[name]:10.3f}" for name in names) for place, case, values in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

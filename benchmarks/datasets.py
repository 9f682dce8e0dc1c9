"""Uploads and validates a large file through the real api process; compares validation with bare tokenization.

    python benchmarks/datasets.py [--megabytes 512] [--compare-megabytes 48]

Prints one JSON object. `rss_growth_mb` is the api process with all its children, proportional set size, above what
it had when it was ready; `speed_ratio` is validation with counting against `encode_batch` of the same rendered texts,
both on all cores and on the same part of the file.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tunery.chat.render import Renderer
from tunery.datasets.pool import num_cores
from tunery.datasets.validate import validate_file
from tunery.models.catalog import Catalog
from tunery.models.sources.cache import ensure

REPOSITORY = Path(__file__).parents[1]
MODEL = "gpt-4o-mini-2024-07-18"
KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
MB = 1_000_000
BATCH = 1000
TURNS = 4
WORDS = (  # noqa: SIM905 - two hundred quoted words would fill pages
    "the of and to in is that it was for on are with as be at one have this from or had by hot but some what there we "
    "can out other were all your when up use word how said an each she which do their time if will way about many then "
    "them would write like so these her long make thing see him two has look more day could go come did my sound no "
    "most number who over know water than call first people may down side been now find any new work part take get "
    "place made live where after back little only round man year came show every good me give our under name very "
    "through just form much great think say help low line before turn cause same mean differ move right boy old too "
    "does tell sentence set three want air well also play small end put home read hand port large spell add even land "
    "here must big high such follow act why ask men change went light kind off need house picture try us again animal "
    "point mother world near build self earth father head stand own page should country found answer school grow study"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--compare-megabytes", type=int, default=48)
    options = parser.parse_args()
    cache = Path(os.environ.get("TUNERY_MODEL_CACHE", REPOSITORY / ".cache" / "models"))
    base = Catalog.load().resolve(MODEL)
    model_dir = ensure(base.source, cache)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        write_file(path, options.megabytes * MB)
        part = Path(folder) / "part.jsonl"
        write_file(part, min(options.compare_megabytes, options.megabytes) * MB)
        result = {
            **through_server(path, Path(folder) / "home", cache),
            **compared(part, Renderer.from_dir(model_dir), base.max_example_tokens),
            "num_cores": num_cores(),
            "load": os.getloadavg()[0],
        }
    print(json.dumps(result))


def write_file(path: Path, num_bytes: int) -> None:
    """Chat rows of a few sentences, numbers in between, the same on every machine."""
    generator = random.Random(7)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            line = json.dumps(row(generator)) + "\n"
            written += len(line)
            if written <= num_bytes:
                file.write(line)


def row(generator: random.Random) -> dict:
    def text(low: int, high: int) -> str:
        words = generator.choices(WORDS, k=generator.randint(low, high))
        words[generator.randrange(len(words))] = str(generator.randint(10, 9999))
        return " ".join(words).capitalize() + "."

    return {
        "messages": [
            {"role": "system", "content": "You are a patient teacher who answers in full sentences."},
            {"role": "user", "content": text(15, 60)},
            {"role": "assistant", "content": " ".join(text(8, 25) for _ in range(generator.randint(1, 5)))},
        ]
    }


# ---- the server


def through_server(path: Path, home: Path, cache: Path) -> dict:
    with server(home, cache) as (url, process):
        client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=3600)
        with memory_of(process.pid) as memory:
            begun = time.perf_counter()
            with path.open("rb") as file:
                answer = client.post("/v1/files", files={"file": (path.name, file)}, data={"purpose": "fine-tune"})
            upload_s = time.perf_counter() - begun
            uploaded = answer.raise_for_status().json()
            begun = time.perf_counter()
            body = {"file": uploaded["id"], "model": MODEL, "method": "supervised"}
            report = client.post("/tunery/v1/validations", json=body).raise_for_status().json()
            validation_s = time.perf_counter() - begun
    assert report["valid"], report["problems"][:3]
    return {
        "upload_mb": round(uploaded["bytes"] / MB, 1),
        "upload_s": round(upload_s, 1),
        "validation_s": round(validation_s, 1),
        "num_examples": report["num_examples"],
        "rss_growth_mb": round(memory.growth / MB, 1),
        "api_rss_growth_mb": round(memory.own_growth / MB, 1),
    }


@contextmanager
def server(home: Path, cache: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")},
        "TUNERY_HOME": str(home),
        "TUNERY_PORT": str(port),
        "TUNERY_MODEL_CACHE": str(cache),
        "TUNERY_API_KEY": KEY,
    }
    make_key(home)
    process = subprocess.Popen([sys.executable, "-m", "tunery.api"], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(timeout=30)


def make_key(home: Path) -> None:
    from tunery.domain.clock import system_clock
    from tunery.store.bootstrap import bootstrap
    from tunery.store.database import connect, migrate, write

    engine = connect(f"sqlite:///{home / 'tunery.db'}")
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key=KEY)
    engine.dispose()


def wait_until_ready(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the api process ended at its start")
        try:
            if httpx.get(f"{url}/v1/files", headers={"authorization": f"Bearer {KEY}"}).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the api process is not ready after a minute")


class Memory:
    """The highest memory of a process and its children, and what it was at first."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._first, self._own_first = self._now()
        self.growth = self.own_growth = 0

    def look(self) -> None:
        together, own = self._now()
        self.growth = max(self.growth, together - self._first)
        self.own_growth = max(self.own_growth, own - self._own_first)

    def _now(self) -> tuple[int, int]:
        own = resident(self._pid, "Rss")
        return sum(resident(pid, "Pss") for pid in family(self._pid)), own


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += (task / "children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(member for child in set(children) for member in family(int(child)))]


def resident(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


@contextmanager
def memory_of(pid: int) -> Iterator[Memory]:
    memory, done = Memory(pid), threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            memory.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


# ---- the speed


def compared(path: Path, renderer: Renderer, max_example_tokens: int) -> dict:
    """In turns, and over the sum of all turns: on a shared machine a single one may meet any load. `cpu_ratio`, the
    same of processor time with all children, hardly depends on the load."""
    texts = [renderer.render_chat(json.loads(line)["messages"]) for line in path.open(encoding="utf-8")]

    def bare() -> None:
        for start in range(0, len(texts), BATCH):
            renderer.tokenizer.encode_batch(texts[start : start + BATCH], add_special_tokens=False)

    def ours() -> None:
        report = validate_file(path, renderer=renderer, max_example_tokens=max_example_tokens)
        assert report.is_valid

    turns: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    for _ in range(TURNS):
        turns["bare"].append(timed(bare))
        turns["ours"].append(timed(ours))
    bare_s, validation_s = (sum(wall_s for wall_s, _ in turns[name]) for name in ("bare", "ours"))
    bare_cpu_s, validation_cpu_s = (sum(cpu_s for _, cpu_s in turns[name]) for name in ("bare", "ours"))
    megabytes = path.stat().st_size / MB
    return {
        "compare_mb": round(megabytes, 1),
        "validation_mb_per_s": round(TURNS * megabytes / validation_s, 2),
        "bare_mb_per_s": round(TURNS * megabytes / bare_s, 2),
        "speed_ratio": round(bare_s / validation_s, 3),
        "cpu_ratio": round(bare_cpu_s / validation_cpu_s, 3),
        "turns_s": {name: [round(wall_s, 1) for wall_s, _ in done] for name, done in turns.items()},
    }


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time with all children that have ended."""
    before, begun = os.times(), time.perf_counter()
    work()
    wall_s, after = time.perf_counter() - begun, os.times()
    return wall_s, sum(after[:4]) - sum(before[:4])


if __name__ == "__main__":
    main()

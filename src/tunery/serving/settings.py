"""How one engine process is set up: its command line."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunery.serving.http.door import is_loopback

API_KEY = "TUNERY_ENGINE_API_KEY"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Of the HTTP face, whoever computes behind it."""

    model_dir: Path
    served_names: tuple[str, ...]
    host: str
    port: int  # 0: any free one
    keep_alive_s: int  # how long an idle connection is kept
    drain_s: int  # how long requests that run are finished after SIGTERM
    log_level: str
    log_format: Literal["json", "text"]
    adapters_below: tuple[Path, ...] = ()  # the only folders that adapters are read from; empty: any
    api_key: str = ""  # what every request must carry; "": nothing


@dataclass(frozen=True, kw_only=True)
class EngineSettings(ServerSettings):
    dtype: str  # auto, bfloat16, float32
    weights: Literal["auto", "8bit", "4bit", "full"]  # what they are multiplied as
    max_adapters: int
    cache_bytes: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    threads: int  # 0: as torch chooses
    embedding_models: tuple[str, ...] = ()  # sources, served beside the base
    model_cache: Path = Path("~/.tunery/models")  # where those are put


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="config.json, *.safetensors, tokenizer.json, chat template")
    add("--served-name", action="append", default=[], help="name of the base weights; may be given several times")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0: any free port; the line `ready http://…` names it")
    add("--keep-alive-s", type=int, default=75, help="how long an idle connection is kept")
    add("--drain-s", type=int, default=5, help="after SIGTERM, how long requests that run may take to end")
    add("--log-level", default="warning", choices=["debug", "info", "warning", "error"])
    add("--log-format", choices=["json", "text"], default="text")
    add(
        "--adapters-dir",
        type=Path,
        action="append",
        default=[],
        help="adapters are read from below it only; may be given several times. Without one, from anywhere",
    )


def server_values(parser: argparse.ArgumentParser, arguments: list[str] | None) -> dict[str, Any]:
    """What was given, by the names of `ServerSettings` and, for the parser's other arguments, by their own."""
    given = vars(parser.parse_args(arguments))
    given["served_names"] = tuple(given.pop("served_name")) or (given["model_dir"].name,)
    given["adapters_below"] = tuple(given.pop("adapters_dir"))
    given["api_key"] = os.environ.get(API_KEY, "")  # an argument could be read by everybody on the machine
    if not given["api_key"] and not is_loopback(given["host"]):
        parser.error(f"--host {given['host']} is reached from other machines: set {API_KEY}, here and for the server")
    return given


def parse_arguments(arguments: list[str] | None = None) -> EngineSettings:
    parser = argparse.ArgumentParser(prog="python -m tunery.serving", description="Serve one base model and adapters.")
    add_server_arguments(parser)
    add = parser.add_argument
    add("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    add(
        "--weights",
        choices=["auto", "8bit", "4bit", "full"],
        default="auto",
        help="auto: 8bit where the processor multiplies bytes; else 4bit for few answers at once where that loses "
        "nothing; full with float32",
    )
    add("--max-adapters", type=int, default=64, help="adapters in memory; more may be loaded and take turns")
    add("--cache-bytes", type=int, default=1 << 30, help="memory for keys and values, running and cached")
    add("--block-size", type=int, default=16, help="tokens of a block: the grain of the prefix cache")
    add("--max-num-seqs", type=int, default=64)
    add("--max-num-batched-tokens", type=int, default=640, help="tokens of one step")
    add("--threads", type=int, default=0, help="0: as many as torch chooses")
    add(
        "--embedding-model",
        action="append",
        default=[],
        metavar="SOURCE",
        help="answer to /v1/embeddings by this one, such as path:/folder of sentence-transformers; may be given "
        "several times. Fetched when it is first asked",
    )
    add("--model-cache", type=Path, default=EngineSettings.model_cache, help="where fetched embedding models are kept")
    given = server_values(parser, arguments)
    given["embedding_models"] = tuple(given.pop("embedding_model"))
    if given["max_num_batched_tokens"] < given["max_num_seqs"]:
        parser.error("--max-num-batched-tokens must not be below --max-num-seqs: every running answer needs its token")
    return EngineSettings(**given)

"""The command line of the face before a vLLM; apart because the engine's own arguments are other ones."""

import argparse
import os
from dataclasses import dataclass

from tunery.serving.settings import ServerSettings, add_server_arguments, server_values

VLLM_KEY = "VLLM_API_KEY"  # vLLM's own name for it


@dataclass(frozen=True, kw_only=True)
class VllmSettings(ServerSettings):
    url: str
    vllm_key: str = ""  # what vLLM asks for; "": nothing


def parse_arguments(arguments: list[str] | None = None) -> VllmSettings:
    parser = argparse.ArgumentParser(
        prog="python -m tunery.serving.vllm", description="Answer as the engine does, by a vLLM that runs elsewhere."
    )
    parser.add_argument("--url", required=True, help="where vLLM answers, such as http://127.0.0.1:8100")
    add_server_arguments(parser)
    given = server_values(parser, arguments)
    return VllmSettings(**{**given, "url": given["url"].rstrip("/"), "vllm_key": os.environ.get(VLLM_KEY, "")})

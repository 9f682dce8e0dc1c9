"""`python -m tunery.serving.vllm --url URL --model-dir DIR`: the engine's HTTP face before a vLLM that runs there.

Prints `ready http://host:port` when it listens, which is when vLLM answers.
"""

import sys

from tunery.serving.server import run
from tunery.serving.vllm.build import build_service
from tunery.serving.vllm.settings import parse_arguments

if __name__ == "__main__":
    sys.exit(run(parse_arguments(), build_service))

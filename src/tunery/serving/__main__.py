"""`python -m tunery.serving --model-dir DIR`: one engine process. Prints `ready http://host:port` when it listens."""

import asyncio
import sys

from tunery.kernels import process


def main() -> int:
    from tunery.serving.build import build_service  # not before: it takes seconds to import
    from tunery.serving.server import run
    from tunery.serving.settings import parse_arguments

    return run(parse_arguments(), lambda settings, loop: asyncio.to_thread(build_service, settings, loop))


if __name__ == "__main__":
    process.use_huge_pages()
    process.share_threads()
    sys.exit(main())

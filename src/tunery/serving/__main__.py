"""`python -m tunery.serving --model-dir DIR`: one engine process. Prints `ready http://host:port` when it listens."""

import sys

from tunery.kernels import process

if __name__ == "__main__":
    process.use_huge_pages()
    process.share_threads()
    from tunery.serving.server import main  # not before: it takes seconds to import

    sys.exit(main())

"""`python -m tunery.serving --model-dir DIR`: one engine process. Prints `ready http://host:port` when it listens."""

import sys

from tunery.kernels import huge_pages

if __name__ == "__main__":
    huge_pages.use()
    from tunery.serving.server import main  # not before: it takes seconds to import

    sys.exit(main())

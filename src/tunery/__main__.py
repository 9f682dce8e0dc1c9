"""`tunery` and `python -m tunery`."""

import os
import sys

INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended


def main() -> None:
    """Ctrl-C is one line at any moment: while the commands are still being imported, too."""
    try:
        from tunery.cli.main import main as run

        run()
    except KeyboardInterrupt:
        _end()
    except SystemExit as exc:  # Typer turns Ctrl-C into this
        if exc.code == INTERRUPTED:
            _end()
        raise


def _end() -> None:
    """At once: every block has closed, and a thread that still waits for a server's answer must not hold us up."""
    sys.stdout.flush()
    sys.stderr.write("Interrupted.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()

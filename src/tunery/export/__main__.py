"""The process of one export: `python -m tunery.export <spec.json> <folder>`. Writes the export into the folder, proves
it, and says what it does as JSON lines on stdout."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tunery import logs
from tunery.export.spec import ExportSpec, explain
from tunery.kernels.process import share_threads


def main(arguments: list[str]) -> int:
    """The exit status."""
    logs.configure("text")
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def tell(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    share_threads()
    try:
        from tunery.export.write import export  # torch takes seconds to import: from here on every failure is told

        spec, target = ExportSpec.load(Path(arguments[0])), Path(arguments[1])
        tell(report=export(spec, target, lambda what, done, total: tell(doing=what, done=done, total=total)))
        return 0
    except Exception as exc:
        tell(error=explain(exc))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

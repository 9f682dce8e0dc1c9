"""The process of one export or import: `python -m tunery.export <spec.json> <folder>`. Writes into the folder, proves
an export, and says what it does as JSON lines on stdout."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tunery import logs
from tunery.export.spec import ImportSpec, explain, is_refusal, load_spec
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
        # Torch takes seconds to import: from here on every failure is told.
        from tunery.export.incoming import take_in
        from tunery.export.write import export

        spec, target = load_spec(Path(arguments[0])), Path(arguments[1])
        if isinstance(spec, ImportSpec):
            tell(report=take_in(spec, target))
        else:
            tell(report=export(spec, target, lambda what, done, total: tell(doing=what, done=done, total=total)))
        return 0
    except Exception as exc:
        tell(error=explain(exc), refused=is_refusal(exc), text=getattr(exc, "text", None))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

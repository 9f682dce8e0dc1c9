"""When an answer is the expected one: one rule for the demo, the parity report and the dashboard's comparison."""


def normalise(text: str | None) -> str:
    """Without what makes no label wrong: space, case, quotes and the closing stop."""
    return " ".join((text or "").split()).casefold().strip(" .!\"'")


def is_exact(answer: str | None, expected: str | None) -> bool:
    return normalise(answer) == normalise(expected)

"""How long and how large, in the reader's words: the same on the command line, on pages and in mail."""

from tunery.texts import Translator


def duration(seconds: float, t: Translator) -> str:
    """`3 d 4 h`, `1 h 5 min`, `4 min 10 s`, `9 s`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return t("time.days", n=hours // 24, h=hours % 24)
    if hours:
        return t("time.hours", n=hours, m=minutes)
    return t("time.minutes", n=minutes, s=rest) if minutes else t("time.seconds", n=rest)


def size(num_bytes: float) -> str:
    """`12 B`, `1.5 kB`, `340 MB`, in thousands."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"

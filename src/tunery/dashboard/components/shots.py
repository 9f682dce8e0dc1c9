"""How many examples stand before a question: few-shot prompting, to choose from and to say."""

from tunery.texts import Translator

SHOTS = (0, 1, 3, 5, 10)


def shots_text(count: int, t: Translator) -> str:
    return t("playground.shots_n", n=count) if count else t("playground.shots_none")


def prompt_text(count: int, t: Translator) -> str:
    """Under a model's name."""
    return t("compare.with_shots", n=count) if count else t("compare.without_shots")


def shot_choices(t: Translator) -> dict[int, str]:
    return {count: shots_text(count, t) for count in SHOTS}

"""The entries of the menu. Apart because the frame shows them and the search finds them."""

from typing import NamedTuple


class Section(NamedTuple):
    name: str  # its text is `nav.{name}`
    path: str
    symbol: str
    words: str  # the keys of the texts on its page begin with this


WORK = (
    Section("jobs", "/", "tune", "jobs"),
    Section("models", "/models", "psychology", "models"),
    Section("playground", "/playground", "forum", "playground"),
    Section("stored", "/stored", "history", "stored"),
    Section("batches", "/batches", "layers", "batches"),
    Section("datasets", "/datasets", "dataset", "datasets"),
    Section("compare", "/compare", "balance", "compare"),
    Section("evals", "/evals", "rule", "evals"),
    Section("weights", "/weights", "inventory_2", "weights"),
    Section("move", "/move", "swap_horiz", "move"),
    Section("usage", "/usage", "bar_chart", "usage"),
)
SETTINGS = (
    Section("bases", "/bases", "memory", "bases"),
    Section("keys", "/keys", "key", "keys"),
    Section("webhooks", "/webhooks", "webhook", "webhooks"),
    Section("mail", "/mail", "mail", "mails"),
    Section("members", "/members", "group", "members"),
    Section("limits", "/limits", "speed", "limits"),
    Section("audit", "/audit", "fact_check", "audit"),
)
FOR_OWNERS = ("bases", "usage", "keys", "mail", "members", "limits", "audit")


def allowed(sections: tuple[Section, ...], *, is_owner: bool) -> list[Section]:
    return [section for section in sections if is_owner or section.name not in FOR_OWNERS]

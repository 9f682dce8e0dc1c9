"""Ctrl-K on any page: pages, jobs, models, files, evaluations and batches by a part of their name.

The api searches jobs, models and files. Of evaluations and batches it lists only, so the newest are looked through, and
the answer says so where there are more.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunery.dashboard.components.html import icon, model_name
from tunery.dashboard.connection import Connection, Failure, ask
from tunery.dashboard.evals.parts import PATH as EVALS
from tunery.dashboard.files.page import file_path
from tunery.dashboard.jobs.page import job_names
from tunery.dashboard.models import list_models, playground_path
from tunery.dashboard.sections import SETTINGS, WORK, Section, allowed
from tunery.dashboard.tuned.page import model_path
from tunery.dashboard.visit import BASE
from tunery.texts import Translator, load

FEW = 6  # shown of a kind
NEWEST = 100  # looked through of what the api cannot search
LONGEST_LABEL = 40  # characters; a longer text of a page is a sentence, by which nobody looks for it
MAX_TEXT = 200
MAKING = (("create.title", "/jobs/new"), ("evals.new", "/evals/new"))  # pages that no menu names


@dataclass(frozen=True)
class Hit:
    href: str
    name: str
    about: str
    symbol: str


@dataclass(frozen=True)
class Group:
    title: str
    hits: Sequence[Hit]
    is_cut: bool = False  # there are older ones, which were not looked at


# ---- what stands in every page
def opener(t: Translator) -> Markup:
    return Markup(
        '<button type="button" class="opens-search" data-opens-search aria-keyshortcuts="Control+K Meta+K">'
        '{icon}<span>{name}</span><kbd aria-hidden="true">Ctrl K</kbd></button>'
    ).format(icon=icon("search"), name=t("search.title"))


def palette(t: Translator) -> Markup:
    """The field and its list, shown by `static/search.js`, which asks for what `find` gives."""
    return Markup(
        '<dialog id="search" aria-label="{title}" data-path="{base}/search" data-unreachable="{unreachable}">'
        '<input type="text" role="combobox" aria-label="{title}" aria-expanded="false" aria-controls="search-found" '
        'aria-autocomplete="list" autocomplete="off" spellcheck="false" placeholder="{what}" maxlength="{most}">'
        '<div id="search-found" role="listbox" aria-label="{title}" hidden></div><p role="status"></p></dialog>'
    ).format(
        title=t("search.title"), base=BASE, unreachable=t("error.unreachable"), what=t("search.what"), most=MAX_TEXT
    )


# ---- what is found
async def find(connection: Connection, text: str, t: Translator) -> dict[str, str] | Failure:
    """`options` as markup, and what is `told` about them. A Failure only where the key opens nothing any more."""
    wanted = text.strip()[:MAX_TEXT]
    kinds = (_jobs, _models, _files, _evals, _batches) if wanted else ()
    who, *answers = await asyncio.gather(
        ask(connection.get("/tunery/v1/session")), *(ask(kind(connection, wanted, t)) for kind in kinds)
    )
    failures = [answer for answer in (who, *answers) if isinstance(answer, Failure)]
    if ended := next((failure for failure in failures if failure.is_expired), None):
        return ended
    is_owner = bool(isinstance(who, Failure) or who["is_owner"])
    found = [_pages(wanted, is_owner, t), *(answer for answer in answers if not isinstance(answer, Failure))]
    troubles = [failure.message(t) for failure in failures if failure.status != 403]  # a key need not read all
    return {"options": _options(found), "told": " ".join([_told(found, wanted, t), *dict.fromkeys(troubles)])}


def _told(found: Sequence[Group], wanted: str, t: Translator) -> str:
    if not wanted:
        return t("search.how")
    num_found = sum(len(group.hits) for group in found)
    first = t("search.found", n=num_found) if num_found else t("search.nothing", text=wanted)
    cut = [group.title for group in found if group.is_cut]
    return " ".join([first, t("search.newest", n=NEWEST, kinds=cut)]) if cut else first


def _options(found: Sequence[Group]) -> Markup:
    groups = (
        Markup('<div role="group" aria-label="{0}"><p aria-hidden="true">{0}</p>{1}</div>').format(
            group.title, Markup("").join(map(_option, group.hits))
        )
        for group in found
        if group.hits
    )
    return Markup("").join(groups)


def _option(hit: Hit) -> Markup:
    return Markup(
        '<a role="option" tabindex="-1" aria-selected="false" href="{}">{}<span>{}</span>'
        '<span class="about wrap">{}</span></a>'
    ).format(hit.href, icon(hit.symbol), model_name(hit.name), hit.about)


def _pages(wanted: str, is_owner: bool, t: Translator) -> Group:
    """Those that are called so, before those on which the text stands."""
    making = [Hit(f"{BASE}{path}", t(key), "", "add") for key, path in MAKING if wanted and _holds(wanted, t(key))]
    hits = [
        Hit(f"{BASE}{section.path}", name, label if label != name else "", section.symbol)
        for section in (*allowed(WORK, is_owner=is_owner), *allowed(SETTINGS, is_owner=is_owner))
        for name in [t(f"nav.{section.name}")]
        for label in [_label_with(wanted, section, t)]
        if label is not None
    ]
    return Group(t("search.pages"), [*making, *sorted(hits, key=lambda hit: bool(hit.about))])


def _label_with(wanted: str, section: Section, t: Translator) -> str | None:
    """The name of the page, or else a label on it, that holds the text; English words count in every language."""
    own, english = load(t.language), load("en")
    name = f"nav.{section.name}"
    for key in (name, *(key for key in own if key.startswith(f"{section.words}.") and _is_label(english[key]))):
        if _holds(wanted, own[key], english[key]):
            return own[key]
    return None


def _is_label(text: str) -> bool:
    return len(text) <= LONGEST_LABEL and "{" not in text


def _holds(wanted: str, *names: str | None) -> bool:
    return any(wanted.casefold() in name.casefold() for name in names if name is not None)


async def _jobs(connection: Connection, wanted: str, t: Translator) -> Group:
    page = await connection.get("/tunery/v1/jobs", search=wanted, limit=FEW)
    hits = [
        Hit(f"{BASE}/jobs/{job['id']}", job_names(job)[0], t(f"status.{job['status']}"), "tune") for job in page["data"]
    ]
    return Group(t("nav.jobs"), hits)


async def _models(connection: Connection, wanted: str, t: Translator) -> Group:
    found = await list_models(connection, search=wanted, limit=FEW)
    hits = [
        Hit(
            model_path(model.name) if model.kind == "fine-tuned" else playground_path(model.name),
            model.display_name or model.name,
            model.answering["name"],
            "psychology",
        )
        for model in found[:FEW]
    ]
    return Group(t("nav.models"), hits)


async def _files(connection: Connection, wanted: str, t: Translator) -> Group:
    page = await connection.get("/tunery/v1/files", search=wanted, limit=FEW)
    hits = [
        Hit(file_path(file), file["filename"], t.named("purpose", file["purpose"]), "dataset") for file in page["data"]
    ]
    return Group(t("nav.datasets"), hits)


async def _evals(connection: Connection, wanted: str, t: Translator) -> Group:
    page = await connection.get(EVALS, order="desc", limit=NEWEST)
    found = [each for each in page["data"] if _holds(wanted, each["name"], each["id"])]
    hits = [Hit(f"{BASE}/evals/{each['id']}", each["name"] or each["id"], each["id"], "rule") for each in found[:FEW]]
    return Group(t("nav.evals"), hits, page["has_more"])


async def _batches(connection: Connection, wanted: str, t: Translator) -> Group:
    page = await connection.get("/v1/batches", limit=NEWEST)
    found: list[dict[str, Any]] = [each for each in page["data"] if _holds(wanted, each["id"], each["model"])]
    hits = [
        Hit(f"{BASE}/batches/{each['id']}", each["id"], t(f"status.{each['status']}"), "layers") for each in found[:FEW]
    ]
    return Group(t("nav.batches"), hits, page["has_more"])

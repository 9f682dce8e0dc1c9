"""What surrounds every page: navigation, account menu, colours, and what to show when a page cannot be built."""

import asyncio
import copy
import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from markupsafe import Markup
from nicegui import ui
from nicegui.language import Language
from starlette.requests import Request

from tunery.dashboard.components.blocks import empty
from tunery.dashboard.components.html import button_link, icon
from tunery.dashboard.connection import Failure, ask
from tunery.dashboard.guard import script
from tunery.dashboard.search import opener, palette
from tunery.dashboard.sections import SETTINGS, WORK, Section, allowed
from tunery.dashboard.visit import BASE, PageSpec, Visit
from tunery.texts import LANGUAGES, Translator

ENGLISH_PACK = "en-US"


def add_shared_head(static: Path) -> None:
    """Our stylesheet and scripts, for all pages."""
    scripts = "".join(f'<script src="{_address(static / name)}" defer></script>' for name in ("pages.js", "search.js"))
    ui.add_head_html(f'<link rel="stylesheet" href="{_address(static / "theme.css")}">{scripts}', shared=True)


def _address(path: Path) -> str:
    """With a digest in it, so that an update is seen at once."""
    return f"{BASE}/static/{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


async def show(visit: Visit, spec: PageSpec) -> None:
    begin_document(visit.request, visit.language, visit.session.theme, visit.t)
    ui.page_title(f"{visit.t(spec.title)} · Tunery")
    asked = asyncio.create_task(_who(visit))  # while the page asks for what it shows
    with ui.element("div").classes("shell"), ui.element("div").props("id=main tabindex=-1") as main:
        built = await visit.ask(spec.build(visit))
        if isinstance(built, Failure):
            main.clear()
            with main:
                _failed(visit, spec, built)
    ui.add_body_html(str(_navigation(visit, spec.section, await asked)))


def show_alone(request: Request, language: str, theme: str, t: Translator, title: str, text: str) -> None:
    """In place of a page that is not there, or that cannot even begin: what is wrong, and the way to the first one."""
    begin_document(request, language, theme, t)
    ui.page_title(f"{title} · Tunery")
    action = button_link(f"{BASE}/", t("nav.jobs"), primary=True)
    with ui.element("div").props("id=main tabindex=-1"):
        empty("search_off", title, text, action=action, is_page=True)


# An open page follows the system's change from day to night.
COLOURS_OF_THE_SYSTEM = """{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => (document.documentElement.dataset.theme = dark.matches ? "dark" : "light");
  dark.addEventListener("change", follow);
  follow();
}"""


def begin_document(request: Request, language: str, theme: str, t: Translator) -> None:
    """Language and colours are set before the first paint: no flash of the other theme."""
    is_chosen = theme in ("light", "dark")
    colours = f"document.documentElement.dataset.theme = {json.dumps(theme)};" if is_chosen else COLOURS_OF_THE_SYSTEM
    words = json.dumps([t("connection.lost"), t("connection.retrying")])
    ui.add_head_html(
        script(
            request,
            f"document.documentElement.lang = {json.dumps(language)}; {colours}",
        )
    )
    ui.add_body_html(
        script(
            request,
            "addEventListener('DOMContentLoaded', () => {"
            f"document.documentElement.lang = {json.dumps(language)};"  # again: the framework has said its pack's
            f"{words}.forEach((text, at) => document.querySelectorAll('#popup span')[at].textContent = text); }});",
        )
    )
    ui.dark_mode({"light": False, "dark": True}.get(theme))
    client = ui.context.client
    # The framework's own labels too. Its page belongs to all visitors of this address: this one gets a copy.
    client.page = copy.copy(client.page)
    client.page.language = _pack(t)


def _pack(t: Translator) -> Language:
    """The framework's own words for tables, date pickers and uploads: a language's file names them."""
    name = t("language.pack")
    return next((known for known in get_args(Language) if known == name), ENGLISH_PACK)


async def _who(visit: Visit) -> dict[str, Any]:
    """The organisation and projects of the key; an empty answer when the server cannot say (the page still shows)."""
    who = await ask(visit.connection.get("/tunery/v1/session"))
    return {} if isinstance(who, Failure) else who


def _navigation(visit: Visit, section: str, who: dict[str, Any]) -> Markup:
    """Outside of what the framework draws: it is there before any script has run."""
    t = visit.t
    return Markup(
        '<div class="navigation"><a class="skip" href="#main">{skip}</a>'
        '<header class="top"><a class="brand" href="{base}/" aria-label="Tunery">{mark}<span>Tunery</span></a>{opener}'
        '<details class="menu"><summary aria-label="{menu}">{burger}</summary>'
        '<div class="sheet">{links}{account}</div></details></header>'
        '<div class="side"><a class="brand" href="{base}/">{mark}<span>Tunery</span></a>{opener}{links}{account}</div>'
        "{palette}</div>"
    ).format(
        base=BASE,
        skip=t("nav.skip"),
        menu=t("nav.menu"),
        opener=opener(t),
        palette=palette(t),
        burger=icon("menu"),
        mark=Markup('<span class="mark" aria-hidden="true"></span>'),
        links=_links(visit, section, bool(who.get("is_owner", True))),
        account=_account(visit, who),
    )


def _links(visit: Visit, marked: str, may_manage: bool) -> Markup:
    def entry(section: Section) -> Markup:
        current = Markup(' aria-current="page"') if section.name == marked else ""
        return Markup('<li><a href="{}{}"{}>{}<span>{}</span></a></li>').format(
            BASE, section.path, current, icon(section.symbol), visit.t(f"nav.{section.name}")
        )

    def entries(sections: tuple[Section, ...]) -> Markup:
        return Markup("").join(map(entry, allowed(sections, is_owner=may_manage)))

    return Markup('<nav aria-label="{}"><ul>{}</ul><h2>{}</h2><ul>{}</ul></nav>').format(
        visit.t("nav.label"),
        entries(WORK),
        visit.t("nav.settings"),
        entries(SETTINGS),
    )


def _account(visit: Visit, who: dict[str, Any]) -> Markup:
    t = visit.t
    here = visit.request.url.path + (f"?{visit.request.url.query}" if visit.request.url.query else "")
    projects = {project["id"]: project["name"] for project in who.get("projects", [])}
    themes = {name: t(f"theme.{name}") for name in ("auto", "light", "dark")}
    return Markup(
        '<div class="account"><p class="org">{org}</p>{project}{language}{theme}'
        '<form method="post" action="{base}/sign-out"><button class="plain">{icon}<span>{out}</span></button></form>'
        "</div>"
    ).format(
        org=who.get("organization", ""),
        project=_choice("project", t("nav.project"), projects, str(who.get("project_id", "")), here),
        language=_choice("language", t("nav.language"), LANGUAGES, visit.language, here),
        theme=_choice("theme", t("nav.theme"), themes, visit.session.theme, here),
        base=BASE,
        icon=icon("logout"),
        out=t("nav.sign_out"),
    )


def _choice(name: str, label: str, options: dict[str, str], chosen: str, here: str) -> Markup:
    """A select that sends its form when changed: works before any script has loaded."""
    items = Markup("").join(
        Markup('<option value="{}"{}>{}</option>').format(value, Markup(" selected") if value == chosen else "", text)
        for value, text in options.items()
    )
    return Markup(
        '<form method="post" action="{}/preferences"><input type="hidden" name="next" value="{}">'
        '<label><span>{}</span><select name="{}" data-sends-form>{}</select></label></form>'
    ).format(BASE, here, label, name, items)


def _failed(visit: Visit, spec: PageSpec, failure: Failure) -> None:
    """What is not there will not come by asking again: then the way leads to the list."""
    t, is_gone = visit.t, failure.status == 404
    path = next(section.path for section in WORK + SETTINGS if section.name == spec.section)
    to_list = button_link(f"{BASE}{path}", t("error.to_list", name=t(f"nav.{spec.section}")), primary=True)
    action, symbol = (to_list, "search_off") if is_gone else (button_link("", t("action.retry")), "cloud_off")
    with ui.element("div").props("role=alert"):
        empty(symbol, t("error.page"), failure.message(t), action=action, is_page=True)

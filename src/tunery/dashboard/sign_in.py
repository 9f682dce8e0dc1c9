"""Signing in with a key. A plain form: the cookie it sets is out of reach for scripts.

Stands apart because it is the one page that anybody may see.
"""

from markupsafe import Markup
from nicegui import ui
from starlette.requests import Request

from tunery.dashboard.components.html import icon, show
from tunery.dashboard.frame import begin_document
from tunery.dashboard.visit import BASE
from tunery.texts import Translator

REASONS = {"expired": "warn", "wrong": "bad", "unreachable": "bad", "origin": "bad"}


def build(request: Request, language: str, t: Translator) -> None:
    begin_document(request, language, "auto", t)
    ui.page_title(f"{t('signin.title')} · Tunery")
    reason = request.query_params.get("reason", "")
    remark = (
        Markup('<p class="note {}" role="alert">{}<span>{}</span></p>').format(
            REASONS[reason], icon("info"), t(f"signin.{reason}")
        )
        if reason in REASONS
        else ""
    )
    show(
        Markup(
            '<form method="post" action="{base}/session"><div class="brand"><span class="mark"></span>Tunery</div>'
            "<h1>{title}</h1>{remark}"
            '<input type="hidden" name="next" value="{next}">'
            '<label>{label}<input name="key" type="password" required autofocus autocomplete="current-password"'
            ' placeholder="sk-…" spellcheck="false"></label>'
            '<button type="submit">{submit}</button><p class="small muted">{hint}</p></form>'
        ).format(
            base=BASE,
            title=t("signin.title"),
            remark=remark,
            next=request.query_params.get("next", ""),
            label=t("signin.key"),
            submit=t("signin.submit"),
            hint=t("signin.hint"),
        ),
    ).classes("signin")

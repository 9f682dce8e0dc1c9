"""The map of the dashboard, and mounting it into the api's application.

One call a process: NiceGUI has one application of its own. A folder holds the pages of a feature.
"""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from nicegui import Client, background_tasks, ui
from nicegui import app as pages_app
from starlette.responses import Response

from tunery.dashboard import frame, open_pages, sign_in
from tunery.dashboard.batches import batch
from tunery.dashboard.batches import page as batches
from tunery.dashboard.compare import page as compare
from tunery.dashboard.compare import result
from tunery.dashboard.connection import Connections
from tunery.dashboard.drafts import Drafts
from tunery.dashboard.evals import create as new_eval
from tunery.dashboard.evals import evaluation
from tunery.dashboard.evals import page as evals
from tunery.dashboard.files import dataset, table, versions
from tunery.dashboard.files import page as files
from tunery.dashboard.guard import Guard, Throttle, give_nonces_to_the_framework
from tunery.dashboard.improve import page as improve
from tunery.dashboard.jobs import create, job, overlay
from tunery.dashboard.jobs import page as jobs
from tunery.dashboard.move import page as move
from tunery.dashboard.move import report
from tunery.dashboard.playground import page as playground
from tunery.dashboard.routes import plain_routes
from tunery.dashboard.sessions import COOKIE, Sessions
from tunery.dashboard.settings import audit, bases, keys, limits, mail, members, webhooks
from tunery.dashboard.stored import answer as stored_answer
from tunery.dashboard.stored import dataset as stored_dataset
from tunery.dashboard.stored import page as stored
from tunery.dashboard.tuned import model
from tunery.dashboard.tuned import page as tuned
from tunery.dashboard.usage import page as usage
from tunery.dashboard.values import Values
from tunery.dashboard.visit import BASE, PageSpec, Visit
from tunery.dashboard.weights import page as weights
from tunery.settings import Settings
from tunery.texts import choose_language, translator

log = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
BUILD_TIMEOUT_S = 30.0  # pages read the API before they are sent, so that they arrive complete
RECONNECT_S = 60.0  # a laptop that slept for less finds its page as it was


PAGES = (
    PageSpec("/", "jobs.title", jobs.build, section="jobs"),
    PageSpec("/jobs/new", "create.title", create.build, section="jobs"),
    PageSpec("/jobs/overlay", "overlay.title", overlay.build, section="jobs"),
    PageSpec("/jobs/{job_id}", "job.title", job.build, section="jobs"),
    PageSpec("/jobs/{job_id}/improve", "improve.title", improve.build, section="jobs"),
    PageSpec("/models", "models.title", tuned.build, section="models"),
    PageSpec("/models/{name:path}", "models.model", model.build, section="models"),
    PageSpec("/playground", "playground.title", playground.build, section="playground"),
    PageSpec("/datasets", "datasets.title", files.build, section="datasets"),
    PageSpec("/datasets/{file_id}", "dataset.title", dataset.build, section="datasets"),
    PageSpec("/datasets/{file_id}/versions", "edit.versions", versions.build, section="datasets"),
    PageSpec("/datasets/table/{file_id}", "table.title", table.build, section="datasets"),
    PageSpec("/stored", "stored.title", stored.build, section="stored"),
    PageSpec("/stored/dataset", "stored.dataset", stored_dataset.build, section="stored"),
    PageSpec("/stored/{answer_id}", "stored.answer", stored_answer.build, section="stored"),
    PageSpec("/batches", "batches.title", batches.build, section="batches"),
    PageSpec("/batches/{batch_id}", "batches.batch", batch.build, section="batches"),
    PageSpec("/compare", "compare.title", compare.build, section="compare"),
    PageSpec("/compare/{file_id}", "compare.title", result.build, section="compare"),
    PageSpec("/evals", "evals.title", evals.build, section="evals"),
    PageSpec("/evals/new", "evals.new", new_eval.build, section="evals"),
    PageSpec("/evals/{eval_id}", "evals.title", evaluation.build, section="evals"),
    PageSpec("/weights", "weights.title", weights.build, section="weights"),
    PageSpec("/move", "move.title", move.build, section="move"),
    PageSpec("/move/{file_id}", "move.report", report.build, section="move"),
    PageSpec("/usage", "usage.title", usage.build, section="usage"),
    PageSpec("/bases", "bases.title", bases.build, section="bases"),
    PageSpec("/keys", "keys.title", keys.build, section="keys"),
    PageSpec("/webhooks", "webhooks.title", webhooks.build, section="webhooks"),
    PageSpec("/mail", "mails.title", mail.build, section="mail"),
    PageSpec("/members", "members.title", members.build, section="members"),
    PageSpec("/limits", "limits.title", limits.build, section="limits"),
    PageSpec("/audit", "audit.title", audit.build, section="audit"),
)


def mount(app: FastAPI, settings: Settings, values: Values) -> None:
    """Pages under `/dashboard`; `/` leads there. `values`: what all apis of an installation share of it."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the api logs each request of ours itself
    sessions, drafts = Sessions(values), Drafts(values)
    connections = Connections(settings, sessions, app.state.visitors.headers)
    app.add_middleware(Guard, settings=settings)
    give_nonces_to_the_framework()
    app.include_router(plain_routes(sessions, Throttle(values), connections))
    pages_app.add_static_files("/static", STATIC, max_cache_age=3600)
    frame.add_shared_head(STATIC)
    pages_app.on_startup(lambda: background_tasks.create(open_pages.watch(sessions, connections)))
    _add_sign_in(sessions)
    _add_not_found(sessions)
    _add_broken()
    for spec in PAGES:
        _add_page(spec, sessions, drafts, connections)
    # The framework's own bar over every request that a page sends: nameless for readers, and ours show how far it is.
    pages_app.config.quasar_config["loadingBar"]["skipHijack"] = True
    ui.run_with(
        app,
        mount_path=BASE,
        title="Tunery",
        favicon=STATIC / "favicon.svg",
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_S,
        show_welcome_message=False,
    )


def _add_sign_in(sessions: Sessions) -> None:
    @ui.page("/sign-in", title="Tunery")
    async def show(request: Request) -> Response | None:
        if await sessions.find(request.cookies.get(COOKIE)) and not request.query_params.get("reason"):
            return RedirectResponse(f"{BASE}/", status_code=303)
        language = choose_language("", request.headers.get("accept-language", ""))
        sign_in.build(request, language, translator(language))
        return None


def _add_not_found(sessions: Sessions) -> None:
    """In place of the framework's own page, which is English. What is no page (a file, a script) is left to it."""
    of_framework: Any = pages_app.exception_handlers[404]

    @pages_app.exception_handler(404)
    async def show(request: Request, error: Exception) -> Response:
        if request.scope.get("endpoint") not in (None, pages_app):
            return await of_framework(request, error)
        session = await sessions.find(request.cookies.get(COOKIE))
        wanted = session.language if session else ""
        language = choose_language(wanted, request.headers.get("accept-language", ""))
        with Client(ui.page(""), request=request) as client:
            theme, t = session.theme if session else "auto", translator(language)
            frame.show_alone(request, language, theme, t, t("error.no_page"), t("error.no_page_text"))
        return client.build_response(request, 404)


def _add_broken() -> None:
    """In place of the framework's page for an error that none of our pages can show, which is English and tells the
    exception. The session is not asked for language and colours: it may be what is broken."""
    of_framework: Any = pages_app.exception_handlers[Exception]

    @pages_app.exception_handler(Exception)
    async def show(request: Request, error: Exception) -> Response:
        if not request.scope.get("nicegui_page_path"):
            return await of_framework(request, error)
        log.error("a page of the dashboard failed", exc_info=error)
        language = choose_language("", request.headers.get("accept-language", ""))
        with Client(ui.page(""), request=request) as client:
            t = translator(language)
            frame.show_alone(request, language, "auto", t, t("error.page"), t("error.unexpected"))
        return client.build_response(request, 500)


def _add_page(spec: PageSpec, sessions: Sessions, drafts: Drafts, connections: Connections) -> None:
    @ui.page(spec.path, response_timeout=BUILD_TIMEOUT_S)
    async def show(request: Request) -> Response | None:
        session = await sessions.find(request.cookies.get(COOKIE))
        if session is None:
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            reason = "&reason=expired" if request.cookies.get(COOKIE) else ""
            return RedirectResponse(f"{BASE}/sign-in?next={quote(target, safe='')}{reason}", status_code=303)
        language = choose_language(session.language, request.headers.get("accept-language", ""))
        connection = connections.for_session(request, session)

        async def end_session() -> None:
            await sessions.close(session.token)
            open_pages.end_pages(session.token)

        open_pages.open_page(ui.context.client, session.token)
        typed, t = await drafts.load(session), translator(language)
        visit = Visit(request, session, connection, drafts, typed, language, t, end_session)
        await frame.show(visit, spec)
        return None

"""The plain HTTP side of the dashboard: what a WebSocket cannot do (cookies, uploads, downloads)
or need not (searching)."""

import base64
import binascii
import math
import tempfile
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from openai import AsyncOpenAI, BadRequestError
from starlette.background import BackgroundTask

from tunery.dashboard.checks import report_of
from tunery.dashboard.connection import Connections, Failure, ask, visitor_address
from tunery.dashboard.files.examples import upload_example
from tunery.dashboard.guard import Throttle, is_same_origin
from tunery.dashboard.open_pages import end_pages
from tunery.dashboard.search import find
from tunery.dashboard.sessions import COOKIE, LIFETIME_S, Session, Sessions
from tunery.dashboard.visit import BASE
from tunery.datasets.tables import looks_like_table
from tunery.domain.files import MAX_FILE_BYTES
from tunery.texts import LANGUAGES, Translator, choose_language, translator

THEMES = ("auto", "light", "dark")
KEY_START = 10  # characters of a key by which tries at it are counted
HEAD_BYTES = 64 * 1024
FOR_A_DAY = {"anchor": "created_at", "seconds": 86_400}  # a table: what is made of it stays
SPOOL_BYTES = 8 * 1024 * 1024  # larger uploads go to a temporary file


def plain_routes(sessions: Sessions, throttle: Throttle, connections: Connections) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    @router.get(BASE)
    def home() -> Response:
        return RedirectResponse(f"{BASE}/", status_code=307)

    _session_routes(router, sessions, throttle, connections)
    _upload_routes(router, sessions, connections)
    _download_route(router, sessions, connections)
    _search_route(router, sessions, connections)
    return router


def _session_routes(router: APIRouter, sessions: Sessions, throttle: Throttle, connections: Connections) -> None:
    @router.post(f"{BASE}/session")
    async def sign_in(request: Request) -> Response:
        form = await request.form()
        key, target = str(form.get("key", "")).strip(), _own_path(str(form.get("next", "")))
        if not is_same_origin(request, connections.settings):
            return RedirectResponse(f"{BASE}/sign-in?reason=origin", status_code=303)
        tried = (visitor_address(request), key[:KEY_START])
        entered, wait_s = await throttle.enter(*tried)
        if wait_s:
            t = translator(choose_language("", request.headers.get("accept-language", "")))
            headers = {"retry-after": str(math.ceil(wait_s))}
            return Response(t("signin.throttled"), status_code=429, headers=headers, media_type="text/plain")
        answer = await ask(connections.for_key(request, key or "none").client.models.list())
        is_wrong = isinstance(answer, Failure) and answer.status == 401
        if not is_wrong:
            await throttle.forgive(*tried, entered)
        if isinstance(answer, Failure):
            reason = "wrong" if is_wrong else "unreachable"
            return RedirectResponse(f"{BASE}/sign-in?reason={reason}&next={quote(target, safe='')}", status_code=303)
        session = await sessions.open(key)
        response = RedirectResponse(target, status_code=303)
        response.set_cookie(
            COOKIE,
            session.token,
            max_age=LIFETIME_S,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",  # as a proxy of the settings says
        )
        return response

    @router.post(f"{BASE}/sign-out")
    async def sign_out(request: Request) -> Response:
        if not is_same_origin(request, connections.settings):
            return RedirectResponse(f"{BASE}/", status_code=303)
        if token := request.cookies.get(COOKIE):
            await sessions.close(token)
            end_pages(token)
        response = RedirectResponse(f"{BASE}/sign-in", status_code=303)
        response.delete_cookie(COOKIE)
        return response

    @router.post(f"{BASE}/preferences")
    async def preferences(request: Request) -> Response:
        form = await request.form()
        session = await sessions.find(request.cookies.get(COOKIE))
        if session is not None and is_same_origin(request, connections.settings):
            await sessions.change(session, **_valid_preferences({name: str(value) for name, value in form.items()}))
        return RedirectResponse(_own_path(str(form.get("next", ""))), status_code=303)


def _upload_routes(router: APIRouter, sessions: Sessions, connections: Connections) -> None:
    @router.post(f"{BASE}/upload")
    async def upload(request: Request) -> Response:
        session, t = await _visitor(request, sessions)
        if session is None or not is_same_origin(request, connections.settings):
            return JSONResponse({"message": t("error.expired")}, status_code=401)
        request.state.max_body_bytes = MAX_FILE_BYTES  # only now: what the server takes from anybody is small
        name = unquote(request.headers.get("x-filename", "")) or "data.jsonl"
        purpose = request.query_params.get("purpose", "fine-tune")
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            async for chunk in request.stream():
                file.write(chunk)
            file.seek(0)
            is_table = purpose == "fine-tune" and looks_like_table(name, file.read(HEAD_BYTES))
            file.seek(0)
            kept = {"purpose": "user_data", "expires_after": FOR_A_DAY} if is_table else {"purpose": purpose}
            client = connections.for_session(request, session).client
            stored = await ask(client.files.create(file=(name, file), **kept))  # type: ignore[arg-type]
            if isinstance(stored, Failure):
                answer: dict[str, object] = {"message": stored.message(t)}
                error = stored.error
                if purpose == "fine-tune" and isinstance(error, BadRequestError) and error.param == "file":
                    answer["report"] = await report_of(file)
                return JSONResponse(answer, status_code=400)
        about = {"id": stored.id, "filename": stored.filename, "bytes": stored.bytes}
        return JSONResponse(about | {"is_table": is_table})

    @router.post(f"{BASE}/example")
    async def use_example(request: Request) -> Response:
        """The three-step start's dataset, uploaded; on to creating a job with it."""
        session, _ = await _visitor(request, sessions)
        if session is None or not is_same_origin(request, connections.settings):
            return RedirectResponse(f"{BASE}/sign-in?reason=expired", status_code=303)
        stored = await ask(upload_example(connections.for_session(request, session)))
        if isinstance(stored, Failure):
            return RedirectResponse(f"{BASE}/datasets", status_code=303)  # that page can say what is wrong
        return RedirectResponse(f"{BASE}/jobs/new?file={stored.id}", status_code=303)


def _download_route(router: APIRouter, sessions: Sessions, connections: Connections) -> None:
    @router.get(f"{BASE}/download/{{file_id}}")
    async def download(file_id: str, request: Request) -> Response:
        session, t = await _visitor(request, sessions)
        if session is None:
            return RedirectResponse(f"{BASE}/sign-in?reason=expired", status_code=303)
        answer = await ask(_file(connections.for_session(request, session).client, file_id))
        if isinstance(answer, Failure):
            return Response(answer.message(t), status_code=404, media_type="text/plain")
        return answer


def _search_route(router: APIRouter, sessions: Sessions, connections: Connections) -> None:
    @router.get(f"{BASE}/search")
    async def search(request: Request, text: str = "") -> Response:
        session, t = await _visitor(request, sessions)
        found = await find(connections.for_session(request, session), text, t) if session else None
        if found is None or isinstance(found, Failure):
            return JSONResponse({"message": t("error.expired")}, status_code=401)
        return JSONResponse(found, headers={"cache-control": "no-store"})


async def _file(client: AsyncOpenAI, file_id: str) -> Response:
    """The file as it is sent; of a job's results the table itself, which the API hands out in Base64 as OpenAI does."""
    about = await client.files.retrieve(file_id)
    if about.purpose == "fine-tune-results":
        csv = as_plain_csv((await client.files.content(file_id)).content)
        return Response(csv, media_type="text/csv", headers=_attachment(about.filename))
    content = await client.files.with_streaming_response.content(file_id).__aenter__()
    return StreamingResponse(
        content.iter_bytes(),
        media_type="application/octet-stream",
        headers=_attachment(about.filename),
        background=BackgroundTask(content.close),
    )


def as_plain_csv(content: bytes) -> bytes:
    """The decoded file; content that is not Base64 comes back as it is."""
    try:
        decoded = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return content
    return decoded if decoded.startswith(b"step,") else content


def _attachment(filename: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename)}"}


async def _visitor(request: Request, sessions: Sessions) -> tuple[Session | None, Translator]:
    session = await sessions.find(request.cookies.get(COOKIE))
    wanted = session.language if session else ""
    return session, translator(choose_language(wanted, request.headers.get("accept-language", "")))


def _own_path(target: str) -> str:
    """Only a page of ours behind signing in is a target; anything else leads to the first page."""
    is_own = target.startswith(f"{BASE}/") and "\\" not in target and "//" not in target
    return target if is_own and not target.startswith(f"{BASE}/sign-in") else f"{BASE}/"


def _valid_preferences(form: dict[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    if form.get("language") in LANGUAGES:
        values["language"] = form["language"]
    if form.get("theme") in THEMES:
        values["theme"] = form["theme"]
    if "project" in form:
        values["project"] = form["project"][:100]
    return values

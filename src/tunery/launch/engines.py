"""The engines of one machine: one a base, started when it is first asked for, within a budget of memory.

                  asked for            room                 answers
    cold ──────────────────▶ waiting ───────▶ starting ───────────────▶ warm ──▶ leaving ──▶ cold
                                │  (fetched before, where it is not here)  │        ▲ another base needs its room
                                └──▶ failed, for a while ◀── fell too often └────────┘

Api and worker ask here for a base (`engines.host`), and the engine itself for everything else. What goes first is what
was idle longest; pinned bases stay. An engine that is busy is left alone for a while, then it takes no more requests
and ends with the last of those it has.
"""

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tunery.domain.errors import InvalidRequest, TuneryError
from tunery.engines.host import State
from tunery.kernels import process
from tunery.launch.children import Child, ChildSpec
from tunery.launch.ports import LOOPBACK, free_port
from tunery.models.catalog import Catalog
from tunery.models.config import read_sizes
from tunery.models.memory import CACHE_BYTES, machine_bytes, serving_bytes
from tunery.models.sources import cache as sources
from tunery.models.sources.base import Progress
from tunery.settings import Settings
from tunery.store.blobs import Blobs
from tunery.texts.amounts import size

log = logging.getLogger(__name__)

SHARE = 0.75  # of the machine's memory, unless the settings say how much
MAX_FALLS = 5  # in a row, before it has ever answered: more is no accident
FAILED_FOR_S = 60.0  # then it may be tried again
BUSY_FOR_S = 10.0  # so long another base waits for an engine to be idle; then one has to leave
IDLE_S = 1.0  # between two requests of one conversation an engine is not idle
DRAIN_S = 60
LOOK_TIMEOUT_S = 1.0
STOP_TIMEOUT_S = 25.0
MAX_BODY_BYTES = 4096


@dataclass
class Hosted:
    """The engine of one base."""

    source: str
    name: str  # of its process and its log
    port: int  # its own for good: no address ever means another base
    state: State = "cold"
    needed_bytes: int = 0  # of memory
    child: Child | None = None
    waits_since: float = 0.0  # time.monotonic()
    failed_at: float = 0.0
    problem: str = ""
    is_over_budget: bool = False
    has_fallen: bool = False  # and does not answer again yet

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def has_memory(self) -> bool:
        return self.state in ("starting", "warm", "leaving")


class EngineHost:
    """`want` and `describe` may be called from any thread; `look` and `stop` from the one that supervises."""

    def __init__(
        self, settings: Settings, key: str, logs: Path, say: Callable[[str], None], *, echo: bool = False
    ) -> None:
        self._settings, self._key, self._logs, self._say, self._echo = settings, key, logs, say, echo
        self._catalog = Catalog.of(settings)
        self.budget_bytes = settings.engine_memory_bytes or int(SHARE * machine_bytes())
        # Of one engine alone. Where nobody has set a budget, its cache need not be full for it to be of use.
        self._most_bytes = settings.engine_memory_bytes or machine_bytes() + CACHE_BYTES
        self._engines: dict[str, Hosted] = {}
        self._has_been_up = False
        self._lock = threading.RLock()
        self._http = httpx.Client(timeout=LOOK_TIMEOUT_S, headers={"authorization": f"Bearer {key}"})
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self, key))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def prepare(self, progress: Progress | None) -> None:
        """Fetch what starts with the server. Raises SourceError."""
        for source in self._first_ones():
            artifact = self._catalog.artifacts.get(source)
            sources.ensure(source, self._settings.models_dir, progress, artifact)

    def start(self) -> None:
        self._thread.start()
        for source in self._first_ones():
            self.want(source)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        children = [hosted.child for hosted in self._engines.values() if hosted.child]
        for child in children:
            child.terminate()
        for child in children:
            child.wait(STOP_TIMEOUT_S)
        self._http.close()

    def _first_ones(self) -> list[str]:
        """The catalog's first base, and those that are pinned."""
        pinned = [model.source for model in self._catalog if model.pinned]
        return list(dict.fromkeys([*self._catalog.sources()[:1], *pinned]))

    # ---- asked by others

    def want(self, source: str) -> dict[str, Any]:
        """That the base be warm: said again until it is. Raises KeyError for one that the catalog does not have."""
        with self._lock:
            hosted = self._of(source)
            is_due = hosted.state == "failed" and time.monotonic() - hosted.failed_at > FAILED_FOR_S
            if hosted.state == "cold" or is_due:
                hosted.state, hosted.waits_since, hosted.is_over_budget = "waiting", time.monotonic(), False
            return self._about(hosted)

    def _of(self, source: str) -> Hosted:
        """An embedding model is served by every engine: by one that is warm, else by the first base's."""
        if source in self._catalog.sources(embeds=True):
            first = self._catalog.sources()[0]
            warm = next((each.source for each in self._engines.values() if each.state == "warm"), first)
            return self._of(warm)
        if source not in self._engines:
            model = next((model for model in self._catalog if model.source == source and not model.embeds), None)
            if model is None:
                raise KeyError(source)
            name = "engine" if not self._engines else f"engine-{model.weights}"
            self._engines[source] = Hosted(source, name, self._own_port())
        return self._engines[source]

    def _own_port(self) -> int:
        taken = {hosted.port for hosted in self._engines.values()}
        while (port := free_port(LOOPBACK)) in taken:
            pass
        return port

    def describe(self) -> dict[str, Any]:
        with self._lock:
            known = [self._of(source) for source in self._catalog.sources()]
            return {
                "budget_bytes": self.budget_bytes,
                "is_up": self._is_up(known),
                "data": [self._about(hosted) for hosted in known],
            }

    def _is_up(self, known: list[Hosted]) -> bool:
        """While one makes room for another none may be warm: only a fall, and the very start, are no service."""
        if any(hosted.state == "warm" for hosted in known):
            return True
        return self._has_been_up and any(hosted.state != "failed" and not hosted.has_fallen for hosted in known)

    def _about(self, hosted: Hosted) -> dict[str, Any]:
        return {
            "source": hosted.source,
            "state": hosted.state,
            "url": hosted.url,
            "pinned": hosted.source in self._pinned(),
            "needed_bytes": hosted.needed_bytes,
            "problem": hosted.problem,
            "is_over_budget": hosted.is_over_budget,
        }

    def _pinned(self) -> set[str]:
        return {model.source for model in self._catalog if model.pinned}

    # ---- by the thread that supervises

    def look(self) -> None:
        """One step of every engine."""
        with self._lock:
            engines = list(self._engines.values())
        for hosted in engines:
            if hosted.state == "waiting":
                self._let_in(hosted)
            elif hosted.child is not None:
                self._watch(hosted)
        gone = [hosted for hosted in engines if hosted.state == "warm" and hosted.source not in self._catalog.sources()]
        for hosted in gone:
            self._dismiss(hosted, "it was removed from the catalog")

    def _let_in(self, hosted: Hosted) -> None:
        folder = sources.cached(hosted.source, self._settings.models_dir)
        if folder is None:
            self._set(hosted, "fetching")
            threading.Thread(target=self._fetch, args=(hosted,), daemon=True).start()
            return
        try:
            hosted.needed_bytes = serving_bytes(read_sizes(folder))
        except InvalidRequest as exc:
            return self._fail(hosted, exc.message)
        if hosted.needed_bytes > self._most_bytes:
            hosted.is_over_budget = True
            needed, most = size(hosted.needed_bytes), size(self._most_bytes)
            return self._fail(hosted, f"it takes {needed} of memory, and there are {most} for engines")
        if self._make_room(hosted):
            hosted.child = Child(self._spec(hosted, folder), echo=self._echo)
            hosted.child.start()
            self._set(hosted, "starting")

    def _fetch(self, hosted: Hosted) -> None:
        """In a thread of its own."""
        try:
            artifact = self._catalog.artifacts.get(hosted.source)
            sources.ensure(hosted.source, self._settings.models_dir, artifact=artifact)
        except TuneryError as exc:
            self._fail(hosted, exc.message)
        except Exception as exc:  # one that stayed `fetching` would never be tried again
            log.exception("%s could not be fetched", hosted.source)
            self._fail(hosted, type(exc).__name__)
        else:
            self._set(hosted, "waiting")

    def _make_room(self, hosted: Hosted) -> bool:
        """Whether there is room now. Where there is none, what was idle longest is asked to leave."""
        with self._lock:
            others = [each for each in self._engines.values() if each.has_memory]
        over = sum(each.needed_bytes for each in others) + hosted.needed_bytes - self.budget_bytes
        if over <= 0 or not others:
            return True
        leaving = sum(each.needed_bytes for each in others if each.state == "leaving")
        if over > leaving:
            idle = {each.source: self._idle_s(each) for each in others if each.state == "warm"}
            may_leave = [each for each in others if each.source in idle and each.source not in self._pinned()]
            longest = max(may_leave, key=lambda each: idle[each.source], default=None)
            waited = time.monotonic() - hosted.waits_since
            if longest is None and not any(each.state == "starting" for each in others):
                hosted.is_over_budget = True
                self._fail(hosted, f"pinned bases leave no room: it takes {size(hosted.needed_bytes)} of memory")
            elif longest is not None and (idle[longest.source] >= IDLE_S or waited > BUSY_FOR_S):
                self._dismiss(longest, "another base needs its memory")
        return False

    def _idle_s(self, hosted: Hosted) -> float:
        """Since its last request ended; 0 while it works on one."""
        try:
            found = self._http.get(f"{hosted.url}/load").json()
            return 0.0 if found["server_load"] else float(found["idle_s"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return 0.0

    def _dismiss(self, hosted: Hosted, why: str) -> None:
        assert hosted.child is not None
        self._say(f"The engine of {hosted.source} leaves: {why}")
        hosted.child.terminate()
        self._set(hosted, "leaving")

    def _watch(self, hosted: Hosted) -> None:
        child = hosted.child
        assert child is not None
        if hosted.state == "leaving":
            if child.pid is None:
                hosted.child = None
                self._set(hosted, "cold")
            return
        if event := child.look():
            self._say(event)
            if hosted.state == "starting" and child.falls >= MAX_FALLS:
                hosted.child = None
                return self._fail(hosted, child.last_words() or "it ended at once")
            hosted.has_fallen = True
            self._set(hosted, "starting")
        if hosted.state == "starting" and self._answers(hosted):
            hosted.has_fallen, self._has_been_up = False, True
            self._set(hosted, "warm")

    def _answers(self, hosted: Hosted) -> bool:
        try:
            return self._http.get(f"{hosted.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def _fail(self, hosted: Hosted, problem: str) -> None:
        self._say(f"The engine of {hosted.source} does not start: {problem}")
        hosted.problem, hosted.failed_at = problem, time.monotonic()
        self._set(hosted, "failed")

    def _set(self, hosted: Hosted, state: State) -> None:
        with self._lock:
            hosted.state = state

    def first_problem(self) -> str | None:
        """Why the catalog's first base does not answer, once it is clear that it will not."""
        first = self._engines.get(self._catalog.sources()[0])
        return first.problem if first is not None and first.state == "failed" else None

    def _spec(self, hosted: Hosted, folder: Path) -> ChildSpec:
        settings = self._settings
        arguments = ["--model-dir", str(folder), "--served-name", hosted.source]
        arguments += ["--host", LOOPBACK, "--port", str(hosted.port), "--drain-s", str(DRAIN_S)]
        for adapters in _adapter_folders(settings):
            arguments += ["--adapters-dir", str(adapters)]
        for embedder in self._catalog.sources(embeds=True):
            arguments += ["--embedding-model", embedder]
        arguments += ["--model-cache", str(settings.models_dir)]
        arguments += ["--keep-alive-s", str(settings.keep_alive_s), "--log-format", settings.log_format]
        environment = {**process.instructions(settings.instructions), "TUNERY_ENGINE_API_KEY": self._key}
        return ChildSpec(
            hosted.name, "tunery.serving", tuple(arguments), environment, self._logs / f"{hosted.name}.log"
        )


def _adapter_folders(settings: Settings) -> list[Path]:
    """Where api and worker lay adapters for the engine: a bucket's copies, a job's own folder, the blobs."""
    blobs = Blobs.open(settings).local_path("adapters")
    return [settings.home / "adapters", settings.home / "work", *([] if blobs is None else [blobs])]


def _handler(host: EngineHost, key: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """`GET /engines`, and `POST /engines` with a source, for whoever has the engines' key."""

        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(host.describe)

        def do_POST(self) -> None:
            self._answer(lambda: host.want(self._wanted()))

        def _wanted(self) -> str:
            length = int(self.headers.get("content-length") or 0)
            return str(json.loads(self.rfile.read(min(length, MAX_BODY_BYTES)))["source"])

        def _answer(self, make: Callable[[], dict[str, Any]]) -> None:
            """Nothing is read of who has not got the key, and the connection ends."""
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), key.encode()):
                self.close_connection = True
                return self._send(401, {})
            if self.path != "/engines":
                return self._send(404, {})
            try:
                self._send(200, make())
            except (KeyError, ValueError, TypeError):
                self._send(404, {})

        def _send(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler

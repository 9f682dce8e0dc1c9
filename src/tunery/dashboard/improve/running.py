"""Proposals that are carried out in this process. They belong to the key that started them, not to a tab; what they
train stays when the process ends, and is found again by whoever starts them anew."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nicegui import background_tasks

from tunery.dashboard.connection import Connection, Failure, Owner, SessionEnded, ask
from tunery.domain.errors import InvalidRequest
from tunery.domain.jobs import TERMINAL
from tunery.improve.asking import price_of_pace, seconds_a_token
from tunery.improve.jobs import WHOLE, Price, Server, Subject, open_job
from tunery.improve.proposals import Forecast, What, act_of, forecasts

MAX_KEPT = 50
POLL_S = 1.0
GONE = (401, 403, 404)  # no answer will come by asking again
Json = dict[str, Any]
T = TypeVar("T")

_threads = ThreadPoolExecutor(4, thread_name_prefix="improve")  # the package waits for its answers


async def _in_thread(act: Callable[..., T], *given: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, act, *given)


class Proposal:
    """One that was started: its jobs as they stood last, then what was found, or why nothing was."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of the parts that its jobs are, in their order
        self.jobs: list[Json] = []
        self.found: Any = None
        self.failure: Failure | None = None

    @property
    def is_over(self) -> bool:
        return self.found is not None or self.failure is not None


class Improvement:
    """Of one job."""

    def __init__(self, connection: Connection, job_id: str) -> None:
        self._connection, self._job_id = connection.for_background(), job_id
        self._subject: Subject | None = None
        self._pace: float | None = None  # seconds a token of a prompt; None: not measured
        self._making = asyncio.Lock()  # two that need the same job are not to make it twice
        self.proposals: dict[What, Proposal] = {}

    async def forecasts(self) -> dict[What, Forecast | InvalidRequest]:
        """Nobody is asked for it."""
        pace = self._pace
        return await _in_thread(forecasts, await self._open(), None if pace is None else lambda: pace)

    async def price_of_pace(self) -> Price:
        return await _in_thread(price_of_pace, await self._open())

    async def measure(self) -> None:
        """How long a model takes, for the price that `price_of_pace` tells."""
        self._pace = await _in_thread(seconds_a_token, await self._open())

    def start(self, what: What) -> None:
        """Unless it is under way."""
        known = self.proposals.get(what)
        if known is None or known.is_over:
            self.proposals[what] = proposal = Proposal()
            background_tasks.create(self._follow(what, proposal), name=f"improve {self._job_id} {what}")

    async def _follow(self, what: What, proposal: Proposal) -> None:
        found = await ask(self._carry_out(what, proposal))
        if isinstance(found, Failure):
            proposal.failure = found
        else:
            proposal.found = found

    async def _carry_out(self, what: What, proposal: Proposal) -> Any:
        act, subject = act_of(what), await self._open()
        planned = [part.name for part in await _in_thread(act.plan, subject)]
        proposal.names = [name for name in planned if name != WHOLE] + [WHOLE]
        async with self._making:
            job_ids: list[str] = await _in_thread(act.start, subject)
        while not proposal.jobs or any(job["status"] not in TERMINAL for job in proposal.jobs):
            looks = [await ask(self._connection.get(f"/tunery/v1/jobs/{job_id}")) for job_id in job_ids]
            if lost := next((each for each in looks if isinstance(each, Failure) and each.status in GONE), None):
                raise lost.error
            jobs = [each for each in looks if not isinstance(each, Failure)]
            proposal.jobs = jobs if len(jobs) == len(looks) else proposal.jobs
            await asyncio.sleep(POLL_S)
        return await _in_thread(act.read, subject, job_ids)

    async def _open(self) -> Subject:
        if self._subject is None:
            self._subject = await _in_thread(open_job, _server(self._connection), self._job_id)
        return self._subject


_kept: OrderedDict[tuple[Owner, str], Improvement] = OrderedDict()


async def of(connection: Connection, job_id: str) -> Improvement:
    """Raises SessionEnded."""
    if not await connection.is_open():
        raise SessionEnded
    wanted = connection.owner, job_id
    found = _kept.pop(wanted, None) or Improvement(connection, job_id)
    _kept[wanted] = found
    while len(_kept) > MAX_KEPT:
        _kept.popitem(last=False)
    return found


def _server(connection: Connection) -> Server:
    client = connection.for_threads()
    own = f"{connection.address}/tunery/v1"
    return Server(
        client,
        lambda path: client.get(own + path, cast_to=object),
        lambda path, body: client.post(own + path, cast_to=object, body=body),
    )

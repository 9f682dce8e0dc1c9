"""Follows a job to its end: events as they come, and a bar with the time left. What consists of rows, a batch or an
eval's run, by its counts."""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from tunery.cli.output import Bar, console, duration, notes, status
from tunery.domain.batches import seconds_left

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

    Tell = Callable[[FineTuningJob, list[FineTuningJobEvent]], None]

POLL_S = 0.5
ENDED = frozenset({"succeeded", "failed", "cancelled"})
METRICS_EVERY_S = 5.0  # without a terminal, steps are told this often; the last one always


class EventFeed:
    """The events of one job, oldest first, each once."""

    def __init__(self, client: "OpenAI", job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._newest: str | None = None

    def fresh(self) -> "list[FineTuningJobEvent]":
        """Those since the last call. The API lists the newest first, so reading stops at the first known one."""
        found = []
        for event in self._client.fine_tuning.jobs.list_events(self._job_id, limit=100):
            if event.id == self._newest:
                break
            found.append(event)
        if found:
            self._newest = found[0].id
        return found[::-1]


def follow(client: "OpenAI", job_id: str, tell: "Tell") -> "FineTuningJob":
    """Call `tell` with the job and its new events at every look, until it has ended. Returns it ended."""
    feed = EventFeed(client, job_id)
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        tell(job, feed.fresh())
        if job.status in ENDED:
            return job
        time.sleep(POLL_S)


def watch(client: "OpenAI", job_id: str, console: Console) -> "FineTuningJob":
    """Print the job's story until it ends and return it ended."""
    with JobBar(console) as bar:
        return follow(client, job_id, bar.tell)


class StatusColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return status(task.description)


class JobBar:
    """Event lines above, progress below. Where the output is no terminal there are only lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            StatusColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=None, loss="", left="", visible=False)
        self._told_at = 0.0

    def __enter__(self) -> "JobBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, job: "FineTuningJob", events: "list[FineTuningJobEvent]") -> None:
        for event in events:
            self._tell_event(event)
        left = ""
        if job.status == "running" and job.estimated_finish:
            left = f"{duration(job.estimated_finish - time.time())} left"
        self._bar.update(self._task, description=job.status, left=left)

    def _tell_event(self, event: "FineTuningJobEvent") -> None:
        if event.type == "metrics":
            data = event.data if isinstance(event.data, dict) else {}
            step, total = data.get("step"), data.get("total_steps")
            loss = f"loss {data['train_loss']:.2f}" if isinstance(data.get("train_loss"), float) else ""
            self._bar.update(self._task, completed=step, total=total, loss=loss, visible=True)
            if self._console.is_terminal or not self._is_due(step == total):
                return
        style = {"warn": "yellow", "error": "red"}.get(event.level, "")
        clock = time.strftime("%H:%M:%S", time.localtime(event.created_at))
        self._console.print(Text(clock, "dim"), Text(event.message, style))

    def _is_due(self, is_last: bool) -> bool:
        if not is_last and time.monotonic() - self._told_at < METRICS_EVERY_S:
            return False
        self._told_at = time.monotonic()
        return True


class Rows(NamedTuple):
    """How far something is that has rows."""

    done: int
    total: int  # 0: not known yet
    begun_at: float | None  # None: it does not run

    @property
    def left(self) -> str:
        seconds = seconds_left(self.begun_at, self.done, self.total, time.time())
        return "" if seconds is None else f"{duration(seconds)} left"


def follow_rows(
    look: Callable[[], Any], rows_of: Callable[[Any], Rows], unfinished: Collection[str], again: str, *, as_json: bool
) -> Any:
    """Looks until what it sees has another status than these, and gives the last it saw. As JSON or without a terminal,
    one line a change. `again`: the command that goes on looking."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}", markup=False))
    hidden = as_json or not console.is_terminal
    text = TextColumn("{task.description}", markup=False)
    try:
        with Bar(text, *columns, console=console, transient=True, disable=hidden) as bar:
            task, told = bar.add_task("", total=None, left=""), ""
            while True:
                seen = look()
                rows = rows_of(seen)
                bar.update(task, description=seen.status, completed=rows.done, total=rows.total or None, left=rows.left)
                plain = f"{seen.status} {rows.done:,} of {rows.total:,}"
                news = seen.to_json(indent=None) if as_json else plain
                if hidden and news != told:
                    told = news
                    typer.echo(news if as_json else f"{news} {rows.left}".rstrip())
                if seen.status not in unfinished:
                    return seen
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        notes.print(f"It goes on. See it again with: {again}")
        raise

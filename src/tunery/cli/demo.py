"""`tunery demo`: the whole loop once, on real weights: upload, train, compare with the base."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tunery import private
from tunery.cli.comparison import ask_task, saving, score, score_table, side_by_side
from tunery.cli.connection import client_to, tell_weights
from tunery.cli.models import download_bar
from tunery.cli.output import console, duration, styled
from tunery.cli.serve import interruptible, prepared, start
from tunery.cli.tasks import Question, Task, load_task
from tunery.cli.watch import watch
from tunery.settings import Settings, load_settings

if TYPE_CHECKING:
    from openai import OpenAI

    from tunery.launch.server import Address, Server

BASE = "gpt-4o-mini-2024-07-18"
SEED = 1  # the same order of examples each time


class TaskName(StrEnum):
    MARV = "marv"
    TICKETS = "tickets"


def demo(
    task: Annotated[
        TaskName, typer.Option(help="A sarcastic chatbot, or support tickets sorted by label.")
    ] = TaskName.MARV,
    base: Annotated[
        str, typer.Option(help="Another base, such as hf:Qwen/Qwen3-0.6B: added to the catalog where it is not there.")
    ] = "",
    port: Annotated[int | None, typer.Option(help="As with `serve`; any free one when that is taken.")] = None,
) -> None:
    """Train a model on an example file and show what it gained. On a terminal the server then stays up."""
    from tunery.launch.ports import is_free

    chosen = load_task(task.value)
    settings = load_settings(port=port)
    if port is None and not is_free(settings.host, settings.port):
        settings = settings.model_copy(update={"port": 0})
    model = _add(base, settings) if base else BASE
    with interruptible(), prepared(settings) as server:
        address = start(server, threading.Event())
        assert address is not None
        key = address.first_key or server.issue_key("demo")
        with supervised(server):
            console.print(styled("[bold]Server[/bold]  {}", address.base_url))
            tuned = run_loop(client_to(address.base_url, key), chosen, model)
            console.print(how_to_use(address, key, tuned), soft_wrap=True)
            if sys.stdout.isatty() and sys.stdin.isatty():
                console.print(
                    "\nThe server stays up. Ctrl-C stops it; `tunery serve` starts it again with what is there."
                )
                signal.pause()


def _add(source: str, settings: Settings) -> str:
    from tunery.bases.add import added_as

    private.keep(settings.home)
    with download_bar() as report:
        return added_as(source, settings, report)


def run_loop(client: "OpenAI", task: Task, base: str = BASE) -> str:
    """Returns the tuned model's name. Raises typer.Exit when the job does not succeed."""
    with task.training_file.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    console.print(styled("[bold]Upload[/bold]  {} is {}", task.training_file.name, uploaded.id))
    job = client.fine_tuning.jobs.create(model=base, training_file=uploaded.id, suffix=task.suffix, seed=SEED)
    console.print(styled("[bold]Job[/bold]     {} on {}", job.id, base))
    tell_weights(client, base)
    job = watch(client, job.id, console)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise typer.Exit(1)
    if job.finished_at:
        console.print(
            styled(
                "[bold]Model[/bold]   {} after {}\n", job.fine_tuned_model, duration(job.finished_at - job.created_at)
            )
        )
    compare(client, task, job.fine_tuned_model, base)
    return job.fine_tuned_model


def compare(client: "OpenAI", task: Task, tuned: str, base: str = BASE) -> None:
    few = ask_task(client, base, task, Question.few_shot)
    after = ask_task(client, tuned, task, Question.zero_shot)
    if all(question.expected is None for question in task.questions):
        console.print(side_by_side(task, few, after))
    else:
        zero = ask_task(client, base, task, Question.zero_shot)
        scores = [
            score("base model, zero-shot", task, zero),
            score("base model, few-shot", task, few),
            score("tuned model, zero-shot", task, after),
        ]
        console.print(score_table(scores))
        console.print(
            f"Gain over the base, zero-shot: {scores[2].percent - scores[0].percent:+.0f} points of exact match."
        )
    console.print(saving(sum(answer.prompt_tokens for answer in few), sum(answer.prompt_tokens for answer in after)))


def how_to_use(address: "Address", key: str, model: str) -> str:
    return (
        f"\nIn your own code three things change:\n\n"
        f'    base_url="{address.base_url}"\n    api_key="{key}"\n    model="{model}"\n\n'
        f"Dashboard: {address.url}/dashboard (sign in with the key)"
    )


@contextmanager
def supervised(server: "Server") -> Iterator[None]:
    """What falls is started again while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=server.supervise, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

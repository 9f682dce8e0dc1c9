"""`tunery chat`: ask a model, once or in a conversation."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunery.cli.connection import client_of, tell_weights
from tunery.cli.output import Json, emit_json, notes

if TYPE_CHECKING:
    from openai import OpenAI


def chat(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model's name, `ft:…` included.")],
    prompt: Annotated[str | None, typer.Argument(help="Ask this and stop; without it, a conversation.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 gives the most likely answer.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    as_json: Json = False,
) -> None:
    """Ask a model. Reads the question from standard input when that is no terminal."""
    client = client_of(ctx)
    options = {"model": model, "temperature": temperature, "max_completion_tokens": max_tokens}
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if not as_json:
        tell_weights(client, model)
    if prompt is None:
        return _converse(client, messages, options)
    messages.append({"role": "user", "content": prompt})
    if as_json:
        return emit_json(client.chat.completions.create(**_request(messages, options)))
    _answer(client, messages, options)


def _converse(client: "OpenAI", messages: list[dict[str, str]], options: dict[str, Any]) -> None:
    notes.print("Ctrl-D or an empty line ends the conversation.", style="dim")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            question = ""
        if not question:
            return
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": _answer(client, messages, options)})


def _answer(client: "OpenAI", messages: list[dict[str, str]], options: dict[str, Any]) -> str:
    """Print the answer as it is made; the token counts go to standard error."""
    pieces: list[str] = []
    stream = client.chat.completions.create(
        **_request(messages, options), stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
            typer.echo(pieces[-1], nl=False)
        if chunk.usage:
            cached = chunk.usage.prompt_tokens_details.cached_tokens if chunk.usage.prompt_tokens_details else 0
            typer.echo()
            notes.print(
                f"{chunk.usage.prompt_tokens} prompt tokens ({cached or 0} cached), "
                f"{chunk.usage.completion_tokens} answer tokens",
                style="dim",
            )
    return "".join(pieces)


def _request(messages: list[dict[str, str]], options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "messages": messages}

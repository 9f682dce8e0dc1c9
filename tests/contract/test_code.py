"""The code that the dashboard shows for a conversation runs as it is copied, in each language, through each API."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import node_clients
from tests.api.conftest import BASE, SECRET
from tests.contract.conftest import Live
from tunery.dashboard.components.code import chat, response
from tunery.datasets.answers import said

MESSAGES = [
    {"role": "system", "content": "Be 'brief'; \"quote\" nothing."},
    {"role": "user", "content": [{"type": "text", "text": "a\nb"}, {"type": "text", "text": "c\\n$HOME `x`"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "It's ünïcode 日本語 \u2028"}]},
    {"role": "user", "content": "And now? </script> {braces} %s"},
]


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[-1:]], ids=["long", "short"])
def test_code_runs_as_copied(live: Live, tmp_path: Path, api: str, messages: list) -> None:
    """The key alone is put in, where it says so."""
    write, root = (chat, response)[api == "responses"], live.base_url.removesuffix("/v1")
    shown = write(root, BASE, messages, temperature=0, store=True, metadata={"task": "it's"})
    printed = {
        "Python": run([sys.executable, "-c", with_key(shown["Python"])]),
        "curl": text_of(json.loads(run(["bash", "-c", shown["curl"]], OPENAI_API_KEY=SECRET))),
    }
    program = tmp_path / f"shown-{api}.mjs"
    program.write_text(with_key(shown["Node"]))
    for clients in node_clients.SETS:
        printed[clients] = node_clients.run(program, clients, os.environ).removesuffix("\n")
    assert printed["curl"] and set(printed.values()) == {printed["curl"]}


def with_key(program: str) -> str:
    assert program.count('"sk-…"') == 1
    return program.replace("sk-…", SECRET)


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().removesuffix("\n")  # a carriage return is what the model said


def text_of(answer: dict) -> str:
    if answer["object"] == "response":
        return answer["output"][0]["content"][0]["text"]
    return answer["choices"][0]["message"]["content"]


def test_both_apis_are_asked_the_same(live: Live) -> None:
    """What they sent is kept, and is the same words of the same roles."""
    for write in (chat, response):
        shown = write(live.base_url.removesuffix("/v1"), BASE, MESSAGES, temperature=0, store=True)
        run(["bash", "-c", shown["curl"]], OPENAI_API_KEY=SECRET)
    client = live.client()
    path = live.base_url.removesuffix("/v1") + "/tunery/v1/stored_answers"
    newest = [
        client.get(path, cast_to=dict, options={"params": {"limit": 1, "api": api}})["data"][0]
        for api in ("chat", "responses")
    ]
    one, other = (client.get(f"{path}/{answer['id']}", cast_to=dict) for answer in newest)
    assert [one["api"], other["api"]] == ["chat", "responses"]
    words = [
        [(message["role"], said(message)) for message in (*kept["messages"], kept["answer"])] for kept in (one, other)
    ]
    assert words[0] == words[1] and [role for role, _ in words[0]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]

"""Ollama's Modelfile, whose template is run by Go's own `text/template` with what Ollama gives to it (`ollama.go`)."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.tiny_model import CHATML
from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.export.modelfile import frames_of, modelfile, tool_frames_of
from tunery.models.config import read_config

LLAMA3 = (
    "{{ '<|endoftext|>' }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n\n'"
    " + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
)
# Qwen 2.5's way: a system message of its own, and each result's turn opened and closed by looking at its neighbours.
WITH_TOOLS = """
{%- if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% else %}{% set said = 'Be kind.' %}
{%- endif %}
{{- '<|im_start|>system\n' + said }}
{%- if tools %}
{{- '\n\n# Tools\n\nWithin <tools></tools>:\n<tools>' }}
{%- for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
{{- '\n</tools>\n\nAnswer with\n<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) or
       (message.role == 'assistant' and not message.tool_calls) %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}{% if message.content %}{{ '\n' + message.content }}{% endif %}
{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather at a place, as "text" in ö.',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town."},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            },
            "required": ["place", "unit"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
NESTED = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"days": {"type": "array", "items": {"type": "integer"}}}},
    },
}
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi 'you'\nand \"ö\"? {{ x }}"}
ANSWER, MORE = {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And now?"}
Json = dict[str, Any]


def called(text: str, *calls: tuple[str, Json]) -> Json:
    made = [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": text, "tool_calls": made}


def result(place: int, text: str) -> Json:
    return {"role": "tool", "tool_call_id": f"call_{place}", "content": text}


ONE = called("", ("get_weather", {"place": "Ulm", "unit": "kelvin"}))
TWO = called("I look.", ("get_weather", {"place": "Köln", "unit": "celsius"}), ("now", {}))
PLAIN = [[USER], [SYSTEM, USER], [USER, ANSWER, MORE], [SYSTEM, USER, ANSWER, MORE, ANSWER, USER]]
WITH_CALLS = [
    *PLAIN,
    [USER, ONE, result(0, "288")],
    [SYSTEM, USER, TWO, result(0, '{"degrees": 12.5}'), result(1, "noon")],
    [SYSTEM, USER, TWO, result(0, "12"), result(1, "noon"), ANSWER, MORE, ONE, result(0, "3"), MORE],
    [USER, ONE, result(0, "288"), ANSWER, MORE],
]


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[Json]], Json]:
    """Runs a Modelfile's template."""
    program = tmp_path_factory.mktemp("go") / "ollama"
    kept = {"GOCACHE": str(REPOSITORY / ".cache" / "go"), "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": ""}
    source = Path(__file__).with_name("ollama.go")
    go = str(Path(sys.executable).with_name("go"))  # the environment need not be activated
    subprocess.run([go, "build", "-o", str(program), str(source)], env=os.environ | kept, check=True, timeout=500)

    def run(text: str, asked: list[Json]) -> Json:
        found = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
        assert found
        given = json.dumps({"template": found[1], "asked": asked})
        return json.loads(subprocess.run([program], input=given, capture_output=True, text=True, check=True).stdout)

    return run


def renderer_with(template: str, given: Path, folder: Path) -> Renderer:
    shutil.copytree(given, folder)
    (folder / "chat_template.jinja").write_text(template)
    return Renderer.from_dir(folder)


TEMPLATES = {"chatml": CHATML, "llama 3": LLAMA3, "default system": WITH_DEFAULT, "tools of its own": WITH_TOOLS}


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_writes_the_very_prompts_of_training(
    name: str, ollama: Callable[[str, list[Json]], Json], tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Without tools and with them, calls and results."""
    renderer = renderer_with(TEMPLATES[name], tiny_model_dir, tmp_path / "base")
    assert renderer.knows_tools == (name == "tools of its own")
    text = modelfile(renderer, read_config(tiny_model_dir), "model.gguf")
    asked = [{"messages": messages} for messages in PLAIN]
    asked += [{"messages": messages, "tools": [WEATHER, NOW]} for messages in WITH_CALLS]
    told = ollama(text, asked)
    for each, written in zip(asked, told["texts"], strict=True):
        assert written == renderer.render_chat(each["messages"], each.get("tools"), add_generation_prompt=True)
        assert renderer.encode(written) == renderer.prompt_ids(each["messages"], each.get("tools"))
    assert told["mark"] == "<tool_call>\n", "by it Ollama finds calls in an answer"


def test_what_go_writes_otherwise_means_the_same(
    ollama: Callable[[str, list[Json]], Json], tiny_model_dir: Path
) -> None:
    """Schemas beyond plain ones, and arguments within arguments: JSON without blanks."""
    renderer = Renderer.from_dir(tiny_model_dir)
    text = modelfile(renderer, read_config(tiny_model_dir), "model.gguf")
    messages = [USER, called("", ("book", {"days": [1, 2], "to": {"town": "a < b"}})), result(0, "done")]
    (written,) = ollama(text, [{"messages": messages, "tools": [NESTED]}])["texts"]
    expected = renderer.render_chat(messages, [NESTED], add_generation_prompt=True)
    assert written != expected
    lines, wanted = written.splitlines(), expected.splitlines()
    assert len(lines) == len(wanted)
    for line, other in zip(lines, wanted, strict=True):
        assert line == other or json.loads(line) == json.loads(other)


def test_tools_that_are_written_in_no_frames_are_left_out_and_the_file_says_so(
    ollama: Callable[[str, list[Json]], Json], tiny_model_dir: Path, tmp_path: Path
) -> None:
    numbered = WITH_TOOLS.replace("{{ tool | tojson }}", "{{ tool | tojson }}{{ loop.index }}")
    renderer = renderer_with(numbered, tiny_model_dir, tmp_path / "base")
    with pytest.raises(ValueError, match="frame"):
        tool_frames_of(renderer, frames_of(renderer))
    text = modelfile(renderer, read_config(tiny_model_dir), "model.gguf")
    assert "\n# Without tools, " in text
    told = ollama(text, [{"messages": messages, "tools": [NOW]} for messages in PLAIN])
    assert told["texts"] == [renderer.render_chat(each, add_generation_prompt=True) for each in PLAIN]
    assert told["mark"] == ""


def test_a_template_that_changes_texts_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    renderer = renderer_with(
        "{% for message in messages %}{{ loop.index }}{{ message['content'] }}<|im_end|>{% endfor %}",
        tiny_model_dir,
        tmp_path / "base",
    )
    with pytest.raises(InvalidRequest, match="Ollama"):
        frames_of(renderer)

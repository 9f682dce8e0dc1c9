"""The items of a conversation: as clients send them, as they are kept, and as the messages of the chat that says the
same.

A kept item has an id, a status and its content as a list of parts, whatever form it came in. What clients echo holds
keys of the SDK's own making (`parsed_arguments`, `phase`, …): a kept item is made anew of what means something here.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.ids import PREFIXES, new_id
from tunery.domain.json_body import as_list, as_object
from tunery.texts import say
from tunery.wire.validation import wrong_type

Json = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text")
OTHER_PARTS = ("input_image", "input_file", "input_audio", "output_audio")  # what OpenAI knows and no base here reads
TYPES = ("message", "function_call", "function_call_output", "item_reference", "reasoning")
ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


def read_items(sent: str | list[Json], param: str = "input") -> list[Json]:
    """Kept items, and references (`item_reference`) that are still to be resolved.

    Reasoning is left out: no base here reasons apart from its answer, and no template has a place for it. Raises
    InvalidRequest, which names the place in `param`.
    """
    if isinstance(sent, str):
        return [message("user", [{"type": "input_text", "text": sent}])]
    read = (_read(item, f"{param}[{index}]") for index, item in enumerate(sent))
    return [item for item in read if item is not None]


def message(role: str, content: list[Json], *, id: str | None = None, status: str = "completed") -> Json:
    return {"id": id or new_id("message"), "type": "message", "status": status, "role": role, "content": content}


def output_text(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}


def _read(item: Json, path: str) -> Json | None:
    kind = _type_of(item)
    if kind == "message":
        return _message(item, path)
    if kind == "function_call":
        texts = {name: _text(item, name, path) for name in ("call_id", "name", "arguments")}
        return {"id": _id(item, "function_call"), "type": kind, "status": _status(item), **texts}
    if kind == "function_call_output":
        output = item.get("output")
        if isinstance(output, list):
            output = [_part(part, "user", f"{path}.output[{index}]") for index, part in enumerate(as_list(output))]
        else:
            output = _text(item, "output", path)
        call_id = _text(item, "call_id", path)
        ident = _id(item, "function_call_output")
        return {"id": ident, "type": kind, "status": "completed", "call_id": call_id, "output": output}
    if kind == "item_reference":
        return {"type": kind, "id": _text(item, "id", path)}
    if kind == "reasoning":
        return None
    supported = ", ".join(map(repr, TYPES))
    raise InvalidRequest(
        say("error.item_not_supported", type=str(kind)[:100], supported=supported),
        param=f"{path}.type",
        code="invalid_value",
    )


def _type_of(item: Json) -> Any:
    """A message may come without its type, and so may a reference."""
    if item.get("type") is not None:
        return item["type"]
    return "message" if "role" in item or "id" not in item else "item_reference"


def _message(item: Json, path: str) -> Json:
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        supported = ", ".join(map(repr, ROLES))
        raise InvalidRequest(
            say("error.invalid_value", text=str(role)[:100], supported=supported),
            param=f"{path}.role",
            code="invalid_value",
        )
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        types = say("type.or", one=say("type.string"), other=say("type.array"))
        raise wrong_type(f"{path}.content", types, content)
    parts = [_part(part, role, f"{path}.content[{index}]") for index, part in enumerate(as_list(content))]
    status = _status(item)
    return message(role, parts, id=_id(item, "message"), status=status)


def _part(part: Any, role: str, path: str) -> Json:
    if not isinstance(part, dict):
        raise wrong_type(path, say("type.object"), part)
    part = as_object(part)
    kind = part.get("type")
    if kind in TEXT_PARTS:
        text = _text(part, "text", path)
        return output_text(text, []) if role == "assistant" else {"type": "input_text", "text": text}
    if kind == "refusal" and role == "assistant":
        return {"type": "refusal", "refusal": _text(part, "refusal", path)}
    if kind in OTHER_PARTS:
        raise InvalidRequest(
            say("error.part_not_supported", type=kind), param=f"{path}.type", code="unsupported_parameter"
        )
    raise InvalidRequest(
        say("error.invalid_value", text=str(kind)[:100], supported="'input_text', 'output_text', 'refusal'"),
        param=f"{path}.type",
        code="invalid_value",
    )


def _text(item: Json, name: str, path: str) -> str:
    value = item.get(name)
    if value is None:
        param = f"{path}.{name}"
        raise InvalidRequest(
            say("error.missing_parameter", param=param), param=param, code="missing_required_parameter"
        )
    if not isinstance(value, str):
        raise wrong_type(f"{path}.{name}", say("type.string"), value)
    return value


def _id(item: Json, kind: str) -> str:
    """The id that an echoed item had; a new one for an item that has none of this kind."""
    sent = item.get("id")
    is_ours = isinstance(sent, str) and sent.startswith(PREFIXES[kind]) and ID.fullmatch(sent)
    return sent if is_ours else new_id(kind)  # pyright: ignore[reportReturnType]


def _status(item: Json) -> str:
    return "incomplete" if item.get("status") == "incomplete" else "completed"


def references(items: Iterable[Json]) -> list[str]:
    return [item["id"] for item in items if item["type"] == "item_reference"]


def resolved(items: list[Json], known: Mapping[str, Json]) -> list[Json]:
    """The items with those in place of their references. Raises NotFound."""
    return [_resolve(item, known) if item["type"] == "item_reference" else item for item in items]


def _resolve(reference: Json, known: Mapping[str, Json]) -> Json:
    found = known.get(reference["id"])
    if found is None:
        raise NotFound(say("error.no_such_reference", item_id=reference["id"][:200]), param="input")
    return found


def check_ids(items: Iterable[Json], param: str, known: Iterable[str] = ()) -> None:
    """Raises InvalidRequest for an item that is there twice, or is `known`: lists of items go on behind the id of
    one."""
    seen = set(known)
    for item in items:
        if item["id"] in seen:
            raise InvalidRequest(say("error.duplicate_item", item_id=item["id"][:200]), param=param)
        seen.add(item["id"])


# ---- as a chat


def messages_of(items: list[Json]) -> list[Json]:
    """The chat that says the same.

    What an assistant says and the calls that follow are one message. Results follow the message with their calls, in
    the order in which they came. Raises InvalidRequest for a call without its result, and a result without its call.
    """
    results = _results(items)
    messages: list[Json] = []
    turn: list[int] = []  # the assistant's items that come to one message
    for index, item in enumerate(items):
        kind = item["type"]
        if turn and kind != "function_call":
            messages += _turn(items, turn, results)
            turn = []
        if kind == "function_call" or item.get("role") == "assistant":
            turn.append(index)
        elif kind == "message":
            messages.append(message_of(item))
    return messages + _turn(items, turn, results) if turn else messages


def _results(items: list[Json]) -> dict[int, list[tuple[int, Json]]]:
    """By the index of its call: the index and the message of each result."""
    open_calls: defaultdict[str, list[int]] = defaultdict(list)
    last_call: dict[str, int] = {}
    results: dict[int, list[tuple[int, Json]]] = defaultdict(list)
    for index, item in enumerate(items):
        if item["type"] == "function_call":
            open_calls[item["call_id"]].append(index)
            last_call[item["call_id"]] = index
        elif item["type"] == "function_call_output":
            call_id, waiting = item["call_id"], open_calls[item["call_id"]]
            if call_id not in last_call:
                raise InvalidRequest(say("error.no_call_of_output", call_id=call_id[:200]), param="input")
            call = waiting.pop() if waiting else last_call[call_id]
            results[call].append((index, _result(item)))
    for call_id, waiting in open_calls.items():
        if waiting:
            raise InvalidRequest(say("error.no_output_of_call", call_id=call_id[:200]), param="input")
    return results


def _result(item: Json) -> Json:
    output = item["output"]
    content = output if isinstance(output, str) else _content(output)
    return {"role": "tool", "tool_call_id": item["call_id"], "content": content}


def message_of(item: Json) -> Json:
    """One item alone as a message, whether or not what belongs to it is there."""
    if item["type"] == "function_call_output":
        return _result(item)
    if item.get("role", "assistant") == "assistant":
        return answer_of([item])
    return {"role": item["role"], "content": _content(item["content"])}


def _turn(items: list[Json], turn: list[int], results: Mapping[int, list[tuple[int, Json]]]) -> list[Json]:
    found = sorted((pair for index in turn for pair in results.get(index, ())), key=lambda pair: pair[0])
    return [answer_of([items[index] for index in turn]), *(result for _, result in found)]


def answer_of(items: list[Json]) -> Json:
    """What an assistant says and calls in these items, as one message. A response's output is such items."""
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    answer: Json = {"role": "assistant", "content": _content(parts) if parts else None}
    calls = [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in items
        if item["type"] == "function_call"
    ]
    return answer | {"tool_calls": calls} if calls else answer


def _content(parts: list[Json]) -> str | list[Json]:
    """One text as it is, since every engine takes that; several as parts, which the engine joins by its own rule."""
    texts = [
        {"type": "refusal", "refusal": part["refusal"]}
        if part["type"] == "refusal"
        else {"type": "text", "text": part["text"]}
        for part in parts
    ]
    return texts[0]["text"] if len(texts) == 1 and "text" in texts[0] else texts or ""


# ---- too many of them


def without_oldest(items: list[Json], count: int) -> list[Json]:
    """What is left when the `count` oldest parts of the conversation are left out.

    A part is a message, or a call with its results. What system and developer say stays, and so does the last part.
    """
    gone = {index for unit in _droppable(items)[:count] for index in unit}
    return [item for index, item in enumerate(items) if index not in gone]


def num_droppable(items: list[Json]) -> int:
    return len(_droppable(items))


def _droppable(items: list[Json]) -> list[list[int]]:
    units: list[list[int]] = []
    unit_of: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.get("role") in ("system", "developer"):
            continue
        if item["type"] == "function_call_output" and item["call_id"] in unit_of:
            unit_of[item["call_id"]].append(index)
            continue
        units.append([index])
        if item["type"] == "function_call":
            unit_of[item["call_id"]] = units[-1]
    last = len(items) - 1
    return [unit for unit in units if last not in unit]

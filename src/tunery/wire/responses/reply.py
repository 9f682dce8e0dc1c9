"""A chat's answer as a response: its items, the events that tell them one after the other, and the object itself.

    chat                        events                                        response
    role ─────────────────────▶ created, in_progress                          output: []
    text, text, … ────────────▶ output_item.added, content_part.added,        message
                                output_text.delta …, ….done ×3
    call, its arguments, … ───▶ output_item.added,                            function_call
                                function_call_arguments.delta …, ….done ×2
    usage ────────────────────▶ completed or incomplete                       status, usage

Whole and streamed answers go the same way, so that they say the same: a whole one is a stream of one chunk.
"""

from collections.abc import Iterator
from typing import Any

from tunery.domain.ids import new_id
from tunery.domain.json_body import as_list, as_object
from tunery.wire.responses.items import message, output_text

Json = dict[str, Any]

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}  # finish_reason -> reason


def new_response(response_id: str, created_at: int, sent: Json) -> Json:
    """The object as it is when nothing has been answered yet."""
    text = as_object(sent.get("text"))
    conversation = sent.get("conversation")
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": sent.get("background") is True,
        "completed_at": None,
        "conversation": None if conversation is None else {"id": conversation},
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": sent.get("instructions"),
        "max_output_tokens": sent.get("max_output_tokens"),
        "max_tool_calls": sent.get("max_tool_calls"),
        "metadata": sent.get("metadata") or {},
        "model": sent["model"],
        "output": [],
        "parallel_tool_calls": sent.get("parallel_tool_calls") is not False,
        "presence_penalty": 0.0,
        "previous_response_id": sent.get("previous_response_id"),
        "prompt_cache_key": sent.get("prompt_cache_key"),
        "reasoning": {"effort": as_object(sent.get("reasoning")).get("effort"), "summary": None},
        "safety_identifier": sent.get("safety_identifier"),
        "service_tier": "default",
        "store": sent.get("store") is not False,
        "temperature": 1.0 if sent.get("temperature") is None else sent["temperature"],
        "text": {"format": _format(text.get("format")), "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": sent.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in sent.get("tools") or ()],
        "top_logprobs": sent.get("top_logprobs") or 0,
        "top_p": 1.0 if sent.get("top_p") is None else sent["top_p"],
        "truncation": sent.get("truncation") or "disabled",
        "usage": None,
        "user": sent.get("user"),
    }


def _format(wanted: Json | None) -> Json:
    if wanted is None:
        return {"type": "text"}
    if wanted.get("type") != "json_schema":
        return {"type": wanted.get("type")}
    return {
        "type": "json_schema",
        "description": wanted.get("description"),
        "name": wanted["name"],
        "schema": wanted["schema"],
        "strict": wanted.get("strict") is True,
    }


def _tool(tool: Json) -> Json:
    return {
        "type": "function",
        "description": tool.get("description"),
        "name": tool["name"],
        "parameters": tool.get("parameters"),
        "strict": tool.get("strict") is True,
    }


def response_usage(usage: Json) -> Json:
    """A chat's usage by the names that it has here."""
    prompt, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = as_object(usage.get("prompt_tokens_details")).get("cached_tokens") or 0
    reasoning = as_object(usage.get("completion_tokens_details")).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


class Reply:
    """One response while it is answered. Each method gives the events that tell what it did."""

    def __init__(self, response: Json, next_number: int = 0) -> None:
        """`next_number`: the sequence number of its first event, where earlier ones were told by somebody else."""
        self.response = response
        self._next = next_number
        self._open: _Text | _Call | None = None
        self._held = ""  # the end of the text that is white space: nothing, if a call follows
        self._held_logprobs: list[Json] = []
        self._finish_reason: str | None = None
        self._usage: Json = {}
        self._error: Json | None = None

    def begin(self, *, is_queued: bool = False) -> list[Json]:
        kinds = ("created", "queued", "in_progress") if is_queued else ("created", "in_progress")
        events: list[Json] = []
        for kind in kinds:
            self.response["status"] = "queued" if is_queued and kind != "in_progress" else "in_progress"
            events.append(self._lifecycle(kind))
        return events

    def take(self, answer: Json) -> list[Json]:
        """A chunk of the chat's answer, or the whole of it."""
        self._usage = answer.get("usage") or self._usage
        self._error = answer.get("error") or self._error
        return [event for choice in answer.get("choices") or () for event in self._take_choice(choice)]

    def _take_choice(self, choice: Json) -> list[Json]:
        said = as_object(choice.get("delta") or choice.get("message"))
        logprobs = [_logprob(entry) for entry in as_list(as_object(choice.get("logprobs")).get("content"))]
        events = list(self._take_text(said.get("content") or "", logprobs))
        if said.get("refusal"):
            events += self._add(said["refusal"], [], is_refusal=True)
        for index, call in enumerate(as_list(said.get("tool_calls"))):
            events += self._take_call(call, call.get("index", index))
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def _take_text(self, text: str, logprobs: list[Json]) -> Iterator[Json]:
        whole = self._held + text
        shown = whole.rstrip()
        self._held, self._held_logprobs = whole[len(shown) :], self._held_logprobs + logprobs
        if shown:
            logprobs, self._held_logprobs = self._held_logprobs, []
            yield from self._add(shown, logprobs)

    def _add(self, text: str, logprobs: list[Json], *, is_refusal: bool = False) -> Iterator[Json]:
        if not isinstance(self._open, _Text) or self._open.is_refusal != is_refusal:
            yield from self._begin(_Text(new_id("message"), is_refusal))
        one = self._open
        assert isinstance(one, _Text)
        one.text += text
        one.logprobs += logprobs
        kind = "refusal" if is_refusal else "output_text"
        more = {} if is_refusal else {"logprobs": logprobs}
        yield self._event(f"{kind}.delta", **self._place(one), delta=text, **more)

    def _take_call(self, call: Json, index: int) -> Iterator[Json]:
        function = as_object(call.get("function"))
        if not isinstance(self._open, _Call) or self._open.index != index:
            self._held, self._held_logprobs = "", []
            one = _Call(new_id("function_call"), call.get("id") or "", function.get("name") or "", index)
            yield from self._begin(one)
        yield from self._argue(function.get("arguments") or "")

    def _argue(self, arguments: str) -> Iterator[Json]:
        one = self._open
        if arguments and isinstance(one, _Call):
            one.arguments += arguments
            yield self._event("function_call_arguments.delta", **self._place(one), delta=arguments)

    def _begin(self, one: "_Text | _Call") -> Iterator[Json]:
        """Open an item; what was open before has ended."""
        yield from self._close()
        self._open = one
        yield self._event("output_item.added", output_index=self._index, item=one.item("in_progress"))
        if isinstance(one, _Text):
            yield self._event("content_part.added", **self._place(one), part=one.part(is_empty=True))

    @property
    def _index(self) -> int:
        """Of the item that is open, or comes next."""
        return len(self.response["output"])

    def _place(self, one: "_Text | _Call") -> Json:
        place: Json = {"item_id": one.id, "output_index": self._index}
        return place | {"content_index": 0} if isinstance(one, _Text) else place

    def _close(self, status: str = "completed") -> Iterator[Json]:
        """End the item that is open."""
        one, self._open = self._open, None
        if one is None:
            return
        if isinstance(one, _Text):
            kind, value = ("refusal", "refusal") if one.is_refusal else ("output_text", "text")
            more = {} if one.is_refusal else {"logprobs": one.logprobs}
            yield self._event(f"{kind}.done", **self._place(one), **{value: one.text}, **more)
            yield self._event("content_part.done", **self._place(one), part=one.part())
        else:
            done = {"name": one.name, "arguments": one.arguments}
            yield self._event("function_call_arguments.done", **self._place(one), **done)
        item = one.item(status)
        yield self._event("output_item.done", output_index=self._index, item=item)
        self.response["output"].append(item)

    def end(self, now: int, *, is_cancelled: bool = False) -> list[Json]:
        """The answer is over; `is_cancelled`: because nobody wants it any more."""
        if self._error is not None:
            return self.fail(str(self._error.get("message")))
        reason = INCOMPLETE.get(self._finish_reason or "")
        is_whole = reason is None and not is_cancelled
        events: list[Json] = []
        is_silent = not (self.response["output"] or self._open)
        if is_silent or (self._held and isinstance(self._open, _Text)):
            events += self._add(self._held, self._held_logprobs)
        events += self._close("completed" if is_whole else "incomplete")
        status = "completed" if is_whole else "cancelled" if is_cancelled else "incomplete"
        self.response |= {
            "status": status,
            "completed_at": now if is_whole else None,
            "incomplete_details": None if reason is None or is_cancelled else {"reason": reason},
            "usage": response_usage(self._usage),
        }
        return [*events, self._lifecycle(_END_EVENTS[status])]

    def fail(self, message: str, code: str = "server_error") -> list[Json]:
        """What was open stays as far as it came. `code` is one of those that OpenAI's clients know."""
        events = [] if self._next else self.begin()
        for _ in self._close("incomplete"):
            pass
        error = {"code": code, "message": message, "type": "server_error", "param": None}
        self.response |= {"status": "failed", "error": error}
        return [*events, self._lifecycle("failed")]

    def error(self, message: str, code: str | None, param: str | None = None) -> Json:
        """What ends a stream from outside of the response."""
        return error_event(self._event("error")["sequence_number"], message, code, param)

    def replay(self, ended: Json) -> list[Json]:
        """The events of a response that has ended, each text in one piece. For a Reply that has taken nothing."""
        events = self.begin()
        for item in ended["output"]:
            events += self._again(item)
        self.response = ended
        return [*events, self._lifecycle("failed" if ended["status"] == "failed" else _END_EVENTS[ended["status"]])]

    def _again(self, item: Json) -> Iterator[Json]:
        if item["type"] == "function_call":
            yield from self._begin(_Call(item["id"], item["call_id"], item["name"]))
            yield from self._argue(item["arguments"])
        else:
            part = item["content"][0]
            is_refusal = part["type"] == "refusal"
            yield from self._begin(_Text(item["id"], is_refusal))
            text = part["refusal"] if is_refusal else part["text"]
            yield from self._add(text, [] if is_refusal else part["logprobs"], is_refusal=is_refusal)
        yield from self._close(item["status"])

    def _lifecycle(self, kind: str) -> Json:
        return self._event(kind, response={**self.response, "output": list(self.response["output"])})

    def _event(self, kind: str, **members: Any) -> Json:
        number, self._next = self._next, self._next + 1
        return {"type": f"response.{kind}", "sequence_number": number, **members}


def error_event(number: int, message: str, code: str | None, param: str | None = None) -> Json:
    """`number`: of the event."""
    return {"type": "error", "sequence_number": number, "code": code, "message": message, "param": param}


# No event tells of a cancelled response: what was streamed until then ends as incomplete.
_END_EVENTS = {"completed": "completed", "incomplete": "incomplete", "cancelled": "incomplete"}


class _Text:
    """A message that is being said: an answer, or a refusal."""

    def __init__(self, id: str, is_refusal: bool) -> None:
        self.id, self.is_refusal = id, is_refusal
        self.text = ""
        self.logprobs: list[Json] = []

    def part(self, *, is_empty: bool = False) -> Json:
        text, logprobs = ("", []) if is_empty else (self.text, self.logprobs)
        return {"type": "refusal", "refusal": text} if self.is_refusal else output_text(text, logprobs)

    def item(self, status: str) -> Json:
        content = [] if status == "in_progress" else [self.part()]
        return message("assistant", content, id=self.id, status=status)


class _Call:
    """A call that is being made."""

    def __init__(self, id: str, call_id: str, name: str, index: int = 0) -> None:
        self.id, self.call_id, self.name = id, call_id, name
        self.index = index  # among the calls of the chat's answer
        self.arguments = ""

    def item(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "arguments": self.arguments,
            "call_id": self.call_id,
            "name": self.name,
        }


def _logprob(entry: Json) -> Json:
    tops = [_token(top) for top in entry.get("top_logprobs") or ()]
    return {**_token(entry), "top_logprobs": tops}


def _token(entry: Json) -> Json:
    """Of tokens that are no text chat has no bytes; here they are a list in any case."""
    return {"token": entry["token"], "bytes": entry.get("bytes") or [], "logprob": entry["logprob"]}


def replayed(ended: Json) -> list[Json]:
    """The events of a response that has ended and whose own were not kept."""
    untold = dict.fromkeys(("usage", "completed_at", "error", "incomplete_details"))
    return Reply({**ended, **untold, "output": []}).replay(ended)

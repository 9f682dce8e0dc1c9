"""Asks a model the questions of a file and keeps what it answers: a golden file, one answer a line.

Recorded from the old model while it still answers, it is both the measure for its successor and training data.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from openai import OpenAI, OpenAIError
from openai.types.chat import ChatCompletion

from tunery.datasets.answers import training_row
from tunery.datasets.conversations import Conversation, read_conversations
from tunery.datasets.lines import read_chunks
from tunery.datasets.problems import Problem
from tunery.domain.errors import InvalidRequest
from tunery.domain.usage import Price, TokenUsage
from tunery.migrate import responses
from tunery.migrate.source import Json, explain

Api = Literal["chat", "responses"]
CONNECTIONS = 4
CHARACTERS_A_TOKEN = 3.5  # English text under OpenAI's tokenizers has about 4; lower, so that the estimate errs upwards


@dataclass(frozen=True)
class Prompt:
    row: int  # 1-based line of its file
    messages: list[Json]
    expected: str | None = None  # the file's own last answer as `said` writes it, when it has one
    tools: list[Json] | None = None


@dataclass(frozen=True)
class ModelAnswer:
    """One answer. `error` is set instead of `answer` when the model gave none."""

    row: int
    messages: list[Json]
    model: str
    expected: str | None = None
    answer: str | None = None
    tool_calls: list[Json] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of the answer's tokens; empty when the server gives none
    usage: dict[str, int] = field(default_factory=dict)
    latency_ms: float = 0.0
    finish_reason: str | None = None
    error: str | None = None
    tools: list[Json] | None = None

    @property
    def text(self) -> str:
        """What is compared: the words, and the calls of tools."""
        return said(self.answer, self.tool_calls)

    @property
    def is_cut(self) -> bool:
        return self.finish_reason == "length"


def said(content: str | None, calls: Iterable[Json] = ()) -> str:
    """The words of an answer and a line for each call: the same call is the same text, however its JSON is written."""
    called = [f"{call['function']['name']}({_canonical(call['function']['arguments'])})" for call in calls]
    return "\n".join(filter(None, [content, *called]))


def _canonical(arguments: str) -> str:
    try:
        return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:  # a call that was cut
        return arguments


def read_prompts(path: Path, *, limit: int | None = None) -> list[Prompt]:
    """Rows of a training file of any format; a last assistant message becomes `expected`. Takes every k-th row to meet
    `limit`. Raises InvalidRequest naming the line that cannot be read or has nothing to answer."""
    prompts = [_prompt(row) for row in read_conversations(read_chunks(path))]
    if limit is None or limit >= len(prompts):
        return prompts
    return [prompts[index * len(prompts) // limit] for index in range(limit)]


def _prompt(row: Conversation | Problem) -> Prompt:
    if isinstance(row, Problem):
        raise InvalidRequest(f"Line {row.line}: {row.message}")
    if not row.messages:
        raise InvalidRequest(f"Line {row.line} has no message to answer.")
    expected = None if row.answer is None else said(row.answer_text, row.answer.get("tool_calls") or ())
    return Prompt(row.line, row.messages, expected, row.tools)


def estimate_cost(prompts: Iterable[Prompt], price: Price, *, max_tokens: int) -> int:
    """In the ledger's unit, from above: prompts by their characters, answers by their expected or greatest length."""
    total = 0
    for prompt in prompts:
        characters = len(orjson.dumps([prompt.messages, prompt.tools]))
        answer = max_tokens if prompt.expected is None else min(max_tokens, int(len(prompt.expected) / 2) + 16)
        total += price.cost(TokenUsage(int(characters / CHARACTERS_A_TOKEN), output_tokens=answer)).total
    return total


def capture(
    client: OpenAI,
    model: str,
    prompts: list[Prompt],
    *,
    api: Api = "chat",
    max_tokens: int = 512,
    price: Price | None = None,
    cap: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[ModelAnswer]:
    """Answers in the order of the prompts, greedy. Stops asking once `cap` is spent, in the ledger's unit.

    A cap is kept to within the answers that were under way when it was reached, at most CONNECTIONS of them.
    """
    spent = 0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for start in range(0, len(prompts), CONNECTIONS):
            if cap is not None and spent >= cap:
                return
            batch = prompts[start : start + CONNECTIONS]
            for answer in pool.map(lambda prompt: ask(client, model, prompt, api=api, max_tokens=max_tokens), batch):
                if price is not None:
                    spent += cost_of(answer, price)
                yield answer
            progress(min(start + CONNECTIONS, len(prompts)), len(prompts))


def cost_of(answer: ModelAnswer, price: Price) -> int:
    """In the ledger's unit; as if nothing had been cached."""
    usage = answer.usage
    tokens = TokenUsage(usage.get("prompt_tokens", 0), output_tokens=usage.get("completion_tokens", 0))
    return price.cost(tokens).total


def ask(client: OpenAI, model: str, prompt: Prompt, *, api: Api, max_tokens: int) -> ModelAnswer:
    """One answer with its log-probabilities; without them where the server refuses to give them."""
    started = time.perf_counter()
    try:
        if api == "responses":
            response = responses.create(client, model, prompt.messages, prompt.tools, max_tokens=max_tokens)
            answer = responses.answer_of(response)
        else:
            answer = _kept(_complete(client, model, prompt, max_tokens=max_tokens))
    except OpenAIError as error:
        return _model_answer(prompt, model, {"error": explain(error)})
    return _model_answer(prompt, model, answer, latency_ms=(time.perf_counter() - started) * 1000)


def _complete(client: OpenAI, model: str, prompt: Prompt, *, max_tokens: int) -> ChatCompletion:
    request: dict[str, Any] = {
        "model": model,
        "messages": prompt.messages,
        "temperature": 0,
        "seed": 0,
        "max_completion_tokens": max_tokens,
        "logprobs": True,
    }
    if prompt.tools:
        request["tools"] = prompt.tools
    return client.chat.completions.create(**request)


def _kept(answer: ChatCompletion) -> Json:
    choice, usage = answer.choices[0], answer.usage
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    return {
        "answer": choice.message.content or "",
        "tool_calls": [call.model_dump(exclude_none=True) for call in choice.message.tool_calls or []],
        "logprobs": [token.logprob for token in tokens],
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens} if usage else {},
        "finish_reason": choice.finish_reason,
    }


def _model_answer(prompt: Prompt, model: str, answer: Json, *, latency_ms: float = 0.0) -> ModelAnswer:
    asked = {"row": prompt.row, "messages": prompt.messages, "expected": prompt.expected, "tools": prompt.tools}
    return ModelAnswer(model=model, latency_ms=latency_ms, **asked, **answer)


def recorded_answers(client: OpenAI, name: str) -> Iterator[ModelAnswer]:
    """Stored completions of a model as answers, in the order in which they were given: row 1 is the oldest."""
    for row, stored in enumerate(client.chat.completions.list(model=name, order="asc", limit=100), 1):
        messages = [
            _asked(message.to_dict()) for message in client.chat.completions.messages.list(stored.id, limit=100)
        ]
        tools: Any = (stored.model_extra or {}).get("tools")
        yield _model_answer(Prompt(row, messages, tools=tools), name, _kept(stored))


def _asked(stored: Json) -> Json:
    """A stored message as the request had it: parts again where the list shows their text as well."""
    message = {key: value for key, value in stored.items() if key not in ("id", "content_parts") and value is not None}
    return {**message, "content": stored.get("content_parts") or stored.get("content")}


def write_answers(path: Path, answers: Iterable[ModelAnswer]) -> list[ModelAnswer]:
    """Appends each answer as it comes, so that an interrupted capture keeps what was paid for."""
    kept = []
    with path.open("ab") as file:
        for answer in answers:
            file.write(orjson.dumps(asdict(answer)) + b"\n")
            file.flush()
            kept.append(answer)
    return kept


def read_answers(path: Path) -> list[ModelAnswer]:
    """The last answer for each row: a second capture after a failure replaces the failed ones."""
    rows: dict[int, ModelAnswer] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                answer = ModelAnswer(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError) as error:
                raise InvalidRequest(
                    f"{path}, line {number}, is not an answer that `migrate capture` wrote."
                ) from error
            rows[answer.row] = answer
    return [rows[row] for row in sorted(rows)]


def to_training_rows(answers: Iterable[ModelAnswer]) -> Iterator[bytes]:
    """Chat JSONL lines that teach a new model what the old one answered. An answer that was cut would teach to stop in
    the middle: it is left out."""
    for answer in answers:
        if answer.error is None and answer.text and not answer.is_cut:
            yield orjson.dumps(_training_row(answer)) + b"\n"


def _training_row(answer: ModelAnswer) -> Json:
    learned: Json = {"role": "assistant", "content": answer.answer or None}
    if answer.tool_calls:
        learned["tool_calls"] = answer.tool_calls
    request: Json = {"messages": answer.messages, **({"tools": answer.tools} if answer.tools else {})}
    return training_row(request, learned)

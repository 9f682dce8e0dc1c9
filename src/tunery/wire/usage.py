"""The engine's `usage`, complete for clients and in numbers for the ledger."""

from typing import Any

from tunery.domain.json_body import as_list, as_object
from tunery.domain.usage import TokenUsage

Json = dict[str, Any]

FIRST_CACHED, CACHED_STEP = 1024, 128  # OpenAI's rule
CHARACTERS_A_TOKEN = 4  # a rough mean, for limits only; the ledger takes the engine's count


def completed(usage: Json, rule: str) -> Json:
    """With every detail that clients read, also where an engine leaves it out. `rule` says how hits are counted."""
    prompt = as_object(usage.get("prompt_tokens_details"))
    output = as_object(usage.get("completion_tokens_details"))
    cached = prompt.get("cached_tokens") or 0
    return {
        **usage,
        "prompt_tokens_details": {
            "audio_tokens": 0,
            **prompt,
            "cached_tokens": by_openai_rule(cached) if rule == "openai" else cached,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            **output,
        },
    }


def by_openai_rule(cached: int) -> int:
    """From 1,024 tokens in steps of 128; applying it twice changes nothing."""
    return 0 if cached < FIRST_CACHED else cached - (cached - FIRST_CACHED) % CACHED_STEP


def for_ledger(usage: Json) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=as_object(usage.get("prompt_tokens_details")).get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
    )


class Received:
    """What of a stream has come, to be counted when it is broken off and its engine does not say what it came to.

    vLLM says with each chunk what the choice in it has come to (`continuous_usage_stats`). Where an engine does not,
    each chunk with a choice counts as a token and the prompt as it was estimated.
    """

    def __init__(self, sent: Json) -> None:
        self._sent = sent
        self._usages: dict[int, Json] = {}
        self._pieces = 0

    def take(self, chunk: Json) -> None:
        for choice in chunk.get("choices", ()):
            self._pieces += 1
            if chunk.get("usage"):
                self._usages[choice.get("index", 0)] = chunk["usage"]

    def usage(self) -> Json:
        if not self._usages:
            return {"prompt_tokens": estimated_prompt_tokens(self._sent), "completion_tokens": self._pieces}
        count = self._sent.get("n") or 1
        prompts: dict[int, int] = {}  # answers to one prompt stand side by side
        for index, usage in self._usages.items():
            prompts[index // count] = usage.get("prompt_tokens") or 0
        output = sum(usage.get("completion_tokens") or 0 for usage in self._usages.values())
        return {"prompt_tokens": sum(prompts.values()), "completion_tokens": output}


def estimated_tokens(sent: Json, context_length: int | None) -> int:
    """The prompts and the longest answers that were asked for, as far as the context lets them grow."""
    longest = sent.get("max_completion_tokens") or sent.get("max_tokens") or 0
    count = sent.get("n") or 1
    if not isinstance(longest, int) or not isinstance(count, int):  # the engine refuses it
        return estimated_prompt_tokens(sent)
    if context_length is not None:
        longest = min(longest, context_length)
    return estimated_prompt_tokens(sent) + max(0, longest * count * _num_prompts(sent.get("prompt")))


def estimated_prompt_tokens(sent: Json) -> int:
    text = sum(_length(message.get("content")) for message in sent.get("messages", ()))
    return (text + _length(sent.get("prompt"))) // CHARACTERS_A_TOKEN


def _num_prompts(prompt: Any) -> int:
    many = as_list(prompt)
    return len(many) if isinstance(prompt, list) and not (many and isinstance(many[0], int)) else 1


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(
            _length(as_object(part).get("text") if isinstance(part, dict) else part) for part in as_list(content)
        )
    return CHARACTERS_A_TOKEN if isinstance(content, int) else 0

"""The engine's `usage`, complete for clients and in numbers for the ledger."""

from typing import Any

from tunery.domain.usage import TokenUsage

Json = dict[str, Any]

FIRST_CACHED, CACHED_STEP = 1024, 128  # OpenAI's rule
CHARACTERS_A_TOKEN = 4  # a rough mean, for limits only; the ledger takes the engine's count


def completed(usage: Json, rule: str) -> Json:
    """With every detail that clients read, also where an engine leaves it out. `rule` says how hits are counted."""
    prompt = usage.get("prompt_tokens_details") or {}
    output = usage.get("completion_tokens_details") or {}
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
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
    )


def estimated_tokens(sent: Json) -> int:
    """The prompt and the longest answer that was asked for."""
    longest = sent.get("max_completion_tokens") or sent.get("max_tokens") or 0
    count = sent.get("n") or 1
    text = sum(_length(message.get("content")) for message in sent.get("messages", ()))
    text += _length(sent.get("prompt"))
    answers = longest * count if isinstance(longest, int) and isinstance(count, int) else 0
    return text // CHARACTERS_A_TOKEN + max(0, answers)


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(_length(part.get("text") if isinstance(part, dict) else part) for part in content)
    return CHARACTERS_A_TOKEN if isinstance(content, int) else 0

"""One line of a training file, once it is known to be good. Messages stay dictionaries in OpenAI's wire form."""

from dataclasses import dataclass
from typing import Any, Literal

Message = dict[str, Any]
Tool = dict[str, Any]
Format = Literal["chat", "preference", "completion"]


@dataclass(frozen=True)
class ChatExample:
    """Supervised chat. Legacy `functions` and `function_call` have become `tools` and `tool_calls`."""

    line: int  # 1-based, in the file
    messages: list[Message]  # an assistant message may carry `weight` 0 or 1; absent means 1
    tools: list[Tool] | None = None


@dataclass(frozen=True)
class PreferenceExample:
    """One prompt with a better and a worse answer (DPO)."""

    line: int
    messages: list[Message]
    preferred: Message
    non_preferred: Message
    tools: list[Tool] | None = None


@dataclass(frozen=True)
class CompletionExample:
    """Legacy prompt and completion: plain text, no chat template."""

    line: int
    prompt: str
    completion: str

    def as_chat(self) -> ChatExample:
        """White space around the completion parted it from the prompt; a chat's template does that."""
        answer = {"role": "assistant", "content": self.completion.strip()}
        return ChatExample(self.line, [{"role": "user", "content": self.prompt}, answer])


Example = ChatExample | PreferenceExample | CompletionExample


def format_of(example: Example) -> Format:
    match example:
        case ChatExample():
            return "chat"
        case PreferenceExample():
            return "preference"
        case CompletionExample():
            return "completion"

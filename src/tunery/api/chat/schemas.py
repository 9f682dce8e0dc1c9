"""Inference on the wire. Requests are open here: inference.parameters says what becomes of each key."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tunery.api.body import Body
from tunery.domain.completions import StoredCompletion
from tunery.texts import say


def no_nul(name: str) -> str:
    if "\0" in name:
        raise ValueError(say("error.no_nul"))
    return name


ModelName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(no_nul)]


class ChatRequest(BaseModel):
    """The keys that the API itself reads. All others go on to the engine, which checks them."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelName
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    functions: list[dict[str, Any]] | None = Field(None, max_length=128)
    function_call: Literal["none", "auto"] | dict[str, Any] | None = None

    def sent(self) -> dict[str, Any]:
        """What the client sent, and nothing that it did not."""
        return self.model_dump(exclude_unset=True)


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelName
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def sent(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class CompletionUpdate(Body):
    metadata: dict[str, str] | None = Field(max_length=16)


class DeletedCompletion(BaseModel):
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: bool = True


class StoredMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    role: str
    content: str | None
    refusal: str | None = None
    content_parts: list[dict[str, Any]] | None


class StoredCompletionOut(BaseModel):
    """The completion as it was answered, with the metadata of today."""

    model_config = ConfigDict(extra="allow")

    object: Literal["chat.completion"] = "chat.completion"
    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    metadata: dict[str, str] | None


def wire_completion(completion: StoredCompletion) -> StoredCompletionOut:
    sampling = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "tools", "tool_choice")
    return StoredCompletionOut.model_validate(
        {
            **completion.response,
            "object": "chat.completion",
            "id": completion.id,
            "created": completion.created_at,
            "model": completion.model,
            "metadata": completion.metadata,
            **{name: completion.request[name] for name in sampling if name in completion.request},
        }
    )


def wire_message(completion: StoredCompletion, index: int) -> StoredMessage:
    message = completion.request["messages"][index]
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = "".join(part.get("text", "") for part in parts) if parts else content
    return StoredMessage.model_validate(
        {**message, "id": f"{completion.id}-{index}", "content": text, "content_parts": parts}
    )

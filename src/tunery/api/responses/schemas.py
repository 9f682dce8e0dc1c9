"""Responses on the wire. Requests are open here: `wire.responses.request` says what becomes of each key, and
`wire.responses` what items, tools and formats may hold."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tunery.api.body import Body
from tunery.api.chat.routes import ModelName
from tunery.api.metadata import Metadata
from tunery.domain.numbers import Int
from tunery.texts import say
from tunery.wire.responses.items import ID

MIN_OUTPUT_TOKENS = 16
MAX_ITEMS = 2048  # of one request; each may refer to another, which is looked up
MAX_NEW_ITEMS = 20  # of one request about a conversation


def an_id(text: str) -> str:
    if not re.fullmatch(ID, text):
        raise ValueError(say("error.not_an_id", id=repr(text[:200])))
    return text


def id_of(value: Any) -> Any:
    """A conversation may come as an object with its id."""
    return value["id"] if isinstance(value, dict) and isinstance(value.get("id"), str) else value


Id = Annotated[str, AfterValidator(an_id)]


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Prompt(BaseModel):
    """What a prompt is made of: of a response, and to be counted."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelName
    input: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    conversation: Annotated[Id | None, BeforeValidator(id_of)] = None
    text: Text | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: dict[str, Any] | None = None

    def sent(self) -> dict[str, Any]:
        """What the client sent, and nothing that it did not; a conversation by its id alone."""
        return self.model_dump(exclude_unset=True)


class ResponseRequest(Prompt):
    store: bool | None = None
    metadata: Metadata | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: Int | None = Field(None, ge=0, le=20)
    max_output_tokens: Int | None = Field(None, ge=MIN_OUTPUT_TOKENS)
    max_tool_calls: Int | None = Field(None, ge=0)
    include: list[str] | None = None
    stream: bool | None = None
    background: bool | None = None


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class DeletedResponse(BaseModel):
    object: Literal["response"] = "response"
    id: str
    deleted: bool = True


class Item(BaseModel):
    """A message, a function call or the output of one."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str


class NewConversation(BaseModel):
    model_config = Body.model_config  # but U+0000, which an answer that comes back as an item may hold

    items: list[dict[str, Any]] | None = Field(None, max_length=MAX_NEW_ITEMS)
    metadata: Metadata | None = None


class ConversationUpdate(Body):
    metadata: Metadata | None


class NewItems(BaseModel):
    model_config = Body.model_config

    items: list[dict[str, Any]] = Field(max_length=MAX_NEW_ITEMS)


class ConversationOut(BaseModel):
    object: Literal["conversation"] = "conversation"
    id: str
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(BaseModel):
    object: Literal["conversation.deleted"] = "conversation.deleted"
    id: str
    deleted: bool = True

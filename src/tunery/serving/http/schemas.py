"""The requests as they come, in vLLM's dialect. What is not here is refused as unknown: what else OpenAI's API knows is
the api's matter."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunery.domain.numbers import Int
from tunery.wire.chat import MAX_MESSAGES

Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
# Each step looks for them in all that may yet become one: a limit that OpenAI does not state.
StopText = Annotated[str, Field(max_length=1000)]
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]


Priority = Annotated[Int, Field(ge=0, le=100)]  # the lower number goes first; requests of batches have 1


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Wire):
    include_usage: bool = False
    include_obfuscation: bool = False  # ignored: there is no padding to leave out


class Generating(_Wire):
    """What both kinds of request share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: Int | None = None
    stop: Stop | None = None
    max_tokens: Annotated[Int, Field(ge=0)] | None = None
    # vLLM's
    request_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None  # what `/abort_requests` names
    cache_salt: str | None = None
    priority: Priority = 0
    ignore_eos: bool = False
    prompt_logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    # SGLang's: those of the prompt's tokens from this one on. What is before may come from the cache.
    logprob_start_len: Annotated[Int, Field(ge=0)] = 0
    # ignored
    user: str | None = None


class FunctionDefinition(_Wire):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(_Wire):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(_Wire):
    name: str


class NamedTool(_Wire):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(_Wire):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128)]


class AllowedToolChoice(_Wire):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(_Wire):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _OfMessage(BaseModel):
    """Of what a conversation is made: keys that say nothing to a chat template may come with it."""

    model_config = ConfigDict(extra="allow", strict=True)


class ContentPart(_OfMessage):
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(_OfMessage):
    name: str
    arguments: str | dict[str, Any] | None


class MadeCall(_OfMessage):
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_OfMessage):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    tool_calls: list[MadeCall] | None = None
    function_call: CalledFunction | None = None
    tool_call_id: str | None = None


def as_sent(messages: list[Message]) -> list[dict[str, Any]]:
    """With the keys that were sent, for the renderer."""
    return [message.model_dump(exclude_unset=True) for message in messages]


class ChatRequest(Generating):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Generating):
    prompt: str | list[str] | list[int] | list[list[int]] = ""  # empty: from the beginning of a text
    echo: bool = False
    logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None


class EmbeddingRequest(_Wire):
    model: str
    input: str | Annotated[list[str], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    priority: Priority = 0
    request_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None  # what `/abort_requests` names


class LoadAdapter(BaseModel):
    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]


class UnloadAdapter(BaseModel):
    lora_name: Annotated[str, Field(min_length=1)]


class AbortRequests(BaseModel):
    request_ids: list[str]


class TokenizeRequest(BaseModel):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[ToolDefinition] | None = None
    add_generation_prompt: bool = True

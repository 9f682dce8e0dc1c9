"""What the routes share: the model's tokenizer, renderer and grammars, the engine, and the way to its outputs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest, no_such_model
from tunery.domain.ids import random_text
from tunery.serving.constraints import Grammar, Grammars
from tunery.serving.http.broker import Broker
from tunery.serving.http.embeddings import Embeddings
from tunery.serving.http.schemas import ChatRequest, CompletionRequest, Generating
from tunery.serving.requests import Backend, Generation, Output, SamplingParams
from tunery.serving.text import TokenTable
from tunery.texts import say

STREAM_EVERY_S = 1 / 30  # as often as a film shows a picture


@dataclass
class Service:
    engine: Backend
    broker: Broker
    renderer: Renderer
    table: TokenTable
    grammars: Grammars
    embeddings: Embeddings | None  # None: it has no models for them
    base_names: tuple[str, ...]  # names of the weights without an adapter
    fingerprint: str
    api_key: str = ""  # "": none is asked for
    host: str = "127.0.0.1"
    adapters_below: tuple[Path, ...] = ()  # empty: anywhere

    @property
    def vocab_size(self) -> int:
        return self.table.vocab_size

    @property
    def text_start_ids(self) -> list[int]:
        """What stands for an empty prompt: the token that begins a text or, where a model has none, ends one."""
        names = self.renderer.special_tokens
        start = self.renderer.tokenizer.token_to_id(names.get("bos_token") or names.get("eos_token") or "")
        return [min(self.renderer.eos_ids) if start is None else start]

    def adapter_of(self, model: str) -> str | None:
        """None for the base. Raises NotFound."""
        if model in self.base_names:
            return None
        if model not in self.engine.adapters:
            raise no_such_model(model)
        return model

    def check_size(self, num_characters: int, *, param: str) -> None:
        """Refuse a prompt that cannot fit whatever its tokens are, before they are counted: that takes seconds for
        megabytes. Raises InvalidRequest `context_length_exceeded`."""
        limit = self.engine.context_length
        if num_characters > limit * max(self.table.longest, MAX_SPECIAL):
            raise InvalidRequest(
                say("error.context_length.characters", limit=limit, param=param, num_characters=num_characters),
                param=param,
                code="context_length_exceeded",
            )

    def whole(self, generations: list[Generation]) -> AsyncIterator[Output]:
        """The answers' outputs, told when one of them ends."""
        return self.broker.run(self.engine, generations)

    def streamed(self, generations: list[Generation]) -> AsyncIterator[Output]:
        """The answers' outputs as they come, the first and the ends at once."""
        return self.broker.run(self.engine, generations, STREAM_EVERY_S)

    def generations(
        self, request: Generating, prompt_ids: list[int], params: SamplingParams, count: int, salt_seed: str = ""
    ) -> list[Generation]:
        """`count` sequences of one prompt. With a seed each has its own, derived from it and its index."""
        adapter = self.adapter_of(request.model)
        ident = random_text(16)
        return [
            Generation(
                id=f"{ident}-{index}",
                prompt_ids=prompt_ids,
                params=_seeded(params, request.seed, f"{salt_seed}{index}"),
                adapter=adapter,
                salt=request.cache_salt or "",
                priority=request.priority,
                request_id=request.request_id or ident,
            )
            for index in range(count)
        ]


def _seeded(params: SamplingParams, seed: int | None, suffix: str) -> SamplingParams:
    return params if seed is None else replace(params, seed=f"{seed}:{suffix}")


def sampling_params(
    request: ChatRequest | CompletionRequest,
    *,
    max_tokens: int,
    top_logprobs: int | None,
    grammar: Grammar | None,
    vocab_size: int,
) -> SamplingParams:
    """The request's, with the engine's defaults. Raises InvalidRequest."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=request.top_p if request.top_p else 1.0 if request.top_p is None else 1e-9,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=_biases(request.logit_bias, vocab_size),
        top_logprobs=top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        logprob_start_len=request.logprob_start_len,
        stop=tuple(text for text in stop if text),
        ignore_eos=request.ignore_eos,
        grammar=grammar,
    )


MAX_BIASES = 1024
MAX_SPECIAL = 64  # characters of a special token, whose bytes the table does not know


def _biases(given: dict[str, float] | None, vocab_size: int) -> dict[int, float]:
    if given is not None and len(given) > MAX_BIASES:
        raise InvalidRequest(
            say("error.logit_bias_too_many", num_tokens=len(given), most=MAX_BIASES),
            param="logit_bias",
            code="object_above_max_properties",
        )
    biases: dict[int, float] = {}
    for key, value in (given or {}).items():
        # Its length first: Python refuses to read a number of thousands of digits.
        if not (key.isascii() and key.isdecimal() and len(key) <= 10) or int(key) >= vocab_size:
            raise InvalidRequest(
                say("error.logit_bias_key", key=key[:20], vocab_size=vocab_size),
                param="logit_bias",
                code="invalid_value",
            )
        biases[int(key)] = value
    return biases

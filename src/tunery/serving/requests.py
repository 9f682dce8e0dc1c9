"""What a caller asks of the engine and what it hears back. One `Generation` makes one sequence."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from tunery.domain.errors import TuneryError
from tunery.serving.constraints import Grammar
from tunery.serving.metrics import EngineMetrics

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int  # 0: only compute the prompt
    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: str | None = None  # equal seeds give equal draws; None: a fresh one
    top_logprobs: int | None = None  # None: no log-probabilities; 0: of the drawn token only
    prompt_logprobs: int | None = None  # the same for the prompt's own tokens
    logprob_start_len: int = 0  # of them, those from this position on
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None  # only what it allows is drawn


@dataclass(frozen=True)
class Generation:
    id: str
    prompt_ids: list[int]
    params: SamplingParams
    adapter: str | None = None  # registered name; None: the base
    salt: str = ""
    priority: int = 0  # of requests with different ones, the lower number goes first
    request_id: str = ""  # the request that it is an answer of: what `abort` names

    @property
    def scored_from(self) -> int | None:
        """The first prompt token that gets a log-probability, which the very first never does. None: none is to."""
        if self.params.prompt_logprobs is None:
            return None
        return min(max(1, self.params.logprob_start_len), len(self.prompt_ids))


@dataclass(frozen=True)
class TokenLogprob:
    token_id: int
    logprob: float
    rank: int | None = None  # 1: the most likely
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Output:
    """What became of a sequence in one step."""

    id: str
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens that `text` is the end of; stop sequences are left out
    offsets: tuple[int, ...] = ()  # for each of those, the character of the answer that its first byte belongs to
    num_output_tokens: int = 0  # so far
    num_cached_tokens: int = 0  # prompt tokens that were not computed anew
    num_prompt_tokens: int | None = None  # of an aborted one: how far its prompt had come, cached tokens included
    finish_reason: FinishReason | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None  # with the first and the last output, if asked for
    is_stopped: bool = False  # a stop sequence ended it, not the model
    error: TuneryError | None = None


class Backend(Protocol):
    """Who computes: this project's engine, in a thread of the process, or a vLLM in another one. Outputs go to the
    sink that it was made with."""

    metrics: EngineMetrics
    context_length: int  # tokens of prompt and answer
    failure: BaseException | None  # what ended it, if anything did

    @property
    def is_alive(self) -> bool: ...
    @property
    def adapters(self) -> frozenset[str]:
        """Names that may be asked for."""
        ...

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def submit(self, generations: list[Generation]) -> None: ...
    def abort(self, ids: list[str], *, report: bool = False) -> None:
        """End these sequences. With `report` a last output of each says what it came to; without, none follows."""

    def load(self, name: str, folder: Path) -> "Future[None]":
        """Done when the adapter can answer; InvalidRequest when its files are no good."""
        ...

    def unload(self, name: str) -> "Future[None]":
        """NotFound when there is none."""
        ...

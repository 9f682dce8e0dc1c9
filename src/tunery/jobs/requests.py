"""What a caller may ask of a job, and the bounds. Everything here is decided without the database."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import AUTO, Hyperparameters
from tunery.domain.jobs import METHODS, Method
from tunery.domain.names import check_suffix
from tunery.texts import say
from tunery.wire.validation import out_of_bounds

MAX_SEED = 2**31 - 1
MAX_EPOCHS = 50
MAX_BATCH_SIZE = 256
MAX_BETA = 2.0
MAX_SAMPLE_PROMPTS = 8
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


@dataclass(frozen=True)
class JobRequest:
    """A create request after its shape has been read. Values may still be out of bounds: `check` says so."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: str = "supervised"
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    suffix: str | None = None
    seed: int | None = None
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    sample_prompts: list[list[dict[str, str]]] | None = None
    is_flat: bool = False  # the hyperparameters came beside `method`, as the first clients send them


def check(request: JobRequest) -> Method:
    """The method, now known to be one of ours. Raises InvalidRequest naming the first value out of bounds."""
    method = _method(request.method)
    where = "hyperparameters" if request.is_flat else f"method.{method}.hyperparameters"
    _check_hyperparameters(request.hyperparameters, where)
    if request.seed is not None:
        _within(request.seed, "seed", least=0, most=MAX_SEED)
    if request.suffix is not None:
        check_suffix(request.suffix)
    _check_metadata(request.metadata)
    for index, messages in enumerate(request.sample_prompts or ()):
        if messages[-1]["role"] != "user":
            param = f"sample_prompts[{index}]"
            raise InvalidRequest(say("error.sample_without_question", param=param), param=param, code="invalid_value")
    return method


def _method(method: str) -> Method:
    if method == "reinforcement":
        raise InvalidRequest(
            say("error.no_reinforcement"),
            param="method.type",
            code="unsupported_value",
        )
    if method not in METHODS:
        raise InvalidRequest(
            say("error.invalid_method", method=method),
            param="method.type",
            code="invalid_value",
        )
    return method


def _check_hyperparameters(chosen: Hyperparameters, where: str) -> None:
    if chosen.n_epochs != AUTO:
        _within(chosen.n_epochs, f"{where}.n_epochs", least=1, most=MAX_EPOCHS)
    if chosen.batch_size != AUTO:
        _within(chosen.batch_size, f"{where}.batch_size", least=1, most=MAX_BATCH_SIZE)
    if chosen.learning_rate_multiplier != AUTO:
        _above_zero(chosen.learning_rate_multiplier, f"{where}.learning_rate_multiplier", most=None)
    if chosen.beta != AUTO:
        _above_zero(chosen.beta, f"{where}.beta", most=MAX_BETA)


def _within(value: int, param: str, *, least: int, most: int) -> None:
    if value < least:
        raise out_of_bounds(param, value, "ge", least)
    if value > most:
        raise out_of_bounds(param, value, "le", most)


def _above_zero(value: float, param: str, *, most: float | None) -> None:
    # Written so that NaN fails as well.
    if not value > 0:
        raise out_of_bounds(param, float(value), "gt", 0)
    if value == inf or (most is not None and value > most):
        raise out_of_bounds(param, float(value), "lt" if most is None else "le", inf if most is None else most)


def _check_metadata(metadata: dict[str, str] | None) -> None:
    if metadata is None:
        return
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(
            say("error.too_many_properties", param="metadata", bound=MAX_METADATA, size=len(metadata)),
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY:
            raise _too_long("metadata", f"the key {key[:20]!r}…", len(key), MAX_METADATA_KEY)
        if len(value) > MAX_METADATA_VALUE:
            raise _too_long(f"metadata.{key}", "the value", len(value), MAX_METADATA_VALUE)


def _too_long(param: str, what: str, length: int, most: int) -> InvalidRequest:
    return InvalidRequest(
        say("error.metadata_too_long", param=param, what=what, length=length, most=most),
        param=param,
        code="string_above_max_length",
    )

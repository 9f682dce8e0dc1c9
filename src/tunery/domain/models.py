"""A model that jobs made: its public name, the base it stands on and where its adapter lies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FineTunedModel:
    id: str  # `model_…`: the adapter's name in the engine and in blob storage, safe in a path
    name: str  # `ft:…`
    project_id: str
    created_at: int
    base_model: str  # snapshot name, as in `name`
    source: str  # the catalog source of the weights the adapter was trained on
    job_id: str | None
    step_number: int | None
    blob: str  # folder of adapter_config.json and adapter_model.safetensors
    owned_by: str
    trained_tokens: int = 0
    display_name: str | None = None  # its owner's own words for it; the name stays what calls it
    card: str | None = None  # as well: what it is for, how it was made, what it cannot; Markdown
    num_bytes: int = 0  # of the adapter; 0 for a model of a version that did not count them
    base_sha256: dict[str, str] | None = None  # of the base's files of weights, by name; None: not known


@dataclass(frozen=True)
class CheckpointPermission:
    """Another project may use the model."""

    id: str
    model_name: str
    project_id: str
    created_at: int


@dataclass(frozen=True)
class Alias:
    """A project's own name for a model, so that callers need no change when the model behind it does."""

    name: str
    project_id: str
    target: str
    created_at: int
    updated_at: int


@dataclass(frozen=True)
class AliasChange:
    name: str
    target: str | None  # None: the alias was removed
    reason: str
    changed_by: str | None
    created_at: int

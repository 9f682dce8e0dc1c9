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

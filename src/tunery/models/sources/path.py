"""A model dir that lies on this machine already, in transformers' layout: `path:/dir`. Linked, not copied."""

import json
from pathlib import Path

from tunery.models.sources.base import Progress, SourceError

PATTERNS = ("*.json", "*.safetensors", "*.jinja")


def fetch(location: str, target: Path, progress: Progress) -> None:
    """Link the files of the folder into `target`. Raises SourceError when it is no model."""
    folder = Path(location).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise SourceError(f"{str(folder)!r} is no model dir: it has no config.json.")
    link_files(folder, target)


def link_files(folder: Path, target: Path) -> None:
    """Symbolic links to the files a model dir needs; the chat template is written out when it hides in a JSON file."""
    if not any(folder.glob("*.safetensors")):
        raise SourceError(f"{str(folder)!r} has no weights as safetensors; pickled weights are never read.")
    for pattern in PATTERNS:
        for path in folder.glob(pattern):
            if path.name != "tunery.json":
                (target / path.name).symlink_to(path.absolute())
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

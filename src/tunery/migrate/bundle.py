"""What was brought out, as a folder of plain files that outlives any server.

    bundle.json                   format, source, times
    jobs/ftjob-….json             {"job", "events", "checkpoints"}
    files/file-….json + .bin      {"file", "sha256"} and the bytes; {"file", "absent"} when the source has no bytes
    evals/eval_….json             {"eval", "runs": [{"run", "output_items"}]}
    completions/chatcmpl-….json   {"completion", "messages"}
    models.json
    failures.json                 what the last run could not fetch, and why

Every file appears whole or not at all, so an importer that is killed can be started again.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import orjson

from tunery import atomic
from tunery.domain.errors import InvalidRequest
from tunery.migrate.source import Json

FORMAT = 1
Kind = Literal["jobs", "files", "evals", "completions"]
KINDS: tuple[Kind, ...] = ("files", "jobs", "evals", "completions")


class Bundle:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, *, source: str, now: int) -> "Bundle":
        """Opens the folder, making it when it is new. Refuses a folder filled from another source."""
        bundle = cls(folder)
        for kind in KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        header = bundle.folder / "bundle.json"
        if header.exists():
            known = orjson.loads(header.read_bytes())
            if known["source"] != source:
                raise InvalidRequest(f"{folder} holds a bundle from {known['source']}; choose another folder.")
        else:
            write_atomically(header, dump({"format": FORMAT, "source": source, "created_at": now}))
        return bundle

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        header = folder / "bundle.json"
        if not header.exists():
            raise InvalidRequest(
                f"{folder} is not a bundle: it has no bundle.json. Make one with `migrate openai --to`."
            )
        if orjson.loads(header.read_bytes())["format"] != FORMAT:
            raise InvalidRequest(f"{folder} was written by another version of Tunery.")
        return cls(folder)

    def path(self, kind: Kind, object_id: str, suffix: str = ".json") -> Path:
        # Ids come from another server: quoting keeps one from naming a path outside the folder.
        return self.folder / kind / (quote(object_id, safe="") + suffix)

    def has(self, kind: Kind, object_id: str) -> bool:
        return self.path(kind, object_id).exists()

    def get(self, kind: Kind, object_id: str) -> Json:
        return orjson.loads(self.path(kind, object_id).read_bytes())

    def put(self, kind: Kind, object_id: str, value: Json) -> None:
        write_atomically(self.path(kind, object_id), dump(value))

    def ids(self, kind: Kind) -> list[str]:
        return sorted(unquote(path.name.removesuffix(".json")) for path in (self.folder / kind).glob("*.json"))

    def all(self, kind: Kind) -> Iterator[Json]:
        return (self.get(kind, object_id) for object_id in self.ids(kind))

    def content(self, file_id: str) -> Path:
        return self.path("files", file_id, ".bin")

    def put_side(self, name: str, value: object) -> None:
        write_atomically(self.folder / name, dump(value))


def dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def write_atomically(path: Path, data: bytes) -> None:
    with atomic.replacing(path) as part:
        part.write_bytes(data)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

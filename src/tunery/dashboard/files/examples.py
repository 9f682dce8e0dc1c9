"""Adding an example to a dataset. Files never change: the dataset with one more line is a new file of the same name."""

import json
from pathlib import Path
from typing import Any

from openai.types import FileObject

import tunery
from tunery.dashboard.connection import Connection

EXAMPLE_NAME = "marv.jsonl"


def example_dataset() -> bytes:
    """The dataset of the three-step start: in an installation beside the package's modules, else in the checkout."""
    package = Path(tunery.__file__).parent
    installed = package / "examples" / EXAMPLE_NAME
    return (installed if installed.exists() else package.parents[1] / "examples" / EXAMPLE_NAME).read_bytes()


async def upload_example(connection: Connection) -> FileObject:
    return await connection.client.files.create(file=(EXAMPLE_NAME, example_dataset()), purpose="fine-tune")


async def add_example(
    connection: Connection, messages: list[dict[str, Any]], *, file_id: str | None, new_name: str
) -> FileObject:
    """The file that now has the example as its last line: a successor of `file_id`, or a new one."""
    content, name = b"", new_name
    if file_id is not None:
        name = (await connection.client.files.retrieve(file_id)).filename
        content = (await connection.client.files.content(file_id)).content
    line = json.dumps({"messages": messages}, ensure_ascii=False).encode()
    grown = content.rstrip(b"\r\n") + b"\n" + line + b"\n" if content.strip() else line + b"\n"
    return await connection.client.files.create(file=(name, grown), purpose="fine-tune")

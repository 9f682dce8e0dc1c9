"""Adding an example to a dataset. Files never change: the dataset with one more line is a new file of the same name."""

import json
from typing import Any

from openai.types import FileObject

from tunery.dashboard.connection import Connection
from tunery.domain.files import example_file

EXAMPLE_NAME = "marv.jsonl"


async def upload_example(connection: Connection) -> FileObject:
    """The dataset of the three-step start."""
    content = example_file(EXAMPLE_NAME).read_bytes()
    return await connection.client.files.create(file=(EXAMPLE_NAME, content), purpose="fine-tune")


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

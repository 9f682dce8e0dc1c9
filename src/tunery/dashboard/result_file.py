"""The CSV of a job's steps. The API hands it out as OpenAI does, in Base64; people want to open it."""

import base64
import binascii


def as_plain_csv(content: bytes) -> bytes:
    """The decoded file; content that is not Base64 comes back as it is."""
    try:
        decoded = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return content
    return decoded if decoded.startswith(b"step,") else content

"""Base weights from the Hugging Face hub: `hf:org/name@revision`. Lives in the hub's own cache, linked from ours.

Apart because a kind of source is a file.
"""

from pathlib import Path

from tunery.models.sources.base import Progress, SourceError
from tunery.models.sources.path import PATTERNS, link_files


def fetch(location: str, target: Path, progress: Progress) -> None:
    """Fetch the snapshot, honouring HF_HOME, HF_TOKEN and HF_HUB_OFFLINE. Raises SourceError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = location.partition("@")
    progress("downloading", 0, None)
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=list(PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError) as exc:
        raise SourceError(
            f"The model {location!r} could not be had from the hub: {exc} Check the name, the network and HF_TOKEN; "
            "offline, fetch it once elsewhere and set HF_HOME to that cache."
        ) from exc
    link_files(Path(folder), target)

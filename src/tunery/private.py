"""What this machine keeps is its user's alone: folders 0700, files 0600, whatever the umask was that it began with."""

import errno
import logging
import os
import stat
from pathlib import Path

from tunery.settings import SettingsError

log = logging.getLogger(__name__)

UMASK = 0o077


def keep(home: Path) -> None:
    """For the rest of this process new files and folders are its user's alone, and so is what home holds already.
    Called once by each process that writes to home, at its entry; children inherit it.

    Home is closed first, and with it all that is below. Then it and its folders are looked through; deeper only what an
    earlier version left open, once: blobs may be millions. A folder is closed after what is in it, so that a start
    that was killed goes on. Symbolic links are not followed. Raises SettingsError when home cannot be written.
    """
    os.umask(UMASK)
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        close(home)
        _close_below(home, its_folders=True)
    except OSError as exc:
        reason = "it is a file" if home.is_file() else (exc.strerror or str(exc)).lower()
        raise SettingsError(f"The home {home} cannot be used: {reason}. Set TUNERY_HOME to another folder.") from exc


def close(path: Path) -> None:
    """Take from group and others what they may do there; the owner keeps what he may. What is not there, is a folder
    for everybody (such as /tmp) or belongs to another user stays as it is."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & UMASK and not mode & stat.S_ISVTX:
            path.chmod(mode & ~UMASK)
    except FileNotFoundError:
        return
    except PermissionError:
        log.warning("%s belongs to another user and stays open to others.", path)


def _close_below(folder: Path, *, its_folders: bool = False) -> None:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, PermissionError):  # another process removed it, or another user owns it
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False) and (its_folders or _is_open(path)):
            _close_below(path)
        if not entry.is_symlink():
            close(path)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & UMASK)
    except FileNotFoundError:
        return False

"""Files that are kept for the next start: whole or not there, and never worth failing for."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

_log = logging.getLogger(__name__)
_HINT = "name a folder that can be written in DENSEFIT_CACHE"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that no reader sees half of, nor another writer of the same file mixes with.  Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id, which two containers may share; not mkstemp, whose files other users of the folder cannot read.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def keep(path: Path, content: bytes, what: str) -> None:
    """Write a file of the cache; where that fails the log says that ``what`` will be made again."""
    try:
        write_whole(path, content)
    except OSError as e:
        _log.warning("%s cannot be kept in %s (%s) and will be made again at the next start: %s", what, path.parent, e, _HINT)


def make_folder(folder: Path, what: str) -> bool:
    """Make a folder of the cache; False, and a line in the log, where ``what`` cannot be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return True
        reason = "no permission to write"
    except OSError as e:
        reason = str(e)
    _log.warning("%s cannot be kept in %s (%s) and will be made again at the next start: %s", what, folder, reason, _HINT)
    return False

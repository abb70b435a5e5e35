"""Small notes in the user's cache folder, which save work and decide nothing: without them all is done anew.

A note that is missing, damaged, too large or somebody else's counts as not there, and a folder that cannot be written
keeps none. Nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

MOST_BYTES = 2**24

DRAFT = ".draft-"
"""How the names of what is being written begin."""

OLD_DRAFT_SECONDS = 3600.0


def notes_folder() -> Path:
    """Return where notes are kept."""
    from platformdirs import user_cache_path  # asked for at every look: tests and users set its variables

    return user_cache_path("attribench") / "notes"


def read_note(name: str) -> Any | None:
    """Return what was noted under a name, None where that is not exactly what :func:`write_note` wrote under it."""
    path = notes_folder() / f"{name}.json"
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES or status.st_uid != _user(status):
            return None
        stored = json.loads(path.read_bytes())
        if isinstance(stored, dict) and stored.get("checksum") == _checksum(name, stored.get("content")):
            return stored["content"]
    except (OSError, ValueError, RecursionError, MemoryError):
        pass
    return None


def write_note(name: str, content: Any) -> None:
    """Note JSON-serialisable content in one step, so that others read the note before it or all of this one."""
    folder, draft = notes_folder(), None
    try:
        text = json.dumps({"checksum": _checksum(name, content), "content": content})
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{DRAFT}*"):  # by processes that were killed: a draft lives for less than a second
            if time.time() - left.lstat().st_mtime > OLD_DRAFT_SECONDS:
                left.unlink(missing_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=DRAFT, dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(folder / f"{name}.json")
    except OSError:
        if draft is not None:
            with contextlib.suppress(OSError):
                Path(draft).unlink()


def _checksum(name: str, content: Any) -> str:
    """Return the hash of a note with its name: a note that was moved to another's place is not taken for it."""
    return hashlib.sha256(f"{name} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()


def _user(status: os.stat_result) -> int:
    return os.getuid() if hasattr(os, "getuid") else status.st_uid

"""Files written in one step, JSON with a checksum, and the keys of content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from .arrays import DamagedError, read_file
from .errors import StorageError
from .notes import DRAFT, OLD_DRAFT_SECONDS

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**24


def digest(content: Any) -> str:
    """Return the key of JSON-serialisable content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder beside its place, then move it there in one step.

    Raises:
        UserError: when the folder cannot be written, or is full.
    """
    draft_root: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft_root = Path(tempfile.mkdtemp(prefix=DRAFT, dir=path.parent))
        draft = draft_root / path.name
        write(draft)
        if os.path.lexists(path) and (draft.is_dir() or (path.is_dir() and not path.is_symlink())):
            path.replace(draft_root / "replaced")
        draft.replace(path)
    except OSError as error:
        raise StorageError(
            f"expected a writable folder with room; {path.parent}: {error.strerror or error}: make room, or choose "
            "another with --out or --cache-dir"
        ) from error
    finally:
        if draft_root is not None:
            shutil.rmtree(draft_root, ignore_errors=True)


def remove_old_drafts(*folders: Path) -> None:
    """Remove what killed processes left half-written in these folders and below; a draft lives for seconds."""
    for root, names, _ in chain.from_iterable(map(os.walk, folders)):  # which passes over what vanishes meanwhile
        drafts = [Path(root) / name for name in names if name.startswith(DRAFT)]
        names[:] = [name for name in names if not name.startswith(DRAFT)]
        for draft in drafts:
            with contextlib.suppress(OSError):
                status = draft.lstat()  # what is no folder is not ours
                if stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > OLD_DRAFT_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda draft: _dump(draft, content))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def dump_checked(path: Path, content: Any) -> None:
    """Write JSON with its checksum, as :func:`read_checked` reads it."""
    _dump(path, {"checksum": digest(content), "content": content})


def read_json(path: Path) -> Any:
    """Read JSON from a regular file.

    Raises:
        DamagedError: when there is no such file, or it is too large or not JSON.
    """
    try:
        return json.loads(read_file(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path}: not JSON, or too much of it ({type(error).__name__})") from error


def read_checked(path: Path) -> Any | None:
    """Read JSON that was written with its checksum; None where there is none or it is damaged."""
    if not os.path.lexists(path):
        return None
    try:
        stored = read_json(path)
        if isinstance(stored, dict) and "content" in stored and digest(stored["content"]) == stored.get("checksum"):
            return stored["content"]
    except (DamagedError, RecursionError, MemoryError):
        pass
    say_damaged(path)
    return None


def say_damaged(path: Path) -> None:
    """Warn of a file that counts as not there."""
    logger.warning("%s is damaged; it is made again", path)
